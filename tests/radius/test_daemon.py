# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon and a real FreeRADIUS: what is written down of sessions in good times and bad, and who may change them."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from support.capabilities import need_tun
from support.freeradius import SECRET, FreeRadius
from support.netns import Internet, Lab, Namespace, internet, wait_until
from support.scenario import PASSWORD, SERVER, Broker, carries
from support.tsp_client import Client, Offer, Refused, Udp

pytestmark = [pytest.mark.radius, pytest.mark.netns]

USERS = f"""
alice	Cleartext-Password := "{PASSWORD}"
	Class = 0x00ff,
	Class += 0x3635,
	Delegated-IPv6-Prefix = 2001:db8:1000:700::/56

bob	Cleartext-Password := "{PASSWORD}"
	User-Name = "bob@isp.example"

brief	Cleartext-Password := "{PASSWORD}"
	Session-Timeout = 3

often	Cleartext-Password := "{PASSWORD}"
	Acct-Interim-Interval = 60
"""

Entry = dict[str, list[str]]
"""A record of the detail file: values by attribute, in order."""


class Isp:
    """A FreeRADIUS inside the broker's namespace."""

    def __init__(self, space: Namespace, directory: Path, **options: bool) -> None:
        self.space = space
        self.server = FreeRadius(directory, USERS, **options)

    def start(self) -> None:
        with self.space.inside():
            self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def table(self) -> dict[str, Any]:
        """[radius.server.NAME]"""
        ports = {"auth_port": self.server.auth_port, "acct_port": self.server.acct_port}
        return {"address": "127.0.0.1", "secret": SECRET, "message_authenticator": "yes", **ports}

    def entries(self, *kinds: str, user: str | None = None) -> list[Entry]:
        """What the detail file has, of some kinds and one user."""
        found = []
        for block in self.server.detail.split("\n\n"):
            entry: Entry = {}
            for name, value in re.findall(r"^\t([A-Za-z0-9-]+) = (.*)$", block, re.MULTILINE):
                entry.setdefault(name, []).append(value.strip('"'))
            wanted = bool(entry) and (not kinds or entry["Acct-Status-Type"][0] in kinds)
            if wanted and (user is None or entry.get("User-Name") == [user]):
                found.append(entry)
        return found

    def wait_for(self, *kinds: str, user: str | None = None, count: int = 1, deadline: float = 10) -> list[Entry]:
        """Entries, once there are `count` of them."""

        def there() -> list[Entry]:
            found = self.entries(*kinds, user=user)
            return found if len(found) >= count else []

        return wait_until(there, f"{count} of {kinds} of {user}", deadline)


class World:
    """Broker and AAA in one network."""

    def __init__(self, net: Internet, directory: Path, *isps: Isp, **tables: Any) -> None:
        self.net = net
        self.isps = isps
        servers = {f"radius.server.s{place}": isp.table() for place, isp in enumerate(isps)}
        radius = {"timeout": 0.2, "tries": 2, "patience": 2.0, "dead_time": 1.0, "probe_interval": 1.0}
        chosen: dict[str, Any] = {
            "auth": {"chain": ["radius"]},
            "radius": {**radius, "nas_identifier": "broker.test", "nas_ip_address": "192.0.2.1"},
            "radius.dynamic": {"listen": ["127.0.0.1:3799", "[::1]:3799"]},
            "radius.dynamic.client.four": {"address": "127.0.0.1", "secret": SECRET},
            "radius.dynamic.client.six": {"address": "::1", "secret": SECRET},
        }
        self.broker = Broker(net.broker, directory, **(chosen | servers | tables))

    @property
    def isp(self) -> Isp:
        return self.isps[0]

    def log_in(self, user: str) -> tuple[Udp, Offer]:
        return self.broker.log_in(self.net.client, user)

    def session(self, user: str) -> dict[str, Any]:
        (found,) = self.broker.sessions(user)
        return found

    def kill_session(self, user: str) -> None:
        self.broker.tool("session", "kill", str(self.session(user)["id"]))

    def stop_of(self, user: str) -> Callable[[], Entry]:
        """What waits for the Stop of the session that the user has now."""
        identifier = self.session(user)["accounted_as"]

        def wait() -> Entry:
            def there() -> list[Entry]:
                return [each for each in self.isp.entries("Stop") if each["Acct-Session-Id"] == [identifier]]

            (stop,) = wait_until(there, f"the Stop of {identifier}", 10)
            return stop

        return wait

    def radclient(self, what: str, *attributes: str, to: str = "127.0.0.1:3799", secret: str = SECRET) -> str:
        """What radclient says of the answer."""
        command = ["radclient", "-x", "-t", "2", "-r", "1", *(["-6"] if to.startswith("[") else []), to, what, secret]
        return self.net.broker.run(*command, input=", ".join(attributes), check=False)


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    need_tun()
    with Lab() as lab:
        yield internet(lab)


@pytest.fixture(scope="module")
def shared(net: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world in which all is well."""
    isp = Isp(net.broker, tmp_path_factory.mktemp("freeradius"))
    isp.start()
    world = World(net, tmp_path_factory.mktemp("broker"), isp)
    world.broker.start()
    yield world
    world.broker.stop()
    isp.stop()


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """The shared one; leaves no session behind, and no trace of a bug in its log."""
    yield shared
    for each in shared.broker.sessions():
        shared.broker.tool("session", "kill", str(each["id"]))
    shared.broker.check_log()


@pytest.fixture
def alone(net: Internet, shared: World, tmp_path: Path) -> Iterator[World]:
    """A world for one test, to which bad things may happen; the shared broker is away meanwhile."""
    shared.broker.stop()
    isp = Isp(net.broker, tmp_path / "freeradius")
    directory = tmp_path / "broker"
    directory.mkdir()
    made = World(net, directory, isp, auth={"chain": ["local"]})
    yield made
    made.broker.stop()
    made.broker.check_log()
    isp.stop()
    shared.broker.start()


# --- accounting ---------------------------------------------------------------------------------------------------


def test_start_and_stop_with_every_octet(world: World) -> None:
    wire, offer = world.log_in("alice")
    for _ in range(10):
        assert carries(wire, offer)
    address = str(IPv6Address(offer.client_inner))
    counters = world.session("alice")["counters"]
    assert counters["octets_in"] >= 10 * 40
    identifier = world.session("alice")["accounted_as"]
    remote = world.session("alice")["remote"]
    world.kill_session("alice")
    (stop,) = world.isp.wait_for("Stop", user="alice")
    (start,) = world.isp.entries("Start", user="alice")
    for entry in (start, stop):
        assert entry["Acct-Session-Id"] == [identifier]
        assert entry["Class"] == ["0x00ff", "0x3635"]
        assert entry["Acct-Authentic"] == ["RADIUS"]
        assert entry["NAS-Identifier"] == ["broker.test"]
        assert entry["NAS-IP-Address"] == ["192.0.2.1"]
        assert entry["NAS-Port-Type"] == ["Virtual"]
        assert entry["Service-Type"] == ["Framed-User"]
        assert entry["Calling-Station-Id"] == [remote]
        assert entry["Called-Station-Id"] == ["192.0.2.1:3653"]
        assert entry["Delegated-IPv6-Prefix"] == ["2001:db8:1000:700::/56"]
        assert entry["Framed-IPv6-Address"] == [address]
        assert entry["Framed-IPv6-Prefix"] == [f"{address}/128"]
        assert "Framed-Interface-Id" in entry
        assert entry["Connect-Info"][0].startswith("v6udpv4 TSP/2.0")
        assert int(entry["Acct-Delay-Time"][0]) <= 2
    assert "Acct-Input-Octets" not in start
    assert stop["Acct-Terminate-Cause"] == ["Admin-Reset"]
    assert int(stop["Acct-Input-Octets"][0]) == counters["octets_in"]
    assert int(stop["Acct-Output-Octets"][0]) == counters["octets_out"]
    assert int(stop["Acct-Input-Packets"][0]) == counters["packets_in"]
    assert int(stop["Acct-Output-Packets"][0]) == counters["packets_out"]
    assert stop["Acct-Input-Gigawords"] == stop["Acct-Output-Gigawords"] == ["0"]


def test_the_name_of_the_accept_is_billed(world: World) -> None:
    world.log_in("bob")
    world.isp.wait_for("Start", user="bob@isp.example")
    assert world.isp.entries(user="bob") == []


def test_replaced_by_the_next_log_in(world: World) -> None:
    world.log_in("alice")
    stop_of_first = world.stop_of("alice")
    world.log_in("alice")
    assert stop_of_first()["Acct-Terminate-Cause"] == ["NAS-Request"]


def test_session_timeout_of_the_accept(world: World) -> None:
    world.log_in("brief")
    (stop,) = world.isp.wait_for("Stop", user="brief", deadline=15)
    assert stop["Acct-Terminate-Cause"] == ["Session-Timeout"]
    assert int(stop["Acct-Session-Time"][0]) in (3, 4, 5)


@pytest.mark.slow
def test_interim_records(world: World) -> None:
    wire, offer = world.log_in("often")
    assert carries(wire, offer)
    counters = world.session("often")["counters"]
    (interim,) = world.isp.wait_for("Interim-Update", user="often", deadline=70)
    assert counters["octets_in"] > 40 < counters["octets_out"]
    for ours, theirs in (("in", "Input"), ("out", "Output")):
        assert int(interim[f"Acct-{theirs}-Octets"][0]) == counters[f"octets_{ours}"]
        assert int(interim[f"Acct-{theirs}-Packets"][0]) == counters[f"packets_{ours}"]
        assert interim[f"Acct-{theirs}-Gigawords"] == ["0"]
    assert 50 <= int(interim["Acct-Session-Time"][0]) <= 62
    assert interim["Framed-IPv6-Address"] == [str(IPv6Address(offer.client_inner))]


def test_on_and_off(alone: World) -> None:
    isp, broker = alone.isp, alone.broker
    isp.start()
    broker.add_user("alice", PASSWORD)
    broker.start()
    isp.wait_for("Accounting-On")
    alone.log_in("alice")
    isp.wait_for("Start")
    broker.stop()
    broker.start()
    assert len(alone.broker.sessions()) == 1, "a session outlives the broker"
    alone.kill_session("alice")
    isp.wait_for("Stop")
    broker.stop()
    kinds = [each["Acct-Status-Type"][0] for each in isp.entries()]
    assert kinds == ["Accounting-On", "Start", "Stop", "Accounting-Off"]
    broker.start()


def test_aaa_down_for_the_whole_session(alone: World) -> None:
    isp, broker = alone.isp, alone.broker
    broker.add_user("alice", PASSWORD)
    broker.start()
    wire, offer = alone.log_in("alice")
    assert carries(wire, offer)
    octets = alone.session("alice")["counters"]["octets_in"]
    alone.kill_session("alice")
    ended = time.time()
    wait_until(lambda: "records are kept" in broker.log(), "the line about it")
    wait_until(lambda: time.time() > ended + 2, "a delay that whole seconds can tell")
    accounting = broker.ask("status")["aaa"]["accounting"]
    assert accounting["delivered"] == 0
    isp.start()
    (stop,) = isp.wait_for("Stop", deadline=30)
    broker.stop()
    kinds = [each["Acct-Status-Type"][0] for each in isp.entries()]
    assert kinds == ["Accounting-On", "Start", "Stop", "Accounting-Off"]
    assert int(stop["Acct-Input-Octets"][0]) == octets
    assert int(stop["Acct-Delay-Time"][0]) >= 1
    assert "acknowledged again" in broker.log()
    broker.start()


def test_killed_between_the_end_and_the_acknowledgement(alone: World) -> None:
    isp, broker = alone.isp, alone.broker
    isp.start()
    broker.add_user("alice", PASSWORD)
    broker.start()
    isp.wait_for("Accounting-On")
    wire, offer = alone.log_in("alice")
    assert carries(wire, offer)
    isp.wait_for("Start")
    isp.stop()
    octets = alone.session("alice")["counters"]["octets_in"]
    identifier = alone.session("alice")["accounted_as"]
    alone.kill_session("alice")
    broker.kill()
    isp.start()
    broker.start()
    (stop,) = isp.wait_for("Stop", deadline=30)
    assert stop["Acct-Session-Id"] == [identifier]
    assert int(stop["Acct-Input-Octets"][0]) == octets
    broker.stop()
    kinds = [each["Acct-Status-Type"][0] for each in isp.entries()]
    assert [each for each in kinds if each in ("Start", "Stop")] == ["Start", "Stop"]
    broker.start()


def test_fail_over(net: Internet, shared: World, tmp_path: Path) -> None:
    shared.broker.stop()
    dead, alive = Isp(net.broker, tmp_path / "dead"), Isp(net.broker, tmp_path / "alive")
    dead.start()
    alive.start()
    directory = tmp_path / "broker"
    directory.mkdir()
    world = World(net, directory, dead, alive)
    world.broker.start()
    world.log_in("alice")
    dead.wait_for("Start")
    dead.stop()
    world.kill_session("alice")
    (stop,) = alive.wait_for("Stop", user="alice", deadline=20)
    assert stop["Acct-Terminate-Cause"] == ["Admin-Reset"]
    dead.start()
    wait_until(lambda: "answers again" in world.broker.log(), "the first server's revival", 20)
    world.log_in("alice")
    dead.wait_for("Start", count=2)
    assert alive.entries("Start") == []
    world.broker.stop()
    world.broker.check_log()
    for each in (dead, alive):
        each.stop()
    shared.broker.start()


def test_nobody_is_let_in_while_no_server_answers(net: Internet, shared: World, tmp_path: Path) -> None:
    """PLAIN is told 530; DIGEST-MD5 says the same as 300, because clients that wait for rspauth fail on all else."""
    shared.broker.stop()
    directory = tmp_path / "broker"
    directory.mkdir()
    world = World(net, directory, Isp(net.broker, tmp_path / "never started"), auth={"chain": ["radius", "anonymous"]})
    world.broker.start()
    for mechanism, code in (("PLAIN", 530), ("DIGEST-MD5", 300), ("PLAIN", 530)):
        client = Client(Udp(net.client.socket(socket.AF_INET, socket.SOCK_DGRAM), SERVER))
        with pytest.raises(Refused) as refused:
            client.log_in(mechanism, "alice", PASSWORD)
        assert refused.value.code == code
        assert "Server too busy" in str(refused.value)
    assert world.broker.sessions() == []
    assert "does not answer" in world.broker.tool("status")
    assert "no answer from RADIUS" in world.broker.log()
    world.broker.stop()
    world.broker.check_log()
    shared.broker.start()


# --- dynamic authorization ----------------------------------------------------------------------------------------


def test_disconnect_by_session(world: World) -> None:
    wire, offer = world.log_in("alice")
    identifier = world.session("alice")["accounted_as"]
    stop_of_it = world.stop_of("alice")
    said = world.radclient("disconnect", f'Acct-Session-Id = "{identifier}"')
    assert "Disconnect-ACK" in said, said
    assert world.broker.sessions("alice") == []
    assert not carries(wire, offer, tries=1)
    stop = stop_of_it()
    assert stop["Acct-Session-Id"] == [identifier]
    assert stop["Acct-Terminate-Cause"] == ["Admin-Reset"]


@pytest.mark.parametrize("to", ["127.0.0.1:3799", "[::1]:3799"])
def test_disconnect_by_user_and_address(world: World, to: str) -> None:
    _, offer = world.log_in("alice")
    user = 'User-Name = "alice"'
    address = IPv6Address(offer.client_inner)
    refused = world.radclient("disconnect", user, f"Framed-IPv6-Address = {address + 1}", to=to)
    assert "Disconnect-NAK" in refused, refused
    assert "Session-Context-Not-Found" in refused, refused
    assert len(world.broker.sessions("alice")) == 1
    said = world.radclient(
        "disconnect", user, f"Framed-IPv6-Address = {address}", 'NAS-Identifier = "broker.test"', to=to
    )
    assert "Disconnect-ACK" in said, said
    assert world.broker.sessions("alice") == []


def test_coa_of_class_is_seen_in_the_stop(world: World) -> None:
    world.log_in("alice")
    prefix = IPv6Network(world.session("alice")["prefix"])
    stop_of_it = world.stop_of("alice")
    said = world.radclient("coa", 'User-Name = "alice"', f"Delegated-IPv6-Prefix = {prefix}", "Class = 0x6e6577")
    assert "CoA-ACK" in said, said
    world.kill_session("alice")
    stop = stop_of_it()
    assert stop["Class"] == ["0x6e6577"]


def test_coa_of_the_time_ends_it(world: World) -> None:
    world.log_in("alice")
    stop_of_it = world.stop_of("alice")
    said = world.radclient("coa", 'User-Name = "alice"', "Session-Timeout = 1")
    assert "CoA-ACK" in said, said
    stop = stop_of_it()
    assert stop["Acct-Terminate-Cause"] == ["Session-Timeout"]


def test_coa_survives_a_restart(world: World) -> None:
    world.log_in("alice")
    said = world.radclient("coa", 'User-Name = "alice"', "Class = 0x6b657074")
    assert "CoA-ACK" in said, said
    stop_of_it = world.stop_of("alice")
    world.broker.kill()
    world.broker.start()
    world.kill_session("alice")
    stop = stop_of_it()
    assert stop["Class"] == ["0x6b657074"]


@pytest.mark.parametrize(
    ("attributes", "cause"),
    [
        (('User-Name = "alice"', "Class = 0x01", "Acct-Interim-Interval = 5"), "Invalid-Attribute-Value"),
        (('User-Name = "alice"', "Class = 0x01", "Framed-MTU = 1280"), "Unsupported-Attribute"),
        (
            ('User-Name = "alice"', "Delegated-IPv6-Prefix = 2001:db8:1000:800::/56", "Class = 0x01"),
            "Unsupported-Service",
        ),
        (('User-Name = "alice"',), "Missing-Attribute"),
        (("Class = 0x01",), "Missing-Attribute"),
        (('User-Name = "nobody"', "Class = 0x01"), "Session-Context-Not-Found"),
        (('User-Name = "alice"', 'NAS-Identifier = "other"', "Class = 0x01"), "NAS-Identification-Mismatch"),
    ],
)
def test_coa_refused_as_a_whole(world: World, attributes: tuple[str, ...], cause: str) -> None:
    if not world.broker.sessions("alice"):
        world.log_in("alice")
    said = world.radclient("coa", *attributes)
    assert "CoA-NAK" in said, said
    assert cause in said, said
    stop_of_it = world.stop_of("alice")
    world.kill_session("alice")
    stop = stop_of_it()
    assert stop["Class"] == ["0x00ff", "0x3635"]


def test_a_wrong_secret_gets_no_answer(world: World) -> None:
    world.log_in("alice")
    said = world.radclient("disconnect", 'User-Name = "alice"', secret="not the secret")
    assert "ACK" not in said
    assert "NAK" not in said
    assert len(world.broker.sessions("alice")) == 1
    assert "one of the two is wrong" in world.broker.log()
    assert world.broker.ask("status")["aaa"]["requests"]["wrong-authenticator"] >= 1
