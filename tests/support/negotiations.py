# SPDX-License-Identifier: GPL-2.0-or-later
"""A negotiation in any of its states, reached by what a client says, and something of each input to give it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address

from ddtb6.addressing.endpoint import Encapsulation
from ddtb6.sasl.mechanisms import mechanism
from ddtb6.tsp.effects import (
    Ask,
    DeadlinePassed,
    Effect,
    Established,
    Granted,
    Judged,
    Refused,
    Withdrawn,
)
from ddtb6.tsp.messages import (
    Accept,
    Authenticate,
    Capability,
    Create,
    Delete,
    Info,
    Malformed,
    Offer,
    Reject,
    SaslResponse,
    Version,
)
from ddtb6.tsp.negotiation import Input, Negotiation
from ddtb6.tsp.states import State
from ddtb6.tsp.status import InvalidRequest, NoMoreTunnels

TIMEOUT = 60.0
NOW = 1000.0
NONCE = b"abc-DEF_0123456789abcd"
CAPABILITY = Capability((Encapsulation.V6UDPV4,), ("ANONYMOUS", "PLAIN", "DIGEST-MD5"))
CREATE = Create(Encapsulation.V6UDPV4, "192.0.2.2", keepalive=30)
OFFER = Offer(
    Encapsulation.V6UDPV4,
    604800,
    "192.0.2.1",
    IPv6Address("2001:db8::1"),
    "192.0.2.2",
    IPv6Address("2001:db8::2"),
)
PROOF = SaslResponse(
    base64.b64encode(
        b'charset=utf8,username="alice",realm="ddtb6",nonce="%b",nc=00000001,cnonce="1",digest-uri="tsp/x",'
        b"response=%b,qop=auth" % (NONCE, b"0" * 32)
    )
)
"""Well formed; whether it is right is not the negotiation's business."""
PLAIN = SaslResponse(b"\0alice\0s3cret")


def negotiation(version: str = "", timeout: float = TIMEOUT) -> Negotiation:
    """One that has just begun, or that was greeted with `version`."""

    def mechanisms(name: str, number: tuple[int, ...]) -> object:
        if name not in CAPABILITY.mechanisms:
            return None
        return mechanism(name, realm="ddtb6", nonce=lambda: NONCE, version=number)

    made = Negotiation(CAPABILITY, mechanisms, timeout, NOW)  # type: ignore[arg-type]
    if version:
        made.step(Version(version), NOW)
    return made


def asked(effects: Sequence[Effect]) -> Ask:
    """The one question among `effects`."""
    [ask] = [each for each in effects if isinstance(each, Ask)]
    return ask


def logged_in(mechanism: str = "PLAIN") -> Negotiation:
    """One in COMMAND."""
    made = negotiation("2.0.2")
    effects = made.step(Authenticate(mechanism), NOW)
    if mechanism != "ANONYMOUS":
        effects = made.step(PLAIN if mechanism == "PLAIN" else PROOF, NOW)
    made.step(Judged(asked(effects).token, "0" * 32 if mechanism == "DIGEST-MD5" else None), NOW)
    assert made.state is State.COMMAND
    return made


def in_state(state: State) -> Negotiation:
    """One that got into `state` by one of the ways there are."""
    match state:
        case State.GREETING:
            return negotiation()
        case State.MECHANISM:
            return negotiation("2.0.2")
        case State.RESPONSE | State.VERIFYING:
            made = negotiation("2.0.2")
            made.step(Authenticate("DIGEST-MD5"), NOW)
            if state is State.VERIFYING:
                made.step(PROOF, NOW)
        case State.ENDED:
            made = negotiation()
            made.step(DeadlinePassed(), NOW)
        case _:
            made = logged_in()
            for event in {
                State.COMMAND: (),
                State.GRANTING: (CREATE,),
                State.OFFERED: (CREATE, Granted),
                State.ESTABLISHING: (CREATE, Granted, Accept()),
                State.UP: (CREATE, Granted, Accept(), Established),
                State.QUERYING: (Info(),),
                State.WITHDRAWING: (Delete(),),
            }[state]:
                if event is Granted:
                    event = Granted(current_token(made), OFFER)
                elif event is Established:
                    event = Established(current_token(made))
                made.step(event, NOW)
    assert made.state is state
    return made


def current_token(made: Negotiation) -> int:
    """The token that an answer must carry now."""
    return made._token


def inputs(token: int) -> Iterator[Input]:
    """At least one of each class of input; answers carry `token`."""
    for version in ("2.0.2", "2.0", "1.0.1", "9999.9999.9999"):
        yield Version(version)
    for name in ("ANONYMOUS", "PLAIN", "DIGEST-MD5", "KERBEROS_V5"):
        yield Authenticate(name)
    yield from (SaslResponse(b""), PLAIN, PROOF, SaslResponse(b"\0" * 2048))
    yield from (CREATE, Accept(), Reject(), Info(), Delete())
    yield Malformed(InvalidRequest())
    yield from (Judged(token), Judged(token, "f" * 32), Granted(token, OFFER), Established(token), Withdrawn(token))
    yield Refused(token, NoMoreTunnels())
    yield DeadlinePassed()
