# SPDX-License-Identifier: GPL-2.0-or-later
"""The octets of the messages to the kernel module, held against those of pyroute2."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import NLA_F_NESTED, genlmsg, nla
from support.planes import spec

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.dataplane import genetlink
from ddtb6.dataplane import utun_messages as wire
from ddtb6.tunnel.reasons import Refusal
from ddtb6.tunnel.spec import Counters, TunnelId, TunnelSpec


class utunmsg(genlmsg):
    """The family's message as pyroute2 has it declared, from uapi/utun.h."""

    prefix = "UTUN_A_"
    nla_map = (
        *(("UTUN_A_UNSPEC", "none"), ("UTUN_A_IFINDEX", "uint32"), ("UTUN_A_FD", "uint32"), ("UTUN_A_PEER", "peer")),
        *(("UTUN_A_PEERS", "uint32"), ("UTUN_A_SOCKETS", "uint32"), ("UTUN_A_GENERATION", "uint32")),
        *(("UTUN_A_DROPS", "drops"), ("UTUN_A_EVENT", "uint8"), ("UTUN_A_INNER", "ip6addr")),
    )

    class drops(nla):
        nla_flags = NLA_F_NESTED
        nla_map = (("UTUN_DROP_UNSPEC", "none"), *((f"UTUN_DROP_{each.name}", "uint64") for each in wire.REASONS))

    class peer(nla):
        nla_flags = NLA_F_NESTED
        nla_map = (
            *(("UTUN_PEER_A_UNSPEC", "none"), ("UTUN_PEER_A_ID", "uint32"), ("UTUN_PEER_A_TRANSPORT", "uint8")),
            *(("UTUN_PEER_A_LOCAL4", "ip4addr"), ("UTUN_PEER_A_LOCAL_PORT", "be16")),
            *(("UTUN_PEER_A_REMOTE4", "ip4addr"), ("UTUN_PEER_A_REMOTE_PORT", "be16")),
            *(("UTUN_PEER_A_MTU", "uint16"), ("UTUN_PEER_A_FLAGS", "uint32"), ("UTUN_PEER_A_PREFIX", "prefix")),
            *(("UTUN_PEER_A_RX_PACKETS", "uint64"), ("UTUN_PEER_A_RX_BYTES", "uint64")),
            *(("UTUN_PEER_A_TX_PACKETS", "uint64"), ("UTUN_PEER_A_TX_BYTES", "uint64")),
            *(("UTUN_PEER_A_LAST_RX", "uint64"), ("UTUN_PEER_A_DROPS", "drops"), ("UTUN_PEER_A_PAD", "none")),
        )

        class drops(nla):
            nla_flags = NLA_F_NESTED
            nla_map = (("UTUN_DROP_UNSPEC", "none"), *((f"UTUN_DROP_{each.name}", "uint64") for each in wire.REASONS))

        class prefix(nla):
            fields = (("address", "16s"), ("length", "B"), ("reserved", "3s"))


def by_pyroute2(command: int, *attributes: tuple[str, Any], flags: int = 0, number: int = 1) -> bytes:
    made = utunmsg()
    made["cmd"], made["version"] = command, wire.VERSION
    made["attrs"] = list(attributes)
    made["header"] = {"type": 31, "flags": genetlink.REQUEST | flags, "sequence_number": number, "pid": 0}
    made.encode()
    return bytes(made.data)


def peer_of(tunnel: TunnelSpec, *more: tuple[str, Any]) -> tuple[str, Any]:
    """As pyroute2 writes it, in the order of the module's answers."""
    udp = tunnel.encapsulation is Encapsulation.V6UDPV4
    ports = (("UTUN_PEER_A_LOCAL_PORT", tunnel.local.port), ("UTUN_PEER_A_REMOTE_PORT", tunnel.remote.port))
    return "UTUN_A_PEER", {
        "attrs": [
            ("UTUN_PEER_A_ID", tunnel.id),
            ("UTUN_PEER_A_TRANSPORT", wire.UDP if udp else wire.SIXINFOUR),
            ("UTUN_PEER_A_LOCAL4", tunnel.local.address),
            ("UTUN_PEER_A_REMOTE4", tunnel.remote.address),
            *(ports if udp else ()),
            ("UTUN_PEER_A_MTU", tunnel.mtu),
            ("UTUN_PEER_A_FLAGS", 0),
            *(
                (
                    "UTUN_PEER_A_PREFIX",
                    {"address": each.network_address.packed, "length": each.prefixlen, "reserved": bytes(3)},
                )
                for each in dict.fromkeys(tunnel.inner)
            ),
            *more,
        ]
    }


NETWORKS = st.builds(
    lambda high, length: IPv6Network((high << 64 >> 128 - length << 128 - length, length)),
    st.integers(0, (1 << 64) - 1),
    st.integers(1, 64),
)
ENDPOINTS = st.builds(Endpoint, st.ip_addresses(v=4).map(str), st.integers(1, 65535))


@st.composite
def specs(draw: st.DrawFn) -> TunnelSpec:
    encapsulation = draw(st.sampled_from([Encapsulation.V6UDPV4, Encapsulation.V6V4]))
    local, remote = draw(ENDPOINTS), draw(ENDPOINTS)
    if encapsulation is Encapsulation.V6V4:
        local, remote = local._replace(port=0), remote._replace(port=0)
    return replace(
        spec(1),
        id=TunnelId(draw(st.integers(1, (1 << 32) - 1))),
        encapsulation=encapsulation,
        local=local,
        remote=remote,
        address=draw(st.ip_addresses(v=6).map(lambda each: IPv6Address(int(each)))),
        prefix=draw(st.none() | NETWORKS),
        mtu=draw(st.integers(1280, 65507)),
        routes=tuple(draw(st.lists(NETWORKS, max_size=4))),
    )


@given(specs(), specs())
def test_an_add_is_what_pyroute2_makes_of_it(one: TunnelSpec, other: TunnelSpec) -> None:
    payload = wire.u32(wire.A_IFINDEX, 7) + wire.peer(wire.terms(one)) + wire.peer(wire.terms(other))
    ours = genetlink.message(31, wire.PEER_ADD, wire.VERSION, 5, genetlink.ACK | genetlink.REPLACE, payload)
    theirs = by_pyroute2(
        *(wire.PEER_ADD, ("UTUN_A_IFINDEX", 7), peer_of(one), peer_of(other)),
        flags=genetlink.ACK | genetlink.REPLACE, number=5,
    )  # fmt: skip
    assert ours == theirs


def test_other_requests_are_what_pyroute2_makes_of_them() -> None:
    me = wire.u32(wire.A_IFINDEX, 7)
    named = ("UTUN_A_PEER", {"attrs": [("UTUN_PEER_A_ID", 99)]})
    for command, payload, attributes, flags in (
        (wire.DEV_GET, b"", [], 0),
        (wire.SOCKET_ADD, wire.u32(wire.A_FD, 5), [("UTUN_A_FD", 5)], genetlink.ACK),
        (wire.PEER_DEL, wire.named(99), [named], 0),
        (wire.PEER_GET, wire.named(99) * 2, [named, named], 0),
        (wire.PEER_GET, b"", [], genetlink.DUMP),
    ):
        ours = genetlink.message(31, command, wire.VERSION, 1, flags, me + payload)
        assert ours == by_pyroute2(command, ("UTUN_A_IFINDEX", 7), *attributes, flags=flags)


COUNTED = [
    ("UTUN_PEER_A_RX_PACKETS", 1),
    ("UTUN_PEER_A_RX_BYTES", 1 << 40),
    ("UTUN_PEER_A_TX_PACKETS", 3),
    ("UTUN_PEER_A_TX_BYTES", (1 << 64) - 1),
]
DROPPED = ("UTUN_PEER_A_DROPS", {"attrs": [("UTUN_DROP_SPOOFED_SOURCE", 2), ("UTUN_DROP_NOT_SENT", 9)]})


@given(specs(), st.booleans(), st.booleans())
def test_an_answer_of_pyroute2_is_read(tunnel: TunnelSpec, dropped: bool, seen: bool) -> None:
    more = [*COUNTED, *([("UTUN_PEER_A_LAST_RX", 1500)] if seen else []), *([DROPPED] if dropped else [])]
    body = by_pyroute2(wire.PEER_GET, ("UTUN_A_IFINDEX", 7), peer_of(tunnel, *more))[20:]
    [(at, end)] = wire.peers(body)
    assert wire.number(body, at) == tunnel.id
    terms = wire.terms(tunnel)
    assert body.startswith(terms, at)
    found = wire.traffic(body, at + len(terms), end)
    refused = {Refusal.SPOOFED_SOURCE: 2, Refusal.NOT_SENT: 9} if dropped else {}
    assert found == wire.Traffic(Counters(1, 1 << 40, 3, (1 << 64) - 1, refused), 1.5 if seen else None)
    read, past = wire.read(body, at, end)
    assert past == at + len(terms)
    assert wire.terms(read) == terms
    if tunnel.prefix is not None and len(set(tunnel.inner)) == len(tunnel.inner):
        assert read == tunnel


def test_where_the_kernel_pads_numbers_the_same_is_read() -> None:
    tunnel = spec(1)
    pad = ("UTUN_PEER_A_PAD", None)
    counted = [each for counter in COUNTED for each in (pad, counter)]
    padded, plain = (
        by_pyroute2(wire.PEER_GET, ("UTUN_A_IFINDEX", 7), peer_of(tunnel, *more))[20:] for more in (counted, COUNTED)
    )
    size = len(wire.terms(tunnel))
    assert len(padded) == len(plain) + 16
    assert wire.traffic(padded, 12 + size, len(padded)) == wire.traffic(plain, 12 + size, len(plain)) != None  # noqa: E711


def test_terms_that_end_elsewhere_are_noticed() -> None:
    tunnel = spec(1)
    longer = spec(1, routes=(IPv6Network("2001:db8:77::/48"),))
    body = by_pyroute2(wire.PEER_GET, ("UTUN_A_IFINDEX", 7), peer_of(longer, *COUNTED))[20:]
    assert body.startswith(wire.terms(tunnel), 12)
    assert wire.traffic(body, 12 + len(wire.terms(tunnel)), len(body)) is None


def test_reasons_of_a_newer_module_are_left_out() -> None:
    newer = genetlink.attribute(11, struct.pack("=Q", 5)) + genetlink.attribute(255, b"")
    known = genetlink.attribute(1, struct.pack("=Q", 6))
    assert wire.drops(newer + known, 0, len(newer + known)) == {Refusal.MALFORMED: 6}


def test_an_endpoint_that_is_no_ipv4_address_has_no_octets() -> None:
    with pytest.raises(OSError, match="illegal IP"):
        wire.terms(spec(1, remote=Endpoint("2001:db8::1", 1)))
