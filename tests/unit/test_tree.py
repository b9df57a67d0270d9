# SPDX-License-Identifier: GPL-2.0-or-later
"""The shape of the source tree: what no linter looks at."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "ddtb6").rglob("*.py"))
LONGEST = 450
"""Lines of a module. One that grows beyond has two reasons to exist."""
TEXTUAL = {".cfg", ".css", ".html", ".md", ".py", ".service", ".sh", ".svg", ".tac", ".toml", ".txt", ".yml", ""}
ELSEWHERE = re.compile(r"(?:^|[\s\"'(`])(?:/work/|(?:\.\./)+shared/|/home/\w|/root/|/opt/)", re.MULTILINE)


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    """Files of the project; without git (an unpacked archive), whatever stands in its directories."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not path.relative_to(ROOT).parts[0].startswith(".")]


def imports(module: Path) -> Iterator[str]:
    """Absolute dotted names that a module imports, ``from a import b`` as ``a.b``."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_file_names_a_place_outside_of_the_project() -> None:
    here = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}: {match.group().strip()}"
        for path in tracked()
        if path.suffix in TEXTUAL and path != here
        for match in ELSEWHERE.finditer(path.read_text(errors="replace"))
    ]
    assert found == []


def test_no_module_is_too_long() -> None:
    lengths = {str(module.relative_to(ROOT)): len(module.read_text().splitlines()) for module in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def test_every_module_says_its_licence_and_what_it_is_for() -> None:
    silent = []
    for module in MODULES:
        text = module.read_text()
        if text and not (
            text.startswith("# SPDX-License-Identifier: GPL-2.0-or-later\n") and ast.get_docstring(ast.parse(text))
        ):
            silent.append(str(module.relative_to(ROOT)))
    assert silent == []


def test_every_package_is_in_the_wheel() -> None:
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "ddtb6").rglob("__init__.py")}
    listed = set(project()["tool"]["setuptools"]["packages"])  # type: ignore[index]
    assert listed == packages | {"twisted.plugins"}
    directories = {path.parent for path in MODULES}
    assert all((directory / "__init__.py").exists() for directory in directories)


def test_the_plugin_directory_is_no_package() -> None:
    assert list((ROOT / "twisted").rglob("__init__.py")) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_composition_root_imports_the_reactor(module: Path) -> None:
    names = set(imports(module))
    if module != ROOT / "ddtb6" / "app.py":
        assert "twisted.internet.reactor" not in names
        assert "pyrad.curved" not in names, "it imports the reactor itself"


def test_sample_configurations_are_toml() -> None:
    samples = sorted((ROOT / "etc").glob("*.toml"))
    assert ROOT / "etc" / "ddtb6.toml" in samples
    assert ROOT / "etc" / "ddtb6.dev.toml" in samples
    for sample in samples:
        assert tomllib.loads(sample.read_text())


def test_every_target_of_make_is_listed_by_its_help() -> None:
    listing = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("run", "test", "check", "demo", "bench", "clean", "help"):
        assert re.search(rf"^  make {target}\s+\S", listing, re.MULTILINE), target
