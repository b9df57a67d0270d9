# SPDX-License-Identifier: GPL-2.0-or-later
"""Tunnels through races, failures of the data plane and of the store, silence and restarts: nothing leaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.held import Holder, begin, hold
from support.negotiations import CREATE
from support.stored import now
from support.virtual import SERVER, VirtualClock, World, world

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.broker import broker, events, ports, tunnels
from ddtb6.broker.broker import Visitor
from ddtb6.broker.planes import DataPlaneError
from ddtb6.broker.ports import Principal, StoreError
from ddtb6.broker.tunnels import CHECKPOINT_INTERVAL
from ddtb6.broker.views import Reconciliation
from ddtb6.dataplane.memory import MemoryPlane
from ddtb6.tsp.effects import (
    Answer,
    Ask,
    Establish,
    Established,
    Grant,
    Granted,
    Query,
    Refused,
    Why,
    Withdraw,
    Withdrawn,
)
from ddtb6.tsp.messages import Create
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters

ALICE = Principal("user:alice", "alice")
BOB = Principal("user:bob", "bob")
HERE = Endpoint("203.0.113.5", 40001)
THERE = Endpoint("203.0.113.6", 40001)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def visitor(lab: World, principal: Principal, remote: Endpoint = HERE) -> Visitor:
    """Somebody who has logged in."""
    made = lab.broker.welcome(Link(Carrier.UDP, SERVER, remote))
    made.principal = principal
    return made


def guest(remote: Endpoint = HERE) -> Principal:
    return Principal(f"anonymous:{remote}", None)


def grant(lab: World, who: Visitor, create: Create = CREATE) -> list[Answer | BaseException]:
    return begin(lab.broker.answer(Ask(1, Grant(create)), who))


def granted(lab: World, principal: Principal, remote: Endpoint = HERE, create: Create = CREATE) -> Visitor:
    who = visitor(lab, principal, remote)
    [answer] = grant(lab, who, create)
    assert isinstance(answer, Granted), answer
    return who


def accept(lab: World, who: Visitor) -> None:
    [answer] = begin(lab.broker.answer(Ask(1, Establish()), who))
    assert isinstance(answer, Established), answer


def status(outcome: list[Answer | BaseException]) -> int:
    """The code of the one refusal; 200 for a grant."""
    [answer] = outcome
    assert isinstance(answer, Granted | Refused | Withdrawn), answer
    return answer.error.code if isinstance(answer, Refused) else 200


def past(lab: World) -> dict[int, EndReason | None]:
    return {each.id: each.reason for each in now(lab.store.past_sessions())}


# --- who is in whose way ------------------------------------------------------------------------------------------


def test_the_same_account_from_elsewhere_takes_its_addresses_along(lab: World) -> None:
    granted(lab, ALICE, HERE, Create(CREATE.encapsulation, "10.0.0.1", prefix_length=56))
    [before] = lab.live()
    granted(lab, ALICE, THERE, Create(CREATE.encapsulation, "10.0.0.1", prefix_length=56))
    lab.round()
    [after] = lab.live()
    assert (after.spec.address, after.spec.prefix) == (before.spec.address, before.spec.prefix)
    assert after.spec.remote == THERE
    assert past(lab) == {before.id: EndReason.REPLACED, after.id: None}


def test_another_account_at_the_same_endpoint_ends_the_first_ones_tunnel(lab: World) -> None:
    granted(lab, ALICE)
    granted(lab, BOB)
    lab.round()
    assert [each.owner for each in lab.live()] == ["user:bob"]
    assert past(lab) == {1: EndReason.ENDPOINT_TAKEN, 2: None}


def test_one_log_in_may_end_two_tunnels(lab: World) -> None:
    granted(lab, ALICE, HERE)
    granted(lab, BOB, THERE)
    granted(lab, ALICE, THERE)
    lab.round()
    assert [(each.owner, each.spec.remote) for each in lab.live()] == [("user:alice", THERE)]
    assert past(lab) == {1: EndReason.REPLACED, 2: EndReason.ENDPOINT_TAKEN, 3: None}


def test_an_anonymous_client_whose_source_anybody_can_forge_does_not_end_the_tunnel_of_an_account(lab: World) -> None:
    granted(lab, ALICE)
    assert status(grant(lab, visitor(lab, guest()))) == 506
    lab.round()
    assert [each.owner for each in lab.live()] == ["user:alice"]
    assert past(lab) == {1: None}  # an anonymous client that sent nothing leaves no history
    assert now(lab.store.leases(guest().owner)) == []


def test_an_account_takes_the_endpoint_of_an_anonymous_client(lab: World) -> None:
    granted(lab, guest())
    granted(lab, ALICE)
    lab.round()
    assert [each.owner for each in lab.live()] == ["user:alice"]
    assert now(lab.store.leases(guest().owner)) == []


# --- races --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Holder]]:
    """One broker for many examples; each has its own accounts and endpoints."""
    with world(tmp_path_factory.mktemp("races")) as lab:
        holder = Holder()
        hold(holder, lab.plane, lab.store)
        yield lab, holder


NUMBERS = iter(range(1, 1 << 20))


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=4),
    st.lists(st.integers(0, 9), max_size=40),
    st.booleans(),
)
def test_grants_interleaved_at_every_await_leave_one_tunnel_of_the_last_log_in(
    shared: tuple[World, Holder], wishes: list[tuple[int, int]], order: list[int], between: bool
) -> None:
    """Owners and endpoints cross; whichever answer of store and data plane comes first, the highest session wins."""
    lab, holder = shared
    number = next(NUMBERS)
    owners = [f"user:a{number}", f"user:b{number}"]
    ends = [Endpoint(f"203.0.{number >> 8}.{number & 255}", 1000 + each) for each in (1, 2)]
    holder.on = True
    outcomes = []
    for owner, end in wishes:
        principal = Principal(owners[owner], owners[owner][5:])
        outcomes.append(grant(lab, visitor(lab, principal, ends[end])))
        if between and holder.waiting:
            holder.let_go(0)
    turns = iter(order)
    while holder.waiting:
        holder.let_go(next(turns, 0) % len(holder.waiting))
    holder.on = False
    lab.round()
    assert all(len(each) == 1 for each in outcomes), "somebody waits for ever"
    live = [each for each in lab.live() if each.owner in owners]
    last = max(each.id for each in now(lab.store.past_sessions(limit=len(wishes))))
    assert last in {each.id for each in live}, "the last log-in has no tunnel"
    assert len({each.owner for each in live}) == len({each.spec.remote for each in live}) == len(live)
    assert sum(status(each) == 200 for each in outcomes) >= len(live)
    for each in live:
        now(lab.broker.disconnect(each.id, EndReason.DISCONNECTED))
    assert not [each for each in lab.live() if each.owner in owners]


def test_an_earlier_log_in_that_is_answered_later_gives_way(lab: World) -> None:
    holder = Holder()
    hold(holder, lab.plane, lab.store)
    holder.on = True
    first, second = grant(lab, visitor(lab, ALICE, HERE)), grant(lab, visitor(lab, ALICE, THERE))
    holder.let_go(1)
    holder.let_all_go()
    assert (status(first), status(second)) == (521, 200)
    holder.on = False
    lab.round()
    assert [each.spec.remote for each in lab.live()] == [THERE]


def test_an_earlier_log_in_at_the_endpoint_that_is_answered_later_gives_way(lab: World) -> None:
    holder = Holder()
    hold(holder, lab.plane, lab.store)
    holder.on = True
    first, second = grant(lab, visitor(lab, ALICE)), grant(lab, visitor(lab, BOB))
    holder.let_go(1)
    holder.let_all_go()
    assert (status(first), status(second)) == (521, 200)
    holder.on = False
    lab.round()
    assert [each.owner for each in lab.live()] == ["user:bob"]


def test_parallel_requests_do_not_get_past_the_limit_of_their_source(tmp_path: Path) -> None:
    with world(tmp_path, per_source_tunnels=3) as lab:
        holder = Holder()
        hold(holder, lab.plane, lab.store)
        holder.on = True
        outcomes = []
        for number in range(8):
            principal = Principal(f"user:u{number}", f"u{number}")
            outcomes.append(grant(lab, visitor(lab, principal, Endpoint(HERE.address, 2000 + number))))
        holder.let_all_go()
        holder.on = False
        assert sorted(map(status, outcomes)) == [200] * 3 + [301] * 5
        assert len(lab.live()) == 3
        assert status(grant(lab, visitor(lab, Principal("user:u0", "u0"), Endpoint(HERE.address, 2000)))) == 200


def test_what_is_granted_while_it_is_released_does_not_stand_on_nothing(lab: World) -> None:
    holder = Holder()
    hold(holder, lab.plane, lab.store)
    holder.on = True
    outcome = grant(lab, visitor(lab, ALICE))
    released = begin(lab.broker.release("user:alice"))
    holder.let_all_go()
    holder.on = False
    assert len(outcome) == len(released) == 1
    lab.round()
    assert lab.live() == []
    assert now(lab.store.leases("user:alice")) == []


def test_an_account_that_is_disabled_while_it_is_granted_a_tunnel_has_none(lab: World) -> None:
    holder = Holder()
    hold(holder, lab.plane, lab.store)
    holder.on = True
    outcome = grant(lab, who := visitor(lab, ALICE))
    lab.clock.advance(1)
    disabled = begin(lab.broker.disconnect_owner("user:alice", EndReason.DISABLED))
    holder.let_all_go()
    holder.on = False
    assert disabled == [False]
    assert status(outcome) == 300
    lab.round()
    assert lab.live() == []
    assert past(lab) == {1: EndReason.DISABLED}
    assert status(grant(lab, who)) == 300


def test_a_log_in_during_the_repair_of_the_data_plane_is_left_alone(lab: World) -> None:
    granted(lab, ALICE, HERE)
    holder = Holder()
    hold(holder, lab.plane, lab.store)
    lab.plane.lose()
    holder.on = True
    repair = begin(lab.broker.tick())
    while "dump" not in holder.waiting[0][0]:
        holder.let_go()
    outcome = grant(lab, visitor(lab, BOB, THERE))
    again = grant(lab, visitor(lab, ALICE, Endpoint("203.0.113.9", 1)))
    holder.let_all_go()
    holder.on = False
    assert repair == [None]
    assert (status(outcome), status(again)) == (200, 200)
    lab.round()
    assert {(each.owner, each.spec.remote.address) for each in lab.live()} == {
        ("user:bob", THERE.address),
        ("user:alice", "203.0.113.9"),
    }


def test_what_ends_during_the_repair_is_not_brought_back(lab: World) -> None:
    who = granted(lab, ALICE)
    holder = Holder()
    hold(holder, lab.plane, lab.store)
    lab.plane.lose()
    holder.on = True
    repair = begin(lab.broker.tick())
    while "dump" not in holder.waiting[0][0]:
        holder.let_go()
    deleted = begin(lab.broker.answer(Ask(1, Withdraw(Why.DELETE)), who))
    holder.let_all_go()
    holder.on = False
    assert repair == [None]
    assert deleted == [Withdrawn(1)]
    lab.round()
    assert lab.live() == []


def troubles(lab: World) -> list[str]:
    return [each.what for each in lab.events if isinstance(each, events.PlaneTrouble)]


# --- the data plane fails -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", range(1, 10))
def test_a_data_plane_that_fails_once_costs_at_most_one_log_in(tmp_path: Path, call: int) -> None:
    """Whatever verb fails, a few seconds later broker, store and data plane agree, and everybody can log in again."""
    with world(tmp_path) as lab:
        lab.plane.fail_at(call)
        for principal, remote in ((ALICE, HERE), (BOB, THERE), (ALICE, THERE), (BOB, HERE)):
            assert status(grant(lab, visitor(lab, principal, remote))) in (200, 310)
        for _ in range(3):
            lab.clock.advance(1.0)
            for outcome in (begin(lab.broker.tick()), begin(lab.broker.sessions())):
                assert outcome[0] is None or isinstance(outcome[0], list | DataPlaneError)
        for principal, remote in ((ALICE, HERE), (BOB, THERE)):
            granted(lab, principal, remote)
        lab.round()
        assert {(each.owner, each.spec.remote) for each in lab.live()} == {("user:alice", HERE), ("user:bob", THERE)}
        assert sum(reason is None for reason in past(lab).values()) == 2


def test_a_tunnel_that_cannot_be_raised_is_refused_and_its_end_written(lab: World) -> None:
    lab.plane.fail_at(1, "no room")
    assert status(grant(lab, visitor(lab, ALICE))) == 310
    lab.round()
    assert lab.live() == []
    assert past(lab) == {1: EndReason.FAILED}
    [trouble] = [each for each in lab.events if isinstance(each, events.PlaneTrouble)]
    assert "no room" in trouble.what
    granted(lab, ALICE)


def test_a_tunnel_that_cannot_be_lowered_is_over_all_the_same_and_lowered_later(lab: World) -> None:
    who = granted(lab, ALICE)
    lab.plane.fail_at(1)
    [answer] = begin(lab.broker.answer(Ask(1, Withdraw(Why.DELETE)), who))
    assert answer == Withdrawn(1)
    assert past(lab) == {1: EndReason.DELETED}
    assert len(now(lab.plane.dump())) == 1
    lab.round()
    assert now(lab.plane.dump()) == []


def test_a_repair_that_fails_is_tried_again(lab: World) -> None:
    granted(lab, ALICE)
    lab.plane.lose("it went")
    for call in (1, 2, 1, 2):
        lab.plane.fail_at(call, "it cannot be had")
        assert begin(lab.broker.tick()) == [None]
    assert begin(lab.broker.tick()) == [None]
    assert len(lab.live()) == 1
    assert troubles(lab) == ["it went", "it cannot be had"]
    assert isinstance(lab.events[-1], events.Reconciled)
    lab.plane.lose("it cannot be had")
    lab.round()
    assert troubles(lab) == ["it went", "it cannot be had", "it cannot be had"]


def test_a_dump_that_fails_does_not_make_tunnels_immortal(lab: World) -> None:
    granted(lab, ALICE)
    lab.clock.advance(lab.policy.negotiation_timeout + 1)
    lab.plane.fail_at(1)
    assert isinstance(begin(lab.broker.tick())[0], DataPlaneError)
    lab.pass_time(2)
    assert lab.live() == []
    assert past(lab) == {1: EndReason.NOT_ACCEPTED}


def test_a_broken_data_plane_does_not_keep_endings_from_being_written(lab: World) -> None:
    granted(lab, ALICE)
    granted(lab, ALICE, THERE)
    lab.plane.lose()
    lab.plane.fail_at(1)
    assert begin(lab.broker.tick()) == [None]
    assert past(lab) == {1: EndReason.REPLACED, 2: None}


def test_a_lost_plane_is_made_whole_and_nothing_counted_is_lost(lab: World) -> None:
    accept(lab, granted(lab, ALICE))
    [session] = lab.live()
    assert lab.ping(session)
    lab.pass_time(CHECKPOINT_INTERVAL + 1)
    lab.plane.lose("somebody deleted the device")
    lab.round()
    assert any(isinstance(each, events.PlaneTrouble) and "deleted" in each.what for each in lab.events)
    assert lab.ping(session)
    lab.pass_time(CHECKPOINT_INTERVAL + 1)
    [kept] = now(lab.store.live_sessions())
    assert (kept.carried.packets_in, kept.carried.packets_out) == (2, 2)
    lab.plane.lose()
    now(lab.broker.disconnect(session.id, EndReason.DISCONNECTED))
    [ended] = now(lab.store.past_sessions())
    assert ended.counters.packets_in == 2, "the end has what the last checkpoint had"


def test_letting_go_of_the_data_plane_does_not_hang_on_the_store(tmp_path: Path) -> None:
    lab = World(tmp_path)
    granted(lab, ALICE)
    granted(lab, ALICE, THERE)
    now(lab.store.close())
    lab.plane.calls.clear()
    assert isinstance(begin(lab.broker.stop())[0], StoreError)
    assert lab.plane.calls[-1] == "stop"


# --- the store fails ----------------------------------------------------------------------------------------------


def test_endings_that_the_store_did_not_take_are_written_by_the_next_round(lab: World) -> None:
    granted(lab, ALICE)
    close, tries = lab.store.close_sessions, []

    async def fail(given: object) -> None:
        tries.append(given)
        raise StoreError("The disk is full.")

    lab.store.close_sessions = fail  # type: ignore[method-assign,assignment]
    granted(lab, ALICE, THERE)
    for _ in range(2):
        assert isinstance(begin(lab.broker.tick())[0], StoreError)
    assert past(lab) == {1: None, 2: None}
    lab.store.close_sessions = close  # type: ignore[method-assign]
    lab.round()
    assert past(lab) == {1: EndReason.REPLACED, 2: None}
    assert len(tries) == 2


def test_a_withdrawal_that_is_not_written_is_not_confirmed_but_done_later(lab: World) -> None:
    who = granted(lab, ALICE)
    close = lab.store.close_sessions

    async def fail(given: object) -> None:
        raise StoreError("The disk is full.")

    lab.store.close_sessions = fail  # type: ignore[method-assign,assignment]
    [error] = begin(lab.broker.answer(Ask(1, Withdraw(Why.DELETE)), who))
    assert isinstance(error, StoreError)
    lab.store.close_sessions = close  # type: ignore[method-assign]
    lab.round()
    assert past(lab) == {1: EndReason.DELETED}


def test_a_session_that_is_not_written_has_no_tunnel(lab: World) -> None:
    async def fail(given: object) -> None:
        raise StoreError("The disk is full.")

    lab.store.open_session = fail  # type: ignore[method-assign,assignment]
    lab.plane.calls.clear()
    assert isinstance(grant(lab, visitor(lab, ALICE))[0], StoreError)
    assert not lab.plane.calls


# --- silence ------------------------------------------------------------------------------------------------------


def test_an_offer_that_is_neither_accepted_nor_used_is_taken_back(lab: World) -> None:
    granted(lab, guest())
    lab.pass_time(lab.policy.negotiation_timeout - 1)
    assert len(lab.live()) == 1
    lab.pass_time(2)
    assert lab.live() == []
    assert past(lab) == {}  # an anonymous client that sent nothing leaves no history
    [ended] = [each.ending for each in lab.events if isinstance(each, events.SessionEnded)]
    assert ended.reason is EndReason.NOT_ACCEPTED
    assert now(lab.store.leases()) == []


def test_a_first_packet_is_as_good_as_accept(lab: World) -> None:
    granted(lab, ALICE)
    [session] = lab.live()
    lab.ping(session)
    lab.pass_time(lab.policy.negotiation_timeout + 10)
    assert len(lab.live()) == 1
    [view] = now(lab.broker.sessions())
    assert view.established


def test_silence_for_the_idle_limit_ends_a_tunnel_and_any_packet_extends_it(lab: World) -> None:
    accept(lab, granted(lab, ALICE))
    [session] = lab.live()
    lab.pass_time(170)
    assert lab.ping(session)
    lab.pass_time(170)
    assert len(lab.live()) == 1, "the last packet is 170 s ago"
    lab.pass_time(12)
    assert lab.live() == []
    assert past(lab) == {1: EndReason.IDLE}


def test_packets_from_elsewhere_do_not_keep_a_tunnel_alive(lab: World) -> None:
    accept(lab, granted(lab, ALICE))
    [session] = lab.live()
    for _ in range(20):
        lab.pass_time(10)
        lab.ping(session, THERE)
    assert lab.live() == []


def test_without_keepalives_silence_means_little(lab: World) -> None:
    accept(lab, granted(lab, ALICE, HERE, Create(CREATE.encapsulation, "10.0.0.1", keepalive=None)))
    lab.pass_time(600)
    [session] = lab.live()
    assert session.idle_limit == broker.SILENT_LIMIT


def test_an_idle_limit_of_zero_never_ends_what_was_accepted(tmp_path: Path) -> None:
    with world(tmp_path, idle_limit=0.0) as lab:
        accept(lab, granted(lab, ALICE, HERE))
        granted(lab, BOB, THERE)
        lab.pass_time(1000)
        assert [each.owner for each in lab.live()] == ["user:alice"]
        lab.clock.advance(10 * 86400)
        lab.round()
        assert [each.owner for each in lab.live()] == ["user:alice"]


def test_five_keepalives_may_be_missed_whatever_the_limit_says(tmp_path: Path) -> None:
    with world(tmp_path, keepalive=100, idle_limit=60.0) as lab:
        accept(lab, granted(lab, ALICE))
        lab.pass_time(499)
        assert len(lab.live()) == 1
        lab.pass_time(2)
        assert lab.live() == []


# --- restarts -----------------------------------------------------------------------------------------------------


def restarted(lab: World, directory: Path, **options: object) -> World:
    """The same store and clock under a new broker, as after kill -9: nothing was written down in the end."""
    plane = options.pop("plane", None) or MemoryPlane(lab.clock, tuple(lab.policy.pools.values()))
    return World(directory, clock=lab.clock, store=lab.store, plane=plane, **options)  # type: ignore[arg-type]


def test_a_restart_resumes_what_lives_oldest_first(tmp_path: Path) -> None:
    with world(tmp_path) as lab:
        for number in range(5):
            granted(lab, Principal(f"user:u{number}", f"u{number}"), Endpoint(HERE.address, 2000 + number))
        before = lab.live()
        after = restarted(lab, tmp_path)
        assert after.live() == before
        assert [each.id for each in now(after.broker.sessions())] == [each.id for each in before]
        [report] = [each for each in after.events if isinstance(each, events.Reconciled)]
        assert (report.kept, report.raised, report.lowered, report.closed) == (0, 5, 0, 0)
        assert after.broker.reconciled == Reconciliation(lab.clock.epoch(), 0, 5, 0, 0)
        assert after.ping(before[2])


def test_a_restart_keeps_what_the_kernel_kept_and_lowers_what_nobody_knows(tmp_path: Path) -> None:
    with world(tmp_path) as lab:
        granted(lab, ALICE, HERE)
        granted(lab, BOB, THERE)
        [gone] = [each for each in lab.live() if each.owner == "user:bob"]
        now(lab.store.close_sessions([ports.Ending(gone.id, EndReason.DELETED, Counters())]))
        after = restarted(lab, tmp_path, plane=lab.plane)
        [report] = [each for each in after.events if isinstance(each, events.Reconciled)]
        assert (report.kept, report.raised, report.lowered, report.closed) == (1, 0, 1, 0)
        assert [each.owner for each in after.live()] == ["user:alice"]


def test_a_restart_closes_what_a_later_session_had_replaced(tmp_path: Path) -> None:
    """Killed after the new session was written and before the end of the old one was."""
    with world(tmp_path) as lab:
        granted(lab, ALICE, HERE)
        granted(lab, ALICE, THERE)
        granted(lab, BOB, THERE)
        assert len(now(lab.store.live_sessions())) == 3
        after = restarted(lab, tmp_path)
        assert [(each.owner, each.spec.remote) for each in after.live()] == [("user:bob", THERE)]
        assert past(after) == {1: EndReason.REPLACED, 2: EndReason.ENDPOINT_TAKEN, 3: None}


def test_a_resumed_tunnel_that_nobody_uses_ends(tmp_path: Path) -> None:
    with world(tmp_path) as lab:
        granted(lab, ALICE)
        after = restarted(lab, tmp_path)
        after.pass_time(179)
        assert len(after.live()) == 1
        after.pass_time(2)
        assert after.live() == []


def test_a_restart_with_a_data_plane_that_refuses_one_tunnel_carries_the_others(tmp_path: Path) -> None:
    with world(tmp_path) as lab:
        granted(lab, ALICE, HERE)
        granted(lab, BOB, THERE)
        plane = MemoryPlane(lab.clock, tuple(lab.policy.pools.values()))
        plane.fail_at(3)  # start, dump, raise_tunnel
        after = restarted(lab, tmp_path, plane=plane)
        assert [each.owner for each in after.live()] == ["user:bob"]
        assert past(after) == {1: EndReason.FAILED, 2: None}


def test_checkpoints_add_what_was_carried_before_the_restart(tmp_path: Path) -> None:
    with world(tmp_path) as lab:
        accept(lab, granted(lab, ALICE))
        [session] = lab.live()
        for _ in range(3):
            assert lab.ping(session)
        lab.pass_time(CHECKPOINT_INTERVAL + 1)
        after = restarted(lab, tmp_path)
        assert after.ping(session)
        [view] = now(after.broker.sessions())
        assert view.counters.packets_in == 4
        after.pass_time(CHECKPOINT_INTERVAL + 1)
        [kept] = now(after.store.live_sessions())
        assert kept.carried.packets_in == 4
        now(after.broker.disconnect(session.id, EndReason.DISCONNECTED))
        [ended] = now(after.store.past_sessions())
        assert ended.counters.packets_in == 4


def test_a_checkpoint_of_many_takes_several_ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "COUNTED_AT_ONCE", 1)
    owners = (ALICE, BOB)
    with world(tmp_path) as lab:
        for principal, remote in zip(owners, (HERE, THERE), strict=True):
            accept(lab, granted(lab, principal, remote))
        for session in lab.live():
            assert lab.ping(session)
        told = []
        for _ in range(round(CHECKPOINT_INTERVAL) + 2):
            lab.pass_time(1)
            told.append([each.carried.packets_in for each in now(lab.store.live_sessions())])
        assert [each for each, before in zip(told[1:], told, strict=False) if each != before] == [[1, 0], [1, 1]]
        assert lab.recording.carried().packets_in == 2
        [first, _] = lab.live()
        now(lab.broker.disconnect(first.id, EndReason.DISCONNECTED))
        lab.pass_time(CHECKPOINT_INTERVAL + 2)
        assert [each.carried.packets_in for each in lab.live()] == [1]


def test_a_stop_writes_what_was_carried(tmp_path: Path) -> None:
    clock = VirtualClock()
    with world(tmp_path, clock=clock) as lab:
        accept(lab, granted(lab, ALICE))
        assert lab.ping(lab.live()[0])
    with world(tmp_path, clock=clock) as again:
        [session] = again.live()
        assert session.carried.packets_in == 1


# --- commands -----------------------------------------------------------------------------------------------------


def test_rejecting_an_offer_that_was_overtaken_leaves_the_other_tunnel_alone(lab: World) -> None:
    first = granted(lab, ALICE, HERE)
    granted(lab, ALICE, THERE)
    [answer] = begin(lab.broker.answer(Ask(1, Withdraw(Why.REJECT)), first))
    assert answer == Withdrawn(1)
    lab.round()
    assert [each.spec.remote for each in lab.live()] == [THERE]


def test_delete_ends_the_accounts_tunnel_wherever_it_is(lab: World) -> None:
    granted(lab, ALICE, HERE)
    [answer] = begin(lab.broker.answer(Ask(1, Withdraw(Why.DELETE)), visitor(lab, ALICE, THERE)))
    assert answer == Withdrawn(1)
    assert lab.live() == []
    assert status(begin(lab.broker.answer(Ask(2, Withdraw(Why.DELETE)), visitor(lab, ALICE, THERE)))) == 310


def test_info_tells_of_the_tunnel_and_of_none(lab: World) -> None:
    granted(lab, ALICE, HERE)
    [answer] = begin(lab.broker.answer(Ask(1, Query()), visitor(lab, ALICE, THERE)))
    assert isinstance(answer, Granted)
    assert answer.offer.client_inner == lab.live()[0].spec.address
    assert status(begin(lab.broker.answer(Ask(1, Query()), visitor(lab, BOB, THERE)))) == 310
