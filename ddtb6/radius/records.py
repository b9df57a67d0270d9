# SPDX-License-Identifier: GPL-2.0-or-later
"""An accounting record as the attributes of an Accounting-Request: one pure function and its tables.

Source: RFC 2866 section 5, 2869 section 5.1 to 5.3 (Gigawords, Event-Timestamp), 3162, 4818 and 6911 (what the session
has). FreeRADIUS' SQL rows lose prefixes that are not in every record, so they are in every record.
Invariants: what a session has, who it is and where it comes from stand in its Start, its interims and its Stop alike;
*input* is from the client; 64-bit octets always come with their Gigawords, also where these are 0.
Not here: when and to whom it is sent (`radius.accounting`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ddtb6.broker.journal import Record, RecordKind
from ddtb6.broker.ports import Session, Terms
from ddtb6.radius.attributes import Attribute, clip
from ddtb6.radius.nas import Nas, naming
from ddtb6.radius.packets import LARGEST
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters

MOST_ROUTES = 16
"""Framed-IPv6-Route in one record."""
ENVELOPE = 128
"""Octets that header, counters and what a proxy adds may take of a packet."""

STATUS: Mapping[RecordKind, str] = {
    RecordKind.START: "Start",
    RecordKind.STOP: "Stop",
    RecordKind.INTERIM: "Interim-Update",
    RecordKind.ON: "Accounting-On",
    RecordKind.OFF: "Accounting-Off",
}

CAUSES: Mapping[EndReason, str] = {
    EndReason.REPLACED: "NAS-Request",
    EndReason.ENDPOINT_TAKEN: "NAS-Request",
    EndReason.NOT_ACCEPTED: "Lost-Carrier",
    EndReason.REJECTED: "User-Error",
    EndReason.DELETED: "User-Request",
    EndReason.IDLE: "Idle-Timeout",
    EndReason.DISCONNECTED: "Admin-Reset",
    EndReason.DISABLED: "Admin-Reset",
    EndReason.SESSION_TIMEOUT: "Session-Timeout",
    EndReason.FAILED: "NAS-Error",
}
"""Acct-Terminate-Cause of every way to end. Silence is a lost carrier unless the AAA itself limited it."""

_COUNTED = (RecordKind.INTERIM, RecordKind.STOP)
_WORD = 0xFFFF_FFFF


def record_attributes(record: Record, nas: Nas, now: float) -> list[Attribute]:
    """What is sent of `record` at epoch second `now`."""
    attributes: list[Attribute] = [("Acct-Status-Type", STATUS[record.kind])]
    session = record.session
    if session is None:
        # RFC 2866 section 5.5: every Accounting-Request has an Acct-Session-Id; the number is this event's own.
        attributes.append(("Acct-Session-Id", f"{record.kind.name}-{record.number}"))
        attributes += nas.identity()
    else:
        attributes += naming(session.accounted_as)
        attributes.append(("User-Name", clip(user_name(session))))
        attributes += nas.identity()
        attributes += nas.service()
        attributes += nas.path(session.spec.local, session.spec.remote, connect_info(session))
        attributes.append(("Acct-Authentic", "RADIUS" if session.terms.by_radius else "Local"))
        attributes += _holdings(session)
        attributes += _kept_class(session.terms, LARGEST - ENVELOPE - sum(map(_size, attributes)))
        if record.kind in _COUNTED:
            attributes.append(("Acct-Session-Time", _word(record.at - session.started)))
            attributes += _counted(record.counters)
        if record.kind is RecordKind.STOP:
            attributes.append(("Acct-Terminate-Cause", terminate_cause(record.reason, session.terms)))
    attributes.append(("Event-Timestamp", _word(record.at)))
    attributes.append(("Acct-Delay-Time", _word(now - record.at)))
    return attributes


def user_name(session: Session) -> str:
    """Whom the AAA bills: the name of its own accept goes before the log-in."""
    return session.terms.billed_as or session.user or ""


def connect_info(session: Session) -> str:
    """What RADIUS has no number for: the kind of tunnel, and the client's protocol version and mechanism."""
    return f"{session.spec.encapsulation.value} TSP/{session.client_version} {session.mechanism}"


def terminate_cause(reason: EndReason | None, terms: Terms) -> str:
    """Acct-Terminate-Cause."""
    if reason is None:  # Written by a newer release, and unknown to this one.
        return "NAS-Error"
    if reason is EndReason.IDLE and terms.idle_limit is None:
        return "Lost-Carrier"
    return CAUSES[reason]


def _holdings(session: Session) -> list[Attribute]:
    """Addresses and prefixes, and the pools that the AAA chose."""
    spec, terms = session.spec, session.terms
    attributes: list[Attribute] = [
        ("Framed-IPv6-Prefix", bytes((0, 128)) + spec.address.packed),
        ("Framed-IPv6-Address", spec.address),
        ("Framed-Interface-Id", spec.address.packed[8:]),
    ]
    if spec.prefix is not None:
        attributes.append(("Delegated-IPv6-Prefix", spec.prefix))
    attributes += [("Framed-IPv6-Route", f"{route} :: 1") for route in spec.routes[:MOST_ROUTES]]
    if terms.address_pool:
        attributes.append(("Framed-IPv6-Pool", clip(terms.address_pool)))
    if terms.prefix_pool:
        attributes.append(("Delegated-IPv6-Prefix-Pool", clip(terms.prefix_pool)))
    return attributes


def _kept_class(terms: Terms, room: int) -> list[Attribute]:
    """All of them, in order, unchanged, as far as `room` octets go: an accept may be as large as a packet can be."""
    kept: list[Attribute] = []
    for each in terms.account_class:
        room -= len(each) + 2
        if room < 0:
            break
        kept.append(("Class", each))
    return kept


def _size(attribute: Attribute) -> int:
    """Octets in a packet at most."""
    value = attribute[1]
    return 2 + max(
        18, len(value.encode() if isinstance(value, str) else value) if isinstance(value, str | bytes) else 0
    )


def _counted(counters: Counters) -> list[Attribute]:
    return [
        ("Acct-Input-Octets", counters.octets_in & _WORD),
        ("Acct-Input-Gigawords", counters.octets_in >> 32 & _WORD),
        ("Acct-Output-Octets", counters.octets_out & _WORD),
        ("Acct-Output-Gigawords", counters.octets_out >> 32 & _WORD),
        ("Acct-Input-Packets", counters.packets_in & _WORD),
        ("Acct-Output-Packets", counters.packets_out & _WORD),
    ]


def _word(value: float) -> int:
    """Seconds as RADIUS writes them; a clock that was set back makes no negative ones."""
    return min(max(int(value), 0), _WORD)
