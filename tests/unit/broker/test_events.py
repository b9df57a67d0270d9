# SPDX-License-Identifier: GPL-2.0-or-later
"""The bus holds out against its listeners; what is counted has labels from closed lists."""

from __future__ import annotations

from pathlib import Path

from support.planes import spec
from support.stored import now
from support.virtual import world

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.broker.events import Bus, Event, LoggedIn, LoginRefused, NewcomerRefused, RequestRefused
from ddtb6.broker.tally import Tally
from ddtb6.broker.views import plain
from ddtb6.tsp.status import BY_CODE
from ddtb6.tunnel.reasons import EndReason, Refusal
from ddtb6.tunnel.spec import Counters

LINK = Link(Carrier.UDP, Endpoint("192.0.2.1", 3653), Endpoint("203.0.113.5", 1))


def test_a_listener_that_raises_breaks_no_other() -> None:
    faults: list[tuple[Event, Exception]] = []
    heard: list[Event] = []
    bus = Bus(lambda event, fault: faults.append((event, fault)))

    def broken(event: Event) -> None:
        raise ValueError("of its own")

    for listener in (heard.append, broken, heard.append):
        bus.subscribe(listener)
    bus.publish(event := NewcomerRefused(LINK))
    assert heard == [event, event]
    assert [(each, str(fault)) for each, fault in faults] == [(event, "of its own")]


def test_every_status_can_be_counted_and_what_clients_say_is_no_label() -> None:
    tally = Tally()
    for code in BY_CODE:
        tally.count(RequestRefused(LINK, "user:alice", f"{code} anything <at> all", "why"))
    tally.count(LoginRefused(LINK, "PLAIN", "why"))
    tally.count(LoginRefused(LINK, "PLAIN", "no answer", 530))
    tally.count(NewcomerRefused(LINK))
    tally.count(LoggedIn(LINK, "user:alice", "PLAIN", "2.0.2"))
    assert set(tally.refusals) == {f"{code} {error.text}" for code, error in BY_CODE.items()}
    assert tally.refusals["300 Authentication failed"] == 2
    assert tally.refusals["530 Server too busy"] == 3
    assert tally.logins == {"PLAIN": 1}


def test_views_become_plain_values() -> None:
    shown = plain((spec(1), Counters(refused={Refusal.LOOP: 3}), EndReason.IDLE, {"a": None}, frozenset({1}), 1.5))
    assert shown[0]["remote"] == "198.51.100.7:40001"
    assert shown[0]["encapsulation"] == "v6udpv4"
    assert shown[0]["prefix"] == str(spec(1).prefix)
    assert shown[1]["refused"] == {"loop": 3}
    assert shown[2:] == ["idle", {"a": None}, [1], 1.5]


def test_the_overview_counts_pools(tmp_path: Path) -> None:
    with world(tmp_path) as lab:
        lab.round()
        pools = {each.name: each for each in lab.broker.activity().pools}
        assert set(pools) == set(lab.policy.pools)
        assert (pools["homes"].capacity, pools["homes"].held, pools["homes"].resting) == (4, 0, 0)
        assert now(lab.broker.sessions()) == []
