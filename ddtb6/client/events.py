# SPDX-License-Identifier: GPL-2.0-or-later
"""What the client program says, word for word.

Invariant: text of the broker has been made printable and short before it comes here.
Not here: when it is said (`program`), how it is printed (`cli.connect`).
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Interface

from ddtb6.addressing.endpoint import Carrier, Endpoint
from ddtb6.client.options import ClientOptions, Event
from ddtb6.tsp.messages import Offer
from ddtb6.tsp.status import TspError


def asking(server: str, remote: Endpoint, carrier: Carrier) -> Event:
    return Event(
        "asking",
        f"asking {server} ({remote}) over {carrier.name}",
        {"server": server, "address": remote.address, "port": remote.port, "carrier": carrier.value},
    )


def no_answer(server: str, why: str, carrier: Carrier | None) -> Event:
    over = f" over {carrier.name}" if carrier else ""
    details = {"server": server, "why": why, "carrier": carrier.value if carrier else None}
    return Event("no-answer", f"{server}{over}: {why}", details)


def redirected(brokers: Sequence[str]) -> Event:
    return Event("redirected", f"the broker names others: {', '.join(brokers)}", {"brokers": list(brokers)})


def refused(error: TspError) -> Event:
    """A code of 0 is none of the broker's: the client judged."""
    code = f" ({error.code})" if error.code else ""
    return Event("refused", f"no tunnel{code}: {error}", {"code": error.code, "why": str(error)})


def waiting(seconds: float) -> Event:
    return Event("waiting", f"trying again in {seconds:.0f} s", {"seconds": round(seconds, 1)})


def up(options: ClientOptions, offer: Offer, remote: Endpoint, mechanism: str, lan: IPv6Interface | None) -> Event:
    lines = [f"tunnel {options.device} is up: address {offer.client_inner}, broker {offer.server_inner} at {remote}"]
    if offer.prefix is not None:
        lines.append(f"  prefix   {offer.prefix}" + (f", {lan} on {options.lan}" if lan else ""))
    if offer.name is not None:
        lines.append(f"  name     {offer.name}")
    if offer.resolver is not None:
        lines.append(f"  resolver {offer.resolver}")
    lines.append(f"  next: ping -6 {offer.server_inner}")
    details = {
        "device": options.device,
        "remote": str(remote),
        "mechanism": mechanism,
        "lan": options.lan if lan else None,
        "lan_address": str(lan) if lan else None,
        **described(offer),
    }
    return Event("up", "\n".join(lines), details)


def hint(text: str) -> Event:
    return Event("hint", text, {"text": text})


def lost(why: str) -> Event:
    return Event("lost", f"tunnel lost: {why}", {"why": why})


def down(device: str) -> Event:
    return Event("down", f"{device} and what belonged to it are taken back", {"device": device})


def failed(why: str) -> Event:
    return Event("failed", why, {"why": why})


def info(offer: Offer) -> Event:
    details = described(offer)
    return Event("info", "\n".join(f"{name}: {value}" for name, value in details.items() if value is not None), details)


def deleted() -> Event:
    return Event("deleted", "the broker has taken the tunnel down", {})


def described(offer: Offer) -> dict[str, object]:
    """An offer in JSON types."""
    return {
        "type": offer.encapsulation.value,
        "address": str(offer.client_inner),
        "broker_address": str(offer.server_inner),
        "prefix": str(offer.prefix) if offer.prefix is not None else None,
        "name": offer.name,
        "resolver": str(offer.resolver) if offer.resolver is not None else None,
        "keepalive": offer.keepalive.interval if offer.keepalive is not None else None,
    }
