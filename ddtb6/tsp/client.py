# SPDX-License-Identifier: GPL-2.0-or-later
"""The client role of TSP: what to say next, and what came of it.

Source: RFC 5572 section 4; gogoCLIENT 1.2 for everything the RFC leaves out (polls, fallback, broker lists).
Invariants: pure; `receive` returns effects for any input and never raises; after Done, Failed, Redirect or
OlderVersion it returns none; what is kept of the broker's text is bounded.
Not here: repetitions (`exchange`), sockets (`ddtb6.client`), what is done with the offer.

The password never goes out in clear because of what the broker offers: TSP has no encryption, so anybody on the path
could strike DIGEST-MD5 from the capability line and read the password that comes instead. PLAIN must be asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address
from typing import ClassVar, ParamSpec, TypeVar

from ddtb6.addressing.endpoint import Carrier, Encapsulation
from ddtb6.sasl import digest
from ddtb6.tsp import codec, document
from ddtb6.tsp.messages import Capability, Create, Delete, Info, Offer
from ddtb6.tsp.outcomes import (
    BrokerNotAuthentic,
    Done,
    Effect,
    Failed,
    OlderVersion,
    Poll,
    Redirect,
    Retry,
    UnreadableReply,
    Wish,
    Write,
)
from ddtb6.tsp.status import (
    BY_CODE,
    AuthenticationFailed,
    NoMoreTunnels,
    ServerError,
    TspError,
    UnsupportedTunnelType,
    UnsupportedVersion,
)

VERSIONS = ("2.0.2", "2.0.1", "2.0.0")
"""What is spoken, best first; 302 leads to the next one."""

REPLY_LIMIT = 16384
"""Octets of one reply, all its pieces together; twice the largest document."""
POLL_LIMIT = 64
"""Polls for one reply."""
TEXT_LIMIT = 160
"""Characters of a broker's text that are passed on."""
SHORTEST_PREFIX = 16
"""No broker delegates as much as that."""

SUCCESS = 200
REDIRECTION = 1000
"""Added to a code: a list of brokers follows."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
_BLANK = bytes(range(0x21))
_END_OF_LIST = b"</tunnel>"


class ClientNegotiation:
    """One negotiation as the client sees it.

    Send what `start` returns; give the text of each reply (over TCP: whatever arrived) to `receive` and do what the
    effects say, in order. Over TCP tell the end of the stream to `closed`.
    """

    _SOON: ClassVar[tuple[type[TspError], ...]] = (NoMoreTunnels, ServerError, UnreadableReply)

    def __init__(self, wish: Wish, carrier: Carrier, cnonce: bytes, version: str = VERSIONS[0]) -> None:
        """`cnonce` is unpredictable and printable without quotes, for DIGEST-MD5."""
        self.mechanism = ""
        """The SASL mechanism taken, once the broker's are known."""
        self._wish = wish
        self._carrier = carrier
        self._cnonce = cnonce
        self._version = version
        self._buffer = b""
        self._ended = False  # nothing can follow any more
        self._polls = 0
        self._dry = False  # the last poll fetched nothing
        self._challenge = b""
        self._offer: Offer | None = None
        # What the next reply is taken for. It returns None when the reply is not complete.
        self._expected: Callable[[], list[Effect] | None] | None = self._on_capability

    def start(self) -> bytes:
        """The first message."""
        return codec.write_version(self._version)

    def receive(self, text: bytes) -> list[Effect]:
        """What to do after `text`; empty: wait for more (TCP), or it is over."""
        if self._expected is None:
            return []
        self._dry = self._polls > 0 and not text.strip(_BLANK)
        self._buffer += text
        if len(self._buffer) > REPLY_LIMIT:
            return self._fail(UnreadableReply(f"The broker's reply is longer than {REPLY_LIMIT} octets"))
        return self._advance()

    def closed(self) -> list[Effect]:
        """What to do now that the broker has closed the TCP connection."""
        if self._expected is None:
            return []
        self._ended = True
        effects = self._advance()
        if self._expected is not None:
            effects = self._fail(UnreadableReply("The broker closed the connection in the middle of the negotiation"))
        return effects

    def _advance(self) -> list[Effect]:
        try:
            while self._expected is not None:
                effects = self._expected()
                if effects is None:
                    return self._more()
                if effects:
                    return effects
        except TspError as error:
            return self._fail(error)
        return []

    def _more(self) -> list[Effect]:
        if self._carrier is Carrier.TCP:
            return []
        self._polls += 1
        if self._polls > POLL_LIMIT:
            return self._fail(UnreadableReply("The broker answers without saying anything"))
        return [Poll()]

    def _write(self, text: bytes, expected: Callable[[], list[Effect] | None]) -> list[Effect]:
        self._expected = expected
        self._buffer = b""
        self._polls = 0
        return [Write(text)]

    def _end(self, effect: Effect) -> list[Effect]:
        self._expected = None
        self._buffer = b""
        return [effect]

    def _fail(self, error: TspError) -> list[Effect]:
        soon = error.temporary or isinstance(error, self._SOON)
        return self._end(Failed(error, Retry.SOON if soon else Retry.LATER))

    # --- replies of one line --------------------------------------------------------------------------------------

    def _line(self) -> bytes | None:
        """The line that the buffer begins with, or None when its end is not there yet.

        A broker may cut a line into pieces for polls, and may leave its end out: where a poll fetches nothing, or the
        stream has ended, the line has, too.
        """
        self._buffer = self._buffer.lstrip(_BLANK)
        line, end, _ = self._buffer.partition(b"\n")
        return line.rstrip(_BLANK) if end or (line and (self._dry or self._ended)) else None

    def _on_capability(self) -> list[Effect] | None:
        line = self._line()
        if line is None:
            return None
        status = _status(line)
        if status is None:
            return self._choose(_understood(codec.read_capability, line))
        older = VERSIONS.index(self._version) + 1
        if status[0] == UnsupportedVersion.code and older < len(VERSIONS):
            return self._end(OlderVersion(VERSIONS[older]))
        return self._refused(self._buffer)

    def _choose(self, capability: Capability) -> list[Effect]:
        self._check_type(capability)
        mechanism = self.mechanism = self._pick_mechanism(capability.mechanisms)
        authenticate = codec.write_authenticate(mechanism)
        if mechanism == "DIGEST-MD5":
            return self._write(authenticate, self._on_challenge)
        if mechanism == "ANONYMOUS":
            return self._write(authenticate, self._on_status)
        if self._carrier is Carrier.UDP:
            return self._write(authenticate, self._on_acknowledgement)
        # Over TCP nothing answers the first of PLAIN's two messages.
        return self._write(authenticate, self._on_status) + self._write(self._plain(), self._on_status)

    def _check_type(self, capability: Capability) -> None:
        request = self._wish.request
        if not isinstance(request, Create):
            return
        wanted = {request.encapsulation}
        if request.encapsulation is Encapsulation.V6ANYV4:
            wanted = {Encapsulation.V6UDPV4, Encapsulation.V6V4}  # v6anyv4 itself is never announced
        if not wanted & set(capability.encapsulations):
            offered = ", ".join(each.value for each in capability.encapsulations) or "none"
            raise UnsupportedTunnelType(
                f"The broker has no tunnels of type {request.encapsulation.value}; it has: {offered}"
            )

    def _pick_mechanism(self, offered: tuple[str, ...]) -> str:
        wish = self._wish
        acceptable: tuple[str, ...]
        if wish.mechanism is not None:
            acceptable = (wish.mechanism,)
        elif wish.user is None:
            acceptable = ("ANONYMOUS",)
        else:
            acceptable = ("DIGEST-MD5", "PLAIN") if wish.allow_plain else ("DIGEST-MD5",)
        for mechanism in acceptable:
            if mechanism in offered:
                return mechanism
        listed = ", ".join(offered) or "nothing"
        reason = f"The broker does not offer {' or '.join(acceptable)}; it offers: {_printable(listed)}"
        if wish.user is not None and wish.mechanism is None and "PLAIN" in offered:
            reason += ". PLAIN would show the password to everybody on the path; allow it only if you accept that"
        raise AuthenticationFailed(reason)

    def _plain(self) -> bytes:
        user, password = self._wish.user or "", self._wish.password
        if any(mark in user + password for mark in "\0\r\n"):
            raise AuthenticationFailed("PLAIN cannot carry a user name or password with NUL or line ends in it")
        return f"\0{user}\0{password}\r\n".encode("utf-8", "replace")

    def _on_acknowledgement(self) -> list[Effect] | None:
        # Any reply acknowledges the first of PLAIN's messages; most are empty.
        status = _status(self._buffer)
        if status is not None and status[0] != SUCCESS:
            return self._refused(self._buffer)
        return self._write(self._plain(), self._on_status)

    def _on_challenge(self) -> list[Effect] | None:
        line = self._line()
        if line is None:
            return None
        if _status(line) is not None:
            return self._refused(self._buffer)
        self._challenge = line
        return self._write(_understood(digest.respond, line, *self._secrets()), self._on_rspauth)

    def _on_rspauth(self) -> list[Effect] | None:
        line = self._line()
        if line is None:
            return None
        if _status(line) is not None:
            return self._refused(self._buffer)
        if not _understood(digest.check_rspauth, line, self._challenge, *self._secrets()):
            raise BrokerNotAuthentic
        self._buffer = self._buffer.partition(b"\n")[2]
        self._expected = self._on_status
        return []

    def _secrets(self) -> tuple[str, str, str, bytes]:
        wish = self._wish
        return wish.user or "", wish.password, f"tsp/{wish.server}", self._cnonce

    def _on_status(self) -> list[Effect] | None:
        line = self._line()
        if line is None:
            return None
        status = _status(line)
        if status is None or status[0] != SUCCESS:
            return self._refused(self._buffer)
        request = self._wish.request
        if isinstance(request, Create):
            xml = document.write_create(request)
        else:
            xml = document.INFO if isinstance(request, Info) else document.DELETE
        return self._write(codec.framed(xml), self._on_result)

    # --- replies with a length ------------------------------------------------------------------------------------

    def _payload(self) -> bytes | None:
        """Status line and document of the reply; None when some of it is missing. Takes a bare status line, too."""
        self._buffer = self._buffer.lstrip(_BLANK)
        if not self._buffer:
            return None
        if _status(self._buffer) is not None:
            return self._buffer
        if b"\n" not in self._buffer and not self._ended:
            return None
        framed = _understood(codec.read_framed, self._buffer)
        return None if framed.missing and not self._ended else framed.payload

    def _on_result(self) -> list[Effect] | None:
        payload = self._payload()
        if payload is None:
            return None
        status = _status(payload)
        if status is None or status[0] != SUCCESS:
            return self._refused(payload)
        request = self._wish.request
        if isinstance(request, Delete):
            return self._end(Done(None))
        offer = _understood(document.read_offer, status[2])
        if isinstance(request, Info):
            return self._end(Done(offer))
        fault = objection(offer)
        if fault is not None:
            return [Write(codec.framed(document.REJECT)), *self._fail(fault)]
        self._offer = offer
        accept = self._write(codec.framed(document.ACCEPT), self._on_acceptance)
        # Over TCP not every broker answers an accept, and no client waits for it.
        return accept if self._carrier is Carrier.UDP else accept + self._end(Done(offer))

    def _on_acceptance(self) -> list[Effect] | None:
        # Any reply acknowledges; some brokers send a bare header.
        payload = self._payload()
        status = None if payload is None else _status(payload)
        if payload is not None and status is not None and status[0] != SUCCESS:
            return self._refused(payload)
        return self._end(Done(self._offer))

    # --- refusals -------------------------------------------------------------------------------------------------

    def _refused(self, reply: bytes) -> list[Effect] | None:
        """What a status line other than success comes to, `reply` being that line and all that follows it."""
        status = _status(reply)
        if status is None or status[0] == SUCCESS:
            raise UnreadableReply
        code, text, rest = status
        if code <= REDIRECTION:
            return self._fail(_error(code, text))
        if _END_OF_LIST not in rest:
            return None
        brokers = _understood(document.read_brokers, rest[: rest.index(_END_OF_LIST) + len(_END_OF_LIST)])
        return self._end(Redirect(brokers)) if brokers else self._fail(_error(code - REDIRECTION, text))


def objection(offer: Offer) -> TspError | None:
    """Why this client cannot use an offer, however well it is written; None when it can."""
    if offer.encapsulation is not Encapsulation.V6UDPV4:
        return UnsupportedTunnelType(
            f"The broker gave a tunnel of type {offer.encapsulation.value}, which is not carried here; ask for v6udpv4"
        )
    inner = [offer.client_inner, offer.server_inner]
    if offer.keepalive is not None and offer.keepalive.address is not None:
        inner.append(offer.keepalive.address)
    for address in inner:
        if not _is_host(address):
            return UnreadableReply(f"The broker offers the address {address}, which no host can have")
    prefix = offer.prefix
    if prefix is not None and not (prefix.prefixlen >= SHORTEST_PREFIX and _is_host(prefix.network_address)):
        return UnreadableReply(f"The broker offers the prefix {prefix}, which cannot be a customer's")
    return None


def _is_host(address: IPv6Address) -> bool:
    return not (
        address.is_multicast
        or address.is_link_local
        or address.is_loopback
        or address.is_unspecified
        or address.ipv4_mapped is not None
    )


def _status(text: bytes) -> tuple[int, str, bytes] | None:
    """Code, words and what follows; None when `text` does not begin with a status line."""
    try:
        return codec.read_status(text)
    except TspError:
        return None


def _error(code: int, text: str) -> TspError:
    known = BY_CODE.get(code)
    return known(_printable(text)) if known else ServerError(_printable(f"{code} {text}"))


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:TEXT_LIMIT])


def _understood(read: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """`read(...)`, its complaints about the broker's text turned into UnreadableReply."""
    try:
        return read(*args, **kwargs)
    except (TspError, digest.SaslError) as error:
        raise UnreadableReply(f"The broker's reply could not be understood: {error}") from None
