# SPDX-License-Identifier: GPL-2.0-or-later
"""Every state times every input, and long random lives: never raises, goes only where the table says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.negotiations import NOW, OFFER, TIMEOUT, current_token, in_state, inputs, negotiation

from ddtb6.tsp.effects import Ask, Established, Followup, Granted, Hangup, Judged, Proven, Refused, Reply, Withdrawn
from ddtb6.tsp.messages import SaslResponse, Version
from ddtb6.tsp.negotiation import Input, Negotiation
from ddtb6.tsp.states import ANSWERS, INPUTS, PHASE, REQUESTS, TRANSITIONS, State
from ddtb6.tsp.status import BY_CODE

SAMPLES = len(list(inputs(0)))


def take(made: Negotiation, event: Input, now: float = NOW) -> list[object]:
    """One step, checked against the table and against what every transport relies on."""
    before, cls = made.state, type(event)
    stale = isinstance(event, ANSWERS) and event.token != current_token(made)
    effects = list(made.step(event, now))
    if stale:
        assert (effects, made.state) == ([], before)
        return effects
    assert made.state in TRANSITIONS[before][cls][1]
    assert made.deadline == now + TIMEOUT
    assert made.phase == PHASE.get(made.state)
    assert made.busy == (made.state not in PHASE)
    kinds = [type(each) for each in effects]
    assert all(kinds.count(kind) <= 1 for kind in (Reply, Ask, Followup, Hangup, Proven))
    if cls in REQUESTS and before in PHASE:
        assert (Reply in kinds) != (Ask in kinds), "each message is answered, now or after a question"
    if Ask in kinds:
        assert made.phase is None
    if Followup in kinds:
        assert kinds.index(Reply) < kinds.index(Followup)
    if Hangup in kinds:
        assert kinds[-1] is Hangup
        assert made.state is State.ENDED
    if made.state is State.ENDED and before is not State.ENDED:
        assert Hangup in kinds
    if made.state is State.UP and before is not State.UP and cls is not Refused:
        assert cls in (Established, Granted), "a tunnel is up once the broker has said so"
    for each in effects:
        if isinstance(each, Reply) and before in (State.COMMAND, State.OFFERED, State.UP):
            head, _, rest = each.payload.partition(b"\r\n")
            assert head == b"Content-length: %d" % len(rest)
    return effects


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_every_input_in_every_state(state: State) -> None:
    seen = set()
    for number in range(SAMPLES):
        made = in_state(state)
        event = list(inputs(current_token(made)))[number]
        seen.add(type(event))
        take(made, event)
    assert seen == set(INPUTS)


def events(made: Negotiation, number: int, lag: int) -> Input:
    return list(inputs(current_token(made) - lag))[number]


steps = st.tuples(st.integers(0, SAMPLES - 1), st.sampled_from([0, 0, 0, 0, 1, 2, -1]), st.floats(0, 100))


@given(st.lists(steps, max_size=60))
def test_any_life(life: list[tuple[int, int, float]]) -> None:
    made = negotiation()
    now = NOW
    for number, lag, later in life:
        now += later
        take(made, events(made, number, lag), now)


@given(st.lists(st.tuples(st.integers(0, SAMPLES - 1), st.booleans()), max_size=80))
def test_any_life_with_a_broker_that_answers(life: list[tuple[int, bool]]) -> None:
    """As above, but what is asked is answered, so that deep states are lived in."""
    made = negotiation("2.0.2")
    for number, kindly in life:
        for effect in take(made, events(made, number, 0)):
            if isinstance(effect, Ask):
                token = effect.token
                answer: Input = Refused(token, BY_CODE[530]())
                if kindly:
                    answer = {
                        State.VERIFYING: Judged(token),
                        State.GRANTING: Granted(token, OFFER),
                        State.ESTABLISHING: Established(token),
                        State.QUERYING: Granted(token, OFFER),
                        State.WITHDRAWING: Withdrawn(token),
                    }[made.state]
                take(made, answer)


@given(st.from_regex(rb"[0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4})?", fullmatch=True))
def test_any_version(text: bytes) -> None:
    made = negotiation()
    take(made, Version(text.decode()))
    major, minor, *_ = text.split(b".")
    assert (made.state is State.MECHANISM) == (int(major) == 2 and int(minor) == 0)


@given(st.binary(max_size=2100), st.sampled_from([2, 3]))
def test_any_response(data: bytes, mechanism: int) -> None:
    made = negotiation("2.0.2")
    take(made, events(made, 2 + mechanism + 1, 0))
    take(made, SaslResponse(data))
