# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of a negotiation and its transition table.

Theory. A state is named by what is waited for. The client speaks first and one message at a time (RFC 5572 4.4), so
each state either waits for a message of the client or for the answer to one question; it never waits for both. The
table says for every state and input which action of `Negotiation` is taken and which states it may lead to: a pair
that is not in the table does not exist, an action that ends elsewhere is a bug, and `diagram()` draws what stands
here.
Not here: what the actions do (`negotiation`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from ddtb6.tsp.codec import Phase
from ddtb6.tsp.effects import DeadlinePassed, Established, Granted, Judged, Refused, Withdrawn
from ddtb6.tsp.messages import Accept, Authenticate, Create, Delete, Info, Malformed, Reject, SaslResponse, Version


class State(enum.Enum):
    """What a negotiation waits for."""

    __hash__ = object.__hash__  # Enum's own is a Python function; members are looked up for every datagram.

    GREETING = "the VERSION line"
    MECHANISM = "the choice of a SASL mechanism"
    RESPONSE = "the client's SASL response"
    VERIFYING = "the verdict on its credentials"
    COMMAND = "a command"
    GRANTING = "the lease, the session and the data plane"
    OFFERED = "accept or reject"
    ESTABLISHING = "whether what it accepted still stands"
    UP = "nothing, as a tunnel stands, but takes commands still"
    QUERYING = "the account's tunnel, for info"
    WITHDRAWING = "the end of the account's tunnel"
    ENDED = "nothing, and what is said now is not heard"


PHASE: Mapping[State, Phase] = {
    State.GREETING: Phase.VERSION,
    State.MECHANISM: Phase.AUTHENTICATE,
    State.RESPONSE: Phase.SASL_LINE,
    State.COMMAND: Phase.COMMAND,
    State.OFFERED: Phase.COMMAND,
    State.UP: Phase.COMMAND,
}
"""How to read the client's next message. The states that are missing here wait for an answer, not for the client."""

TAKING_COMMANDS = frozenset(state for state, phase in PHASE.items() if phase is Phase.COMMAND)

REQUESTS = (Version, Authenticate, SaslResponse, Create, Accept, Reject, Info, Delete, Malformed)
ANSWERS = (Judged, Granted, Established, Withdrawn, Refused)
INPUTS: tuple[type, ...] = (*REQUESTS, *ANSWERS, DeadlinePassed)

Rule = tuple[str, frozenset[State]]


def _table() -> Mapping[State, Mapping[type, Rule]]:
    S = State

    def rule(action: str, *to: State) -> Rule:
        return action, frozenset(to)

    def row(state: State, otherwise: Rule, special: dict[type, Rule], busy: bool = False) -> dict[type, Rule]:
        late = rule("ignore", state)
        every = {each: otherwise for each in REQUESTS} | {each: late for each in ANSWERS}
        return every | {DeadlinePassed: late if busy or state is S.ENDED else rule("give_up", S.ENDED)} | special

    hang_up = rule("refuse_line", S.ENDED)
    commands = {
        Create: rule("ask_grant", S.GRANTING),
        Info: rule("ask_query", S.QUERYING),
        Delete: rule("ask_withdraw", S.WITHDRAWING),
    }
    verdicts = {Accept: rule("ask_establish", S.ESTABLISHING), Reject: rule("ask_withdraw", S.WITHDRAWING)}
    return {
        S.GREETING: row(S.GREETING, hang_up, {Version: rule("greet", S.MECHANISM, S.ENDED)}),
        S.MECHANISM: row(
            S.MECHANISM, hang_up, {Authenticate: rule("choose_mechanism", S.RESPONSE, S.VERIFYING, S.ENDED)}
        ),
        S.RESPONSE: row(S.RESPONSE, hang_up, {SaslResponse: rule("take_response", S.VERIFYING, S.ENDED)}),
        S.VERIFYING: row(
            S.VERIFYING,
            rule("ignore", S.VERIFYING),
            {Judged: rule("welcome", S.COMMAND), Refused: rule("refuse_login", S.ENDED)},
            busy=True,
        ),
        S.COMMAND: row(S.COMMAND, rule("refuse_order", S.COMMAND), commands),
        S.GRANTING: row(
            S.GRANTING,
            rule("refuse_busy", S.GRANTING),
            {Granted: rule("offer", S.OFFERED), Refused: rule("refuse_command", *TAKING_COMMANDS)},
            busy=True,
        ),
        S.OFFERED: row(S.OFFERED, rule("refuse_order", S.OFFERED), commands | verdicts),
        S.ESTABLISHING: row(
            S.ESTABLISHING,
            rule("refuse_busy", S.ESTABLISHING),
            {Established: rule("confirm_tunnel", S.UP), Refused: rule("refuse_command", *TAKING_COMMANDS)},
            busy=True,
        ),
        S.UP: row(S.UP, rule("refuse_order", S.UP), commands | verdicts),
        S.QUERYING: row(
            S.QUERYING,
            rule("refuse_busy", S.QUERYING),
            {Granted: rule("inform", *TAKING_COMMANDS), Refused: rule("refuse_command", *TAKING_COMMANDS)},
            busy=True,
        ),
        S.WITHDRAWING: row(
            S.WITHDRAWING,
            rule("refuse_busy", S.WITHDRAWING),
            {Withdrawn: rule("confirm_withdrawal", S.COMMAND), Refused: rule("refuse_command", *TAKING_COMMANDS)},
            busy=True,
        ),
        S.ENDED: row(S.ENDED, rule("ignore", S.ENDED), {}),
    }


TRANSITIONS: Mapping[State, Mapping[type, Rule]] = _table()


def diagram() -> str:
    """The table as a Mermaid state diagram.

    Inputs that are ignored, or refused with the state kept, are left out. The states that take commands are drawn as
    one where they behave as one; an arrow to all of them leads back to the one that the question came from.
    """
    together = "TAKING_COMMANDS"
    arrows: dict[tuple[str, str], list[str]] = {}

    def draw(source: str, target: str, label: str) -> None:
        labels = arrows.setdefault((source, target), [])
        if label not in labels:
            labels.append(label)

    for state, rules in TRANSITIONS.items():
        for cls in INPUTS:
            action, to = rules[cls]
            if action == "ignore":
                continue
            shared = state in TAKING_COMMANDS and all(TRANSITIONS[each][cls] == rules[cls] for each in TAKING_COMMANDS)
            source = together if shared else state.name
            label = "anything else" if action == "refuse_line" else cls.__name__
            if to >= TAKING_COMMANDS:
                draw(source, together, label)
                to -= TAKING_COMMANDS
            for target in State:
                if target in to and not (target is state and action.startswith("refuse")):
                    draw(source, target.name, label)
    inside = {each.name for each in TAKING_COMMANDS}
    lines = ["stateDiagram-v2", *(f"    {each.name}: {each.name}<br/>{each.value}" for each in State)]
    lines += [f"    state {together} {{", *(f"        {each.name}" for each in State if each in TAKING_COMMANDS)]
    lines += [_arrow(*ends, labels, indent=8) for ends, labels in arrows.items() if inside.issuperset(ends)]
    lines += ["    }", "    [*] --> GREETING"]
    lines += [_arrow(*ends, labels, indent=4) for ends, labels in arrows.items() if not inside.issuperset(ends)]
    return "\n".join([*lines, "    ENDED --> [*]"]) + "\n"


def _arrow(source: str, target: str, labels: list[str], indent: int) -> str:
    return f"{' ' * indent}{source} --> {target}: {', '.join(labels)}"
