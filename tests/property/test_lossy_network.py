# SPDX-License-Identifier: GPL-2.0-or-later
"""Our client against our broker over a network that loses, doubles, delays and reorders, in virtual time.

Real are both ends whole: the client's path, repetitions and role, the broker's UDP signalling, policy, store and data
plane. What becomes of every single datagram is hypothesis's choice.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.stored import now, rows
from support.virtual import SERVER, VirtualClock, World
from twisted.internet.defer import Deferred, ensureDeferred, execute, succeed
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from ddtb6.addressing.endpoint import Carrier, Encapsulation, Endpoint, Link
from ddtb6.broker.broker import Visitor
from ddtb6.broker.events import LoggedIn, SessionEnded, SessionEstablished, SessionOpened
from ddtb6.client.paths import Outcome, Silent, UdpPath
from ddtb6.tsp.client import ClientNegotiation
from ddtb6.tsp.effects import Ask
from ddtb6.tsp.framing import OVERHEAD
from ddtb6.tsp.messages import Create, Offer
from ddtb6.tsp.outcomes import BrokerNotAuthentic, Done, Failed, UnreadableReply, Wish
from ddtb6.tsp.status import BY_CODE, AuthenticationFailed
from ddtb6.tunnel.reasons import EndReason

T = TypeVar("T")

MEMORY = Path("/dev/shm")  # no disk to wait for
CLIENT = "198.51.100.7"
PASSWORDS = {"alice": "wonderland", "bob": "builder"}
GUEST = Endpoint(CLIENT, 39999)
PROMPT = (0.02,)
PATIENCE = 1800.0
"""Seconds after which every log-in has come to its end: eight copies of each request, 30 s apart at most."""
SILENCES = ("does not answer", "stopped answering in the middle of the negotiation")
REFUSALS = (*BY_CODE.values(), UnreadableReply, BrokerNotAuthentic)

Fate = tuple[float, ...]
"""The delays, in seconds, of the copies of a datagram that arrive; none: it is lost."""

delays = st.sampled_from((0.02, 0.0, 0.4, 1.99, 2.5, 5.0, 12.0, 40.0, 75.0))
fates = st.one_of(st.just(PROMPT), st.just(()), st.lists(delays, min_size=1, max_size=3).map(tuple))


@dataclass
class LogIn:
    """One run of the client, and what came of it."""

    who: str | None
    """None: anonymous."""
    begins: float
    """Seconds after the start."""
    mechanism: str = "DIGEST-MD5"
    knows: bool = True
    """The right password."""
    remote: Endpoint = SERVER
    outcome: Outcome | None = None
    at: float = 0.0

    @property
    def owner(self) -> str:
        return f"anonymous:{self.remote}" if self.who is None else f"user:{self.who}"

    def wish(self) -> Wish:
        return Wish(
            request=Create(Encapsulation.V6UDPV4, CLIENT, prefix_length=None if self.who is None else 56),
            server="broker.example",
            user=self.who,
            password=PASSWORDS[self.who] if self.who and self.knows else "guess",
            mechanism=self.mechanism,
        )

    @property
    def offer(self) -> Offer | None:
        return self.outcome.offer if isinstance(self.outcome, Done) else None


class Port:
    """A UDP port of a client; its own transport."""

    def __init__(self, network: Network, protocol: UdpPath, endpoint: Endpoint) -> None:
        self.network, self.protocol, self.endpoint = network, protocol, endpoint
        self.open = True

    def write(self, datagram: bytes, address: tuple[str, int]) -> None:
        assert address == SERVER
        self.network.carry(lambda: self.network.to_broker(datagram, self.endpoint))

    def receive(self, datagram: bytes) -> None:
        if self.open:
            self.protocol.datagramReceived(datagram, SERVER)

    def stopListening(self) -> Deferred[None]:
        self.open = False
        self.protocol.transport = None
        return succeed(None)


@dataclass
class Share:
    """Octets on the wire, outer headers included, between the broker and an endpoint that has proved nothing yet."""

    received: int = 0
    sent: int = 0


class Network(VirtualClock):
    """What clients use of a reactor. Also the broker's socket."""

    family = 4

    def __init__(self, fates: list[Fate], rest: Fate) -> None:
        super().__init__()
        self._fates = iter(fates)
        self.rest = rest
        """The fate of every datagram after those whose fate was chosen."""
        self.ports: dict[Endpoint, Port] = {}
        self.next = GUEST
        """What the next port is translated to."""
        self.world: World
        self.faults: list[Any] = []
        """What would be lost as an exception: it happened inside of the broker."""
        self.shares: defaultdict[Endpoint, Share] = defaultdict(Share)

    def carry(self, deliver: Callable[[], None]) -> None:
        for delay in next(self._fates, self.rest):
            self.callLater(delay, deliver)

    def listenUDP(self, port: int, protocol: UdpPath, interface: str = "", maxPacketSize: int = 8192) -> Port:
        made = Port(self, protocol, self.next)
        protocol.transport = made
        self.ports[made.endpoint] = made
        return made

    def to_broker(self, datagram: bytes, remote: Endpoint) -> None:
        self.shares[remote].received += len(datagram) + OVERHEAD[4]
        self.world.udp.receive(self, datagram, SERVER, remote)  # type: ignore[arg-type]

    def send(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> bool:
        assert local == SERVER
        share = self.shares[remote]
        share.sent += len(datagram) + OVERHEAD[4]
        if share.sent > 3 * share.received and not self._proved(remote):
            self.faults.append(f"{share} before {remote} proved anything")
        self.carry(lambda: self.ports[remote].receive(datagram))
        return True

    def _proved(self, remote: Endpoint) -> bool:
        return any(
            isinstance(each, LoggedIn) and each.link.remote == remote and each.mechanism != "ANONYMOUS"
            for each in self.world.events
        )


@dataclass
class Disk:
    """The store's thread: takes `seconds` for every commit."""

    clock: VirtualClock
    seconds: float = 0.0

    def __call__(self, work: Callable[[], T]) -> Deferred[T]:
        return deferLater(self.clock, self.seconds, work) if self.seconds else execute(work)  # type: ignore[arg-type]


@dataclass
class Run:
    """Log-ins over a network, and what must be true at any moment of them."""

    network: Network
    disk: Disk
    world: World
    directory: Path
    slowest: float
    """Seconds of a commit."""
    log_ins: list[LogIn] = field(default_factory=list)
    ticking: bool = False
    fresh: list[LogIn] = field(default_factory=list)
    """Log-ins that have just ended."""
    openings: Counter[Endpoint] = field(default_factory=Counter)
    """Negotiations that the broker has begun."""
    doubled: dict[str, float] = field(default_factory=dict)
    """Owners with two live sessions in the store, and since when."""

    def __post_init__(self) -> None:
        asked: defaultdict[Visitor, Counter[type]] = defaultdict(Counter)
        answer = self.world.broker.answer

        def once(ask: Ask, visitor: Visitor) -> Any:
            asked[visitor][type(ask.question)] += 1
            if max(asked[visitor].values()) > 1:
                self.network.faults.append(f"executed twice: {ask}")
            return answer(ask, visitor)

        welcome = self.world.broker.welcome

        def counted(link: Link) -> Visitor:
            self.openings[link.remote] += 1
            return welcome(link)

        self.world.broker.answer = once  # type: ignore[method-assign]
        self.world.broker.welcome = counted  # type: ignore[method-assign]

    def start(self, log_in: LogIn) -> None:
        self.log_ins.append(log_in)
        self.network.callLater(log_in.begins, self._log_in, log_in)

    def _log_in(self, log_in: LogIn) -> None:
        number = len(self.network.ports)
        log_in.remote = self.network.next = GUEST if log_in.who is None else Endpoint(CLIENT, 40000 + number)
        path = UdpPath(self.network, SERVER)

        def ended(outcome: Outcome) -> None:
            log_in.outcome, log_in.at = outcome, self.network.monotonic()
            path.close()
            self.fresh.append(log_in)

        role = ClientNegotiation(log_in.wish(), Carrier.UDP, b"cnonce-%d" % number)
        path.negotiate(role).addCallback(ended)

    def tick(self) -> None:
        """As the daemon does: a round every second, never two at once."""
        if not self.ticking:
            self.ticking = True
            self.world.udp.tick()
            ensureDeferred(self.world.broker.tick()).addCallback(lambda _: setattr(self, "ticking", False))

    def until(self, over: Callable[[], bool]) -> None:
        clock = self.network
        second = clock.monotonic()
        while not over():
            due = min((each.getTime() for each in clock.getDelayedCalls()), default=second + 1)
            clock.advance(max(0.0, min(due, second + 1) - clock.monotonic()))
            if clock.monotonic() >= second + 1:
                second += 1
                self.tick()
            self.check()

    def all_end(self) -> None:
        deadline = self.network.monotonic() + PATIENCE
        self.until(lambda: all(each.outcome for each in self.log_ins) or self.network.monotonic() > deadline)
        assert all(each.outcome for each in self.log_ins)

    def passes(self, seconds: float) -> None:
        end = self.network.monotonic() + seconds
        self.until(lambda: self.network.monotonic() >= end)

    # --- what must be true ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """At any moment."""
        assert self.network.faults == []
        raised = {each.spec.id for each in now(self.world.plane.dump())}
        live = rows(self.directory, "SELECT owner, id FROM session WHERE ended IS NULL ORDER BY id")
        owners = Counter(owner for owner, _ in live)
        standing = Counter(owner for owner, tunnel in live if tunnel in raised)
        assert max(standing.values(), default=0) <= 1, "an owner has two tunnels"
        # The end of a session that was replaced is written in the next round.
        moment = self.network.monotonic()
        self.doubled = {each: self.doubled.get(each, moment) for each, count in owners.items() if count > 1}
        while self.fresh:
            self.judge(self.fresh.pop())
        assert all(moment - since <= 2 + 4 * self.slowest for since in self.doubled.values())

    def judge(self, log_in: LogIn) -> None:
        """When a log-in has ended."""
        outcome = log_in.outcome
        if isinstance(outcome, Done):
            assert log_in.knows
            assert outcome.offer is not None
            mine = [each for each in self.opened(log_in.owner) if each.spec.remote == log_in.remote]
            assert (outcome.offer.client_inner, outcome.offer.prefix) in [
                (each.spec.address, each.spec.prefix) for each in mine
            ]
            stood = {each.session.id for each in self.of(SessionEstablished)}
            stood |= {each.session.id for each in self.of(SessionEnded) if each.ending.reason is EndReason.REPLACED}
            assert stood & {each.id for each in mine}, "accepted what is not there"
        elif isinstance(outcome, Failed):
            assert type(outcome.error) in REFUSALS
            # A copy of VERSION that comes late looks like a client that was started again; what the client says next
            # makes no sense to the negotiation that this began. No other accident looks like a wrong password.
            if log_in.knows and isinstance(outcome.error, AuthenticationFailed):
                assert self.openings[log_in.remote] > 1
        else:
            assert isinstance(outcome, Silent)
            assert outcome.why in SILENCES

    def of(self, kind: type[T]) -> list[T]:
        return [each for each in self.world.events if isinstance(each, kind)]

    def opened(self, owner: str) -> list[Any]:
        return [each.session for each in self.of(SessionOpened) if each.session.owner == owner]

    def each_owner_has_one_address(self) -> None:
        for owner in {each.owner for each in self.log_ins}:
            given = {(each.spec.address, each.spec.prefix) for each in self.opened(owner)}
            assert len(given) <= 1

    def a_good_network_ends_it_well(self) -> None:
        """All is over; over a network that works everybody gets what they had, and nothing stays behind."""
        self.network.rest = PROMPT
        self.network._fates = iter(())
        self.disk.seconds = 0.0
        self.passes(120.0)
        again = [
            LogIn(who, 0.0, mechanism)
            for who, mechanism in dict.fromkeys((each.who, each.mechanism) for each in self.log_ins)
        ]
        for log_in in again:
            self.start(log_in)
            self.all_end()
            assert isinstance(log_in.outcome, Done), log_in.outcome
        self.each_owner_has_one_address()
        self.passes(120.0)
        assert {each.owner for each in self.world.live()} == {each.owner for each in again}
        assert len(self.world.udp) == 0


@contextmanager
def run(fates: list[Fate], rest: Fate, seconds: float) -> Iterator[Run]:
    network = Network(fates, rest)

    def observe(event: Any) -> None:
        if "log_failure" in event:
            network.faults.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    try:
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
            disk = Disk(network)
            world = network.world = World(Path(directory), accounts=PASSWORDS, clock=network, in_thread=disk)
            disk.seconds = seconds
            yield Run(network, disk, world, Path(directory), seconds)
            world.close()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert network.faults == []


chosen = {
    "fates": st.lists(fates, min_size=40, max_size=80),
    "rest": st.sampled_from((PROMPT, ())),
    "commit": st.sampled_from((0.0, 0.3, 3.0)),
}
beginnings = st.sampled_from((0.0, 0.1, 1.0, 3.0, 20.0, 100.0))
names = st.sampled_from(sorted(PASSWORDS))
knowing = st.sampled_from((True, True, True, False))


@pytest.mark.slow
@given(log_ins=st.lists(st.builds(LogIn, names, beginnings, knows=knowing), min_size=1, max_size=4), **chosen)
def test_log_ins_by_digest(log_ins: list[LogIn], fates: list[Fate], rest: Fate, commit: float) -> None:
    with run(fates, rest, commit) as it:
        for log_in in log_ins:
            it.start(log_in)
        it.all_end()
        # Only who got the challenge can answer it: copies of a whole log-in are no log-in.
        log_ins_from = Counter(each.link.remote for each in it.of(LoggedIn))
        tunnels_to = Counter(each.session.spec.remote for each in it.of(SessionOpened))
        assert {*log_ins_from.values(), *tunnels_to.values()} <= {1}
        it.each_owner_has_one_address()
        it.a_good_network_ends_it_well()


@pytest.mark.slow
@given(
    mechanisms=st.lists(st.sampled_from(("PLAIN", "ANONYMOUS")), min_size=1, max_size=3),
    pause=st.sampled_from((0.0, 5.0, 50.0)),
    **chosen,
)
def test_log_ins_that_every_copy_of_is_one(
    mechanisms: list[str], pause: float, fates: list[Fate], rest: Fate, commit: float
) -> None:
    with run(fates, rest, commit) as it:
        for mechanism in mechanisms:
            it.start(LogIn("alice" if mechanism == "PLAIN" else None, 0.0, mechanism))
            it.all_end()
            it.passes(pause)
        it.each_owner_has_one_address()
        it.a_good_network_ends_it_well()


@pytest.mark.parametrize("mechanism", ["DIGEST-MD5", "PLAIN", "ANONYMOUS"])
@given(lost=st.sets(st.integers(0, 16), max_size=2))
@example(lost={0, 1})
@example(lost={10, 11})
def test_two_lost_datagrams_cost_seconds_and_nothing_else(mechanism: str, lost: set[int]) -> None:
    with run([() if number in lost else PROMPT for number in range(17)], PROMPT, 0.0) as it:
        log_in = LogIn(None if mechanism == "ANONYMOUS" else "alice", 0.0, mechanism)
        it.start(log_in)
        it.all_end()
        assert isinstance(log_in.outcome, Done)
        assert log_in.at <= 1000.0 + 0.5 + 2.0 * len(lost)
        for kind in (LoggedIn, SessionOpened, SessionEstablished):
            assert len(it.of(kind)) == 1
