# SPDX-License-Identifier: GPL-2.0-or-later
"""What the broker's side of a negotiation says and asks, message by message, and what when something is wrong."""

from __future__ import annotations

import base64

import pytest
from support.negotiations import (
    CREATE,
    NOW,
    OFFER,
    PLAIN,
    PROOF,
    TIMEOUT,
    asked,
    current_token,
    in_state,
    inputs,
    logged_in,
    negotiation,
)

from ddtb6.sasl import credentials
from ddtb6.tsp.codec import Phase
from ddtb6.tsp.effects import (
    Ask,
    DeadlinePassed,
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
    Refused,
    Reply,
    Why,
    Withdraw,
    Withdrawn,
)
from ddtb6.tsp.messages import Accept, Authenticate, Delete, Info, Malformed, Reject, SaslResponse, Version
from ddtb6.tsp.states import TAKING_COMMANDS, State
from ddtb6.tsp.status import (
    InvalidRequest,
    NoMoreTunnels,
    PrefixLengthMissing,
    ServerBusy,
    ServerError,
    UnsupportedVersion,
)

OK = b"Content-length: 13\r\n200 Success\r\n"


def line(text: str) -> list[object]:
    """The effects of an error that ends it all."""
    return [Reply(text.encode() + b"\r\n"), Hangup()]


def framed(text: str) -> list[object]:
    return [Reply(b"Content-length: %d\r\n%s\r\n" % (len(text) + 2, text.encode()))]


# --- greeting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.0.0", "2.0.1", "2.0.2", "2.0", "2.0.9"])
def test_any_2_0_is_answered_with_the_capabilities(version: str) -> None:
    made = negotiation()
    [reply] = made.step(Version(version), NOW)
    assert reply == Reply(b"CAPABILITY TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n")
    assert made.state is State.MECHANISM
    assert made.version == version


@pytest.mark.parametrize("version", ["1.0.0", "1.0.1", "1.1", "0.1", "2.1", "2.1.0", "3.0.0", "20.0.0", "0.2.0"])
def test_any_other_version_is_302(version: str) -> None:
    made = negotiation()
    assert list(made.step(Version(version), NOW)) == line("302 Unsupported client version")
    assert made.state is State.ENDED


def test_a_version_that_cannot_be_read_is_302_and_anything_else_500() -> None:
    assert list(negotiation().step(Malformed(UnsupportedVersion()), NOW)) == line("302 Unsupported client version")
    assert list(negotiation().step(Malformed(InvalidRequest()), NOW)) == line("500 Invalid request")


# --- log-in -------------------------------------------------------------------------------------------------------


def test_anonymous_asks_at_once_and_proves_nothing() -> None:
    made = negotiation("2.0.2")
    ask = asked(made.step(Authenticate("ANONYMOUS"), NOW))
    assert ask.question == Judge(credentials.Anonymous())
    assert made.mechanism == "ANONYMOUS"
    assert list(made.step(Judged(ask.token), NOW)) == [Reply(b"200 Success\r\n")]
    assert made.state is State.COMMAND


def test_plain_is_acknowledged_without_text() -> None:
    made = negotiation("2.0.2")
    assert list(made.step(Authenticate("PLAIN"), NOW)) == [Reply(b"")]
    assert made.phase is Phase.SASL_LINE
    ask = asked(made.step(PLAIN, NOW))
    assert ask.question == Judge(credentials.Plain("alice", "s3cret"))
    assert list(made.step(Judged(ask.token), NOW)) == [Proven(), Reply(b"200 Success\r\n")]


def test_digest_md5_says_rspauth_and_keeps_the_status_for_later() -> None:
    made = negotiation("2.0.2")
    [challenge] = made.step(Authenticate("DIGEST-MD5"), NOW)
    assert isinstance(challenge, Reply)
    assert base64.b64decode(challenge.payload).startswith(b'realm="ddtb6",nonce="')
    ask = asked(made.step(PROOF, NOW))
    assert isinstance(ask.question, Judge)
    assert list(made.step(Judged(ask.token, "a" * 32), NOW)) == [
        Proven(),
        Reply(base64.b64encode(b"rspauth=" + b"a" * 32) + b"\r\n"),
        Followup(b"200 Success\r\n"),
    ]


@pytest.mark.parametrize(
    ("version", "allowed"), [("2.0.0", True), ("2.0", True), ("2.0.1", False), ("2.0.2", False), ("2.0.10", False)]
)
def test_only_clients_up_to_2_0_0_may_hash_a_truncated_secret(version: str, allowed: bool) -> None:
    made = negotiation(version)
    made.step(Authenticate("DIGEST-MD5"), NOW)
    ask = asked(made.step(PROOF, NOW))
    assert isinstance(ask.question, Judge)
    assert isinstance(ask.question.credentials, credentials.DigestProof)
    assert ask.question.credentials.truncation_allowed is allowed


def test_a_mechanism_that_is_not_offered_is_300() -> None:
    made = negotiation("2.0.2")
    assert list(made.step(Authenticate("PASSDSS-3DES-1"), NOW)) == line("300 Authentication failed")


@pytest.mark.parametrize("mechanism", ["PLAIN", "DIGEST-MD5"])
@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", b"\0a\0b\0c", b"!", b"\xff" * 100, b"A" * 5000, b"\0a\0"])
def test_a_response_that_cannot_be_read_is_300(mechanism: str, data: bytes) -> None:
    made = negotiation("2.0.2")
    made.step(Authenticate(mechanism), NOW)
    assert list(made.step(SaslResponse(data), NOW)) == line("300 Authentication failed")
    assert made.state is State.ENDED


@pytest.mark.parametrize("error", [ServerBusy(), ServerError(), ServerError("of a sort"), NoMoreTunnels()])
def test_only_300_ends_digest_md5_where_the_client_waits_for_rspauth(error: ServerBusy | ServerError) -> None:
    made = in_state(State.VERIFYING)
    effects = made.step(Refused(current_token(made), error), NOW)
    assert list(effects) == line(f"300 {type(error).text}")


@pytest.mark.parametrize("mechanism", ["PLAIN", "ANONYMOUS"])
def test_other_mechanisms_may_say_that_the_server_is_busy(mechanism: str) -> None:
    made = negotiation("2.0.2")
    effects = made.step(Authenticate(mechanism), NOW)
    if mechanism == "PLAIN":
        effects = made.step(PLAIN, NOW)
    assert list(made.step(Refused(asked(effects).token, ServerBusy()), NOW)) == line("530 Server too busy")


@pytest.mark.parametrize("state", [State.MECHANISM, State.RESPONSE], ids=lambda state: state.name)
@pytest.mark.parametrize("error", [InvalidRequest(), UnsupportedVersion(), PrefixLengthMissing()])
def test_whatever_is_wrong_in_the_middle_of_sasl_is_300(state: State, error: InvalidRequest) -> None:
    assert list(in_state(state).step(Malformed(error), NOW)) == line("300 Authentication failed")
    assert list(in_state(state).step(Accept(), NOW)) == line("300 Authentication failed")


# --- commands -----------------------------------------------------------------------------------------------------


def test_create_to_accept() -> None:
    made = logged_in()
    ask = asked(made.step(CREATE, NOW))
    assert ask.question == Grant(CREATE)
    assert made.busy
    assert made.phase is None
    [reply] = made.step(Granted(ask.token, OFFER), NOW)
    assert isinstance(reply, Reply)
    head, _, rest = reply.payload.partition(b"\r\n")
    assert head == b"Content-length: %d" % len(rest)
    assert rest.startswith(b'200 Success\r\n<tunnel action="info" type="v6udpv4" ')
    for _ in range(2):
        ask = asked(made.step(Accept(), NOW))
        assert ask.question == Establish()
        assert list(made.step(Established(ask.token), NOW)) == [Reply(OK)]
        assert made.state is State.UP


def test_accept_of_an_offer_that_is_gone_is_refused_and_another_may_be_asked_for() -> None:
    made = in_state(State.OFFERED)
    ask = asked(made.step(Accept(), NOW))
    assert list(made.step(Refused(ask.token, ServerError("The tunnel is gone")), NOW)) == framed(
        "310 The tunnel is gone"
    )
    assert asked(made.step(CREATE, NOW)).question == Grant(CREATE)


def test_reject_gives_the_tunnel_back_and_another_may_be_asked_for() -> None:
    made = in_state(State.OFFERED)
    ask = asked(made.step(Reject(), NOW))
    assert ask.question == Withdraw(Why.REJECT)
    assert list(made.step(Withdrawn(ask.token), NOW)) == [Reply(OK)]
    assert list(made.step(Accept(), NOW)) == framed("500 Invalid request")
    assert asked(made.step(CREATE, NOW)).question == Grant(CREATE)


@pytest.mark.parametrize("state", sorted(TAKING_COMMANDS, key=str), ids=lambda state: state.name)
def test_delete_and_info(state: State) -> None:
    made = in_state(state)
    ask = asked(made.step(Info(), NOW))
    assert ask.question == Query()
    made.step(Granted(ask.token, OFFER), NOW)
    assert made.state is state
    ask = asked(made.step(Delete(), NOW))
    assert ask.question == Withdraw(Why.DELETE)
    made.step(Withdrawn(ask.token), NOW)
    assert made.state is State.COMMAND


@pytest.mark.parametrize("state", sorted(TAKING_COMMANDS, key=str), ids=lambda state: state.name)
@pytest.mark.parametrize("command", [CREATE, Info(), Delete()], ids=lambda command: type(command).__name__)
def test_a_refused_command_leaves_it_where_it_was(state: State, command: Info) -> None:
    made = in_state(state)
    ask = asked(made.step(command, NOW))
    effects = made.step(Refused(ask.token, NoMoreTunnels()), NOW)
    assert list(effects) == framed("301 No more tunnels available")
    assert made.state is state


@pytest.mark.parametrize("state", sorted(TAKING_COMMANDS, key=str), ids=lambda state: state.name)
def test_a_command_that_cannot_be_read_says_why_and_leaves_it_where_it_was(state: State) -> None:
    made = in_state(state)
    assert list(made.step(Malformed(PrefixLengthMissing()), NOW)) == framed("520 Prefix length missing")
    assert list(made.step(Version("2.0.2"), NOW)) == framed("500 Invalid request")
    assert made.state is state


@pytest.mark.parametrize("command", [Accept(), Reject()])
def test_nothing_can_be_accepted_or_rejected_before_an_offer(command: Accept | Reject) -> None:
    made = logged_in()
    assert list(made.step(command, NOW)) == framed("500 Invalid request")
    assert made.state is State.COMMAND


@pytest.mark.parametrize("state", [State.GRANTING, State.QUERYING, State.WITHDRAWING], ids=lambda state: state.name)
def test_a_second_command_before_the_answer_is_521(state: State) -> None:
    made = in_state(state)
    assert list(made.step(CREATE, NOW)) == framed("521 Request already in progress")
    assert made.state is state


# --- tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
@pytest.mark.parametrize("wrong", [-1, 1, 1000])
def test_an_answer_with_another_token_changes_nothing(state: State, wrong: int) -> None:
    made = in_state(state)
    token, deadline = current_token(made) + wrong, made.deadline
    for event in (Judged(token), Granted(token, OFFER), Withdrawn(token), Refused(token, ServerError())):
        assert list(made.step(event, NOW + 30)) == []
        assert (made.state, made.deadline) == (state, deadline)


def test_an_answer_counts_once() -> None:
    made = logged_in()
    ask = asked(made.step(CREATE, NOW))
    made.step(Granted(ask.token, OFFER), NOW)
    assert list(made.step(Granted(ask.token, OFFER), NOW)) == []
    assert list(made.step(Refused(ask.token, ServerError()), NOW)) == []
    assert made.state is State.OFFERED


def test_tokens_are_never_used_again() -> None:
    made = logged_in()
    tokens = []
    for _ in range(5):
        ask = asked(made.step(CREATE, NOW))
        tokens.append(ask.token)
        made.step(Refused(ask.token, NoMoreTunnels()), NOW)
    assert len(set(tokens)) == 5


# --- deadlines ----------------------------------------------------------------------------------------------------


def test_the_deadline_moves_with_what_the_client_says() -> None:
    made = negotiation()
    assert made.deadline == NOW + TIMEOUT
    made.step(Version("2.0.2"), NOW + 50)
    assert made.deadline == NOW + 50 + TIMEOUT


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_silence_ends_it_without_a_word_unless_the_broker_is_the_slow_one(state: State) -> None:
    made = in_state(state)
    waits_for_client = made.phase is not None
    effects = made.step(DeadlinePassed(), NOW + TIMEOUT)
    assert list(effects) == ([Hangup()] if waits_for_client else [])
    assert (made.state is State.ENDED) == (waits_for_client or state is State.ENDED)


def test_after_the_end_nothing_has_an_effect() -> None:
    made = in_state(State.ENDED)
    for event in inputs(current_token(made)):
        assert list(made.step(event, NOW)) == []
        assert made.state is State.ENDED


def test_the_answer_that_comes_after_the_end_is_not_heard() -> None:
    made = in_state(State.VERIFYING)
    token = current_token(made)
    made.step(Refused(token, ServerError()), NOW)
    assert list(made.step(Judged(token, "0" * 32), NOW)) == []


def test_no_secret_shows_in_what_is_asked() -> None:
    made = negotiation("2.0.2")
    made.step(Authenticate("PLAIN"), NOW)
    effects = made.step(PLAIN, NOW)
    assert isinstance(effects[0], Ask)
    assert "s3cret" not in repr(effects)
