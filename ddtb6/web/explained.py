# SPDX-License-Identifier: GPL-2.0-or-later
"""Why sessions ended and packets were refused, in words for people; each says what to do where there is something.

Not here: lines of the log (`logbook`), which are for operators.
"""

from __future__ import annotations

from collections.abc import Mapping

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


def ended(reason: EndReason | None) -> str:
    """Why a session ended; nothing for one that lives."""
    return "" if reason is None else ENDED[reason]


def refused(reason: Refusal) -> str:
    """Why packets were refused."""
    return REFUSED[reason]
