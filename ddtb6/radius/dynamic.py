# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic authorization (RFC 5176): signatures of what is being built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker.ports import Clock, Session, Terms
from ddtb6.radius.nas import Nas
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import TunnelId


class Sessions(Protocol):
    """What of the broker is needed."""

    def live_sessions(self) -> Iterable[Session]: ...

    async def disconnect(self, tunnel: TunnelId, reason: EndReason) -> bool: ...

    async def change_terms(self, tunnel: TunnelId, terms: Terms) -> bool: ...


class Sender(Protocol):
    """The socket that a request came through (`transport.socket.UdpSocket`)."""

    def send(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> bool: ...


@dataclass(frozen=True, slots=True)
class DynamicClient:
    """Somebody who may send requests."""

    name: str
    address: str
    """Numeric; requests from other addresses are not read."""
    secret: bytes = field(repr=False)
    must_sign: bool = False
    """Requests without a Message-Authenticator are dropped."""


class DynamicAuthorization:
    """Give `receive` to a UdpSocket for each address to listen on: ``UdpSocket(reactor, endpoint, dynamic.receive)``."""

    def __init__(
        self,
        clock: Clock,
        sessions: Sessions,
        nas: Nas,
        clients: Sequence[DynamicClient],
        *,
        must_date: bool = False,
        interim_fixed: bool = False,
    ) -> None:
        """`must_date`: requests without an Event-Timestamp are dropped. `interim_fixed`: the policy's own word."""
        self.counters: Counter[str] = Counter()

    def receive(self, socket: Sender, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        """A datagram. Never raises."""
