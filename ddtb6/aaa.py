# SPDX-License-Identifier: GPL-2.0-or-later
"""What the configuration says of RADIUS, made: who is asked, who is told, who may tell us.

Imported only where `[radius.server.NAME]` is configured: pyrad and its dictionaries take memory.
Not here: the rest of the daemon (`app`), anything about packets (`radius`).
"""

from __future__ import annotations

import socket
from typing import Any

from ddtb6.auth.radius import RadiusUsers
from ddtb6.broker.broker import Broker
from ddtb6.broker.journal import Journal
from ddtb6.broker.ports import Clock
from ddtb6.broker.views import AaaServerView, AaaView, AccountingView
from ddtb6.config import Config
from ddtb6.config.reading import radius_client_secret, radius_secret
from ddtb6.radius.access import RadiusAccess
from ddtb6.radius.accounting import AccountingDeliverer
from ddtb6.radius.dynamic import DynamicAuthorization, DynamicClient
from ddtb6.radius.exchange import RadiusClient, Server, Timing
from ddtb6.radius.nas import Nas, SessionNames
from ddtb6.radius.packets import Fault


class Aaa:
    """The ISP's AAA, as one configuration has it."""

    def __init__(self, config: Config, reactor: Any, clock: Clock) -> None:
        """Opens nothing yet."""
        self._config = config
        self._reactor = reactor
        self._clock = clock
        radius = config.radius
        self._nas = Nas(
            identifier=radius.nas_identifier or socket.gethostname() or "ddtb6",
            address=radius.nas_ip_address,
            address6=radius.nas_ipv6_address,
            port_id=config.dataplane.device,
            calling_port=radius.calling_station_port,
            framed_protocol=radius.framed_protocol,
        )
        self._access = self._client("auth_port")
        self._accounting = self._client("acct_port") if radius.accounting else None
        self._deliverer: AccountingDeliverer | None = None
        self._dynamic: DynamicAuthorization | None = None

    def _client(self, port: str) -> RadiusClient | None:
        """For the servers that have that port."""
        radius = self._config.radius
        servers = [
            Server(name, each.address, getattr(each, port), radius_secret(name, each), each.message_authenticator)
            for name, each in self._config.radius_servers.items()
            if getattr(each, port)
        ]
        if not servers:
            return None
        timing = Timing(radius.timeout, radius.tries, radius.patience, radius.dead_time, radius.probe_interval)
        return RadiusClient(self._reactor, self._clock, servers, timing, self._nas.identity())

    def authenticator(self) -> RadiusUsers:
        """For the chain. The configuration has made sure that there is a server to ask."""
        radius = self._config.radius
        assert self._access is not None, "a chain with radius and no server for it is refused when it is read"
        access = RadiusAccess(
            self._access,
            self._nas,
            SessionNames(self._clock),
            draft="digest-draft" in radius.modes,
            obey_interim=radius.interim_from == "server",
        )
        return RadiusUsers(access, self._config.server.realm, radius.modes, without_rspauth=radius.without_rspauth)

    def deliverer(self, journal: Journal) -> AccountingDeliverer | None:
        """What delivers `journal`, not started; None where nobody is to be told."""
        if self._accounting is not None:
            self._deliverer = AccountingDeliverer(self._reactor, self._clock, journal, self._accounting, self._nas)
        return self._deliverer

    def dynamic(self, broker: Broker) -> DynamicAuthorization:
        """Serves Disconnect and CoA; its sockets are the caller's matter."""
        config = self._config
        named = config.radius_dynamic_clients
        clients = [
            DynamicClient(name, each.address, radius_client_secret(name, each), each.require_message_authenticator)
            for name, each in named.items()
        ] or [
            DynamicClient(name, each.address, radius_secret(name, each)) for name, each in config.radius_servers.items()
        ]
        self._dynamic = DynamicAuthorization(
            self._clock,
            broker,
            self._nas,
            clients,
            must_date=config.radius_dynamic.require_event_timestamp,
            interim_fixed=config.radius.interim_from == "configuration",
        )
        return self._dynamic

    def view(self) -> AaaView:
        """How the servers and the deliveries do."""
        servers = tuple(
            AaaServerView(
                name=each.name,
                purpose=purpose,
                endpoint=each.endpoint,
                alive=each.alive,
                answered_ago=each.answered_ago,
                round_trip=each.round_trip,
                unanswered=each.counters.get("unanswered", 0),
                dropped={fault.value: each.counters[fault.value] for fault in Fault if fault.value in each.counters},
            )
            for purpose, client in (("log-ins", self._access), ("accounting", self._accounting))
            if client is not None
            for each in client.states()
        )
        accounting = None
        if self._deliverer is not None:
            state = self._deliverer.state()
            accounting = AccountingView(
                state.waiting, state.delivered, state.oldest, state.outage_since, state.last_error
            )
        return AaaView(servers, accounting, dict(self._dynamic.counters) if self._dynamic is not None else {})

    async def close(self) -> None:
        """Close the sockets; what is asked for fails."""
        for client in (self._access, self._accounting):
            if client is not None:
                await client.close()
