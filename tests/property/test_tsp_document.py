# SPDX-License-Identifier: GPL-2.0-or-later
"""Documents come back as they were written, and no octets make reading do anything but return or raise TspError."""

from __future__ import annotations

import contextlib
from ipaddress import IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from ddtb6.addressing.endpoint import Encapsulation
from ddtb6.tsp.document import (
    ACCEPT,
    read_brokers,
    read_offer,
    read_request,
    write_create,
    write_delete,
    write_reply,
)
from ddtb6.tsp.messages import Accept, Create, Delete, Info, Keepalive, Offer, Reject
from ddtb6.tsp.status import TspError

ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6)
names = st.from_regex(r"\A[a-z][a-z0-9-]{0,20}[a-z](\.[a-z][a-z0-9]{0,10}){0,3}\Z")
counts = st.integers(0, 999_999_999)


@st.composite
def creates(draw: st.DrawFn) -> Create:
    encapsulation = draw(st.sampled_from(Encapsulation))
    inside_ipv6 = encapsulation is Encapsulation.V4V6
    length = draw(st.none() | st.integers(1, 32 if inside_ipv6 else 128))
    servers = st.lists(ipv4 | ipv6.map(str) | names, max_size=16).map(tuple)
    return Create(
        encapsulation=encapsulation,
        client_address=str(draw(ipv6)) if inside_ipv6 else draw(ipv4),
        proxy=draw(st.booleans()),
        prefix_length=length,
        keepalive=draw(st.none() | counts),
        name_servers=() if length is None else draw(servers),
    )


offers = st.builds(
    Offer,
    encapsulation=st.sampled_from([Encapsulation.V6V4, Encapsulation.V6UDPV4]),
    lifetime=counts,
    server_outer=ipv4,
    server_inner=ipv6,
    client_outer=ipv4,
    client_inner=ipv6,
    prefix=st.none() | st.builds(lambda a, n: IPv6Network((int(a), n), strict=False), ipv6, st.integers(1, 128)),
    name=st.none() | names,
    resolver=st.none() | ipv6,
    keepalive=st.none() | st.builds(Keepalive, counts, ipv6),
)


@given(creates())
def test_create_round_trip(create: Create) -> None:
    assert read_request(write_create(create)) == create


@given(offers)
def test_offer_round_trip(offer: Offer) -> None:
    assert read_offer(write_reply(offer)) == offer


@given(st.builds(Offer, st.just(Encapsulation.V6UDPV4), counts, ipv4, ipv6, ipv4, ipv6, name=st.none() | st.text()))
def test_a_reply_is_one_line_whatever_the_name(offer: Offer) -> None:
    xml = write_reply(offer)
    assert xml.endswith(b"</client></tunnel>\r\n")
    if offer.name is not None and not {"\r", "\n"} & set(offer.name):
        assert xml.count(b"\n") == 1
    assert b"<!" not in xml


@st.composite
def mutated(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    octets = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(octets)))
        end = draw(st.integers(begin, min(len(octets), begin + 12)))
        octets[begin:end] = draw(
            st.binary(max_size=6) | st.sampled_from([b"<", b">", b'"', b"&#0;", b"&x;", b"/", b"\0"])
        )
    return bytes(octets)


documents = st.one_of(
    creates().map(write_create), offers.map(write_reply), st.sampled_from([ACCEPT, write_delete()]), st.binary()
)


@given(mutated(documents) | st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")))
def test_any_octets_are_read_or_refused(xml: bytes) -> None:
    with contextlib.suppress(TspError):
        assert isinstance(read_request(xml), Create | Accept | Reject | Info | Delete)
    with contextlib.suppress(TspError):
        assert isinstance(read_offer(xml), Offer)
    with contextlib.suppress(TspError):
        assert all(isinstance(each, str) for each in read_brokers(xml))


@given(mutated(creates().map(write_create)))
def test_what_is_read_can_be_written_again(xml: bytes) -> None:
    try:
        request = read_request(xml)
    except TspError:
        return
    if isinstance(request, Create) and (request.prefix_length is not None or not request.name_servers):
        again = read_request(write_create(request))
        assert again == request
