# SPDX-License-Identifier: GPL-2.0-or-later
"""Both back ends in a real kernel: what they do to packets, that they repeat, and that they leave nothing behind.

        inner ---(ddtb6, MTU 1280)--- broker --------- outer
    2001:db8:1::2      2001:db8:1::1    2001:db8:f::1     2001:db8:f::2, 2001:db8:f:0:1::2, 2001:db8:e::2
                                        192.0.2.1         192.0.2.2, 192.0.2.3

The tunnel device is one end of a veth pair; what is behind it believes in 1500 octets, as a LAN behind a client does.
Each verb runs in a process of its own, as after a crash: nothing is known from before.
"""

from __future__ import annotations

import errno
import fcntl
import json
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.capabilities import need_program, unavailable
from support.netns import Lab, Namespace, wait_until

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]
PORT = 3653
SO_RCVBUFFORCE = 33
PLAN = {"device": "ddtb6", "mtu": 1280, "udp_ports": [PORT], "tcp_ports": [PORT], "rate": 10}
BURST = 100
BROKER = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8:f::1"}
OUTER = {socket.AF_INET: "192.0.2.2", socket.AF_INET6: "2001:db8:f::2"}
NEIGHBOUR = {socket.AF_INET: "192.0.2.3", socket.AF_INET6: "2001:db8:e::2"}
"""Another source: another IPv4 address, another /64."""
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
SIGNALLING, TUNNELLED = b"\xf0" + bytes(40), b"\x60" + bytes(40)

DRIVER = """
import json, sys
from ddtb6.firewall.choose import choose
from ddtb6.firewall.rules import FirewallError, Plan
backend, why = choose(sys.argv[1])
if backend is None:
    sys.exit("nothing: " + why)
for verb, plan in json.loads(sys.argv[2]):
    try:
        said = backend.apply(Plan(**plan)) if verb == "apply" else getattr(backend, verb)()
    except FirewallError as error:
        sys.exit("error: " + str(error))
    if said is not None:
        print(said)
"""


@dataclass
class Setting:
    """The drawing above, and the back end under test."""

    backend: str
    broker: Namespace
    inner: Namespace
    outer: Namespace
    outer_device: str
    inner_device: str

    def ask(self, *verbs: str | tuple[str, dict[str, Any]], prefix: tuple[str, ...] = ()) -> str:
        """Run verbs of the back end in the broker's namespace; AssertionError tells what it said when it fails."""
        steps = [(verb, None) if isinstance(verb, str) else verb for verb in verbs]
        return self.broker.run(*prefix, sys.executable, "-c", DRIVER, self.backend, json.dumps(steps), cwd=ROOT).strip()

    def apply(self, **change: Any) -> None:
        self.ask(("apply", PLAN | change))

    def ruleset(self) -> str:
        """All rules of both worlds, without counters."""
        texts = [self.broker.run("nft", "--terse", "list", "ruleset")]
        if shutil.which("iptables-legacy-save") is not None:
            texts += [self.broker.run("iptables-legacy-save"), self.broker.run("ip6tables-legacy-save")]
        kept = [line for text in texts for line in text.splitlines() if not line.startswith(("#", ":"))]
        return re.sub(r"counter packets \d+ bytes \d+", "counter", "\n".join(kept))

    def dropped(self) -> int:
        return sum(map(int, re.findall(r"\((\d+) so far\)", self.ask("status"))))


@pytest.fixture(params=["nft", "iptables"])
def setting(request: pytest.FixtureRequest) -> Iterator[Setting]:
    need_program("netns", "nft")
    with Lab() as lab:
        broker, inner, outer = lab.namespace("broker"), lab.namespace("inner"), lab.namespace("outer")
        subprocess.run(
            f"ip link add ddtb6 netns {broker.name} type veth peer name lan netns {inner.name}".split(), check=True
        )
        for space, device in ((broker, "ddtb6"), (inner, "lan")):
            space.real_checksums(device)
            space.run("ip", "link", "set", device, "up")
        broker.run("ip", "link", "set", "ddtb6", "mtu", "1280")
        broker.address("ddtb6", "2001:db8:1::1/64")
        inner.address("lan", "2001:db8:1::2/64")
        inner.route("default", "via", "2001:db8:1::1")
        outer_device, broker_device = lab.wire(
            outer,
            broker,
            ["192.0.2.2/24", "192.0.2.3/24", "2001:db8:f::2/64", "2001:db8:f:0:1::2/64", "2001:db8:e::2/64"],
            ["192.0.2.1/24", "2001:db8:f::1/64"],
        )
        broker.route("2001:db8:e::/64", "dev", broker_device)
        outer.route("default", "via", "2001:db8:f::1")
        broker.sysctl("net/ipv6/conf/all/forwarding", 1)
        made = Setting(request.param, broker, inner, outer, outer_device, "lan")
        if made.backend == "iptables":
            try:
                made.ask(("apply", PLAN), "remove")
            except AssertionError as error:
                if "nothing: " in str(error) or "The kernel does not have" in str(error):
                    unavailable("netns", f"the legacy tables cannot be used here: {error}")
                raise
        yield made


def mss_seen(setting: Setting, client: Namespace, server: Namespace, device: str, to: str) -> int:
    """The MSS in a SYN of `client` as it arrives on `device` of `server`."""
    with (
        server.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sniffer,
        client.socket(socket.AF_INET6, socket.SOCK_STREAM) as caller,
    ):
        sniffer.bind((device, 0x86DD))
        sniffer.settimeout(5)
        caller.setblocking(False)
        assert caller.connect_ex((to, 9)) == errno.EINPROGRESS
        while True:
            packet = sniffer.recv(2000)
            if packet[6] == socket.IPPROTO_TCP and packet[24:40] == socket.inet_pton(socket.AF_INET6, to):
                break
    assert packet[40 + 13] & 0x3F == 0x02, "a SYN"
    options = packet[60 : 40 + (packet[52] >> 4) * 4]
    assert options[:2] == b"\x02\x04", "the MSS comes first on Linux"
    return int(struct.unpack("!H", options[2:4])[0])


def test_the_mss_of_connections_through_the_tunnel_is_clamped_in_both_directions(setting: Setting) -> None:
    def seen() -> tuple[int, int]:
        return (
            mss_seen(setting, setting.inner, setting.outer, setting.outer_device, "2001:db8:f::2"),
            mss_seen(setting, setting.outer, setting.inner, setting.inner_device, "2001:db8:1::2"),
        )

    assert seen() == (1440, 1440)
    setting.apply()
    assert seen() == (1220, 1220)
    # A route with an MTU of its own counts towards the tunnel; the configured size counts out of it.
    setting.broker.run("ip", "link", "set", "ddtb6", "mtu", "1400")
    setting.apply(mtu=1400)
    setting.broker.run("ip", "-6", "route", "add", "2001:db8:1::2/128", "dev", "ddtb6", "mtu", "lock", "1300")
    assert seen() == (1340, 1240)
    setting.ask("remove")
    assert seen() == (1440, 1440)


def send(space: Namespace, family: socket.AddressFamily, source: str, payload: bytes, count: int) -> None:
    with space.socket(family, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        for _ in range(count):
            sender.sendto(payload, (BROKER[family], PORT))


class Inbox:
    """A socket on the signalling port that counts what comes, by its first octet."""

    def __init__(self, setting: Setting, family: socket.AddressFamily) -> None:
        self.socket = setting.broker.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4_000_000)
        self.socket.bind((BROKER[family], PORT))
        self.socket.setblocking(False)
        self.counts: dict[bytes, int] = {}

    def count(self, payload: bytes) -> int:
        """So many have come with the first octet of `payload`."""
        while True:
            try:
                first = self.socket.recv(2000)[:1]
            except BlockingIOError:
                return self.counts.get(payload[:1], 0)
            self.counts[first] = self.counts.get(first, 0) + 1


@FAMILIES
def test_a_signalling_flood_is_cut_off_while_tunnelled_packets_and_other_sources_pass(
    setting: Setting, family: socket.AddressFamily
) -> None:
    setting.apply()
    inbox = Inbox(setting, family)
    sent = 400
    with inbox.socket:
        begun = time.monotonic()
        for _ in range(4):
            send(setting.outer, family, OUTER[family], SIGNALLING, sent // 4)
            send(setting.outer, family, OUTER[family], TUNNELLED, sent // 4)
        most = BURST + PLAN["rate"] * (time.monotonic() - begun) + 1
        wait_until(lambda: inbox.count(TUNNELLED) == sent, "all tunnelled packets arriving")
        wait_until(lambda: inbox.count(SIGNALLING) + setting.dropped() == sent, "each datagram arrived or counted")
        assert BURST <= inbox.count(SIGNALLING) <= most
        before = inbox.count(SIGNALLING)
        send(setting.outer, family, NEIGHBOUR[family], SIGNALLING, 50)
        wait_until(lambda: inbox.count(SIGNALLING) == before + 50, "another source's signalling arriving")


def test_a_whole_ipv6_64_is_one_source(setting: Setting) -> None:
    setting.apply(rate=1)
    inbox = Inbox(setting, socket.AF_INET6)
    with inbox.socket:
        for source in ("2001:db8:f::2", "2001:db8:f:0:1::2"):
            send(setting.outer, socket.AF_INET6, source, SIGNALLING, 100)
        wait_until(lambda: inbox.count(SIGNALLING) + setting.dropped() == 200, "each datagram arrived or counted")
        assert 10 <= inbox.count(SIGNALLING) <= 20


@FAMILIES
def test_a_flood_of_tcp_connections_is_cut_off(setting: Setting, family: socket.AddressFamily) -> None:
    setting.apply(rate=1)
    callers = []
    with setting.broker.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((BROKER[family], PORT))
        listener.listen(100)
        try:
            for _ in range(40):
                caller = setting.outer.socket(family, socket.SOCK_STREAM)
                callers.append(caller)
                caller.setblocking(False)
                caller.bind((OUTER[family], 0))
                caller.connect_ex((BROKER[family], PORT))

            def through() -> int:
                return len(select.select([], callers, [], 0)[1])

            wait_until(lambda: through() + setting.dropped() >= 40, "each SYN answered or counted")
            assert 10 <= through() <= 20
        finally:
            for caller in callers:
                caller.close()


def tracked(space: Namespace) -> str:
    try:
        return space.run("cat", "/proc/net/nf_conntrack")
    except AssertionError as error:
        unavailable("netns", f"connection tracking cannot be read: {error}")


@FAMILIES
def test_the_outer_flow_is_not_tracked_and_forwarded_flows_of_the_same_port_are(
    setting: Setting, family: socket.AddressFamily
) -> None:
    # Connection tracking begins in a namespace with the first rule that looks at it.
    setting.broker.run(
        *("nft", "-f", "-"),
        input="""table inet somebody {
            chain input { type filter hook input priority 0; ct state established accept; }
            chain forward { type filter hook forward priority 0; ct state established accept; }
        }""",
    )
    with (
        setting.broker.socket(family, socket.SOCK_DGRAM) as server,
        setting.outer.socket(family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((BROKER[family], PORT))
        server.settimeout(5)
        client.bind((OUTER[family], 0))
        client.settimeout(5)
        port = client.getsockname()[1]

        def exchange() -> None:
            client.sendto(SIGNALLING, (BROKER[family], PORT))
            data, peer = server.recvfrom(100)
            server.sendto(data, peer)
            assert client.recv(100) == SIGNALLING

        exchange()
        entry = re.compile(rf"\bsport={port} dport={PORT}\b")
        assert entry.search(tracked(setting.broker)), "without the rules it is tracked"
        setting.broker.forget_mappings()
        assert not entry.search(tracked(setting.broker))
        setting.apply()
        exchange()
        # A datagram to elsewhere is tracked, so the table is being filled while the outer flow is not in it.
        client.sendto(b"x", (BROKER[family], 4000))
        wait_until(lambda: f"sport={port} dport=4000" in tracked(setting.broker), "tracking of another port")
        assert not re.search(rf"port={PORT}\b", tracked(setting.broker))
        if family == socket.AF_INET6:
            client.sendto(b"x", ("2001:db8:1::2", PORT))
            wait_until(lambda: entry.search(tracked(setting.broker)), "tracking of a forwarded datagram")


def test_applying_twice_is_applying_once_and_another_plan_replaces_a_crashed_one(setting: Setting) -> None:
    setting.apply()
    once = setting.ruleset()
    setting.apply()
    assert setting.ruleset() == once
    setting.apply(device="other", rate=0, udp_ports=[99])
    replaced = setting.ruleset()
    assert str(PORT) not in replaced
    assert "other" in replaced
    assert re.search(r"\b99\b", replaced)
    assert "over 10/s" not in replaced
    setting.apply()
    assert setting.ruleset() == once


def test_a_changed_rate_is_in_force_at_once(setting: Setting) -> None:
    inbox = Inbox(setting, socket.AF_INET)
    with inbox.socket:
        setting.apply(rate=1)
        send(setting.outer, socket.AF_INET, OUTER[socket.AF_INET], SIGNALLING, 100)
        wait_until(lambda: inbox.count(SIGNALLING) + setting.dropped() == 100, "each datagram arrived or counted")
        before = inbox.count(SIGNALLING)
        setting.apply(rate=1000)
        send(setting.outer, socket.AF_INET, OUTER[socket.AF_INET], SIGNALLING, 100)
        wait_until(lambda: inbox.count(SIGNALLING) == before + 100, "all of them arriving")


def test_the_rules_of_others_stay_and_removal_leaves_what_was_before(setting: Setting) -> None:
    setting.broker.run(
        *("nft", "-f", "-"),
        input="""table inet somebody {
            chain input { type filter hook input priority 0; udp dport 3653 accept comment "theirs"; }
        }""",
    )
    if setting.backend == "iptables":
        for program in ("iptables-legacy", "ip6tables-legacy"):
            for rule in (
                "-t raw -A PREROUTING -p udp --dport 5000 -m comment --comment theirs -j ACCEPT",
                "-t raw -N ddtb6",
                "-t raw -A OUTPUT -p udp --sport 5000 -j ddtb6",
                "-t mangle -A FORWARD -p tcp -m comment --comment ddtb6-theirs -j ACCEPT",
            ):
                setting.broker.run(program, *rule.split())
    before = setting.ruleset()
    assert "theirs" in before
    setting.apply()
    during = setting.ruleset().splitlines()
    left_over = [line for line in before.splitlines() if line not in during]
    assert not left_over
    assert len(during) > len(before.splitlines())
    setting.ask("remove")
    assert setting.ruleset() == before
    setting.ask("remove", "remove")
    assert setting.ruleset() == before


def test_removal_where_nothing_ever_was_makes_nothing(setting: Setting) -> None:
    with Lab() as lab:
        empty = Setting(setting.backend, lab.namespace("empty"), setting.inner, setting.outer, "", "")
        assert (
            empty.ask("status", "remove", "status").splitlines()
            == [f"{setting.backend}: no rules of ddtb6 are in the kernel."] * 2
        )
        assert empty.broker.run("nft", "list", "ruleset") == ""
        assert empty.broker.run("sh", "-c", "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names || true") == ""


def test_the_status_is_what_the_kernel_has_not_what_was_asked_for(setting: Setting) -> None:
    setting.apply()
    said = setting.ask("status")
    for part in ("clamped to 1220", "over 10/s from one source", f"incoming UDP {PORT} untracked"):
        assert part in said
    if setting.backend == "nft":
        setting.broker.run("nft", "flush", "chain", "inet", "ddtb6", "prerouting")
    else:
        for program in ("iptables-legacy", "ip6tables-legacy"):
            setting.broker.run(program, "-t", "raw", "-F", "PREROUTING")
    said = setting.ask("status")
    assert "clamped to 1220" in said
    assert f"outgoing UDP {PORT} untracked" in said
    assert "source" not in said
    assert "incoming" not in said


def test_only_the_tables_in_use_are_made(setting: Setting) -> None:
    setting.apply()
    if setting.backend == "nft":
        assert setting.broker.run("nft", "list", "tables") == "table inet ddtb6\n"
    else:
        assert setting.broker.run("nft", "list", "tables") == ""
        assert setting.broker.run("cat", "/proc/net/ip_tables_names").split() == ["raw"]
        assert sorted(setting.broker.run("cat", "/proc/net/ip6_tables_names").split()) == ["mangle", "raw"]


def test_auto_takes_iptables_only_where_its_tables_exist(setting: Setting) -> None:
    setting.apply()
    automatic = Setting("auto", setting.broker, setting.inner, setting.outer, "", "")
    assert automatic.ask("status").startswith(f"{setting.backend}: ")


def test_a_missing_capability_is_a_sentence_and_leaves_nothing(setting: Setting) -> None:
    need_program("netns", "setpriv")
    lacking = "net_admin" if setting.backend == "nft" else "net_raw"
    before = setting.ruleset()
    with pytest.raises(AssertionError, match=f"error: .*CAP_{lacking.upper()}"):
        setting.ask(("apply", PLAN), prefix=("setpriv", "--bounding-set", f"-{lacking}"))
    assert setting.ruleset() == before


REFUSED = {
    "nft": """
import ddtb6.firewall.nft as nft
nft._texts = lambda rule: iter(["redirect"])  # outside of a nat chain
""",
    # The classic: an expiry of zero is EINVAL, which the library's autocommit would have swallowed.
    "iptables": """
import ddtb6.firewall.iptables as iptables
iptables.BURST_SECONDS = 0
""",
}


def test_what_the_kernel_refuses_is_a_sentence_and_leaves_nothing(setting: Setting) -> None:
    before = setting.ruleset()
    setting.apply(device="previous")
    program = REFUSED[setting.backend] + DRIVER
    with pytest.raises(AssertionError, match=r"error: .* refused the rules .*set firewall\.backend"):
        setting.broker.run(*(sys.executable, "-c", program, setting.backend, json.dumps([("apply", PLAN)])), cwd=ROOT)
    assert setting.ruleset() == before


@pytest.mark.parametrize("setting", ["iptables"], indirect=True)
def test_a_lock_that_is_held_is_waited_for_and_then_reported(setting: Setting, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    program = f"import ddtb6.firewall.iptables as iptables\niptables._LOCK = {str(lock)!r}\n{DRIVER}"
    command = (sys.executable, "-c", program, setting.backend, json.dumps([("apply", PLAN)]))
    before = setting.ruleset()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(AssertionError, match="error: Another program is changing"):
            setting.broker.run(*command, cwd=ROOT)
    assert setting.ruleset() == before
    setting.broker.run(*command, cwd=ROOT)
    assert setting.ruleset() != before
