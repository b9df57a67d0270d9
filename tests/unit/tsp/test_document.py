# SPDX-License-Identifier: GPL-2.0-or-later
"""Documents of deployed clients and of RFC 5572's figures, and documents made to do harm."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest

from ddtb6.addressing.endpoint import Encapsulation
from ddtb6.tsp.document import (
    ACCEPT,
    REJECT,
    read_brokers,
    read_offer,
    read_request,
    write_create,
    write_delete,
    write_info,
    write_reply,
)
from ddtb6.tsp.messages import Accept, Create, Delete, Info, Keepalive, Offer, Reject
from ddtb6.tsp.status import (
    DelegationFailed,
    InvalidIPv4Address,
    InvalidIPv6Address,
    InvalidRequest,
    PrefixLengthMissing,
    PrefixLengthUnsupported,
    TspError,
    UnsupportedTunnelType,
)

GOGOC_HOST = (
    b'<tunnel action="create" type="v6udpv4" proxy="no">\r\n'
    b" <client>\r\n"
    b'  <address type="ipv4">192.0.2.2</address>\r\n'
    b'  <keepalive interval="30">\r\n'
    b'    <address type="ipv6">::</address>\r\n'
    b"  </keepalive>\r\n"
    b" </client>\r\n"
    b"</tunnel>\r\n"
)
GOGOC_ROUTER = GOGOC_HOST.replace(
    b"  </keepalive>\r\n",
    b"  </keepalive>\r\n"
    b"  <router>\r\n"
    b'   <prefix length="56"/>\r\n'
    b"   <dns_server>\r\n"
    b'     <address type="dn">ns1.example.net</address>\r\n'
    b"   </dns_server>\r\n"
    b"  </router>\r\n",
)
GOGOC_V4V6 = (
    b'<tunnel action="create" type="v4v6" proxy="no">\r\n <client>\r\n'
    b'  <address type="ipv6">2001:db8:f::2</address>\r\n'
    b'  <keepalive interval="30">\r\n    <address type="ipv4">127.0.0.1</address>\r\n  </keepalive>\r\n'
    b" </client>\r\n</tunnel>\r\n"
)
HOST = Create(Encapsulation.V6UDPV4, "192.0.2.2", keepalive=30)
ROUTER = Create(Encapsulation.V6UDPV4, "192.0.2.2", keepalive=30, prefix_length=56, name_servers=("ns1.example.net",))
V4V6 = Create(Encapsulation.V4V6, "2001:db8:f::2", keepalive=30)

OFFER = Offer(
    encapsulation=Encapsulation.V6UDPV4,
    lifetime=604800,
    server_outer="192.0.2.1",
    server_inner=IPv6Address("2001:db8:0:1::1"),
    client_outer="192.0.2.2",
    client_inner=IPv6Address("2001:db8:0:1::2"),
    prefix=IPv6Network("2001:db8:ab:cd00::/56"),
    name="alice.broker.example.net",
    resolver=IPv6Address("2001:db8::53"),
    keepalive=Keepalive(30, IPv6Address("2001:db8:0:1::1")),
)
OFFER_XML = (
    b'<tunnel action="info" type="v6udpv4" lifetime="604800"><server><address type="ipv4">192.0.2.1</address>'
    b'<address type="ipv6">2001:0db8:0000:0001:0000:0000:0000:0001</address></server><client>'
    b'<address type="ipv4">192.0.2.2</address><address type="ipv6">2001:0db8:0000:0001:0000:0000:0000:0002</address>'
    b'<address type="dn">alice.broker.example.net</address>'
    b'<router><prefix length="56">2001:0db8:00ab:cd00:0000:0000:0000:0000</prefix></router>'
    b'<dns_server><address type="ipv6">2001:0db8:0000:0000:0000:0000:0000:0053</address></dns_server>'
    b'<keepalive interval="30"><address type="ipv6">2001:0db8:0000:0001:0000:0000:0000:0001</address></keepalive>'
    b"</client></tunnel>\r\n"
)


def create(
    children: str = '<address type="ipv4">192.0.2.2</address>', attributes: str = 'action="create" type="v6udpv4"'
) -> bytes:
    return f"<tunnel {attributes}><client>{children}</client></tunnel>\r\n".encode()


def router(inside: str) -> bytes:
    return create(f'<address type="ipv4">192.0.2.2</address><router>{inside}</router>')


class TestRequests:
    def test_captured_documents(self) -> None:
        assert len(GOGOC_HOST) == 214
        assert read_request(GOGOC_HOST) == HOST
        assert read_request(GOGOC_ROUTER) == ROUTER
        assert len(GOGOC_V4V6) == 222
        assert read_request(GOGOC_V4V6) == V4V6

    def test_the_java_client(self) -> None:
        xml = create(
            '<address type="ipv4">10.0.0.5</address><keepalive interval="30"></keepalive>'
            '<router><prefix length="64"/></router>'
        )
        assert read_request(xml) == Create(Encapsulation.V6UDPV4, "10.0.0.5", prefix_length=64, keepalive=30)

    def test_the_ruby_client(self) -> None:
        xml = create(
            '<address type="ipv4">192.0.2.7</address><router><prefix length="64"/></router>',
            'action="create" type="v6anyv4" proxy="yes"',
        )
        assert read_request(xml) == Create(Encapsulation.V6ANYV4, "192.0.2.7", proxy=True, prefix_length=64)
        assert read_request(b'<tunnel action="delete"></tunnel>\r\n\r\n') == Delete()
        assert read_request(b'<tunnel action="info" type="v6anyv4"></tunnel>\r\n') == Info()

    def test_rfc_figure_16(self) -> None:
        xml = b"""<tunnel action="create" type="v6v4">
            <client><address type="ipv4">192.0.2.9</address>
            <router><prefix length="48"/><dns_server>
            <address type="ipv4">192.0.2.5</address><address type="ipv4">192.0.2.4</address>
            <address type="ipv6">2001:db8::1</address>
            </dns_server></router></client></tunnel> """
        servers = ("192.0.2.5", "192.0.2.4", "2001:db8::1")
        assert read_request(xml) == Create(Encapsulation.V6V4, "192.0.2.9", prefix_length=48, name_servers=servers)

    def test_rfc_figure_17_and_its_style_of_addresses(self) -> None:
        xml = create(
            '<address type="ipv6">\r\n    2001:db8:c18:ffff::0000:0000:0000:0001\r\n  </address>',
            'action="create" type="v4v6"',
        )
        assert read_request(xml) == Create(Encapsulation.V4V6, "2001:db8:c18:ffff::1")

    @pytest.mark.parametrize(
        ("xml", "request_"),
        [
            (ACCEPT, Accept()),
            (REJECT, Reject()),
            (write_info(), Info()),
            (write_delete(), Delete()),
            (b'<tunnel action="accept" type="v6v4"/>', Accept()),
            (b'\xef\xbb\xbf<?xml version="1.0"?>\r\n<tunnel action="ACCEPT"/>\0', Accept()),
            (b'<?xml version="1.0" encoding="UTF-8"?><tunnel action=" Reject "/>', Reject()),
            (b"<?xml version='1.0' encoding='us-ascii'?><?odd thing?><tunnel action='info'/>", Info()),
        ],
    )
    def test_simple_actions(self, xml: bytes, request_: object) -> None:
        assert read_request(xml) == request_
        assert len(ACCEPT) == 35

    @pytest.mark.parametrize(
        "xml",
        [
            create('<keepalive interval=" 30 "/><address type="ipv4">192.0.2.2</address>'),
            create('<address type="IPv4"> 192.0.2.2\r\n</address><odd a="b"><odd/></odd><keepalive interval="30"/>'),
            create(
                '<address>192.0.2.2</address><keepalive interval="30"/>', 'type="V6UDPV4" action="Create" mtu="1280"'
            ),
            create(
                '<address type="ipv6">::1</address><address type="ipv4">192.0.2.2</address><keepalive interval="30"/>'
            ),
            create(
                '<address type="ipv4">192.0.2.2</address><address type="ipv4">x</address><keepalive interval="30"/>'
                "<router/>",
                'action="create" type="v6udpv4" proxy="maybe" lifetime="never"',
            ),
            create(
                '<address type="ipv4">192.0.2.2</address><keepalive interval="30"/>'
                '<router protocol="BGP"><as number="1"/><dns_server><odd/><address/></dns_server></router>'
            ),
            b"<tunnel action='create' type='v6udpv4'><odd/><client><keepalive interval='30'/>"
            b"<address type='ipv4'>192.0.2.2</address></client><client>second</client></tunnel>",
        ],
    )
    def test_what_is_tolerated(self, xml: bytes) -> None:
        assert read_request(xml) == HOST

    @pytest.mark.parametrize("interval", ["", "-1", "soon", "9999999999", "1e3", "\u0661"])
    def test_a_keepalive_that_is_no_number_is_none(self, interval: str) -> None:
        xml = create(f'<address type="ipv4">192.0.2.2</address><keepalive interval="{interval}"/>')
        assert read_request(xml) == Create(Encapsulation.V6UDPV4, "192.0.2.2")

    def test_a_keepalive_of_zero(self) -> None:
        request = read_request(create('<address type="ipv4">192.0.2.2</address><keepalive interval="0"/>'))
        assert isinstance(request, Create)
        assert request.keepalive == 0

    @pytest.mark.parametrize(
        ("xml", "error"),
        [
            (b"", InvalidRequest),
            (b"\0\r\n", InvalidRequest),
            (b"hello", InvalidRequest),
            (b"<tunnel action='accept'>", InvalidRequest),
            (b"<tunnel action='accept'/><tunnel/>", InvalidRequest),
            (b"<tunnel action='accept'/>text", InvalidRequest),
            (b"<Tunnel action='accept'/>", InvalidRequest),
            (b"<broker action='accept'/>", InvalidRequest),
            (b"<tunnel/>", InvalidRequest),
            (b"<tunnel action='list' type='broker'/>", InvalidRequest),
            (b"<tunnel action='accept' action='reject'/>", InvalidRequest),
            (b"<tunnel action='acc\0ept'/>", InvalidRequest),
            (b"<tunnel action='\xff'/>", InvalidRequest),
            (create(attributes='action="create"'), InvalidRequest),
            (create(attributes='action="create" type="v6overice"'), UnsupportedTunnelType),
            (b"<tunnel action='create' type='v6v4'/>", InvalidIPv4Address),
            (create(""), InvalidIPv4Address),
            (create('<address type="ipv6">2001:db8::1</address>'), InvalidIPv4Address),
            (create('<address type="ipv4">192.0.2.256</address>'), InvalidIPv4Address),
            (create('<address type="ipv4">192.0.2</address>'), InvalidIPv4Address),
            (create('<address type="ipv4">192.0.2.010</address>'), InvalidIPv4Address),
            (create('<address type="ipv4">192.0.2.2/24</address>'), InvalidIPv4Address),
            (create('<address type="ipv4">' + "1" * 8000 + "</address>"), InvalidIPv4Address),
            (create(attributes='action="create" type="v4v6"'), InvalidIPv6Address),
            (create('<address type="ipv6">fe80::1%eth0</address>', 'action="create" type="v4v6"'), InvalidIPv6Address),
            (create('<address type="ipv6">2001:db8</address>', 'action="create" type="v4v6"'), InvalidIPv6Address),
            (router("<prefix/>"), PrefixLengthMissing),
            (router('<prefix length=" "/>'), PrefixLengthMissing),
            (router('<prefix length="wide"/>'), InvalidRequest),
            (router('<prefix length="56.0"/>'), InvalidRequest),
            (router('<prefix length="' + "9" * 6000 + '"/>'), InvalidRequest),
            (router('<prefix length="0"/>'), PrefixLengthUnsupported),
            (router('<prefix length="-1"/>'), PrefixLengthUnsupported),
            (router('<prefix length="129"/>'), PrefixLengthUnsupported),
            (
                GOGOC_V4V6.replace(b"</keepalive>", b'</keepalive><router><prefix length="33"/></router>'),
                PrefixLengthUnsupported,
            ),
            (router('<dns_server><address type="ipv4">ns</address></dns_server>'), InvalidIPv4Address),
            (router('<dns_server><address type="ipv6">ns</address></dns_server>'), InvalidIPv6Address),
            (router('<dns_server><address type="dn">a..b</address></dns_server>'), DelegationFailed),
            (router('<dns_server><address type="dn">a b</address></dns_server>'), DelegationFailed),
            (router(f'<dns_server><address type="dn">{"a" * 64}</address></dns_server>'), DelegationFailed),
            (router(f'<dns_server><address type="dn">{"a." * 127}</address></dns_server>'), DelegationFailed),
            (router("<dns_server>" + "<address>ns</address>" * 17 + "</dns_server>"), DelegationFailed),
        ],
    )
    def test_refusals(self, xml: bytes, error: type[TspError]) -> None:
        with pytest.raises(TspError) as caught:
            read_request(xml)
        assert type(caught.value) is error

    @pytest.mark.parametrize("length", [1, 32, 48, 128])
    def test_every_length_that_a_prefix_may_have(self, length: int) -> None:
        request = read_request(router(f'<prefix length="{length}"/>'))
        assert isinstance(request, Create)
        assert request.prefix_length == length

    def test_the_most_name_servers(self) -> None:
        servers = tuple(f"ns{number}.example.net" for number in range(16))
        request = Create(Encapsulation.V6V4, "192.0.2.2", prefix_length=48, name_servers=servers)
        assert read_request(write_create(request)) == request


BILLION_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE tunnel [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + ']><tunnel action="&j;"/>'
)
QUADRATIC = f'<!DOCTYPE tunnel [<!ENTITY a "{"x" * 3000}">]><tunnel action="accept">{"&a;" * 1000}</tunnel>'


class TestAttacks:
    @pytest.mark.parametrize(
        "xml",
        [
            BILLION_LAUGHS.encode(),
            QUADRATIC.encode(),
            b"<!DOCTYPE tunnel><tunnel action='accept'/>",
            b"<!DOCTYPE tunnel SYSTEM 'file:///etc/passwd'><tunnel action='accept'/>",
            b"<!DOCTYPE t [<!ENTITY x SYSTEM 'file:///etc/hostname'>]><tunnel action='accept'>&x;</tunnel>",
            b"<!DOCTYPE t [<!ENTITY % x SYSTEM 'http://127.0.0.1:1/'>%x;]><tunnel action='accept'/>",
            b"<tunnel action='accept'>&unknown;</tunnel>",
            b"<tunnel action='accept'><!-- comment --></tunnel>",
            b"<tunnel action='accept'><![CDATA[x]]></tunnel>",
            "<?xml version='1.0' encoding='utf-16'?><!DOCTYPE t><tunnel action='accept'/>".encode("utf-16"),
            b"<?xml version='1.0' encoding='utf-16'?><tunnel action='accept'/>",
            b"<?xml version='1.0' encoding='utf-7'?>+ADwAIQ-DOCTYPE t+AD4-<tunnel action='accept'/>",
            b'<?xml version="1.0" encoding = "ISO-8859-1"?><tunnel action="accept"/>',
            b"<tunnel action='accept'>" + b"<a>" * 8 + b"</a>" * 8 + b"</tunnel>",
            b"<tunnel action='accept'>" + b"<a>" * 1000 + b"</a>" * 1000 + b"</tunnel>",
            b"<a>" * 2700,
            b"<tunnel action='accept'>" + b"<a/>" * 300 + b"</tunnel>",
            b"<tunnel action='accept'>" + b" x" * 16384 + b"</tunnel>",
            b"<tunnel action='accept' " + b" ".join(b"a%d=''" % n for n in range(300)) + b"/>",
            b"<tunnel xmlns='urn:other' action='accept'/>",
        ],
    )
    def test_are_refused(self, xml: bytes) -> None:
        for read in (read_request, read_offer, read_brokers):
            with pytest.raises(TspError):
                read(xml)

    def test_a_request_is_smaller_than_a_broker_list_may_be(self) -> None:
        with pytest.raises(InvalidRequest):
            read_request(b"<tunnel action='accept'>" + b" x" * 4096 + b"</tunnel>")
        assert read_request(b"<tunnel action='accept'>" + b" x" * 4000 + b"</tunnel>") == Accept()

    def test_depth_up_to_the_limit_is_read(self) -> None:
        assert read_request(b"<tunnel action='accept'>" + b"<a>" * 7 + b"</a>" * 7 + b"</tunnel>") == Accept()

    def test_the_refusal_does_not_quote_what_was_sent(self) -> None:
        with pytest.raises(InvalidIPv4Address) as caught:
            read_request(create('<address type="ipv4">"\r\n200 Success"</address>'))
        assert caught.value.line == "501 Invalid IPv4 address"


class TestReply:
    def test_the_shape_that_every_client_reads(self) -> None:
        assert write_reply(OFFER) == OFFER_XML
        assert len(OFFER_XML) == 660

    def test_a_resolver_that_is_not_there_is_an_empty_address(self) -> None:
        xml = write_reply(Offer(Encapsulation.V6V4, 1, "192.0.2.1", IPv6Address(1), "192.0.2.2", IPv6Address(2)))
        assert xml == (
            b'<tunnel action="info" type="v6v4" lifetime="1"><server><address type="ipv4">192.0.2.1</address>'
            b'<address type="ipv6">0000:0000:0000:0000:0000:0000:0000:0001</address></server><client>'
            b'<address type="ipv4">192.0.2.2</address><address type="ipv6">0000:0000:0000:0000:0000:0000:0000:0002'
            b'</address><dns_server><address type="ipv6"></address></dns_server></client></tunnel>\r\n'
        )

    def test_a_keepalive_without_address_is_left_out(self) -> None:
        offer = Offer(
            Encapsulation.V6V4, 1, "192.0.2.1", IPv6Address(1), "192.0.2.2", IPv6Address(2), keepalive=Keepalive(30)
        )
        assert b"keepalive" not in write_reply(offer)

    def test_names_are_escaped_and_never_break_the_reply(self) -> None:
        offer = Offer(
            Encapsulation.V6V4, 1, "192.0.2.1", IPv6Address(1), "192.0.2.2", IPv6Address(2), name='<a>&"\ud800.net'
        )
        assert b'<address type="dn">&lt;a&gt;&amp;"?.net</address>' in write_reply(offer)
        assert read_offer(write_reply(offer)).name is None


class TestClientRole:
    def test_requests_are_laid_out_as_gogoclient_does(self) -> None:
        assert write_create(HOST) == GOGOC_HOST
        assert write_create(ROUTER) == GOGOC_ROUTER
        assert write_create(V4V6) == GOGOC_V4V6

    def test_name_servers_are_typed(self) -> None:
        servers = ("ns1.example.net", "192.0.2.53", "2001:db8::53")
        xml = write_create(Create(Encapsulation.V6V4, "192.0.2.2", proxy=True, prefix_length=48, name_servers=servers))
        assert b'proxy="yes"' in xml
        assert b'<address type="ipv4">192.0.2.53</address>' in xml
        assert b'<address type="ipv6">2001:db8::53</address>' in xml
        assert b"keepalive" not in xml

    def test_read_what_a_broker_writes(self) -> None:
        assert read_offer(OFFER_XML) == OFFER

    def test_rfc_figure_16(self) -> None:
        xml = b"""<tunnel action="info" type="v6v4" lifetime="1440">
           <server><address type="ipv4">192.0.2.114</address>
            <address type="ipv6">
            2001:db8:c18:ffff:0000:0000:0000:0000
            </address></server>
           <client><address type="ipv4">192.0.2.9</address>
            <address type="ipv6">
            2001:db8:c18:ffff::0000:0000:0000:0001
            </address>
            <address type="dn">userid.domain</address>
            <router><prefix length="48">2001:db8:c18:1234::</prefix>
             <dns_server><address type="ipv4">192.0.2.5</address></dns_server></router>
           </client></tunnel> """
        assert read_offer(xml) == Offer(
            Encapsulation.V6V4,
            1440,
            "192.0.2.114",
            IPv6Address("2001:db8:c18:ffff::"),
            "192.0.2.9",
            IPv6Address("2001:db8:c18:ffff::1"),
            IPv6Network("2001:db8:c18::/48"),
            "userid.domain",
        )

    def test_what_makes_no_sense_is_absent(self) -> None:
        xml = (
            OFFER_XML.replace(b'lifetime="604800"', b'lifetime="soon"')
            .replace(b"alice.broker", b"al;rm -rf")
            .replace(b"0000:0053", b"0000:0053%eth0")
            .replace(b'interval="30"', b'interval="often"')
        )
        offer = read_offer(xml)
        assert (offer.lifetime, offer.name, offer.resolver, offer.keepalive) == (0, None, None, None)
        assert read_offer(OFFER_XML.replace(b"<keepalive", b"<x/><router/><keepalive")).prefix is None

    def test_a_keepalive_without_address(self) -> None:
        begin, end = OFFER_XML.index(b"<keepalive"), OFFER_XML.index(b"</client>")
        xml = OFFER_XML[:begin] + b'<keepalive interval="10"/>' + OFFER_XML[end:]
        assert read_offer(xml).keepalive == Keepalive(10)

    @pytest.mark.parametrize(
        ("old", "new", "error"),
        [
            (b'action="info"', b'action="create"', InvalidRequest),
            (b"v6udpv4", b"v6anyv4", UnsupportedTunnelType),
            (b"v6udpv4", b"v4v6", UnsupportedTunnelType),
            (b"v6udpv4", b"", UnsupportedTunnelType),
            (b"server>", b"nobody>", InvalidRequest),
            (b"client>", b"nobody>", InvalidRequest),
            (b">192.0.2.1<", b"><", InvalidIPv4Address),
            (b">192.0.2.2<", b">0.0.0<", InvalidIPv4Address),
            (b":0001</address></server>", b"</address></server>", InvalidIPv6Address),
            (b':0002</address><address type="dn">', b'</address><address type="dn">', InvalidIPv6Address),
            (b"cd00", b"cd00x", InvalidIPv6Address),
            (b' length="56"', b"", PrefixLengthMissing),
            (b'length="56"', b'length="200"', PrefixLengthUnsupported),
        ],
    )
    def test_offers_that_no_tunnel_can_be_made_of(self, old: bytes, new: bytes, error: type[TspError]) -> None:
        assert old in OFFER_XML
        with pytest.raises(TspError) as caught:
            read_offer(OFFER_XML.replace(old, new))
        assert type(caught.value) is error


class TestBrokers:
    def test_the_list_of_a_redirection(self) -> None:
        xml = (
            b'<tunnel action="list" type="broker"><broker><address type="ipv4">192.0.2.11</address></broker>'
            b'<broker><address type="dn">b2.example.net</address></broker>'
            b'<broker><address type="ipv6">2001:db8::1</address></broker></tunnel>\r\n\0'
        )
        assert read_brokers(xml) == ("192.0.2.11", "b2.example.net", "2001:db8::1")

    def test_what_is_no_broker_is_left_out(self) -> None:
        xml = (
            b"<tunnel><x/><broker/><broker><address>a b</address></broker><broker><address>1:2</address></broker>"
            b"<broker><address/></broker><broker><x/><address> ok </address><address>second</address></broker></tunnel>"
        )
        assert read_brokers(xml) == ("ok",)

    def test_the_longest_list(self) -> None:
        name = b".".join([b"a" * 63] * 3 + [b"b" * 61])
        entry = b'<broker><address type="dn">' + name + b"</address></broker>"
        assert read_brokers(b"<tunnel>" + entry * 51 + b"</tunnel>") == (name.decode(),) * 50
