# SPDX-License-Identifier: GPL-2.0-or-later
"""The namespace harness does what its users lean on."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.netns import BROKER_OUTER, HOST, NAT_OUTER, Lab, internet, wait_until

pytestmark = pytest.mark.netns


def test_everything_is_gone_after_a_failure() -> None:
    here = os.readlink("/proc/thread-self/ns/net")
    with contextlib.suppress(ZeroDivisionError), Lab() as lab:
        space = lab.namespace("one")
        child = space.spawn("sleep", "1000")
        with space.inside():
            assert os.readlink("/proc/thread-self/ns/net") != here
            raise ZeroDivisionError
    assert os.readlink("/proc/thread-self/ns/net") == here
    assert not Path(space.path).exists()
    assert child.poll() is not None


def test_two_labs_do_not_collide() -> None:
    with Lab() as one, Lab() as other:
        spaces = [one.namespace("a"), other.namespace("a")]
        assert spaces[0].name != spaces[1].name


def test_the_client_reaches_the_broker_through_the_nat_and_gets_a_new_port_when_it_forgets() -> None:
    with Lab() as lab:
        net = internet(lab)
        server = net.broker.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client = net.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with server, client:
            server.settimeout(5)
            server.bind((BROKER_OUTER, 3653))
            client.bind(("10.66.1.2", 3653))
            seen = set()
            for _ in range(2):
                client.sendto(b"hello", (BROKER_OUTER, 3653))
                data, peer = server.recvfrom(100)
                assert data == b"hello"
                assert peer[0] == NAT_OUTER
                assert peer[1] != 3653
                seen.add(peer)
                net.nat.forget_mappings()
            assert len(seen) == 2


def test_the_host_reaches_the_broker_with_real_checksums() -> None:
    with Lab() as lab:
        net = internet(lab, lan=True)
        sniffer = net.broker.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        sender = net.host.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with sniffer, sender:
            sniffer.bind((net.broker_inner, 0x86DD))
            sniffer.settimeout(5)
            sender.connect(("2001:db8:f::1", 9))
            sender.send(b"x" * 100)
            packet = wait_until(lambda: next((p for p in iter(lambda: sniffer.recv(2000), b"") if p[6] == 17), None))
        source = socket.inet_pton(socket.AF_INET6, HOST)
        assert packet[8:24] == source
        words = packet[8:40] + len(packet[40:]).to_bytes(4, "big") + b"\0\0\0\x11" + packet[40:]
        assert sum(int.from_bytes(words[at : at + 2], "big") for at in range(0, len(words), 2)) % 0xFFFF == 0


def test_a_command_that_fails_shows_what_it_said() -> None:
    with Lab() as lab, pytest.raises(AssertionError, match="nosuchdevice"):
        lab.namespace("one").run("ip", "link", "show", "nosuchdevice")


def test_a_missing_capability_is_a_failure_when_it_is_required(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from support.capabilities import need_program\n"
        "def test_it():\n"
        "    need_program('interop', 'no-such-program')\n"
    )
    for required, outcome in (("", "1 skipped"), ("netns,interop", "1 failed")):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", tmp_path],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "DDTB6_REQUIRE": required},
            capture_output=True,
            text=True,
            check=False,
        )
        assert outcome in done.stdout
