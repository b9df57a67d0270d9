# SPDX-License-Identifier: GPL-2.0-or-later
"""The transition table as data: total, with an action behind every rule, no state out of reach, and drawn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from ddtb6.tsp.messages import Request
from ddtb6.tsp.negotiation import Input, Negotiation
from ddtb6.tsp.states import ANSWERS, INPUTS, PHASE, REQUESTS, TAKING_COMMANDS, TRANSITIONS, State, diagram

PAGE = Path(__file__).parents[3] / "docs" / "negotiation.md"


def test_the_table_is_total() -> None:
    assert set(TRANSITIONS) == set(State)
    for rules in TRANSITIONS.values():
        assert set(rules) == set(INPUTS)


def test_the_inputs_are_those_that_step_takes() -> None:
    assert set(INPUTS) == set(get_args(Input))
    assert set(REQUESTS) == set(get_args(Request))


def test_every_rule_has_an_action_and_leads_somewhere() -> None:
    for rules in TRANSITIONS.values():
        for action, to in rules.values():
            assert callable(getattr(Negotiation, f"_{action}"))
            assert to


def test_no_action_is_without_a_rule() -> None:
    named = {f"_{action}" for rules in TRANSITIONS.values() for action, _ in rules.values()}
    inner = {"_ask", "_end"}
    assert {
        name for name, item in vars(Negotiation).items() if name[:2] != "__" and name[0] == "_" and callable(item)
    } == (named | inner)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.GREETING}
    while True:
        more = {target for state in reached for _, to in TRANSITIONS[state].values() for target in to}
        if more <= reached:
            break
        reached |= more
    assert reached == set(State)
    for state in set(State) - {State.ENDED}:
        assert any(to != {state} for _, to in TRANSITIONS[state].values()), state


def test_nothing_leads_out_of_the_end() -> None:
    assert {to for _, to in TRANSITIONS[State.ENDED].values()} == {frozenset({State.ENDED})}


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_a_state_waits_for_the_client_or_for_one_answer_never_for_both(state: State) -> None:
    moving = {cls for cls, (_, to) in TRANSITIONS[state].items() if to != {state}}
    if state in PHASE:
        assert not moving & set(ANSWERS)
    else:
        assert moving <= set(ANSWERS)


def test_commands_are_taken_where_they_are_read() -> None:
    assert {State.COMMAND, State.OFFERED, State.UP} == TAKING_COMMANDS


def test_the_drawing_in_the_documentation_is_fresh() -> None:
    drawn = re.findall(r"```mermaid\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert drawn == [diagram()], "run `make docs`"


def test_the_drawing_has_each_way_there_is_and_no_other() -> None:
    inside = {each.name for each in TAKING_COMMANDS}
    drawn = set()
    for source, target in re.findall(r"^ +(\w+) --> (\w+):", diagram(), re.MULTILINE):
        for one in inside if source == "TAKING_COMMANDS" else {source}:
            drawn |= {(one, other) for other in (inside if target == "TAKING_COMMANDS" else {target})}
    moves = {
        (state.name, target.name)
        for state, rules in TRANSITIONS.items()
        for _, to in rules.values()
        for target in to
        if target is not state
    }
    assert drawn == moves


def test_the_drawing_has_nothing_that_mermaid_reads_as_its_own() -> None:
    for line in diagram().splitlines()[1:]:
        assert ";" not in line
        assert re.sub(r" --> |: ", "", line).count(":") == 0
