# SPDX-License-Identifier: GPL-2.0-or-later
"""What the module does with requests: one test for each promise of uapi/utun.h."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from support.netns import wait_until
from support.vm_net import BROKER, CLIENT, HOST, PORT, PREFIX, SOURCE, Net, hop, ipv6, make_utun, signalling_socket
from support.vm_utun import (
    A_FD,
    A_IFINDEX,
    A_PEER,
    A_PEERS,
    DEV_GET,
    DUMP,
    FLAGS,
    ID,
    MOVED,
    MTU,
    PEER_ADD,
    PEER_DEL,
    PEER_FLUSH,
    PEER_GET,
    REMOTE4,
    REMOTE_PORT,
    ROAM_PORT,
    SIXINFOUR,
    SOCKET_ADD,
    SOCKET_GONE,
    SPOOFED,
    STRANGER,
    TRANSPORT,
    UNREACHABLE,
    Event,
    Events,
    Netlink,
    Peer,
    Refused,
    Utun,
    attr,
    nest,
    prefix,
    u8,
    u16,
    u32,
)

OTHER = Peer(2, ["2001:db8:1::102/128"], (CLIENT, 40002))


def refused(code: int, said: str, request: Callable[[], object]) -> Refused:
    """The request is refused with this error and a sentence that has these words."""
    with pytest.raises(Refused) as caught:
        request()
    assert (errno.errorcode[caught.value.errno], said in caught.value.said) == (errno.errorcode[code], True), (
        caught.value
    )
    return caught.value


# --- peers --------------------------------------------------------------------------------------------------------


def test_a_peer_is_shown_as_it_was_asked_for(net: Net) -> None:
    before = net.utun.device()
    wanted = Peer(7, [f"{SOURCE}/128", PREFIX, PREFIX], (CLIENT, 40001), mtu=1400, flags=3)
    net.utun.add(wanted)
    seen = net.utun.one(7)
    assert (seen.local, seen.remote, seen.transport) == (wanted.local, wanted.remote, wanted.transport)
    assert (seen.mtu, seen.flags, seen.prefixes) == (1400, 3, [f"{SOURCE}/128", PREFIX])
    assert (seen.carried, seen.last_rx, seen.drops) == ((0, 0, 0, 0), None, {})
    assert net.utun.dump() == [seen]
    after = net.utun.device()
    assert (after["peers"], after["sockets"]) == (before["peers"] + 1, 1)
    assert after["generation"] == before["generation"] + 1


def test_many_in_one_message_and_a_dump_in_order(net: Net) -> None:
    wanted = [Peer(n, [f"2001:db8:1::{n:x}/128"], (CLIENT, 40000 + n)) for n in (30, 5, 4000, 17)]
    net.utun.add(*wanted)
    assert [each.id for each in net.utun.dump()] == [5, 17, 30, 4000]
    assert [each.id for each in net.utun.get(17, 6, 4000)] == [17, 4000]
    assert [each.id for each in net.utun.delete(17, 6, 17, 5)] == [17, 5]
    assert [each.id for each in net.utun.dump()] == [30, 4000]
    net.utun.flush()
    assert net.utun.dump() == []
    assert net.utun.device()["peers"] == 0


def test_the_first_refusal_ends_a_message_and_is_pointed_at(net: Net, peer: Peer) -> None:
    one, two = Peer(3, ["2001:db8:1::3/128"], (CLIENT, 40003)), Peer(4, ["2001:db8:1::4/128"], (CLIENT, 40004))
    fault = refused(errno.EEXIST, "inner address", lambda: net.utun.add(one, replace(OTHER, prefixes=[PREFIX]), two))
    assert [each.id for each in net.utun.dump()] == [1, 3]
    assert fault.offset == 20 + 8 + len(one.pack())


BAD_PEERS: dict[str, tuple[Peer, int, str]] = {
    "another id with its endpoint": (Peer(2, ["2001:db8:1::2/128"]), errno.EADDRINUSE, "outer path"),
    "another id with its address": (replace(OTHER, prefixes=[f"{SOURCE}/128"]), errno.EEXIST, "inner address"),
    "another id with its prefix": (replace(OTHER, prefixes=[PREFIX]), errno.EEXIST, "inner address"),
    "a prefix in another's": (replace(OTHER, prefixes=["2001:db8:8000:180::/60"]), errno.EEXIST, "inner address"),
    "a prefix around another's": (replace(OTHER, prefixes=["2001:db8:8000::/40"]), errno.EEXIST, "inner address"),
    "an address in another's": (
        replace(OTHER, prefixes=["2001:db8:9000::/48", "2001:db8:8000:1ff::1/128"]),
        errno.EEXIST,
        "inner address",
    ),
    "the id is there": (replace(OTHER, id=1), errno.EEXIST, "of this id"),
    "id 0": (replace(OTHER, id=0), errno.ERANGE, ""),
    "no prefix": (replace(OTHER, prefixes=[]), errno.EINVAL, "needs a prefix"),
    "everything as a prefix": (replace(OTHER, prefixes=["::/0"]), errno.EINVAL, "1 to 128"),
    "too many prefixes": (
        replace(OTHER, prefixes=[f"2001:db8:a000:{n:x}::/64" for n in range(65)]),
        errno.E2BIG,
        "64 prefixes",
    ),
    "an MTU below 1280": (replace(OTHER, mtu=1279), errno.ERANGE, ""),
    "an MTU above all": (replace(OTHER, mtu=65508), errno.ERANGE, ""),
    "an unknown flag": (replace(OTHER, flags=4), errno.EINVAL, ""),
    "an unknown transport": (replace(OTHER, transport=3), errno.ERANGE, ""),
    "no remote address": (replace(OTHER, remote=("0.0.0.0", 1)), errno.EINVAL, "address"),
    "a multicast address": (replace(OTHER, remote=("224.0.0.1", 1)), errno.EINVAL, "address"),
    "no port": (replace(OTHER, remote=(CLIENT, 0)), errno.EINVAL, "ports"),
    "both ends the same": (replace(OTHER, remote=(BROKER, PORT)), errno.EINVAL, "same"),
}


@pytest.mark.parametrize("what", BAD_PEERS)
def test_a_peer_that_cannot_be_is_refused_and_nothing_changes(net: Net, peer: Peer, what: str) -> None:
    wanted, code, said = BAD_PEERS[what]
    before, generation = net.utun.dump(), net.utun.device()["generation"]
    refused(code, said, lambda: net.utun.add(wanted))
    if wanted.id == 2:
        net.utun.add(OTHER)
        before.append(net.utun.one(2))
        generation += 1
        refused(code, said, lambda: net.utun.add(wanted, replace=True))
        assert net.utun.one(2) == before[1]
    assert net.utun.dump() == before
    assert net.utun.device()["generation"] == generation


def test_what_is_no_request_is_refused(net: Net, peer: Peer) -> None:
    ask, me = net.netlink.ask, net.utun.me
    refused(errno.EINVAL, "no device", lambda: ask(PEER_GET, nest(A_PEER, u32(ID, 1))))
    refused(errno.ENODEV, "no such device", lambda: ask(PEER_ADD, u32(A_IFINDEX, 9999)))
    refused(errno.EOPNOTSUPP, "type utun", lambda: ask(PEER_ADD, u32(A_IFINDEX, 1)))
    refused(errno.EINVAL, "no peer", lambda: ask(PEER_DEL, me))
    refused(errno.EINVAL, "needs an id", lambda: ask(PEER_DEL, me + nest(A_PEER)))
    refused(errno.EINVAL, "needs an id", lambda: ask(PEER_ADD, me + nest(A_PEER, prefix(PREFIX))))
    refused(errno.EINVAL, "", lambda: ask(PEER_DEL, me + nest(A_PEER, u32(ID, 1), u16(MTU, 1300))))
    refused(errno.E2BIG, "128", lambda: ask(PEER_GET, me + nest(A_PEER, u32(ID, 1)) * 129))
    refused(errno.EINVAL, "file descriptor", lambda: ask(SOCKET_ADD, me))
    refused(errno.ENOENT, "no peer", lambda: net.utun.set(99, u16(MTU, 1300)))
    refused(errno.EINVAL, "", lambda: ask(PEER_ADD, me + attr(20, b"what")))
    refused(errno.EINVAL, "", lambda: ask(PEER_ADD, me + nest(A_PEER, u32(ID, 5), attr(30, b"what"))))
    refused(
        errno.EINVAL,
        "behind",
        lambda: ask(PEER_ADD, me + nest(A_PEER, u32(ID, 5), attr(9, b"\xff" * 16 + b"\x10\0\0\0"))),
    )
    for command, other in (
        *((DEV_GET, nest(A_PEER, u32(ID, 1))), (PEER_FLUSH, nest(A_PEER, u32(ID, 1))), (PEER_FLUSH, u32(A_FD, 0))),
        *((SOCKET_ADD, u32(A_FD, 0) + nest(A_PEER)), (PEER_ADD, u32(A_FD, 0)), (PEER_GET, u32(A_PEERS, 1))),
    ):
        refused(errno.EINVAL, "attribute", lambda command=command, other=other: ask(command, me + other))
    refused(errno.EINVAL, "names no peers", lambda: ask(PEER_GET, me + nest(A_PEER, u32(ID, 1)), DUMP))
    refused(errno.EINVAL, "", lambda: ask(PEER_ADD, me + attr(A_PEER, u32(ID, 5))))  # without NLA_F_NESTED
    refused(errno.EINVAL, "", lambda: ask(PEER_GET, me + nest(A_PEER, u32(ID, 1), b"\x05\0")))
    refused(errno.EOPNOTSUPP, "", lambda: ask(77, me))
    assert [each.id for each in net.utun.dump()] == [1]


def test_who_may_not_administer_the_network_gets_nothing(net: Net, peer: Peer) -> None:
    with net.broker.inside():
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgid(65534)
                os.setuid(65534)
                stranger = Utun(Netlink(), struct.unpack_from("=I", net.utun.me, 4)[0])
                for request in (stranger.dump, stranger.flush, stranger.device, lambda: stranger.get(1)):
                    refused(errno.EPERM, "", request)
                with pytest.raises(PermissionError):
                    Events()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    assert [each.id for each in net.utun.dump()] == [1]


def test_deleting_gives_the_final_counters(net: Net, peer: Peer) -> None:
    net.up(ipv6(SOURCE, HOST, b"1"))
    net.at_host()
    net.up(ipv6("2001:db8::1", HOST))
    net.drops_to(1, spoofed_source=1)
    (gone,) = net.utun.delete(1)
    assert (gone.carried, gone.drops, gone.remote) == ((1, 41, 0, 0), {"spoofed-source": 1}, peer.remote)
    assert net.utun.dump() == []
    before = net.utun.strays()
    net.up(ipv6(SOURCE, HOST))
    net.stray_to(before, unknown_endpoint=1)


# --- changes ------------------------------------------------------------------------------------------------------


def test_setting_an_endpoint_moves_the_peer_and_keeps_all_else(net: Net, peer: Peer) -> None:
    net.up(ipv6(SOURCE, HOST))
    net.at_host()
    net.client_at(40009)
    net.utun.set(1, attr(REMOTE_PORT, (40009).to_bytes(2, "big")))
    net.down(packet := ipv6(HOST, SOURCE))
    assert net.at_client(40009) == hop(packet)
    net.up(packet := ipv6(SOURCE, HOST, b"moved"), 40009)
    assert net.at_host() == hop(packet)
    before = net.utun.strays()
    net.up(ipv6(SOURCE, HOST))
    net.stray_to(before, unknown_endpoint=1)
    seen = net.utun.one(1)
    assert seen.carried == (2, 85, 1, 40)
    assert (seen.remote, seen.prefixes) == ((CLIENT, 40009), [f"{SOURCE}/128", PREFIX])


def test_setting_the_address_takes_another_route(net: Net, peer: Peer) -> None:
    net.down(ipv6(HOST, SOURCE))
    net.at_client()
    net.client_at(40001, "198.51.100.7")
    net.utun.set(1, attr(REMOTE4, IPv4Address("198.51.100.7").packed))
    net.down(packet := ipv6(HOST, SOURCE, b"there"))
    assert net.at_client(40001, "198.51.100.7") == hop(packet)


def test_setting_prefixes_replaces_them(net: Net, peer: Peer) -> None:
    net.utun.set(1, prefix("2001:db8:9000::/48"), prefix(f"{SOURCE}/128"))
    assert net.utun.one(1).prefixes == ["2001:db8:9000::/48", f"{SOURCE}/128"]
    net.up(packet := ipv6("2001:db8:9000::1", HOST))
    assert net.at_host() == hop(packet)
    net.up(ipv6("2001:db8:8000:100::1", HOST))
    net.drops_to(1, spoofed_source=1)
    before = net.utun.strays()
    net.down(ipv6(HOST, "2001:db8:8000:100::1"))
    net.stray_to(before, no_tunnel=1)
    net.add(replace(OTHER, prefixes=[PREFIX]))
    net.down(packet := ipv6(HOST, "2001:db8:8000:100::1"))
    assert net.at_client(40002) == hop(packet)


def test_adding_with_replace_is_the_whole_truth_and_keeps_the_counters(net: Net, peer: Peer) -> None:
    net.up(ipv6(SOURCE, HOST))
    net.at_host()
    net.utun.set(1, u32(FLAGS, ROAM_PORT), u16(MTU, 1400))
    net.add(Peer(1, ["2001:db8:1::77/128"], (CLIENT, 40007)), replace=True)
    seen = net.utun.one(1)
    assert (seen.mtu, seen.flags, seen.prefixes) == (1280, 0, ["2001:db8:1::77/128"])
    assert seen.carried == (1, 40, 0, 0)
    net.add(Peer(2, [f"{SOURCE}/128"]), replace=True)
    net.down(packet := ipv6(HOST, SOURCE))
    assert net.at_client() == hop(packet)


def test_a_refused_change_changes_nothing(net: Net, peer: Peer) -> None:
    net.add(OTHER)
    before = net.utun.dump()
    taken = attr(REMOTE_PORT, (40001).to_bytes(2, "big"))
    refused(errno.EADDRINUSE, "outer path", lambda: net.utun.set(2, taken, u16(MTU, 1400)))
    refused(errno.EEXIST, "inner address", lambda: net.utun.set(2, prefix("2001:db8:b000::/48"), prefix(PREFIX)))
    refused(errno.EINVAL, "ports", lambda: net.utun.set(2, u8(TRANSPORT, SIXINFOUR)))
    assert net.utun.dump() == before
    net.down(packet := ipv6(HOST, "2001:db8:1::102"))
    assert net.at_client(40002) == hop(packet)


def test_a_dump_says_when_peers_changed_under_it(net: Net) -> None:
    peers = [Peer(n, [f"2001:db8:1::1:{n:x}/128"], ("203.0.113.1", n)) for n in range(1, 801)]
    for at in range(0, 800, 100):
        net.utun.add(*peers[at : at + 100])
    assert len(net.utun.dump()) == 800
    assert not net.netlink.interrupted
    with net.broker.inside():
        other = Netlink()
    message = other.pack(PEER_GET, net.utun.me, 0x300)
    other.send(message)
    net.utun.delete(800)
    other.answers(other.sequence)
    assert other.interrupted
    other.close()


# --- sockets ------------------------------------------------------------------------------------------------------


def test_sockets_that_cannot_be_attached(net: Net) -> None:
    tcp = net.broker.socket(socket.AF_INET, socket.SOCK_STREAM)
    unbound = net.broker.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connected = signalling_socket(net.broker, BROKER, 4000)
    connected.connect((CLIENT, 1))
    refused(errno.EPROTOTYPE, "UDP", lambda: net.utun.attach(tcp))
    refused(errno.EDESTADDRREQ, "bound", lambda: net.utun.attach(unbound))
    refused(errno.EISCONN, "connected", lambda: net.utun.attach(connected))
    refused(errno.EALREADY, "this device already", lambda: net.utun.attach(net.signalling))
    refused(errno.EBADF, "descriptor", lambda: net.utun.attach(999))
    refused(errno.EBADF, "descriptor", lambda: net.netlink.ask(SOCKET_ADD, net.utun.me + u32(A_FD, 0xFFFFFFFF)))
    refused(errno.ENOTSOCK, "", lambda: net.utun.attach(0))
    refused(errno.ENOENT, "not attached", lambda: net.utun.detach(unbound))
    netlink, other = make_utun(net.broker, "utun9")
    refused(errno.EBUSY, "something", lambda: other.attach(net.signalling))
    net.broker.run("ip", "link", "delete", "utun9")
    for each in (tcp, unbound, connected, netlink):
        each.close()
    assert net.utun.device()["sockets"] == 1


def test_a_detached_socket_is_an_ordinary_one_again(net: Net, peer: Peer) -> None:
    net.utun.detach(net.signalling)
    try:
        net.up(packet := ipv6(SOURCE, HOST, b"data"))
        net.signalling.settimeout(5)
        assert net.signalling.recv(2000) == packet
        assert net.utun.one(1).carried == (0, 0, 0, 0)
    finally:
        net.utun.attach(net.signalling)
    net.up(packet)
    assert net.at_host() == hop(packet)


def test_peers_outlive_the_socket_and_are_carried_by_the_next(net: Net, peer: Peer) -> None:
    with net.broker.inside():
        events = Events()
    net.up(ipv6(SOURCE, HOST))
    net.at_host()
    net.signalling.close()
    assert net.utun.device()["sockets"] == 0
    (event,) = events.read()
    assert (event.kind, event.peer.local) == (SOCKET_GONE, ("0.0.0.0", PORT))
    net.down(ipv6(HOST, SOURCE))
    net.drops_to(1, not_sent=1)
    net.signalling = signalling_socket(net.broker)
    net.utun.attach(net.signalling)
    net.client_at().close()
    del net.clients[CLIENT, 40001]  # it has an ICMP error waiting
    net.up(packet := ipv6(SOURCE, HOST, b"again"))
    assert net.at_host() == hop(packet)
    net.down(packet := ipv6(HOST, SOURCE, b"again"))
    assert net.at_client() == hop(packet)
    assert net.utun.one(1).carried == (2, 85, 1, 45)
    events.close()


def test_several_sockets_of_one_device(net: Net) -> None:
    net.broker.address(net.outer[1], "192.0.2.80/24")
    second = signalling_socket(net.broker, "192.0.2.80", 4000)
    six = net.broker.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.bind(("::", PORT))
    net.utun.attach(second)
    net.utun.attach(six)
    assert net.utun.device()["sockets"] == 3
    net.add(Peer(1, [f"{SOURCE}/128"]), replace(OTHER, local=("192.0.2.80", 4000)))
    for identity, address, local in ((1, SOURCE, (BROKER, PORT)), (2, "2001:db8:1::102", ("192.0.2.80", 4000))):
        client = net.client_at(40000 + identity)
        net.down(packet := ipv6(HOST, address))
        assert client.recvfrom(2000) == (hop(packet), local)
        client.sendto(packet := ipv6(address, HOST), local)
        assert net.at_host() == hop(packet)
    # The wrong one of our addresses is not the peer's path.
    before = net.utun.strays()
    net.client_at(40001).sendto(ipv6(SOURCE, HOST), ("192.0.2.80", 4000))
    net.stray_to(before, unknown_endpoint=1)
    # Data over IPv6 is nobody's, signalling goes on.
    sender = net.broker.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sender.sendto(ipv6(SOURCE, HOST), ("::1", PORT))
    net.stray_to(before, unknown_endpoint=2)
    sender.sendto(b"\xf0" + bytes(7), ("::1", PORT))
    six.settimeout(5)
    assert six.recv(100) == b"\xf0" + bytes(7)
    for each in (second, six, sender):
        each.close()
    assert net.utun.device()["sockets"] == 1
    net.broker.run("ip", "address", "del", "192.0.2.80/24", "dev", net.outer[1])


# --- events -------------------------------------------------------------------------------------------------------


def test_events_tell_of_strangers_and_spoofers_and_are_limited(net: Net, peer: Peer) -> None:
    with net.broker.inside():
        events = Events()
    time.sleep(1.1)  # what other tests used up of the second's allowance
    net.up(ipv6(SOURCE, HOST), 40005)
    stranger = wait_until(lambda: next(events.read(), None), "an event")
    assert (stranger.kind, stranger.inner, stranger.peer.id) == (STRANGER, SOURCE, 0)
    assert (stranger.peer.remote, stranger.peer.local) == ((CLIENT, 40005), (BROKER, PORT))
    net.up(ipv6("2001:db8::9", HOST))
    spoofer = wait_until(lambda: next(events.read(), None), "an event")
    assert (spoofer.kind, spoofer.inner, spoofer.peer.id) == (SPOOFED, "2001:db8::9", 1)
    before = net.utun.strays()
    for _ in range(300):
        net.up(ipv6(SOURCE, HOST), 40005)
    net.stray_to(before, unknown_endpoint=300)
    assert 1 <= len(list(events.read())) <= 100
    events.close()


def test_an_icmp_error_for_a_peer_is_told_and_not_the_sockets(net: Net, peer: Peer) -> None:
    with net.broker.inside():
        events = Events()
    net.clients.pop((CLIENT, 40001)).close()

    def told() -> Event | None:
        net.down(ipv6(HOST, SOURCE))
        return next((each for each in events.read() if each.kind == UNREACHABLE), None)

    event = wait_until(told, "an event")
    assert (event.peer.id, event.peer.remote, event.inner) == (1, peer.remote, None)
    assert net.signalling.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    events.close()


def test_data_moves_a_peer_only_if_it_asked_for_it_and_only_to_another_port(net: Net, peer: Peer) -> None:
    net.add(replace(OTHER, flags=ROAM_PORT))
    with net.broker.inside():
        events = Events()
    time.sleep(1.1)  # what other tests used up of the second's allowance
    before = net.utun.strays()
    net.up(ipv6(SOURCE, HOST), 40011)
    net.up(ipv6("2001:db8:1::102", HOST), 40012, "198.51.100.7")
    net.stray_to(before, unknown_endpoint=2)
    time.sleep(0.2)
    assert [each.remote for each in net.utun.get(1, 2)] == [(CLIENT, 40001), (CLIENT, 40002)]
    net.up(ipv6("2001:db8:1::102", HOST), 40013)
    wait_until(lambda: net.utun.one(2).remote == (CLIENT, 40013), "the move")
    net.up(packet := ipv6("2001:db8:1::102", HOST, b"moved"), 40013)
    assert net.at_host() == hop(packet)
    net.down(packet := ipv6(HOST, "2001:db8:1::102", b"moved"))
    assert net.at_client(40013) == hop(packet)
    assert MOVED in [each.kind for each in events.read()]
    net.up(ipv6("2001:db8:1::102", HOST), 40014)
    time.sleep(0.1)
    assert net.utun.one(2).remote == (CLIENT, 40013)  # not twice in a second
    events.close()
