# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a packet was refused, and why a tunnel ended: closed lists, one word each.

The values are stable: they stand in the database, in JSON and in metrics.
"""

from __future__ import annotations

import enum


class Refusal(enum.Enum):
    """Why a data plane did not carry a packet."""

    MALFORMED = "malformed"
    """Not an IPv6 packet, or its length and the datagram's differ."""
    UNKNOWN_ENDPOINT = "unknown-endpoint"
    """From an outer endpoint that has no tunnel (counted for the device, there is no session)."""
    SPOOFED_SOURCE = "spoofed-source"
    """The inner source is outside the tunnel's address and prefix (BCP 38)."""
    BAD_SOURCE = "bad-source"
    """A source no host may send from: multicast, unspecified, loopback, v4-mapped."""
    BAD_DESTINATION = "bad-destination"
    """A destination that must not leave a link: loopback, multicast, link-local, v4-mapped."""
    LINK_LOCAL = "link-local"
    """Router solicitations, MLD and the like from a link-local source; every client sends them, no fault."""
    TOO_BIG = "too-big"
    """Larger than the tunnel's MTU; answered with ICMPv6 Packet Too Big."""
    NO_TUNNEL = "no-tunnel"
    """To an address of the pool that no tunnel holds (counted for the device)."""
    LOOP = "loop"
    """Would come back into the broker: a 6to4 or like address of our own outer address (RFC 6324)."""
    NOT_SENT = "not-sent"
    """The outer socket or the device would not take it."""


class EndReason(enum.Enum):
    """Why a session ended."""

    REPLACED = "replaced"
    """The same account logged in again; the last authenticated log-in wins."""
    ENDPOINT_TAKEN = "endpoint-taken"
    """Another account logged in from the same outer endpoint."""
    NOT_ACCEPTED = "not-accepted"
    """The client never accepted the offer and sent no packet."""
    REJECTED = "rejected"
    """The client rejected the offer."""
    DELETED = "deleted"
    """The client asked for it (action delete)."""
    IDLE = "idle"
    """Nothing was heard from the client for the keepalive limit."""
    DISCONNECTED = "disconnected"
    """An administrator ended it."""
    DISABLED = "disabled"
    """The account was disabled or deleted."""
    SESSION_TIMEOUT = "session-timeout"
    """The time that the authenticator allowed for was over."""
    FAILED = "failed"
    """The data plane could not carry it."""
