# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 setup`: from a machine to a configured broker, by a few questions or by options.

Every question has an option of the same meaning, a proposal from what is found on the machine where there is one, and a
line that explains it. Nothing is written before the plan was shown.
Invariant: what somebody has edited is never replaced without being told to, and a copy of it stays.
Not here: the questions (`cli.questions`), what follows from the answers (`cli.plan`), what is wrong with the machine
(`cli.doctor`).
"""

from __future__ import annotations

import argparse
import getpass
import grp
import os
import pwd
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

from ddtb6.addressing.pool import Pool
from ddtb6.broker.planes import DataPlaneError
from ddtb6.cli import doctor, output, plan
from ddtb6.cli.main import DEFAULT_CONFIG, Failure
from ddtb6.cli.plan import Answers, File, Machine
from ddtb6.cli.questions import QUESTIONS, find_out, yes_or_no
from ddtb6.cli.reach import USER, start_command
from ddtb6.config import Config, cautions, parse
from ddtb6.config.sample import sample

ELSEWHERE = ("192.0.2.1", 9)
"""An address that nobody has, to see which of ours the default route would use; nothing is sent."""
PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
RTF_REJECT, RTF_ADDRCONF = 0x200, 0x40000


def configure(parser: argparse.ArgumentParser) -> None:
    for question in QUESTIONS:
        parser.add_argument(question.option, dest=question.key, metavar="VALUE", help=question.text)
    parser.add_argument("--yes", "-y", action="store_true", help="ask nothing: take what is proposed, and write")
    parser.add_argument(
        "--replace", action="store_true", help="replace a configuration that was edited; a copy of it stays beside it"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text; asks nothing, as --yes"
    )


def run(arguments: argparse.Namespace) -> int:
    asks = not (arguments.yes or arguments.json)
    if asks and not sys.stdin.isatty():
        raise Failure("there is no terminal to ask on; use --yes, with options for what differs from the proposals")
    say = print if not arguments.json else lambda *_: None
    machine = look(arguments.config)
    try:
        answers, pools = find_out(vars(arguments), machine, asks)
        files = plan.files(answers, machine, pools, arguments.config)
        config = parse(files[0].text)
        _show(answers, machine, pools, files, config, say)
        in_the_way = [file for file in files if _is_somebodys(file)]
        if in_the_way and not arguments.replace:
            named = " and ".join(str(file.path) for file in in_the_way)
            if not asks:
                raise Failure(f"{named} was edited since; with --replace it is replaced, and a copy of it stays")
            say(f"{named} was edited since; it would be replaced, and a copy of it stays.")
        if asks and not _confirmed():
            say("Nothing was written.")
            return 1
        if answers.radius_secret_file is not None:
            _see_to_secret(answers.radius_secret_file, asks)
        copies = [copy for file in files if (copy := _write(file)) is not None]
        _make_state(config)
    except EOFError:
        raise Failure("no answer; nothing was written") from None
    except OSError as error:
        raise Failure(f"{error.filename or 'a file'} cannot be written: {error.strerror}; run this as root") from None
    applied = _apply(machine)
    # Cautions about the configuration were in the plan.
    findings = [
        each
        for each in doctor.examine(arguments.config)
        if each.state is not doctor.State.OK and each.name != "configuration"
    ]
    following = _following(arguments.config, config, answers)
    if arguments.json:
        output.print_json(
            {
                "written": [str(file.path) for file in files],
                "copies": [str(copy) for copy in copies],
                "pools": [
                    {"name": each.name, "block": str(each.block), "use": each.use.value, "length": each.length}
                    for each in pools
                ],
                "findings": [{**each._asdict(), "state": each.state.value} for each in findings],
                "next": [command for command, _ in following],
            }
        )
    else:
        _tell(files, copies, applied, findings, following)
    return int(any(each.state is doctor.State.FAIL for each in findings))


# --- the machine --------------------------------------------------------------------------------------------------


def look(config: Path, root: Path = Path("/")) -> Machine:
    """What is on this machine; /proc is looked for below `root`."""
    from ddtb6.dataplane.links import own_outer_addresses

    outer: list[str] = []
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(ELSEWHERE)
        outer.append(probe.getsockname()[0])
    with suppress(DataPlaneError):
        present = (ip_address(each) for each in own_outer_addresses() if ":" not in each)
        outer += [str(each) for each in sorted(present) if not each.is_link_local and str(each) not in outer]
    routed, uplink, advertised = [], "", False
    for network, flags, device in _routes(root):
        if flags & RTF_REJECT:
            if 0 < network.prefixlen <= plan.LINK:
                routed.append(network)
        elif network.prefixlen == 0 and device != "lo" and not uplink:
            uplink, advertised = device, bool(flags & RTF_ADDRCONF)
    ours = _device_of(config)
    on_link = tuple((network, device) for network, device in doctor.networks(root) if device not in (ours, "lo"))
    return Machine(tuple(outer), on_link, tuple(routed), uplink, advertised)


def _routes(root: Path) -> Iterator[tuple[IPv6Network, int, str]]:
    """Each line: destination, its length, source, its length, gateway, metric, two counts, flags, device."""
    with suppress(OSError), (root / "proc/net/ipv6_route").open() as table:
        for line in table:
            fields = line.split()
            address = IPv6Address(int(fields[0], 16))
            yield IPv6Network((address, int(fields[1], 16))), int(fields[8], 16), fields[9]


def _device_of(config: Path) -> str:
    """The broker's own network device, which is none of the machine's."""
    try:
        return parse(config.read_text("utf-8")).dataplane.device
    except Exception:  # what stands there may be anything
        return Config().dataplane.device


# --- writing ---------------------------------------------------------------------------------------------------


def _confirmed() -> bool:
    while True:
        answer = input("Write this? [yes]: ").strip() or "yes"
        with suppress(ValueError):
            return yes_or_no(answer)


def _see_to_secret(path: Path, asks: bool) -> None:
    """Have the shared secret where the configuration says it is."""
    if path.exists():
        return
    if not asks:
        raise Failure(f"{path} does not exist; write the secret shared with the RADIUS server into its first line")
    secret = getpass.getpass(f"Secret shared with the RADIUS server, to be kept in {path}: ")
    _write(File(path, f"{secret}\n", 0o640, True))


def _is_somebodys(file: File) -> bool:
    """There is a file in its place that says something else, and is neither the sample nor comments alone."""
    try:
        there = file.path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return False
    lines = (line.strip() for line in there.splitlines())
    return there not in (file.text, sample()) and any(line and not line.startswith("#") for line in lines)


def _write(file: File) -> Path | None:
    """Put it there, whole or not at all; returns where the copy is of what somebody had edited."""
    copy = None
    file.path.parent.mkdir(parents=True, exist_ok=True)
    if _is_somebodys(file):
        copy = file.path.with_name(f"{file.path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
        os.link(file.path, copy)
    handle, name = tempfile.mkstemp(prefix=f".{file.path.name}.", dir=file.path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as text:
            text.write(file.text)
            os.fchmod(handle, file.mode)
            if file.shared:
                with suppress(KeyError, PermissionError):
                    os.fchown(handle, -1, grp.getgrnam(USER).gr_gid)
            text.flush()
            os.fsync(handle)
        os.replace(name, file.path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    return copy


def _make_state(config: Config) -> None:
    """The directory of the database, the daemon's own; as it is where it exists."""
    state = config.server.state
    if not state.exists():
        state.mkdir(mode=0o700, parents=True)
        with suppress(KeyError, PermissionError):
            user = pwd.getpwnam(USER)
            os.chown(state, user.pw_uid, user.pw_gid)


def _apply(machine: Machine) -> str:
    """Set what the file sets from the next boot on; a sentence if that failed."""
    for key, value in plan.settings(machine):
        try:
            Path("/proc/sys", key).write_text(f"{value}\n")
        except OSError as error:
            return f"{key} could not be set ({error.strerror}); `sysctl --system` does it."
    return ""


# --- what people read ---------------------------------------------------------------------------------------------


def _show(
    answers: Answers,
    machine: Machine,
    pools: list[Pool],
    files: list[File],
    config: Config,
    say: Callable[..., None],
) -> None:
    say("\nThe plan:")
    if answers.outer not in machine.outer:
        say(f"  {answers.outer} is not on this machine: what is must pass UDP and TCP port 3653 on to it.")
    if any(IPv4Address(answers.outer) in network for network in PRIVATE):
        say(f"  {answers.outer} is private (RFC 1918): only clients in the same network reach it.")
    for pool, (block, use, amount) in zip(pools, plan.explained(pools), strict=True):
        say(f"  {pool.name:<7} {block:<28} {use}, {amount}")
    say(f"  log-ins {', then '.join(config.auth.chain)}")
    for caution in cautions(config):
        say(f"  Caution: {caution}.")
    say(f"  Files: {', '.join(str(file.path) for file in files)}")


def _tell(
    files: list[File],
    copies: list[Path],
    applied: str,
    findings: list[doctor.Finding],
    following: list[tuple[str, str]],
) -> None:
    print(f"\nWrote {' and '.join(str(file.path) for file in files)}.")
    for copy in copies:
        print(f"What was there before is in {copy}.")
    print(applied or "IPv6 forwarding is on, now and after the next boot.")
    if findings:
        print("\nddtb6 doctor finds:")
        for each in findings:
            print(f"  {each.state.value:<4}  {each.name}: {output.safe(each.sentence)}")
            if each.remedy:
                print(f"        {output.safe(each.remedy)}")
    print("\nNext:")
    for command, purpose in following:
        print(f"  {command}\n      {purpose}")


def _following(path: Path, config: Config, answers: Answers) -> list[tuple[str, str]]:
    """The commands to give next, and what for."""
    tool = "ddtb6" if shutil.which("ddtb6") else sys.argv[0]
    named = tool if path == DEFAULT_CONFIG else f"{tool} --config {path}"
    running, _ = doctor.daemon(config.server.control)
    start, purpose = start_command(path), "starts the broker"
    if running:
        start = start.replace("enable --now", "restart")
        if start.startswith("systemctl"):
            purpose = "makes the running broker read this"
        else:
            purpose = "starts the broker with this; end the one that runs before"
    commands = [(start, purpose)]
    name = ""
    if answers.users != "radius":
        commands.append((f"{named} user add NAME", "makes an account, and asks for its password"))
        name = " --user NAME"
    elif config.radius_servers:
        commands.append((f"{named} radius test NAME", "tries a log-in at the RADIUS server"))
        name = " --user NAME"
    length = f" --prefix-length {answers.length}" if answers.length else ""
    commands.append((f"ddtb6 connect --server {answers.outer}{name}{length}", "on a client, brings the tunnel up"))
    return commands
