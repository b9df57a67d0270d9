# SPDX-License-Identifier: GPL-2.0-or-later
"""The wheel, installed in a virtual environment of its own, has the daemon, the tool and their data files."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.packaging


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git would check out, so that nothing left over in the tree gets in."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", built, source, cwd=built)
    (path,) = built.glob("ddtb6-*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` directory of a fresh virtual environment with the wheel in it."""
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", place, cwd=place)
    run(place / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=place)
    return place / "bin"


def test_the_wheel_carries_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "ddtb6").rglob("*.py")}
    web = ROOT / "ddtb6" / "web"
    files = [path for each in ("templates", "static") for path in (web / each).rglob("*") if path.is_file()]
    templates = {str(path.relative_to(ROOT)) for path in files}
    samples = {name for name in names if "/share/ddtb6/" in name}
    data = {"ddtb6/radius/dictionary", "twisted/plugins/ddtb6_plugin.py"}
    expected = modules | templates | samples | data
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert templates
    shipped = {str(path.relative_to(ROOT / "etc")) for path in (ROOT / "etc").rglob("*") if path.is_file()}
    assert {name.partition("/share/ddtb6/")[2] for name in samples} == shipped


def test_twistd_lists_and_explains_the_plugin(environment: Path) -> None:
    assert "IPv6 tunnel broker" in run(environment / "twistd", "--help", cwd=environment)
    assert "--config" in run(environment / "twistd", "-n", "ddtb6", "--help", cwd=environment)


def test_the_tool_explains_itself(environment: Path) -> None:
    text = run(environment / "ddtb6", "--help", cwd=environment)
    for command in ("check", "doctor", "user", "session", "lease", "whois", "decode", "connect"):
        assert command in text


def test_the_sample_configurations_are_installed_and_right(environment: Path) -> None:
    samples = environment.parent / "share" / "ddtb6"
    for sample in samples.glob("*.toml"):
        run(environment / "ddtb6", "--config", sample, "check", cwd=environment)


def test_a_configuration_with_errors_ends_it_with_all_of_them(environment: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text('[server]\nrealm = ""\ncolour = "blue"\n[tunnel]\nmtu = 12\n')
    done = subprocess.run(
        [environment / "twistd", "-n", "--pidfile=", "ddtb6", "--config", broken],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    text = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Traceback" not in text
    for key in ("server.realm", "colour", "mtu"):
        assert key in text


def test_the_editable_install_of_this_environment_shows_the_plugin(tmp_path: Path) -> None:
    twistd = Path(sys.executable).with_name("twistd")
    assert "--config" in run(twistd, "-n", "ddtb6", "--help", cwd=tmp_path)
