# SPDX-License-Identifier: GPL-2.0-or-later
"""Why sessions ended, log-ins and packets were refused, in words for people; each says what to do where there is
something. docs/clients.md has the same words on status codes.

Not here: lines of the log (`logbook`), which are for operators.
"""

from __future__ import annotations

from collections.abc import Mapping

from ddtb6.broker import events
from ddtb6.tunnel.reasons import EndReason, Refusal

ENDED: Mapping[EndReason, str] = {
    EndReason.REPLACED: "The account logged in again, and the last log-in wins. If it goes on, two machines use it.",
    EndReason.ENDPOINT_TAKEN: "Another account logged in from the same outer address and port.",
    EndReason.NOT_ACCEPTED: "The client never accepted the offer, and sent no packet.",
    EndReason.REJECTED: "The client rejected the offer.",
    EndReason.DELETED: "The client asked for it.",
    EndReason.IDLE: "Nothing was heard from the client any more.",
    EndReason.DISCONNECTED: "An administrator ended it.",
    EndReason.DISABLED: "The account was disabled or deleted.",
    EndReason.SESSION_TIMEOUT: "The time that the account is allowed for was over.",
    EndReason.FAILED: "The broker could not carry the tunnel; its log has the reason.",
}
REFUSED: Mapping[Refusal, str] = {
    Refusal.MALFORMED: "No IPv6 packet, or cut short on the way.",
    Refusal.UNKNOWN_ENDPOINT: "From an outer address and port that no tunnel has.",
    Refusal.SPOOFED_SOURCE: "Sent with a source address that is not the tunnel's: check the addresses and routes of "
    "the network behind the client.",
    Refusal.BAD_SOURCE: "Sent with a source that no host may use.",
    Refusal.BAD_DESTINATION: "Sent to a destination that must not leave a link.",
    Refusal.LINK_LOCAL: "Talk of the client's own link; every client sends some, and it is no fault.",
    Refusal.TOO_BIG: "Larger than the tunnel carries. The sender was told the right size; if connections hang, "
    "something drops these answers (ICMPv6 Packet Too Big).",
    Refusal.NO_TUNNEL: "To an address that no tunnel has.",
    Refusal.LOOP: "Would have come back to the broker.",
    Refusal.NOT_SENT: "The network of the broker would not take it at that moment.",
}
STATUS: Mapping[str, str] = {
    "300": "Wrong name, password or mechanism, or the account is disabled.",
    "301": "A pool of the broker is full, or too many tunnels come from one address.",
    "303": "The log-in went over TCP or IPv6, or protocol 41 cannot be had: use UDP over IPv4, with v6udpv4.",
    "507": "The broker has no prefixes of the length that was asked for: ask for another length.",
    "518": "The broker has no prefixes of the length that was asked for: ask for another length.",
    "520": "A prefix was asked for without its length: give one, such as 56.",
    "522": "Prefixes are for accounts only: log in with one.",
    "530": "Try later: too many log-ins at once, or the broker's RADIUS servers do not answer.",
}
"""What the status codes mean that a client meets, and what to do."""


def ended(reason: EndReason | None) -> str:
    """Why a session ended; nothing for one that lives."""
    return "" if reason is None else ENDED[reason]


def refused(reason: Refusal) -> str:
    """Why packets were refused."""
    return REFUSED[reason]


def meaning(event: events.Event) -> str:
    """What an event means for the owner that it concerns, and what to do; empty where it speaks for itself."""
    match event:
        case events.LoginRefused():
            return STATUS.get(str(event.code), "")
        case events.RequestRefused():
            return STATUS.get(event.status[:3], "")
        case events.SessionEnded():
            return ENDED[event.ending.reason]
    return ""
