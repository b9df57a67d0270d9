# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's data plane: one device of the module utun carries every tunnel, packets never come to this process.

Tunnels are the module's peers. They live in the kernel: they stand, and go on counting, while this process restarts,
and a socket that the service manager holds keeps its packets flowing all that time.
Invariants: what the kernel has is asked of the kernel; what is remembered here is only how a spec looks as octets. The
device, its addresses and routes stay when the daemon stops; who wants them gone removes the device.
The module's own events are not listened to: they are hints that nothing here would act on, and a listener costs a
look-up for each stranger's packet. What must be known, that the device is gone or down, comes from rtnetlink.
Not here: the messages (`dataplane.utun_messages`), opening sockets (`transport`), packets (the kernel).
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv6Interface

from twisted.internet.defer import Deferred

from ddtb6.addressing.endpoint import Encapsulation
from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker.planes import Carried, DataPlaneError, PlaneEvent, PlaneLost
from ddtb6.broker.ports import Clock
from ddtb6.dataplane import limits
from ddtb6.dataplane import utun_messages as wire
from ddtb6.dataplane.device import carried
from ddtb6.dataplane.echo import EchoSocket
from ddtb6.dataplane.genetlink import (
    ACK,
    DUMP,
    REPLACE,
    Descriptors,
    Family,
    Genetlink,
    Interrupted,
    Refused,
    attributes,
    find_family,
)
from ddtb6.dataplane.link_watch import LinkWatch
from ddtb6.dataplane.links import NEXT_HOP, Layout, Links, make_link, warn_unless_forwarding
from ddtb6.tunnel.reasons import Refusal
from ddtb6.tunnel.spec import Counters, Observed, TunnelId, TunnelSpec

DUMP_TRIES = 3
"""A dump that something changed meanwhile is repeated; then it is taken as it is. It goes by rising ids, so what
existed all the time is in it, once, whatever came and went."""


def utun_family() -> Family:
    """The module's family in this kernel, which loads the module for it if it can. Raises DataPlaneError."""
    try:
        family = find_family(wire.NAME)
    except OSError as error:
        raise DataPlaneError(f"generic netlink does not answer: {error.strerror}") from error
    if family is None:
        raise DataPlaneError("the utun module is not loaded: install utun-dkms, or build kmod/utun; then modprobe utun")
    if family.version != wire.VERSION:
        raise DataPlaneError(
            f"the utun module speaks version {family.version} of its interface and ddtb6 version {wire.VERSION}: "
            "install both from one release, and load the module again (rmmod utun; modprobe utun)"
        )
    return family


class UtunPlane:
    """`planes.DataPlane` over the kernel module."""

    name = "utun"
    encapsulations = frozenset((Encapsulation.V6UDPV4, Encapsulation.V6V4))
    outlives = True

    def __init__(
        self,
        reactor: Descriptors,
        clock: Clock,
        device: str,
        pools: Sequence[Pool],
        mtu: int,
        own_addresses: Collection[str] = (),
    ) -> None:
        """`mtu` is the device's, octets. `own_addresses`: outer addresses of this machine, loopback left out."""
        self._reactor = reactor
        self._now = clock.monotonic
        self._device = device
        self._own = frozenset(own_addresses)
        self._blocks = tuple(pool.block for pool in pools)
        addresses = tuple(IPv6Interface((p.broker_address, 128)) for p in pools if p.use is not Use.PREFIXES)
        self._layout = Layout(mtu, addresses, self._blocks, NEXT_HOP, unreachable=self._blocks)
        self._sockets: tuple[int, ...] = ()
        self._listeners: list[Callable[[PlaneEvent], None]] = []
        self._netlink: Genetlink | None = None
        self._echoes: EchoSocket | None = None
        self._watch: LinkWatch | None = None
        self._me = b""
        """The attribute that names our device."""
        self._known: dict[TunnelId, tuple[bytes, TunnelSpec]] = {}
        """Specs as octets. What is missing here, or is something else in the kernel, is read the long way."""
        self._strays_before: dict[Refusal, int] = {}
        """What to add to what the device has counted, for it may be older than this process, and younger."""
        self._strays_now: Mapping[Refusal, int] = {}
        """What the device had counted when it was last asked."""
        self._lost = False

    # --- verbs ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the device, its addresses and routes; makes them again after a loss. Raises DataPlaneError."""
        family = utun_family()
        index = make_link(self._device, wire.NAME)
        Links().apply(self._device, self._layout)
        if self._netlink is None or self._watch is None or self._lost:
            strays = self.strays()
            self._close()
            try:
                self._watch = LinkWatch(self._reactor, index, self._trouble)
                self._netlink = Genetlink(self._reactor, family, self._lose)
            except OSError as error:
                self._close()
                raise DataPlaneError(f"netlink cannot be opened: {error.strerror}") from error
            self._me = wire.u32(wire.A_IFINDEX, index)
            self._strays_before, self._strays_now = {}, {}
            counted = self.strays()
            self._strays_before = {each: strays.get(each, 0) - counted.get(each, 0) for each in (*strays, *counted)}
        await self.attach(self._sockets)
        self._lost = False
        warn_unless_forwarding()

    async def stop(self) -> None:
        """Let go. Device and tunnels stay."""
        self._close()
        if self._echoes is not None:
            self._echoes.close()
            self._echoes = None

    async def attach(self, sockets: Iterable[int]) -> None:
        """Have the kernel carry what comes through these UDP sockets, and send through them. Raises DataPlaneError.

        They are this process's descriptors; the signalling that comes goes on to it. When the device has to be made
        again they are attached again, so they must stay open. Attaching twice is attaching once.
        """
        self._sockets = tuple(sockets)
        for each in self._sockets:
            try:
                await self._ask(wire.SOCKET_ADD, wire.u32(wire.A_FD, each))
            except Refused as refusal:
                if refusal.code != errno.EALREADY:
                    raise self._error("a socket cannot be handed to the kernel", refusal) from refusal

    async def raise_tunnel(self, spec: TunnelSpec) -> None:
        octets = self._octets(spec)
        try:
            await self._ask(wire.PEER_ADD, wire.peer(octets), ACK | REPLACE)
        except Refused as refusal:
            raise await self._explained(spec, refusal) from refusal
        self._known[spec.id] = octets, spec

    async def raise_tunnels(self, specs: Sequence[TunnelSpec]) -> Mapping[TunnelId, str]:
        refused: dict[TunnelId, str] = {}
        rest: list[tuple[bytes, TunnelSpec]] = []
        for spec in specs:
            try:
                rest.append((self._octets(spec), spec))
            except DataPlaneError as error:
                refused[spec.id] = str(error)
        while rest:
            starts, at = [], len(self._me)
            for octets, _ in rest:
                starts.append(at)
                at += 4 + len(octets)
            try:
                await self._ask(wire.PEER_ADD, b"".join(wire.peer(octets) for octets, _ in rest), ACK | REPLACE)
                taken = len(rest)
            except Refused as refusal:
                # Those before the one at fault stand.
                taken = bisect_right(starts, refusal.where) - 1 if refusal.where is not None else 0
                spec = rest[taken][1]
                refused[spec.id] = str(await self._explained(spec, refusal))
            self._known.update((spec.id, (octets, spec)) for octets, spec in rest[:taken])
            rest = rest[taken + 1 :]
        await self._open().turn()
        return refused

    async def lower_tunnel(self, tunnel: TunnelId) -> Counters | None:
        try:
            answers = await self._ask(wire.PEER_DEL, wire.named(tunnel), 0)
        except Refused as refusal:
            raise self._error(f"tunnel {tunnel} cannot be lowered", refusal) from refusal
        gone = [each for body in answers for each in self._read(body)]
        self._known.pop(tunnel, None)
        return gone[0].counters if gone else None

    async def dump(self, tunnels: Collection[TunnelId] | None = None) -> Sequence[Observed]:
        found: dict[TunnelId, Observed] = {}

        def take(body: bytes) -> None:
            for each in self._read(body):
                found[each.spec.id] = each

        try:
            if tunnels is None:
                await self._dump_all(found, take)
            else:
                wanted = list(tunnels)
                for start in range(0, len(wanted), wire.IDS_MAX):
                    names = b"".join(map(wire.named, wanted[start : start + wire.IDS_MAX]))
                    await self._ask(wire.PEER_GET, names, 0, take)
        except Refused as refusal:
            raise self._error("the kernel does not tell its tunnels", refusal) from refusal
        return list(found.values())

    async def _dump_all(self, found: dict[TunnelId, Observed], take: Callable[[bytes], None]) -> None:
        for _ in range(DUMP_TRIES):
            found.clear()
            try:
                await self._ask(wire.PEER_GET, b"", DUMP, take)
            except Interrupted:
                continue
            return

    def strays(self) -> Mapping[Refusal, int]:
        if self._netlink is not None:
            # The kernel has answered once it has been asked. Only behind a long dump it has not: then the next call
            # has the answer.
            self._netlink.ask(wire.DEV_GET, self._me, 0, self._take_strays).addErrback(lambda _: None)
        reasons = (*self._strays_before, *self._strays_now)
        return {each: self._strays_before.get(each, 0) + self._strays_now.get(each, 0) for each in reasons}

    def carried(self) -> Carried | None:
        return carried(self._device)

    def send_echo(self, source: bytes, destination: bytes, rest: bytes) -> bool:
        return self._echoes is not None and self._echoes.send(source, destination, rest)

    def hear_echoes(self, listener: Callable[[bytes, bytes], bool]) -> None:
        try:
            self._echoes = EchoSocket(self._reactor, listener)
        except OSError as error:
            raise DataPlaneError(
                f"a raw ICMPv6 socket cannot be opened ({error.strerror}): that needs CAP_NET_RAW"
            ) from error

    def subscribe(self, listener: Callable[[PlaneEvent], None]) -> None:
        self._listeners.append(listener)

    def _take_strays(self, body: bytes) -> None:
        nests = [wire.drops(body, at, end) for kind, at, end in attributes(body) if kind == wire.A_DROPS]
        self._strays_now = nests[0] if nests else {}

    # --- parts ----------------------------------------------------------------------------------------------------

    def _octets(self, spec: TunnelSpec) -> bytes:
        """Raises DataPlaneError for what cannot be carried."""
        limits.check(spec, self.encapsulations, self._own, self._blocks)
        if spec.remote.family != 4 or spec.local.family != 4:
            raise DataPlaneError(f"utun carries tunnels over IPv4, and {spec.remote} to {spec.local} is not")
        return wire.terms(spec)

    def _read(self, body: bytes) -> Iterable[Observed]:
        """The peers in an answer."""
        for at, end in wire.peers(body):
            octets, spec = self._known.get(wire.number(body, at), (b"", None))
            traffic = None
            if spec is not None and body.startswith(octets, at):
                traffic = wire.traffic(body, at + len(octets), end)
            if spec is None or traffic is None:
                spec, past = wire.read(body, at, end)
                octets = body[at:past]
                if wire.terms(spec) != octets:
                    # Not as we make them, whatever it looks like. No tunnel has this MTU, so it is none that is wanted.
                    spec = replace(spec, mtu=0)
                self._known[spec.id] = octets, spec
                traffic = wire.traffic(body, past, end)
                assert traffic is not None, "the module writes counters after the terms"
            seen = None if traffic.silent_for is None else self._now() - traffic.silent_for
            yield Observed(spec, traffic.counters, seen)

    def _ask(
        self, command: int, payload: bytes, flags: int = ACK, each: Callable[[bytes], None] | None = None
    ) -> Deferred[list[bytes]]:
        return self._open().ask(command, self._me + payload, flags, each)

    def _open(self) -> Genetlink:
        if self._netlink is None:
            raise DataPlaneError(f"the device {self._device} is not there")
        return self._netlink

    async def _explained(self, spec: TunnelSpec, refusal: Refused) -> DataPlaneError:
        """Who has what `spec` asks for; the module only says that somebody has. It happens where others add peers."""
        if refusal.code in (errno.EADDRINUSE, errno.EEXIST):
            for each in await self.dump():
                held = each.spec
                if held.id == spec.id:
                    continue
                if refusal.code == errno.EADDRINUSE and (held.local, held.remote) == (spec.local, spec.remote):
                    return DataPlaneError(f"tunnel {held.id} has the endpoint {spec.remote}")
                if refusal.code == errno.EEXIST and any(a.overlaps(b) for a in held.inner for b in spec.inner):
                    return DataPlaneError(f"tunnel {held.id} has an address of {spec.inner_text}")
        return self._error(f"the kernel does not take tunnel {spec.id}", refusal)

    def _error(self, what: str, refusal: Refused) -> DataPlaneError:
        if refusal.code == errno.ENODEV:
            self._lose(f"the device {self._device} is gone")
        if refusal.code == errno.EPERM:
            return DataPlaneError(f"{what}: that needs CAP_NET_ADMIN; run as root, or give the service that capability")
        return DataPlaneError(f"{what}: {refusal}")

    def _trouble(self, why: str) -> None:
        self._lose(f"{self._device}: {why}")

    def _lose(self, why: str) -> None:
        if not self._lost:
            self._lost = True
            for listener in self._listeners:
                listener(PlaneLost(why))

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        self._known.clear()
