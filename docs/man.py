# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the manual pages docs/man/ddtb6.1, ddtb6.8 and ddtb6.toml.5; run as ``python docs/man.py``.

Commands and options come from the parsers of the tool and the daemon, configuration keys from `config.documentation`.
Only what stands in none of these is written here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ddtb6 import __version__
from ddtb6.cli.connect import PASSWORD_VARIABLE
from ddtb6.cli.main import COMMANDS, _parser
from ddtb6.config.documentation import Key, describe, headline
from ddtb6.config.sections import SECTIONS, SEVERAL
from ddtb6.tap import Options

PAGES = Path(__file__).parent / "man"

FILES = {
    "/etc/ddtb6/ddtb6.toml": "The configuration. It may hold secrets of RADIUS: the daemon's user must be able to read "
    "it, and nobody else.",
    "/var/lib/ddtb6/ddtb6.sqlite": "Accounts, leases, sessions and the journal of accounting.",
    "/run/ddtb6/control": "The socket on which the tool talks to the daemon.",
    "/usr/share/ddtb6/": "The commented sample configuration; dictionary and policy for FreeRADIUS.",
}

TOOL = r"""
The tool of an operator of \fBddtb6\fR(8), an IPv6 tunnel broker, and a client of such brokers. It asks the running
daemon over its control socket. Commands about accounts and leases work while the daemon is stopped, too.
"""

TOOL_STATUS = "0 done; 1 failed or refused; 2 wrong usage; 130 interrupted. `connect` ends with 3 where nobody answers."

DAEMON = r"""
The daemon stays in the foreground, logs to standard output, and ends on SIGTERM and SIGINT. Debian calls Twisted's
command \fBtwistd3\fR, others call it \fBtwistd\fR. Sessions outlive the daemon: its next run takes them up again, and
clients need not log in anew.
.SH PRIVILEGES
The daemon needs no root, only the capability CAP_NET_ADMIN: for its network device, for routes, and for firewall rules
by \fBnft\fR(8). To measure the latency of tunnels in the kernel, and for firewall rules by python-iptables
(\fBfirewall.backend\fR), it needs CAP_NET_RAW as well. Without a service manager, this is what the unit does:
.PP
.RS
.nf
setpriv \-\-reuid=ddtb6 \-\-regid=ddtb6 \-\-clear\-groups \-\-no\-new\-privs \e
  \-\-inh\-caps=\-all,+net_admin,+net_raw \-\-ambient\-caps=\-all,+net_admin,+net_raw \e
  \-\-bounding\-set=\-all,+net_admin,+net_raw \e
  twistd3 \-n \-\-pidfile= ddtb6
.fi
.RE
.SH SYSTEMD
\fBddtb6.service\fR runs the daemon as the user ddtb6. It counts as started once everything listens, and is started
again when the daemon fails or does not report to the watchdog. \fBsystemctl edit ddtb6\fR changes what it says.
\fBddtb6.socket\fR opens the ports, by default those of \fB[listen]\fR, and keeps them open while the daemon is
restarted, upgraded or dead: what clients send meanwhile waits in the kernel. It must name the addresses
that \fB[listen]\fR names. To stop the daemon for good, stop the socket as well, or the next packet starts it again:
.PP
.RS
.nf
systemctl stop ddtb6.socket ddtb6.service
.fi
.RE
"""

DAEMON_STATUS = (
    "1 where the configuration has errors or the daemon cannot serve; the last line of its log says why. Otherwise "
    "by the signal that ended it."
)

CONFIGURATION = r"""
The configuration of \fBddtb6\fR(8) is a TOML file. Every key has a default unless it says that it must be given, so an
empty table can be left out. \fBddtb6 check\fR names all mistakes at once; the daemon reads the file when it starts. A
commented sample with every key is /usr/share/ddtb6/ddtb6.toml.
"""


def literal(text: str) -> str:
    """Text to be typed as it stands."""
    return text.replace("\\", "\\e").replace("-", "\\-")


def bold(text: str) -> str:
    return rf"\fB{literal(text)}\fR"


def italic(text: str) -> str:
    return rf"\fI{literal(text)}\fR"


def prose(text: str) -> str:
    """One paragraph; what stands between backticks is bold."""
    pieces = re.split("`+([^`]+)`+", " ".join(text.split()))
    marked = "".join(bold(piece) if place % 2 else piece.replace("\\", "\\e") for place, piece in enumerate(pieces))
    return re.sub(r"^([.'])", r"\\&\1", marked)


def tagged(tag: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield tag
    yield prose(text)


def page(name: str, section: int, summary: str) -> Iterator[str]:
    yield '.\\" Written by docs/man.py; change what that reads.'
    yield f'.TH {name.upper()} {section} "" "ddtb6 {__version__}" "ddtb6"'
    yield ".SH NAME"
    yield f"{literal(name)} \\- {summary}"


def ending(places: Mapping[str, str], *others: str) -> Iterator[str]:
    yield ".SH FILES"
    for path, text in places.items():
        yield from tagged(italic(path), text)
    yield ".SH SEE ALSO"
    yield ",\n".join(re.sub(r"(.+)(\(\d\))", lambda found: bold(found[1]) + found[2], each) for each in others)


# --- ddtb6(1) -----------------------------------------------------------------------------------------------------


def options_of(parser: argparse.ArgumentParser) -> Iterable[argparse.Action]:
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            yield action


def value_of(action: argparse.Action) -> str:
    """How the value of an option or the name of an argument is written; empty where there is none."""
    if action.nargs == 0:
        return ""
    if action.choices is not None and action.metavar is None:
        return "|".join(bold(str(each)) for each in action.choices)
    return italic(str(action.metavar or action.dest.upper()))


def written(action: argparse.Action) -> str:
    value = value_of(action)
    names = ", ".join(bold(each) for each in action.option_strings)
    return " ".join(filter(None, (names, value)))


def help_of(action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": "ddtb6"}


def synopsis(parser: argparse.ArgumentParser) -> str:
    """The command with its arguments, such as ``ddtb6 user add NAME [options]``."""
    arguments = [value_of(each) for each in options_of(parser) if not each.option_strings]
    needed = [written(each) for each in options_of(parser) if each.option_strings and each.required]
    more = ["[options]"] if any(each.option_strings and not each.required for each in options_of(parser)) else []
    return " ".join([bold(parser.prog), *needed, *more, *arguments])


def command_page(parser: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    branches = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    if branches:
        for choice in branches[0]._choices_actions:
            yield from command_page(branches[0].choices[choice.dest], choice.help or "")
        return
    yield from tagged(synopsis(parser), f"{summary[:1].upper()}{summary[1:]}.")
    described = [each for each in options_of(parser) if each.help]
    if described:
        yield ".RS"
        for each in described:
            yield from tagged(written(each), f"{help_of(each)[:1].upper()}{help_of(each)[1:]}.")
        yield ".RE"


def tool() -> str:
    lines = [*page("ddtb6", 1, "the tool of an IPv6 tunnel broker, and a client of one")]
    lines += [".SH SYNOPSIS", rf"{bold('ddtb6')} [{bold('-c')} {italic('FILE')}] {italic('COMMAND')} ..."]
    lines += [".SH DESCRIPTION", TOOL.strip(), ".SH OPTIONS"]
    for each in options_of(_parser([])):
        lines += tagged(written(each), f"{help_of(each)[:1].upper()}{help_of(each)[1:]}.")
    lines += [".SH COMMANDS", "Every command has \\fB\\-\\-help\\fR."]
    for name, (_, summary) in COMMANDS.items():
        lines.append(f".SS {name}")
        branches: Any = next(each for each in _parser([name])._actions if isinstance(each, argparse._SubParsersAction))
        lines += command_page(branches.choices[name], summary)
    lines += [".SH EXIT STATUS", prose(TOOL_STATUS), ".SH ENVIRONMENT"]
    lines += tagged(bold("DDTB6_CONFIG"), "The configuration file, where the command line names none.")
    lines += tagged(bold(PASSWORD_VARIABLE), "The password for `connect`.")
    lines += ending(FILES, "ddtb6.toml(5)", "ddtb6(8)")
    return "\n".join(lines) + "\n"


# --- ddtb6(8) -----------------------------------------------------------------------------------------------------


def daemon() -> str:
    lines = [*page("ddtb6", 8, "IPv6 tunnel broker")]
    lines += [".SH SYNOPSIS", rf"{bold('twistd3 -n --pidfile= ddtb6')} [{bold('-c')} {italic('FILE')}]"]
    lines += [".SH DESCRIPTION", prose(Options.longdesc), ".PP", DAEMON.strip(), ".SH OPTIONS"]
    for long, short, default, text in Options.optParameters:
        tag = f"{bold(f'-{short}')}, {bold(f'--{long}')} {italic('FILE')}"
        lines += tagged(tag, f"{text.rstrip('.')}. Default: `{default}`.")
    lines += tagged(bold("--version"), (Options.opt_version.__doc__ or "").strip())
    lines += [".SH EXIT STATUS", prose(DAEMON_STATUS), ".SH ENVIRONMENT"]
    lines += tagged(bold("NOTIFY_SOCKET"), "Where the service manager wants to hear from the daemon (sd_notify).")
    lines += tagged(
        f"{bold('LISTEN_FDS')}, {bold('LISTEN_PID')}", "Sockets that it has opened for the daemon (sd_listen_fds)."
    )
    lines += ending(FILES, "ddtb6(1)", "ddtb6.toml(5)", "twistd3(1)", "systemd.exec(5)")
    return "\n".join(lines) + "\n"


# --- ddtb6.toml(5) ------------------------------------------------------------------------------------------------


def default_of(key: Key) -> str:
    if key.default is dataclasses.MISSING:
        return "must be given"
    value = key.default
    if value is None or value == "":
        return "unset"
    if isinstance(value, tuple):
        value = [str(each) for each in value]
    elif not isinstance(value, bool | int | float):
        value = str(value)
    return f"default {json.dumps(value)}"


def configuration() -> str:
    lines = [*page("ddtb6.toml", 5, "configuration of the IPv6 tunnel broker ddtb6")]
    lines += [".SH SYNOPSIS", italic("/etc/ddtb6/ddtb6.toml"), ".SH DESCRIPTION", CONFIGURATION.strip()]
    keys = describe()
    for section, kind in {**SECTIONS, **SEVERAL}.items():
        title, more = headline(kind)
        lines.append(f'.SH "{literal(title)}"')
        if more:
            lines.append(prose(more))
        for key in keys:
            if key.section == section:
                lines += tagged(rf"{bold(key.name)} \- {key.type}, {literal(default_of(key))}", key.doc)
    lines += ending({path: FILES[path] for path in list(FILES) if path != "/run/ddtb6/control"}, "ddtb6(1)", "ddtb6(8)")
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """File name to contents."""
    return {"ddtb6.1": tool(), "ddtb6.8": daemon(), "ddtb6.toml.5": configuration()}


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    for name, text in pages().items():
        (PAGES / name).write_text(text)
