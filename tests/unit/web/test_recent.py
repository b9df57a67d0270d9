# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of what happened: bounded, in words, and not pushed out by strangers."""

from __future__ import annotations

from support.stored import now
from support.website import WebCase

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.broker import events
from ddtb6.tunnel.reasons import EndReason
from ddtb6.web.recent import OF_STRANGERS

LINK = Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint("203.0.113.5", 40001))


class Happenings(WebCase):
    def test_a_session_from_beginning_to_end(self) -> None:
        session = self.tunnel("alice")
        self.tunnel("bob")
        now(self.world.broker.disconnect(session.id, EndReason.DISCONNECTED))
        told = self.call("event.list", user="alice")
        assert [(each["kind"], each["owner"], each["session"]) for each in told] == [
            ("session-ended", "user:alice", session.id),
            ("session-opened", "user:alice", session.id),
        ]
        assert "ended: disconnected" in told[0]["text"]
        assert len(self.call("event.list")) >= 3
        assert len(self.call("event.list", limit=1)) == 1

    def test_strangers_push_out_strangers_only(self) -> None:
        self.tunnel("alice")
        for number in range(OF_STRANGERS + 50):
            self.world.bus.publish(events.LoginRefused(LINK, "PLAIN", "wrong password", user=f"user{number}"))
        told = self.call("event.list", user="alice")
        assert [each["kind"] for each in told] == ["session-opened"]
        newest = self.call("event.list", limit=1)[0]
        assert newest["owner"] == f"user:user{OF_STRANGERS + 49}"
        assert newest["text"].startswith(f"log-in refused: user{OF_STRANGERS + 49} at 203.0.113.5:40001 by PLAIN")
        assert len(self.web._recent._strangers) == OF_STRANGERS

    def test_a_name_of_a_stranger_is_one_short_line(self) -> None:
        self.world.bus.publish(events.LoginRefused(LINK, "PLAIN", "x", user="a\nb\x1b[31m" + "c" * 1000))
        text = self.call("event.list", limit=1)[0]["text"]
        assert text.isprintable()
        assert len(text) < 250
