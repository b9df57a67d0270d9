# SPDX-License-Identifier: GPL-2.0-or-later
"""The module goes while packets pass and sockets close. Nothing of `net` is left, so this file comes last."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

from support import vm_flood
from support.netns import Lab
from support.vm_net import BROKER, CLIENT, HOST, PORT, make_utun, signalling_socket
from support.vm_utun import Peer, load_utun


def test_unloading_while_sockets_are_closed() -> None:
    """Both ends of an attachment at once: the module lets go of its sockets while a process ends that has them open."""
    for _ in range(3):
        with Lab() as lab:
            broker = lab.namespace("broker")
            netlink, utun = make_utun(broker)
            sockets = [signalling_socket(broker, "127.0.0.1", 4000 + number) for number in range(60)]
            for each in sockets:
                utun.attach(each)
            netlink.close()
            going = subprocess.Popen(["rmmod", "utun"])
            for each in sockets:
                each.close()
            assert going.wait(60) == 0
        load_utun()


def test_unloading_and_loading_with_traffic() -> None:
    with Lab() as lab:
        client, broker, host = (lab.namespace(label) for label in ("client", "broker", "host"))
        lab.wire(client, broker, [f"{CLIENT}/24"], [f"{BROKER}/24"])
        lab.wire(broker, host, ["2001:db8:f::1/64"], [f"{HOST}/64"])
        broker.sysctl("net/ipv6/conf/all/forwarding", 1)
        broker.route("198.18.0.0/15", "via", CLIENT)
        host.route("2001:db8::/32", "via", "2001:db8:f::1")
        flood = client.spawn(sys.executable, vm_flood.__file__, "16", stdout=subprocess.PIPE, text=True)
        assert flood.stdout is not None
        flood.stdout.readline()
        sockets: list[socket.socket] = []
        for _ in range(3):
            netlink, utun = make_utun(broker)
            broker.route("2001:db8:9000::/64", "dev", "utun0")
            sockets.append(made := signalling_socket(broker))
            utun.attach(made)
            for number in range(16):
                address, port = vm_flood.endpoint(number)
                remote = (socket.inet_ntoa(address), port)
                utun.add(Peer(number + 1, [f"2001:db8:9000::{number:x}/128"], remote, (BROKER, PORT)))
            time.sleep(0.5)
            assert sum(each.rx_packets for each in utun.dump()) > 0
            netlink.close()
            subprocess.run(["rmmod", "utun"], check=True)
            assert not os.path.exists("/sys/module/utun")
            assert "utun0" not in broker.run("ip", "-o", "link")
            made.close()
            load_utun()
