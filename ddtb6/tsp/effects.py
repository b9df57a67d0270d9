# SPDX-License-Identifier: GPL-2.0-or-later
"""What a negotiation may ask of the world, and how the world answers.

An `Ask` carries a token; its answer carries the same token, and an answer with another token is out of date and
ignored.
Invariant: effects are returned, never performed; whoever performs them does so in order.
Not here: how they are performed (`transport.driver`, `broker.broker`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ddtb6.sasl.credentials import Credentials
from ddtb6.tsp.messages import Create, Offer
from ddtb6.tsp.status import TspError

# --- questions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judge:
    """Are these credentials good? Answered by Judged or Refused."""

    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Grant:
    """What does this client get? Answered by Granted or Refused."""

    create: Create


@dataclass(frozen=True, slots=True)
class Query:
    """What tunnel does the account have? Answered by Granted or Refused."""


class Why(enum.Enum):
    """Why a client gives its tunnel back."""

    REJECT = "reject"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take the account's tunnel down. Answered by Withdrawn or Refused."""

    why: Why


@dataclass(frozen=True, slots=True)
class Establish:
    """The client accepts its offer; does the tunnel still stand? Answered by Established or Refused."""


Question = Judge | Grant | Establish | Query | Withdraw

# --- effects ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to the message just taken. Empty: acknowledge without text (a bare header on UDP, nothing on TCP)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Followup:
    """A second answer to the same message: kept for the client's poll on UDP, sent after a pause on TCP.

    gogoCLIENT reads rspauth and the status with one recv() each and hangs when both come at once.
    """

    payload: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """The negotiation waits for an answer with this token."""

    token: int
    question: Question


@dataclass(frozen=True, slots=True)
class Proven:
    """The peer has shown that it receives what is sent to it."""


@dataclass(frozen=True, slots=True)
class Hangup:
    """Nothing more will be said: close the connection, or forget the peer once duplicates have died out."""


Effect = Reply | Followup | Ask | Proven | Hangup

# --- answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """The credentials are good."""

    token: int
    rspauth: str | None = None
    """DIGEST-MD5: what proves the server to the client."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The client gets this; it is committed, and the data plane carries it."""

    token: int
    offer: Offer


@dataclass(frozen=True, slots=True)
class Established:
    """The tunnel that was offered stands."""

    token: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The tunnel is gone."""

    token: int


@dataclass(frozen=True, slots=True)
class Refused:
    """No, and this is what to say."""

    token: int
    error: TspError


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The client stayed silent until `Negotiation.deadline`."""


Answer = Judged | Granted | Established | Withdrawn | Refused
