# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ddtb6 import __version__
from ddtb6.config import Config
from ddtb6.tap import Options


def test_the_configuration_is_read_while_options_are_parsed(tmp_path: Path) -> None:
    file = tmp_path / "ddtb6.toml"
    file.write_text('[server]\nrealm = "example"\n[pool.clients]\nblock = "2001:db8:1::/64"\nuse = "accounts"\n')
    options = Options()
    options.parseOptions(["--config", str(file)])
    assert isinstance(options.configuration, Config)
    assert options.configuration.server.realm == "example"


def test_every_error_of_the_configuration_is_told(tmp_path: Path) -> None:
    file = tmp_path / "ddtb6.toml"
    file.write_text('[server]\nrealm = ""\ncolour = "blue"\n[tunnel]\nmtu = 12\n')
    with pytest.raises(SystemExit) as caught:
        Options().parseOptions(["--config", str(file)])
    for key in (str(file), "server.realm", "server.colour", "tunnel.mtu"):
        assert key in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere\.toml"):
        Options().parseOptions(["--config", str(tmp_path / "nowhere.toml")])


def test_twistd_ends_with_1_where_it_cannot_start(tmp_path: Path) -> None:
    command = "from twisted.scripts.twistd import run; run()"
    words = ("-n", "--pidfile=", "ddtb6", "--config", str(tmp_path / "nowhere.toml"))
    done = subprocess.run([sys.executable, "-c", command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.endswith("nowhere.toml does not exist; `ddtb6 setup` writes it\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Options().parseOptions(["--version"])
    assert capsys.readouterr().out == f"ddtb6 {__version__}\n"
