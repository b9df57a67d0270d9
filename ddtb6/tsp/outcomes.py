# SPDX-License-Identifier: GPL-2.0-or-later
"""What the client role is asked for, and what it answers: values.

Source: RFC 5572 section 4; the broker lists of gogoCLIENT.
Not here: how one comes from the other (`client`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ddtb6.tsp.messages import Create, Delete, Info, Offer
from ddtb6.tsp.status import TspError


class UnreadableReply(TspError):
    """What the broker sent is not TSP, or not in its order. Has no status code: it is judged on this side."""

    text = "The broker's reply could not be understood"


class BrokerNotAuthentic(TspError):
    """The broker did not prove that it knows the password: somebody else may be answering. Judged on this side."""

    text = "The broker could not prove that it knows the password; somebody else may be answering in its place"


# --- what is wanted -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wish:
    """What to ask for, and as whom."""

    request: Create | Info | Delete
    server: str
    """The broker as the person wrote it; ``tsp/`` and this is the digest-uri."""
    user: str | None = None
    """None: ANONYMOUS."""
    password: str = field(default="", repr=False)
    mechanism: str | None = None
    """Upper case; None: DIGEST-MD5, or what `allow_plain` says."""
    allow_plain: bool = False
    """PLAIN may be used where DIGEST-MD5 is not offered."""


# --- effects ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """Send this; over UDP as a new request."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Poll:
    """Over UDP, fetch more with an empty request. Never asked for over TCP."""


@dataclass(frozen=True, slots=True)
class Done:
    """What was asked for came true: the tunnel (create, info), or None (delete)."""

    offer: Offer | None


class Retry(enum.Enum):
    """How soon asking again makes sense."""

    SOON = "soon"
    """It may pass by itself."""
    LATER = "later"
    """Somebody must change something first."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It came to nothing."""

    error: TspError
    retry: Retry


@dataclass(frozen=True, slots=True)
class Redirect:
    """Ask one of these brokers instead, best first: names and addresses as the broker wrote them."""

    brokers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OlderVersion:
    """The broker refused our version: begin anew, on a new path, with this one."""

    version: str


Effect = Write | Poll | Done | Failed | Redirect | OlderVersion
