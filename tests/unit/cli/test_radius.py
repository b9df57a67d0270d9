# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking RADIUS servers whether they are alive: answers, silence, other secrets."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from ddtb6.broker.ports import Terms
from ddtb6.cli import doctor
from ddtb6.cli.doctor import State
from ddtb6.cli.radius import probe, unmet_terms
from ddtb6.config import Config, parse
from ddtb6.radius.attributes import Received
from ddtb6.radius.packets import Code, Incoming, make_reply

SECRET = b"shared with the tests"


@contextmanager
def server(answer: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """A server on 127.0.0.1; gives its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                datagram, source = wire.recvfrom(4096)
                if not datagram:
                    return
                said = answer(datagram)
                if said is not None:
                    wire.sendto(said, source)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield wire.getsockname()[1]
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", wire.getsockname())
            thread.join()


def alive(secret: bytes = SECRET) -> Callable[[bytes], bytes]:
    def answer(datagram: bytes) -> bytes:
        asked = Incoming(Code.STATUS_SERVER, datagram[1], datagram[4:20], Received(), signed=False)
        return make_reply(Code.ACCESS_ACCEPT, asked, secret)

    return answer


def config(auth_port: int, acct_port: int = 0, secret: str = SECRET.decode()) -> Config:
    return parse(
        f'[radius.server.one]\naddress = "127.0.0.1"\nsecret = "{secret}"\n'
        f"auth_port = {auth_port}\nacct_port = {acct_port}\n"
        '[pool.links]\nblock = "2001:db8:0:1::/64"\nuse = "accounts"\n'
    )


def test_an_answer() -> None:
    with server(alive()) as auth, server(alive()) as acct:
        log_ins, accounting = probe(config(auth, acct))
        found = list(doctor.radius(config(auth, acct)))
    assert (log_ins.purpose, log_ins.endpoint.port) == ("log-ins", auth)
    assert (accounting.purpose, accounting.endpoint.port) == ("accounting", acct)
    assert log_ins.seconds is not None
    assert accounting.seconds is not None
    assert [each.state for each in found] == [State.OK, State.OK]


def test_terms_that_no_pool_can_meet() -> None:
    two = parse(
        '[pool.links]\nblock = "2001:db8:0:1::/64"\nuse = "accounts"\n'
        '[pool.homes]\nblock = "2001:db8:1000::/40"\nuse = "prefixes"\nlength = 48\n'
    )
    inside, home = IPv6Address("2001:db8:0:1::9"), IPv6Network("2001:db8:1001::/48")
    assert unmet_terms(two, Terms()) == []
    assert unmet_terms(two, Terms(address=inside, prefix=home, routes=(IPv6Network("2001:db8:1002::/56"),))) == []
    assert unmet_terms(two, Terms(address_pool="links", prefix_pool="homes", tunnels=3)) == []
    for terms, sentence in (
        (Terms(address_pool="homes"), 'the accept names the pool "homes", and there is no .* with use = accounts'),
        (Terms(prefix_pool="other"), 'the accept names the pool "other", and there is no .* with use = prefixes'),
        (Terms(address=IPv6Address("2001:db8:0:2::9")), "2001:db8:0:2::9/128, which is in no .* with use = accounts"),
        (Terms(prefix=IPv6Network("2001:db8:1000::/36")), "2001:db8:1000::/36, which is in no .* with use = prefixes"),
        (Terms(routes=(home, IPv6Network("2001:db8:9::/48"))), "2001:db8:9::/48, which is in no .* use = prefixes"),
        (Terms(tunnels=0), "Port-Limit is 0"),
        (Terms(address=IPv6Address("2001:db8:0:1::1")), "2001:db8:0:1::1, which the broker itself uses"),
        (Terms(interface_id=1), "the interface identifier 1, which the broker itself uses"),
    ):
        (found,) = unmet_terms(two, terms)
        assert re.search(sentence, found), found


def test_silence_and_refusal() -> None:
    with server(lambda _: None) as port:
        (silent,) = probe(config(port), wait=0.05)
    assert (silent.seconds, silent.fault) == (None, "")
    (refused,) = probe(config(port), wait=0.05)
    assert (refused.seconds, refused.fault) == (None, "Connection refused")


def test_another_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "probe", partial(probe, wait=0.05))
    with server(alive(b"not that one")) as port:
        (other,) = probe(config(port), wait=0.05)
        (finding,) = doctor.radius(config(port))
    assert (other.seconds, other.fault) == (None, "wrong-authenticator")
    assert finding.state is State.FAIL
    assert "with another secret" in finding.sentence


def test_a_secret_that_cannot_be_read(tmp_path: Path) -> None:
    text = f'[radius.server.one]\naddress = "127.0.0.1"\nsecret_file = "{tmp_path}/none"\n'
    made = parse(f'{text}[pool.links]\nblock = "2001:db8:0:1::/64"\nuse = "accounts"\n')
    (finding,) = doctor.radius(made)
    assert finding.state is State.FAIL
    assert "cannot be read" in finding.sentence


@pytest.mark.parametrize("accounting", [True, False])
def test_only_ports_that_are_used(accounting: bool) -> None:
    with server(alive()) as port:
        text = f"[radius]\naccounting = {str(accounting).lower()}\n"
        text += f'[radius.server.one]\naddress = "127.0.0.1"\nsecret = "{SECRET.decode()}"\nauth_port = 0\n'
        text += f'acct_port = {port}\n[pool.links]\nblock = "2001:db8:0:1::/64"\nuse = "accounts"\n'
        assert [each.purpose for each in probe(parse(text))] == ["accounting"] * accounting
