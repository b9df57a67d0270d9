# SPDX-License-Identifier: GPL-2.0-or-later
"""What `twistd ddtb6` understands: one option, the configuration file.

Not here: what is in the file (`config`), what is built from it (`app`).
"""

from __future__ import annotations

from pathlib import Path

from twisted.application.service import Service
from twisted.python import usage

from ddtb6 import __version__
from ddtb6.config import Config, ConfigError, load

DEFAULT_CONFIG = "/etc/ddtb6/ddtb6.toml"


class Options(usage.Options):
    """Options of the daemon. The file is read while they are parsed, before twistd sets up anything."""

    longdesc = "An IPv6 tunnel broker: TSP (RFC 5572) over UDP and TCP, with its data plane and status page."
    optParameters = (("config", "c", DEFAULT_CONFIG, "Configuration file (TOML)."),)

    configuration: Config

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"ddtb6 {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Raises SystemExit with every error of the configuration, one a line.

        For a usage.UsageError twistd would print its usage and end with 0, as if all had been well.
        """
        path = Path(self["config"])
        try:
            self.configuration = load(path)
        except ConfigError as error:
            raise SystemExit(f"ddtb6: the configuration {path} cannot be used:\n{error}") from None


def makeService(options: Options) -> Service:
    """The broker as a service."""
    # Importing `app` installs the reactor, which twistd has done itself by now and not yet when it imports this module.
    from ddtb6.app import make_service

    return make_service(options.configuration)
