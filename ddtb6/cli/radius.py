# SPDX-License-Identifier: GPL-2.0-or-later
"""`ddtb6 radius`: asks the RADIUS servers, each for itself, as the daemon would.

`test` tries a log-in in every configured mode and says what it would be granted, and what of that no pool can give.
`probe` (for `ddtb6 doctor`) sends Status-Server (RFC 5997), for which nobody need be logged in.
Invariant: a password is shown to nobody but the servers.
Not here: how the daemon uses them (`aaa`).
"""

from __future__ import annotations

import argparse
import itertools
import secrets
import select
import socket
from dataclasses import replace
from ipaddress import IPv6Network, ip_address
from typing import Any, NamedTuple

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.addressing.pool import Use
from ddtb6.broker.ports import Accepted, Rejected, Terms, Verdict
from ddtb6.broker.views import plain
from ddtb6.cli import output, passwords
from ddtb6.cli.main import Failure
from ddtb6.clock import SystemClock
from ddtb6.config import Config, load, radius_secret
from ddtb6.sasl import digest
from ddtb6.sasl.credentials import Credentials, Plain
from ddtb6.sasl.mechanisms import mechanism

PROBE_TRIES, PROBE_WAIT = 3, 1.0
"""Status-Server to each server, and seconds that each waits for its answer."""
BROKER_END = 1
"""Interface identifier of the broker's own end in a pool (`addressing.pool`)."""


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    summary = "try a log-in at every RADIUS server, and say what it would be granted; asks for the password"
    command = actions.add_parser("test", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    command.add_argument("user", metavar="USER")
    passwords.add_option(command)
    command.add_argument(
        "--from",
        dest="source",
        type=_address,
        default="192.0.2.1",
        metavar="ADDRESS",
        help="outer address of the client that is told to the servers (default: 192.0.2.1, for documentation)",
    )
    output.add_json(command)


def _address(text: str) -> str:
    return str(ip_address(text))


def run(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    if not any(server.auth_port for server in config.radius_servers.values()):
        raise Failure(f"{arguments.config} names no RADIUS server for log-ins; see [radius.server.NAME]")
    trials = _try_all(
        config, arguments.user, passwords.read(arguments, arguments.user, twice=False), Endpoint(arguments.source, 0)
    )
    verdicts = [each.verdict for each in trials]
    unmet = [unmet_terms(config, each.principal.terms) if isinstance(each, Accepted) else [] for each in verdicts]
    code = int(not any(isinstance(each, Accepted) for each in verdicts) or any(map(_refused, verdicts)) or any(unmet))
    if arguments.json:
        output.print_json([_plain(trial, why) for trial, why in zip(trials, unmet, strict=True)])
        return code
    for trial in trials:
        print(f"{trial.server} ({trial.endpoint}), {trial.mechanism} by {trial.mode}: {output.safe(_sentence(trial))}")
    granted = next((each for each in verdicts if isinstance(each, Accepted)), None)
    if granted is not None:
        print(f"Granted to {output.safe(arguments.user)}:")
        output.print_facts([(f"  {name}", value) for name, value in _facts(granted)])
    for why in dict.fromkeys(itertools.chain(*unmet)):
        print(f"The broker would refuse that: {output.safe(why)}.")
    if "radius" not in config.auth.chain:
        print("Caution: auth.chain does not have radius; the broker would not ask these servers.")
    return code


def unmet_terms(config: Config, terms: Terms) -> list[str]:
    """Why the broker would refuse an accept with these terms, as far as the configuration tells."""
    found = []
    if terms.tunnels == 0:
        found.append("Port-Limit is 0, so this account may have no tunnel")
    pools = config.pools
    for name, use in ((terms.address_pool, Use.ACCOUNTS), (terms.prefix_pool, Use.PREFIXES)):
        if name is not None and (name not in pools or pools[name].use is not use):
            found.append(f'the accept names the pool "{name}", and there is no [pool.{name}] with use = {use.value}')
    wanted = [(each, Use.PREFIXES) for each in (terms.prefix, *terms.routes) if each is not None]
    if terms.address is not None:
        wanted.append((IPv6Network(terms.address), Use.ACCOUNTS))
    for network, use in wanted:
        if not any(pool.use is use and network.subnet_of(pool.block) for pool in pools.values()):
            found.append(f"the accept names {network}, which is in no [pool.NAME] with use = {use.value}")
    if terms.interface_id == BROKER_END or any(terms.address == pool.broker_address for pool in pools.values()):
        named = terms.address or f"the interface identifier {terms.interface_id}"
        found.append(f"the accept names {named}, which the broker itself uses; 2 is the lowest for a client")
    return found


# --- a log-in -----------------------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """One log-in at one server."""

    server: str
    endpoint: Endpoint
    mode: str
    mechanism: str
    verdict: Verdict
    seconds: float


def _try_all(config: Config, user: str, password: str, source: Endpoint) -> list[Trial]:
    # Imported late: the reactor is chosen by importing it, and only this command runs one.
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    found: list[Trial] = []

    def main(reactor: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(_ask_all(reactor, config, user, password, source, found))

    try:
        react(main)
    except SystemExit as stop:
        if stop.code:
            raise Failure("the servers could not be asked") from None
    return found


async def _ask_all(
    reactor: Any, config: Config, user: str, password: str, source: Endpoint, found: list[Trial]
) -> None:
    from ddtb6.aaa import Aaa
    from ddtb6.auth.radius import JUDGED

    clock = SystemClock()
    local = config.listen.udp[0] if config.listen.udp else config.listen.tcp[0]
    link = Link(Carrier.UDP, local, source)
    for name, server in config.radius_servers.items():
        if not server.auth_port:
            continue
        aaa = Aaa(replace(config, radius_servers={name: server}), reactor, clock)
        try:
            users = aaa.authenticator()
            for mode in config.radius.modes:
                credentials = _credentials(JUDGED[mode], config.server.realm, user, password)
                begun = clock.monotonic()
                verdict = await users.verify(credentials, link)
                endpoint = Endpoint(server.address, server.auth_port)
                found.append(Trial(name, endpoint, mode, JUDGED[mode], verdict, clock.monotonic() - begun))
        finally:
            await aaa.close()


def _credentials(name: str, realm: str, user: str, password: str) -> Credentials:
    """What a client would send that knows `password`."""
    if name == "PLAIN":
        return Plain(user, password)
    made = mechanism(name, realm=realm, nonce=lambda: secrets.token_hex(16).encode(), version=(2, 0, 2))
    assert made is not None
    challenge = made.start()
    assert isinstance(challenge, bytes)
    said = made.respond(digest.respond(challenge, user, password, "tsp/localhost", secrets.token_hex(16).encode()))
    assert not isinstance(said, bytes)
    return said


def _refused(verdict: Verdict) -> bool:
    return isinstance(verdict, Rejected)


def _sentence(trial: Trial) -> str:
    match trial.verdict:
        case Accepted(_, rspauth):
            proved = ", and it proved itself to the client" if rspauth else ""
            return f"accepted in {trial.seconds * 1000:.1f} ms{proved}"
        case Rejected(why, _):
            return f"{why} (in {trial.seconds * 1000:.1f} ms)"
        case other:
            return str(getattr(other, "why", "not asked"))


def _facts(accepted: Accepted) -> list[tuple[str, object]]:
    terms = accepted.principal.terms
    limit = terms.interim_interval
    return [
        ("owner of what it gets", accepted.principal.owner),
        ("name in accounting", terms.billed_as),
        ("address", terms.address),
        ("interface identifier", None if terms.interface_id is None else f"{terms.interface_id:016x}"),
        ("prefix", terms.prefix),
        ("pool of the address", terms.address_pool or (None if terms.address else "any with use = accounts")),
        ("pool of the prefix", terms.prefix_pool or (None if terms.prefix else "any of the length asked for")),
        ("routes", ", ".join(map(str, terms.routes))),
        ("resolver", terms.resolver),
        ("ends after", output.span(terms.session_limit) if terms.session_limit else "no time limit"),
        ("ends when silent for", output.span(terms.idle_limit) if terms.idle_limit else None),
        ("interim records every", output.span(limit) if limit else None),
        ("tunnels", terms.tunnels),
        ("Class attributes", len(terms.account_class) or None),
        ("Filter-Id", ", ".join(terms.filter_ids)),
    ]


def _plain(trial: Trial, unmet: list[str]) -> dict[str, Any]:
    verdict = trial.verdict
    said: dict[str, Any] = {
        "server": trial.server,
        "endpoint": str(trial.endpoint),
        "mode": trial.mode,
        "mechanism": trial.mechanism,
        "seconds": trial.seconds,
        "verdict": type(verdict).__name__.lower(),
    }
    if isinstance(verdict, Accepted):
        terms = replace(verdict.principal.terms, account_class=())
        classes = [each.hex() for each in verdict.principal.terms.account_class]
        granted = plain(terms) | {"account_class": classes}
        return said | {"owner": verdict.principal.owner, "terms": granted, "unmet": unmet}
    return said | {"why": getattr(verdict, "why", "")}


# --- is anybody there? --------------------------------------------------------------------------------------------


class Probe(NamedTuple):
    """A server at one of its ports."""

    name: str
    purpose: str
    """``log-ins`` or ``accounting``."""
    endpoint: Endpoint
    seconds: float | None
    """Until its answer; None: there was none."""
    fault: str
    """Why the last datagram from there was not believed, or could not be sent; mostly empty."""


def probe(config: Config, wait: float = PROBE_WAIT) -> list[Probe]:
    """Ask every server at every port that is configured whether it is alive. Raises ConfigError."""
    found = []
    for name, server in config.radius_servers.items():
        secret = radius_secret(name, server)
        ports = [("log-ins", server.auth_port)]
        if config.radius.accounting:
            ports.append(("accounting", server.acct_port))
        for purpose, number in ports:
            if number:
                endpoint = Endpoint(server.address, number)
                found.append(Probe(name, purpose, endpoint, *_probe(endpoint, secret, wait)))
    return found


def _probe(endpoint: Endpoint, secret: bytes, wait: float) -> tuple[float | None, str]:
    # Imported late: pyrad and its dictionary take a tenth of a second.
    from ddtb6.radius.packets import LARGEST, Code, Refused, make_request, read_reply

    clock, fault = SystemClock(), ""
    try:
        with socket.socket(socket.AF_INET6 if endpoint.family == 6 else socket.AF_INET, socket.SOCK_DGRAM) as wire:
            wire.connect(tuple(endpoint))
            for identifier in range(PROBE_TRIES):
                request = make_request(Code.STATUS_SERVER, identifier, secret, (), secrets.token_bytes(16))
                begun = clock.monotonic()
                wire.send(request.octets)
                while (left := begun + wait - clock.monotonic()) > 0 and select.select([wire], [], [], left)[0]:
                    try:
                        read_reply(wire.recv(LARGEST), request, secret)
                    except Refused as refused:
                        fault = refused.fault.value
                    else:
                        return clock.monotonic() - begun, ""
    except OSError as error:
        fault = f"{error.strerror}"
    return None, fault
