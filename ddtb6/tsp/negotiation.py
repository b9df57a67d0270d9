# SPDX-License-Identifier: GPL-2.0-or-later
"""One TSP negotiation, broker's role: `step(input, now)` takes a value and returns what is to be done.

Source: RFC 5572 sections 4.2 to 4.7, and what deployed clients need where it is silent.
Invariants: `step` is the only mutator and returns effects instead of performing them; an input that the table does not
expect is refused, never raised; after ENDED nothing has an effect.
Not here: which pairs of state and input exist (`states`), bytes (`codec`, `document`), duplicates (`framing`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ddtb6.sasl.mechanisms import Mechanism, SaslError, rspauth_reply
from ddtb6.tsp import codec
from ddtb6.tsp.document import write_reply
from ddtb6.tsp.effects import (
    Answer,
    Ask,
    DeadlinePassed,
    Effect,
    Establish,
    Established,
    Followup,
    Grant,
    Granted,
    Hangup,
    Judge,
    Judged,
    Proven,
    Query,
    Question,
    Refused,
    Reply,
    Why,
    Withdraw,
    Withdrawn,
)
from ddtb6.tsp.messages import (
    Accept,
    Authenticate,
    Capability,
    Create,
    Delete,
    Info,
    Malformed,
    Reject,
    Request,
    SaslResponse,
    Version,
)
from ddtb6.tsp.states import ANSWERS, PHASE, TRANSITIONS, State
from ddtb6.tsp.status import (
    SUCCESS,
    AuthenticationFailed,
    InvalidRequest,
    RequestInProgress,
    TspError,
    UnsupportedVersion,
)

Input = Request | Answer | DeadlinePassed
MechanismFactory = Callable[[str, tuple[int, ...]], Mechanism | None]
"""From upper-case name and the client's version: a fresh mechanism, or None when it is not offered."""

OK_LINE = codec.write_status(SUCCESS)
OK_FRAMED = codec.framed(OK_LINE)


class Negotiation:
    """The broker's side of one conversation, from VERSION to a tunnel."""

    __slots__ = (
        "_came_from",
        "_capability",
        "_mechanism",
        "_mechanisms",
        "_timeout",
        "_token",
        "deadline",
        "mechanism",
        "state",
        "version",
    )

    def __init__(self, capability: Capability, mechanisms: MechanismFactory, timeout: float, now: float) -> None:
        """`timeout` in seconds is what a client may take between two messages; `now` is monotonic."""
        self.state = State.GREETING
        self.version = ""
        """What the client called itself, such as ``2.0.2``; empty before it did."""
        self.deadline = now + timeout
        """Monotonic second at which `DeadlinePassed` is due."""
        self._timeout = timeout
        self._capability = capability
        self._mechanisms = mechanisms
        self.mechanism = ""
        """The SASL mechanism that the client chose; empty before it did."""
        self._mechanism: Mechanism | None = None  # while it waits for the client's response
        self._token = 0
        self._came_from = State.COMMAND

    @property
    def busy(self) -> bool:
        """An answer is awaited; the client's next message must wait."""
        return self.state not in PHASE

    @property
    def phase(self) -> codec.Phase | None:
        """How to read the client's next message; None while busy or ended."""
        return PHASE.get(self.state)

    def step(self, event: Input, now: float) -> Sequence[Effect]:
        """Take one input at monotonic second `now`; returns the effects in the order to perform them."""
        cls = type(event)
        if cls in ANSWERS and event.token != self._token:  # type: ignore[union-attr]
            return ()
        action, to = TRANSITIONS[self.state][cls]
        before = self.state
        self.deadline = now + self._timeout
        effects: Sequence[Effect] = getattr(self, f"_{action}")(event)
        assert self.state in to, f"{action} led from {before} to {self.state}, which the table does not have"
        return effects

    # --- greeting and log-in --------------------------------------------------------------------------------------

    def _greet(self, version: Version) -> Sequence[Effect]:
        self.version = version.text
        if version.number[:2] != (2, 0):
            return self._end(UnsupportedVersion())
        self.state = State.MECHANISM
        return (Reply(codec.write_capability(self._capability)),)

    def _choose_mechanism(self, choice: Authenticate) -> Sequence[Effect]:
        mechanism = self._mechanisms(choice.mechanism, Version(self.version).number)
        if mechanism is None:
            return self._end(AuthenticationFailed())
        self.mechanism = mechanism.name
        opening = mechanism.start()
        if isinstance(opening, bytes):
            self._mechanism = mechanism
            self.state = State.RESPONSE
            return (Reply(opening),)
        return self._ask(Judge(opening), State.VERIFYING)

    def _take_response(self, response: SaslResponse) -> Sequence[Effect]:
        mechanism, self._mechanism = self._mechanism, None
        assert mechanism is not None, "RESPONSE is entered with a mechanism"
        try:
            credentials = mechanism.respond(response.data)
        except SaslError:
            return self._end(AuthenticationFailed())
        return self._ask(Judge(credentials), State.VERIFYING)

    def _welcome(self, judged: Judged) -> Sequence[Effect]:
        self.state = State.COMMAND
        if judged.rspauth is not None:
            return (Proven(), Reply(rspauth_reply(judged.rspauth)), Followup(OK_LINE))
        if self.mechanism == "ANONYMOUS":  # Nothing it said depended on anything it was sent.
            return (Reply(OK_LINE),)
        return (Proven(), Reply(OK_LINE))

    def _refuse_login(self, refused: Refused) -> Sequence[Effect]:
        # gogoCLIENT crashes on any other number where it waits for rspauth.
        if self.mechanism == "DIGEST-MD5" and refused.error.code != AuthenticationFailed.code:
            return self._end(AuthenticationFailed(refused.error.text))
        return self._end(refused.error)

    def _refuse_line(self, event: Request) -> Sequence[Effect]:
        if self.state is not State.GREETING:
            return self._end(AuthenticationFailed())
        return self._end(event.error if isinstance(event, Malformed) else InvalidRequest())

    # --- commands -------------------------------------------------------------------------------------------------

    def _ask_grant(self, create: Create) -> Sequence[Effect]:
        return self._ask(Grant(create), State.GRANTING)

    def _ask_query(self, _: Info) -> Sequence[Effect]:
        return self._ask(Query(), State.QUERYING)

    def _ask_withdraw(self, command: Reject | Delete) -> Sequence[Effect]:
        return self._ask(Withdraw(Why.REJECT if isinstance(command, Reject) else Why.DELETE), State.WITHDRAWING)

    def _offer(self, granted: Granted) -> Sequence[Effect]:
        self.state = State.OFFERED
        return (Reply(codec.framed(OK_LINE + write_reply(granted.offer))),)

    def _inform(self, granted: Granted) -> Sequence[Effect]:
        self.state = self._came_from
        return (Reply(codec.framed(OK_LINE + write_reply(granted.offer))),)

    def _ask_establish(self, _: Accept) -> Sequence[Effect]:
        return self._ask(Establish(), State.ESTABLISHING)

    def _confirm_tunnel(self, _: Established) -> Sequence[Effect]:
        self.state = State.UP
        return (Reply(OK_FRAMED),)

    def _confirm_withdrawal(self, _: Withdrawn) -> Sequence[Effect]:
        self.state = State.COMMAND
        return (Reply(OK_FRAMED),)

    def _refuse_command(self, refused: Refused) -> Sequence[Effect]:
        self.state = self._came_from
        return (_framed_error(refused.error),)

    def _refuse_order(self, event: Request) -> Sequence[Effect]:
        return (_framed_error(event.error if isinstance(event, Malformed) else InvalidRequest()),)

    def _refuse_busy(self, _: Request) -> Sequence[Effect]:
        return (_framed_error(RequestInProgress()),)

    # --- the rest -------------------------------------------------------------------------------------------------

    def _ignore(self, _: Input) -> Sequence[Effect]:
        return ()

    def _give_up(self, _: DeadlinePassed) -> Sequence[Effect]:
        self.state = State.ENDED
        return (Hangup(),)

    def _ask(self, question: Question, waiting: State) -> Sequence[Effect]:
        self._came_from = self.state
        self.state = waiting
        self._token += 1
        return (Ask(self._token, question),)

    def _end(self, error: TspError) -> Sequence[Effect]:
        self.state = State.ENDED
        return (Reply(codec.write_status(error.line)), Hangup())


def _framed_error(error: TspError) -> Reply:
    return Reply(codec.framed(codec.write_status(error.line)))
