# SPDX-License-Identifier: GPL-2.0-or-later
"""The attributes of an Access-Accept as terms of a principal.

Source: RFC 2865, 2869, 3162, 4818, 6911. What TSP has no room for is left out: a second resolver.
Invariant: an attribute that is malformed, or that another one contradicts, raises `Malformed`; nothing is guessed.
Not here: whether an address or prefix is ours to route, and free (the store), whether a pool exists (`broker.lease`).
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from ddtb6.broker.ports import Terms
from ddtb6.radius.attributes import Malformed, Received

LEAST_INTERIM = 60.0
"""Seconds between two interim records: RFC 2869 section 5.16 forbids less."""
CLIENT_END = 2
"""Interface identifier in a /64 that comes without one: 0 is the anycast address, 1 the broker's own end."""


def read_terms(accept: Received, session: int = 0, *, obey_interim: bool = True) -> Terms:
    """What `accept` grants to a log-in whose session was named `session`. Raises Malformed.

    `obey_interim` False: the configuration's interim interval goes before the server's.
    """
    address, interface_id = _address(accept)
    delegated = accept.prefixes("Delegated-IPv6-Prefix")
    resolvers = accept.addresses("DNS-Server-IPv6-Address")
    interim = accept.integer("Acct-Interim-Interval") if obey_interim else None
    return Terms(
        address=address,
        interface_id=interface_id,
        prefix=delegated[0] if delegated else None,
        address_pool=_pool(accept, "Framed-IPv6-Pool", "Stateful-IPv6-Address-Pool"),
        prefix_pool=accept.text("Delegated-IPv6-Prefix-Pool"),
        # A client is told of one prefix; what else is delegated to it is routed all the same.
        routes=(*delegated[1:], *map(_route, accept.texts("Framed-IPv6-Route"))),
        resolver=resolvers[0] if resolvers else None,
        session_limit=float(accept.integer("Session-Timeout") or 0),
        idle_limit=_seconds(accept.integer("Idle-Timeout")),
        interim_interval=max(float(interim), LEAST_INTERIM) if interim else _seconds(interim),
        tunnels=accept.integer("Port-Limit"),
        account_class=tuple(each for each in accept.octets("Class") if each),
        filter_ids=accept.texts("Filter-Id"),
        billed_as=_name(accept),
        by_radius=True,
        account_session=session,
    )


def _address(accept: Received) -> tuple[IPv6Address | None, int | None]:
    """The inner address, or else the interface identifier alone."""
    address = accept.address("Framed-IPv6-Address")
    links = accept.prefixes("Framed-IPv6-Prefix")
    interface_id = accept.interface_id("Framed-Interface-Id")
    if interface_id == 0:
        raise Malformed("Framed-Interface-Id is 0")
    if len(links) > 1:
        raise Malformed("Framed-IPv6-Prefix comes more than once; a tunnel has one address")
    if links:
        (link,) = links
        if link.prefixlen not in (64, 128):
            raise Malformed(f"Framed-IPv6-Prefix is {link}; it must be a /64 or a /128")
        if address is not None and address not in link:
            raise Malformed(f"Framed-IPv6-Address {address} is outside of Framed-IPv6-Prefix {link}")
        if address is None:
            host = (CLIENT_END if interface_id is None else interface_id) if link.prefixlen == 64 else 0
            address = link.network_address + host
    if address is None:
        return None, interface_id
    if interface_id is not None and int(address) & 0xFFFF_FFFF_FFFF_FFFF != interface_id:
        raise Malformed(f"Framed-Interface-Id is another one than that of {address}")
    return address, None


def _pool(accept: Received, *names: str) -> str | None:
    pools = {pool for pool in map(accept.text, names) if pool is not None}
    if len(pools) > 1:
        raise Malformed(f"{' and '.join(names)} name different pools")
    return pools.pop() if pools else None


def _route(text: str) -> IPv6Network:
    """RFC 3162 section 2.5: ``PREFIX/LENGTH GATEWAY METRICS``. The gateway can only be the tunnel, and is not read."""
    destination = text.split()[0] if text.split() else ""
    try:
        if "/" in destination:
            return IPv6Network(destination)
    except ValueError:
        pass
    raise Malformed("Framed-IPv6-Route does not begin with a prefix such as 2001:db8:9::/48")


def _seconds(value: int | None) -> float | None:
    return None if value is None else float(value)


def _name(accept: Received) -> str | None:
    name = accept.text("User-Name")
    if name is not None and not name.isprintable():
        raise Malformed("User-Name holds control characters")
    return name
