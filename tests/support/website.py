# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole web side on a broker under virtual time: nothing is faked but the wire."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from support.stored import now
from support.virtual import SERVER, World, account
from support.web import Browser
from twisted.internet.defer import execute
from twisted.trial import unittest

from ddtb6.addressing.endpoint import Carrier, Encapsulation, Endpoint, Link
from ddtb6.broker.management import Administrator
from ddtb6.broker.ports import Opening, Session
from ddtb6.broker.views import Overview
from ddtb6.config import Config
from ddtb6.web.routes import Route
from ddtb6.web.serve import Daemon, Web
from ddtb6.web.verbs import Actor
from ddtb6.web.visitors import Role

PASSWORD = "s3cret"
VERSION = "2.0.2"
LOCAL = Actor("local:root")


def web_of(world: World, overview: Callable[[], Overview], **options: Any) -> Web:
    """The web side of a broker; `options` of `WebConfig`."""
    base = Config()
    config = replace(base, web=replace(base.web, **options), pools=world.policy.pools)
    clock, store, broker, bus = world.clock, world.store, world.broker, world.bus
    daemon = Daemon(
        config,
        clock,
        clock,
        store,
        broker,
        bus,
        overview,
        world.recording,
        world.plane.carried,
        world.probes.view,
        world.authenticator,
        partial(execute),
    )
    return Web(daemon)


def overview_of(world: World) -> Overview:
    return Overview(
        version="1",
        started=world.clock.epoch(),
        listening=("udp 192.0.2.1:3653",),
        data_plane="memory",
        data_plane_reason="It was asked for.",
        firewall="None.",
        encapsulations=("v6udpv4",),
        mechanisms=world.policy.mechanisms,
        negotiations=0,
        activity=world.broker.activity(),
        reconciled=world.broker.reconciled,
        trouble=world.broker.in_trouble,
    )


def add_administrator(world: World, name: str) -> None:
    """With the password `PASSWORD`, in microseconds to check."""
    stored = account(name, PASSWORD).password_hash
    assert stored is not None
    now(world.store.add_administrator(Administrator(name, stored, 0.0)))


def opening_of(user: str, remote: Endpoint, prefix_pool: str | None, version: str = VERSION) -> Opening:
    return Opening(
        owner=f"user:{user}",
        user=user,
        link=Link(Carrier.UDP, SERVER, remote),
        encapsulation=Encapsulation.V6UDPV4,
        mechanism="DIGEST-MD5",
        client_version=version,
        address_pool="links",
        prefix_pool=prefix_pool,
        mtu=1280,
        idle_limit=180.0,
    )


def stand(world: World, opening: Opening) -> Session:
    """A tunnel that stands."""
    session: Session = now(world.store.open_session(opening))
    now(world.broker._tunnels.stand(session, nat=True, by=str(opening.link.remote)))
    return session


class WebCase(unittest.TestCase):
    """The accounts alice and bob, and the administrator root, all with the password `PASSWORD`."""

    trusted_proxies: tuple[str, ...] = ()
    session_metrics = 0

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="ddtb6-"))
        self.addCleanup(shutil.rmtree, directory)
        self.world = world = World(directory, accounts={"alice": PASSWORD, "bob": PASSWORD})
        self.addCleanup(world.close)
        add_administrator(world, "root")
        self.web = web_of(
            world, self.overview, trusted_proxies=self.trusted_proxies, session_metrics=self.session_metrics
        )
        self.site = self.web.site()

    def overview(self) -> Overview:
        return overview_of(self.world)

    def browser(self, role: Role = Role.NOBODY) -> Browser:
        """A browser that is logged in as alice (an owner) or root (an administrator), or not at all."""
        browser = Browser(self.site)
        if role is not Role.NOBODY:
            got = browser.log_in(role.value, "alice" if role is Role.OWNER else "root", PASSWORD)
            assert got.status == 303, got.text
        return browser

    def call(self, verb: str, **arguments: object) -> Any:
        """What a verb answers to the administrator of this machine; a ControlError where it refuses."""
        return now(self.web._control.call(verb, arguments, LOCAL))

    def routes(self) -> list[Route]:
        return self.web.routes()

    def tunnel(self, user: str = "alice", version: str = VERSION, prefix_pool: str | None = "homes") -> Session:
        """A tunnel of `user` that stands, from an endpoint made of the name."""
        return stand(self.world, self.opening(user, prefix_pool, version))

    def opening(self, user: str, prefix_pool: str | None = None, version: str = VERSION) -> Opening:
        """What such a tunnel is opened with."""
        remote = Endpoint(f"198.51.100.{sum(user.encode()) % 250 + 1}", 4000 + len(user))
        return opening_of(user, remote, prefix_pool, version)
