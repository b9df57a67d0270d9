# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``<tunnel>`` documents of the command phase, read and written for either role.

Source: RFC 5572 section 4.7 and appendix A. Replies have the one shape that every deployed client reads (gogoCLIENT's
reader is no XML parser, and the Java client splits addresses at colons): one line, no prolog, the server first,
addresses expanded. Requests are read with a real parser and generously: any order, unknown elements and attributes,
blanks around text.
Invariants: reading raises `TspError` subclasses and nothing else, whatever the octets; no DTD, entity or comment is
ever parsed; numbers and addresses are checked before they become values.
Not here: Content-length and status lines (`codec`), what may be granted (`negotiation`, `broker`).
"""

from __future__ import annotations

import re
from html import escape
from ipaddress import AddressValueError, IPv4Address, IPv6Address, IPv6Network

from lxml import etree

from ddtb6.addressing.endpoint import Encapsulation
from ddtb6.tsp.messages import Accept, Create, Delete, Info, Keepalive, Offer, Reject
from ddtb6.tsp.status import (
    DelegationFailed,
    InvalidIPv4Address,
    InvalidIPv6Address,
    InvalidRequest,
    PrefixLengthMissing,
    PrefixLengthUnsupported,
    UnsupportedTunnelType,
)

LARGEST_DOCUMENT = 8192
"""Octets of a request."""
LARGEST_REPLY = 32768
"""Octets of what a broker sends: `MOST_BROKERS` with names of 254 octets."""
MOST_TAGS = 256
"""Start and end tags together; a list of `MOST_BROKERS` has 202. Also the most attributes."""
DEEPEST = 8
"""Elements inside each other; a create with a name server has 5."""
MOST_NAME_SERVERS = 16
MOST_BROKERS = 50
"""What gogoCLIENT keeps of a broker list."""

Command = Create | Accept | Reject | Info | Delete

_PARSER = etree.XMLParser(
    encoding="utf-8",
    resolve_entities=False,
    no_network=True,
    load_dtd=False,
    dtd_validation=False,
    huge_tree=False,
    remove_comments=True,
    remove_pis=True,
    recover=False,
)
_too_deep = etree.XPath("boolean(" + "/*" * (DEEPEST + 1) + ")")
_BLANK = b"\0\t\n\v\f\r "
_FOREIGN_ENCODING = re.compile(rb"""^<\?xml[^>]*\bencoding\s*=\s*["'](?!(?i:utf-?8|us-ascii)["'])""")
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CANONICAL_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_TYPES = {each.value: each for each in Encapsulation}
_SIMPLE: dict[str, Command] = {"accept": Accept(), "reject": Reject(), "info": Info(), "delete": Delete()}

ACCEPT = b'<tunnel action="accept"></tunnel>\r\n'
REJECT = b'<tunnel action="reject"></tunnel>\r\n'
INFO = b'<tunnel action="info"></tunnel>\r\n'
DELETE = b'<tunnel action="delete"></tunnel>\r\n'


# --- what a broker reads ------------------------------------------------------------------------------------------


def read_request(xml: bytes) -> Command:
    """The request in a document.

    Raises InvalidRequest for anything wrong with the structure or a number that is none, UnsupportedTunnelType for a
    type nobody defined, InvalidIPv4Address or InvalidIPv6Address for a client or name server address that is missing
    or none, PrefixLengthMissing, PrefixLengthUnsupported for a length that no prefix has, DelegationFailed for a name
    server that has no possible name.
    """
    tunnel = _parse(xml, LARGEST_DOCUMENT)
    action = _attribute(tunnel, "action")
    if action == "create":
        return _read_create(tunnel)
    simple = _SIMPLE.get(action)
    if simple is None:
        raise InvalidRequest("Unknown action")
    return simple


def _read_create(tunnel: etree._Element) -> Create:
    kind = _attribute(tunnel, "type")
    if not kind:
        raise InvalidRequest("Tunnel type missing")
    encapsulation = _TYPES.get(kind)
    if encapsulation is None:
        raise UnsupportedTunnelType
    outer_kind, read_outer = ("ipv6", _ipv6_text) if encapsulation is Encapsulation.V4V6 else ("ipv4", _ipv4_text)
    address = ""
    keepalive = prefix_length = None
    name_servers: tuple[str, ...] = ()
    client = _child(tunnel, "client")
    for element in () if client is None else client:
        if element.tag == "address":
            if not address and _attribute(element, "type") in (outer_kind, ""):
                address = _text(element)
        elif element.tag == "keepalive":
            keepalive = _count(element.get("interval"))
        elif element.tag == "router":
            prefix = _child(element, "prefix")
            if prefix is not None:
                # The longest IPv4 prefix is /32: a client of v4v6 asks for one of those.
                prefix_length = _prefix_length(prefix, 32 if encapsulation is Encapsulation.V4V6 else 128)
            name_servers = _name_servers(element)
    return Create(
        encapsulation=encapsulation,
        client_address=read_outer(address),
        proxy=_attribute(tunnel, "proxy") == "yes",
        prefix_length=prefix_length,
        keepalive=keepalive,
        name_servers=name_servers,
    )


def _prefix_length(prefix: etree._Element, longest: int) -> int:
    text = (prefix.get("length") or "").strip()
    if not text:
        raise PrefixLengthMissing
    if not _NUMBER.fullmatch(text):
        raise InvalidRequest("Prefix length is no number")
    length = int(text)
    if not 1 <= length <= longest:
        raise PrefixLengthUnsupported
    return length


def _name_servers(router: etree._Element) -> tuple[str, ...]:
    holder = _child(router, "dns_server")
    if holder is None:
        return ()
    servers: list[str] = []
    for element in holder:
        text = _text(element) if element.tag == "address" else ""
        if not text:
            continue
        kind = _attribute(element, "type")
        if kind == "ipv4":
            text = _ipv4_text(text)
        elif kind == "ipv6":
            text = _ipv6_text(text)
        elif not _NAME.fullmatch(text):
            raise DelegationFailed("A name server has no possible name")
        servers.append(text)
    if len(servers) > MOST_NAME_SERVERS:
        raise DelegationFailed(f"More than {MOST_NAME_SERVERS} name servers")
    return tuple(servers)


# --- what a broker writes -----------------------------------------------------------------------------------------


def write_reply(offer: Offer) -> bytes:
    """The ``info`` document that answers create and info, one line with its CR LF.

    For tunnels of IPv6 in IPv4: an offer has no place for the inner IPv4 addresses of v4v6.
    """
    parts = [
        f'<tunnel action="info" type="{offer.encapsulation.value}" lifetime="{offer.lifetime}"><server>',
        _written_pair(offer.server_outer, offer.server_inner),
        "</server><client>",
        _written_pair(offer.client_outer, offer.client_inner),
    ]
    if offer.name is not None:
        parts.append(f'<address type="dn">{escape(offer.name, quote=False)}</address>')
    if offer.prefix is not None:
        text = _expanded(offer.prefix.network_address)
        parts.append(f'<router><prefix length="{offer.prefix.prefixlen}">{text}</prefix></router>')
    resolver = "" if offer.resolver is None else _expanded(offer.resolver)
    parts.append(f'<dns_server><address type="ipv6">{resolver}</address></dns_server>')
    if offer.keepalive is not None and offer.keepalive.address is not None:
        text = _expanded(offer.keepalive.address)
        interval = offer.keepalive.interval
        parts.append(f'<keepalive interval="{interval}"><address type="ipv6">{text}</address></keepalive>')
    parts.append("</client></tunnel>\r\n")
    return "".join(parts).encode("utf-8", "replace")


def _written_pair(outer: str, inner: IPv6Address) -> str:
    return f'<address type="ipv4">{outer}</address><address type="ipv6">{_expanded(inner)}</address>'


def _expanded(address: IPv6Address) -> str:
    """Eight groups of four digits; a tenth of the time of `IPv6Address.exploded`."""
    return address.packed.hex(":", 2)


# --- what a client writes -----------------------------------------------------------------------------------------


def write_create(create: Create) -> bytes:
    """The document as gogoCLIENT lays it out, line ends included. Name servers go with a prefix, or not at all."""
    inner = ("ipv4", "127.0.0.1") if create.encapsulation is Encapsulation.V4V6 else ("ipv6", "::")
    lines = [
        f'<tunnel action="create" type="{create.encapsulation.value}" proxy="{"yes" if create.proxy else "no"}">',
        " <client>",
        f"  {_written_address(create.client_address)}",
    ]
    if create.keepalive is not None:
        lines += [
            f'  <keepalive interval="{create.keepalive}">',
            f'    <address type="{inner[0]}">{inner[1]}</address>',
            "  </keepalive>",
        ]
    if create.prefix_length is not None:
        lines += ["  <router>", f'   <prefix length="{create.prefix_length}"/>']
        if create.name_servers:
            lines.append("   <dns_server>")
            lines += [f"     {_written_address(each)}" for each in create.name_servers]
            lines.append("   </dns_server>")
        lines.append("  </router>")
    lines += [" </client>", "</tunnel>", ""]
    return "\r\n".join(lines).encode("utf-8", "replace")


def _written_address(text: str) -> str:
    if ":" in text:
        kind = "ipv6"
    elif text.rpartition(".")[2].isdigit():
        kind = "ipv4"
    else:
        kind = "dn"
    return f'<address type="{kind}">{escape(text, quote=False)}</address>'


def write_info() -> bytes:
    """Ask what tunnel the account has."""
    return INFO


def write_delete() -> bytes:
    """Ask to take the account's tunnel down."""
    return DELETE


# --- what a client reads ------------------------------------------------------------------------------------------


def read_offer(xml: bytes) -> Offer:
    """The offer in a broker's ``info`` document.

    Raises InvalidRequest for the structure, UnsupportedTunnelType for anything but v6v4 and v6udpv4 (an offer holds
    IPv6 inside), InvalidIPv4Address, InvalidIPv6Address and PrefixLengthMissing for what a tunnel cannot do without.
    Names, resolvers and keepalives that make no sense are read as absent.
    """
    tunnel = _parse(xml, LARGEST_REPLY)
    if _attribute(tunnel, "action") != "info":
        raise InvalidRequest("Not an info document")
    encapsulation = _TYPES.get(_attribute(tunnel, "type"))
    if encapsulation not in (Encapsulation.V6V4, Encapsulation.V6UDPV4):
        raise UnsupportedTunnelType
    server, client = _child(tunnel, "server"), _child(tunnel, "client")
    if server is None or client is None:
        raise InvalidRequest("Server or client element missing")
    prefix = resolver = keepalive = None
    for element in client:
        if element.tag == "router":
            prefix = _offered_prefix(element)
        elif element.tag == "dns_server":
            resolver = _ipv6_or_none(_address_of(element, "ipv6"))
        elif element.tag == "keepalive":
            interval = _count(element.get("interval"))
            if interval is not None:
                keepalive = Keepalive(interval, _ipv6_or_none(_address_of(element, "ipv6")))
    name = _address_of(client, "dn")
    return Offer(
        encapsulation=encapsulation,
        lifetime=_count(tunnel.get("lifetime")) or 0,
        server_outer=_ipv4_text(_address_of(server, "ipv4")),
        server_inner=_ipv6(_address_of(server, "ipv6")),
        client_outer=_ipv4_text(_address_of(client, "ipv4")),
        client_inner=_ipv6(_address_of(client, "ipv6")),
        prefix=prefix,
        name=name if _NAME.fullmatch(name) else None,
        resolver=resolver,
        keepalive=keepalive,
    )


def _offered_prefix(router: etree._Element) -> IPv6Network | None:
    prefix = _child(router, "prefix")
    if prefix is None:
        return None
    length = _prefix_length(prefix, 128)
    text = _text(prefix).partition("/")[0]
    return IPv6Network((int(_ipv6(text)), length), strict=False)


def read_brokers(xml: bytes) -> tuple[str, ...]:
    """Names and addresses of the brokers a redirection lists, in its order, at most `MOST_BROKERS`.

    Entries that are neither are left out. Raises InvalidRequest.
    """
    brokers: list[str] = []
    for broker in _parse(xml, LARGEST_REPLY):
        if broker.tag != "broker":
            continue
        for element in broker:
            if element.tag == "address":
                text = _text(element)
                if _NAME.fullmatch(text) or _ipv6_or_none(text) is not None:
                    brokers.append(text)
                break
    return tuple(brokers[:MOST_BROKERS])


# --- reading, shared ----------------------------------------------------------------------------------------------


def _parse(xml: bytes, largest: int) -> etree._Element:
    """The ``tunnel`` element of a document that has no more than TSP needs. Raises InvalidRequest."""
    xml = xml.removeprefix(b"\xef\xbb\xbf").strip(_BLANK)
    if len(xml) > largest or xml.count(b"<") > MOST_TAGS or xml.count(b"=") > MOST_TAGS:
        raise InvalidRequest("Document too large")
    if b"<!" in xml or _FOREIGN_ENCODING.match(xml):
        raise InvalidRequest("Declarations, comments and encodings other than UTF-8 are refused")
    try:
        tunnel = etree.fromstring(xml, _PARSER)
    except (etree.LxmlError, ValueError):
        raise InvalidRequest("Not well-formed XML") from None
    # No element is too deep where there are so few tags.
    if tunnel.tag != "tunnel" or (xml.count(b"<") > 2 * DEEPEST and _too_deep(tunnel)):
        raise InvalidRequest("Not a tunnel document")
    if tunnel.getroottree().docinfo.internalDTD is not None:
        raise InvalidRequest("Not a tunnel document")
    return tunnel


def _child(parent: etree._Element, tag: str) -> etree._Element | None:
    for element in parent:
        if element.tag == tag:
            return element
    return None


def _attribute(element: etree._Element, name: str) -> str:
    """In lower case, blanks around it gone; empty where there is none."""
    return (element.get(name) or "").strip().lower()


def _text(element: etree._Element) -> str:
    return (element.text or "").strip()


def _address_of(parent: etree._Element, kind: str) -> str:
    for element in parent:
        if element.tag == "address" and _attribute(element, "type") == kind:
            return _text(element)
    return ""


def _count(text: str | None) -> int | None:
    """A number from 0 to 999,999,999; None for anything else."""
    text = (text or "").strip()
    return int(text) if _NUMBER.fullmatch(text) and not text.startswith("-") else None


def _ipv4_text(text: str) -> str:
    """In canonical form. Raises InvalidIPv4Address."""
    if _CANONICAL_IPV4.fullmatch(text):
        return text
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise InvalidIPv4Address from None


def _ipv6_text(text: str) -> str:
    return str(_ipv6(text))


def _ipv6(text: str) -> IPv6Address:
    """Raises InvalidIPv6Address."""
    address = _ipv6_or_none(text)
    if address is None:
        raise InvalidIPv6Address
    return address


def _ipv6_or_none(text: str) -> IPv6Address | None:
    """None for what is no address, and for one with a zone id."""
    # RFC 5572's own figures have addresses of eight groups that contain "::" all the same.
    for spelling in (text, text.replace("::", ":")):
        try:
            address = IPv6Address(spelling)
        except AddressValueError:
            continue
        return address if address.scope_id is None else None
    return None
