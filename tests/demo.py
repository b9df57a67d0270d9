# SPDX-License-Identifier: GPL-2.0-or-later
"""`make demo`: the real daemon and the real client with a NAT between them, in network namespaces of this machine.

It says in plain words what it does, and leaves nothing behind. Runs as ``python tests/demo.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from support.netns import BROKER_OUTER, HOST, NAT_OUTER, Internet, Lab, internet
from support.scenario import Broker, Connection
from support.traffic import ping, transfer

USER, DEMO_PASSWORD = "demo", "demo"
MEGABYTES = 20

NETWORK = f"""
  laptop ------------ home router --------- broker ---------- web server
  10.66.1.2           NAT, {NAT_OUTER}       {BROKER_OUTER}       {HOST}
  (only IPv4)                               (IPv4 and IPv6)   (only IPv6)
"""


def say(text: str) -> None:
    print(text, flush=True)


def step(text: str) -> None:
    say(f"\n* {text}")


def missing() -> str | None:
    """What this machine lacks for the demonstration, with the remedy."""
    if os.geteuid() != 0:
        return "it makes network namespaces, which needs root: sudo make demo"
    for program, package in (("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            return f"the program {program} is missing: apt-get install {package}"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing: modprobe tun, or let the container have that device"
    return None


def show(net: Internet, broker: Broker, directory: Path) -> None:
    step("The broker starts: twistd -n ddtb6 --config ddtb6.toml")
    began = time.monotonic()
    broker.start()
    say(f"  It answers on {BROKER_OUTER} port 3653 after {time.monotonic() - began:.1f} s.")

    step(f"The operator adds an account: ddtb6 user add {USER}")
    broker.add_user(USER, DEMO_PASSWORD)

    step("The laptop has no IPv6 yet:")
    say(f"  ping {HOST}: {'a reply, which is wrong' if ping(net.client, HOST, wait=0.5) else 'no route'}")

    step(
        f"The laptop logs in from behind its NAT, and asks for a prefix:\n"
        f"  ddtb6 connect --server {BROKER_OUTER} --user {USER} --prefix-length 56"
    )
    began = time.monotonic()
    tunnel = Connection(net.client, directory, USER, DEMO_PASSWORD, "--prefix-length", "56")
    tunnel.start()
    address = tunnel.wait_up()
    (session,) = broker.sessions(USER)
    say(f"  After {time.monotonic() - began:.1f} s it has the address {address} and, for its LAN, {session['prefix']}.")
    say(f"  The broker sees it at {session['remote']}, through the NAT, logged in by {session['mechanism']}.")

    step(f"The laptop fetches {MEGABYTES} MB from the web server, then sends {MEGABYTES} MB; every octet is checked:")
    down = transfer(net.host, net.client, str(address), MEGABYTES * 1_000_000)
    up = transfer(net.client, net.host, HOST, MEGABYTES * 1_000_000)
    say(f"  down {MEGABYTES / down:.1f} MB/s, up {MEGABYTES / up:.1f} MB/s, nothing lost or changed")

    step("The status page, http://127.0.0.1:8653/ at the broker, says:")
    overview = json.loads(broker.status())
    activity = overview["activity"]
    say(f"  version {overview['version']}, data plane {overview['data_plane']}: {overview['data_plane_reason']}")
    say(f"  live sessions: {activity['sessions']}, log-ins: {activity['logins']}")
    for pool in activity["pools"]:
        if pool["held"]:
            say(f"  pool {pool['name']}, {pool['block']}: {pool['held']} given out")

    step(f"The laptop pings the web server: ping {HOST}")
    for _ in range(3):
        took = ping(net.client, HOST)
        if took is None:
            raise AssertionError(f"{HOST} did not answer\n{broker.log()}\n{tunnel.log()}")
        say(f"  64 octets from {HOST}: {took * 1000:.1f} ms")


def main() -> int:
    if (why := missing()) is not None:
        say(f"demo: {why}")
        return 1
    began = time.monotonic()
    say("ddtb6: an IPv6 tunnel broker, shown in four network namespaces of this machine.")
    say(NETWORK)
    with tempfile.TemporaryDirectory(prefix="ddtb6-demo-") as name, Lab() as lab:
        directory = Path(name)
        try:
            net = internet(lab)
            broker = Broker(net.broker, directory, tunnel={}, firewall={}, limits={})
            show(net, broker, directory)
        except AssertionError as error:
            say(f"\ndemo: FAILED: {error}")
            return 1
        step("Cleaning up: the namespaces and everything in them go away.")
    say(f"\nDone in {time.monotonic() - began:.0f} s. Next: `sudo make run` serves for real; README.md has the rest.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
