# SPDX-License-Identifier: GPL-2.0-or-later
"""How the tool reaches the broker: the control socket of the running daemon, else the store of the stopped one.
Also what starts the daemon here, and as whom: what root may is not what its user may.

Invariant: the store is opened only where nobody listens on the control socket, and as the user that owns it.
Not here: the verbs (`web.control`).
"""

from __future__ import annotations

import importlib
import os
import pwd
import shutil
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ddtb6.cli.main import DEFAULT_CONFIG
from ddtb6.clock import SystemClock
from ddtb6.config import Config
from ddtb6.web.control import VERBS, Control
from ddtb6.web.control_client import ControlClient, NotRunning
from ddtb6.web.control_site import user_name
from ddtb6.web.verbs import Actor, ControlError, Kind

T = TypeVar("T")

USER = "ddtb6"
"""Of the daemon, where a package has made it; also its group."""
YOU = "you"
"""Whoever runs the tool."""


def call(config: Config, verb: str, **arguments: object) -> Any:
    """The answer to `verb`; arguments that are None are left out. Raises ControlError, NotPermitted, StoreError."""
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return ControlClient(config.server.control).call(verb, **given)
    except NotRunning:
        if VERBS[verb].live:
            raise ControlError(
                "the broker is not running; start it with `systemctl start ddtb6`, or `twistd3 -n ddtb6`",
                Kind.STOPPED,
            ) from None
    return _in_store(config, verb, given)


def _in_store(config: Config, verb: str, arguments: dict[str, object]) -> Any:
    # Imported late: a running broker needs none of it here.
    from twisted.internet.defer import execute

    from ddtb6.store.store import open_store

    actor = Actor(f"local:{user_name(os.getuid())}")
    _become_owner(config)
    clock = SystemClock()
    store = open_store(config.server.database, config.pools, clock, in_thread=execute)
    try:
        control = Control(
            store, None, None, realm=config.server.realm, pools=config.pools, clock=clock, in_thread=execute
        )
        return _finish(control.call(verb, arguments, actor))
    finally:
        _finish(store.close())


def _become_owner(config: Config) -> None:
    """As root, go on as the user the state directory belongs to: files of root's in there would lock the daemon out."""
    if os.geteuid() != 0:
        return
    try:
        owner = os.stat(config.server.state)
    except FileNotFoundError:
        return  # opening the store says so better
    if owner.st_uid != 0:
        importlib.import_module(
            "sqlite_utils"
        )  # imported late by the store, and perhaps from where root alone may read
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)


def start_command(config: Path, root: Path = Path("/")) -> str:
    """What starts the daemon here: systemd where it has the unit, else twistd, which Debian calls twistd3."""
    units = (root / place / "systemd/system/ddtb6.service" for place in ("etc", "usr/lib", "lib"))
    if config == DEFAULT_CONFIG and (root / "run/systemd/system").is_dir() and any(unit.exists() for unit in units):
        return "systemctl enable --now ddtb6"
    beside = Path(sys.executable).with_name("twistd")
    found = next((name for name in ("twistd", "twistd3") if shutil.which(name)), str(beside))
    return f"{found} -n --pidfile= ddtb6 --config {config}"


@contextmanager
def rights_of_daemon(config: Path) -> Iterator[str]:
    """Meanwhile root may what the daemon of the package may, where `config` is what that one reads; gives its name.

    Anybody else, and root where there is no such user, stays what they are: `YOU`.
    """
    group, groups = os.getegid(), os.getgroups()
    user = None
    if os.geteuid() == 0 and config == DEFAULT_CONFIG:
        with suppress(KeyError, PermissionError):  # a root without CAP_SETGID is like anybody else
            found = pwd.getpwnam(USER)
            os.initgroups(found.pw_name, found.pw_gid)
            user = found
    if user is None:
        yield YOU
        return
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield user.pw_name
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def way_to_own(path: Path, who: str) -> str:
    """What to do where `who`, of `rights_of_daemon`, may not write to `path`."""
    return "Run this as root or as the daemon's user." if who == YOU else f"chown -R {who}: {path}"


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine none of whose steps waits: without a reactor, everything is done at once."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("a step waited for something that no reactor will bring about")
