# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 backup` and `ddtb6 restore`: a copy of the database, taken while the daemon runs, and the way back.

Not here: how it is copied (`store.backup`). The configuration is a file of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ddtb6.cli import output
from ddtb6.cli.main import Failure
from ddtb6.config import load
from ddtb6.store.backup import back_up, restore
from ddtb6.web.control_client import ControlClient, NotRunning


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    database, file = config.server.database, arguments.file
    if arguments.command == "backup":
        size = back_up(database, file)
        print(f"Wrote {output.safe(str(file))}, {output.octets(size)}. What is in it is as good as passwords.")
        print(f"Keep a copy of {arguments.config} beside it. The way back: ddtb6 restore {output.safe(str(file))}")
        return 0
    try:
        ControlClient(config.server.control).call("overview")
    except NotRunning:
        pass
    else:
        raise Failure("the broker is running; stop it first, with systemctl stop ddtb6.socket ddtb6.service")
    before = restore(file, database)
    print(f"{database} is what {output.safe(str(file))} was.")
    if before is not None:
        print(f"What was there before is in {before}.")
    print("Next: systemctl start ddtb6; clients that were up at the time of the copy need not log in again.")
    return 0
