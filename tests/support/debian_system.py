# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian 12 with systemd in a virtual machine, installed in a directory and booted from a disk.

Its two network cards are wires into namespaces of this machine: the IPv4 Internet with a client behind a NAT, and an
IPv6 host. Nothing of this machine is visible in it. What is run in it is asked of an agent that systemd starts there,
over a serial port.
Not here: the directory (`support.debian_root`), kernels without an init system of their own (`support.vm`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.debian_root import DebianRoot, run
from support.netns import BROKER_INNER, BROKER_OUTER, HOST, NAT_OUTER, Lab, Namespace
from support.vm import end, hardware
from support.vm_kernel import Kernel, initial

PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "python3", "iproute2", "nftables"),
    *("dkms", "linux-image-cloud-amd64", "linux-headers-cloud-amd64"),
)
"""What makes a bare Debian one that boots and builds modules; python3 is for the agent."""
PATIENCE = 600.0
"""Seconds that anything may take in an emulated machine on a busy one."""
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
OUTER, INNER = "52:54:00:00:00:01", "52:54:00:00:00:02"
"""The cards towards the clients and towards the IPv6 host."""

CLOCK = "tsc=unstable clocksource=acpi_pm"
"""A slow clock that goes by this machine's monotonic one. The fast one goes by the raw counter of its processor, which
leaps where this machine is a virtual one itself, and systemd's time limits pass with it."""

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
for m in $(cat /etc/early); do insmod /lib/$m.ko; done
mkdir /new
mount -t ext4 /dev/vda /new
exec switch_root /new /sbin/init
"""

AGENT = """
import json, os, socket, subprocess
port = os.open("/dev/virtio-ports/agent", os.O_RDWR)
def tell(what):
    text = b"\\n" + json.dumps(what).encode() + b"\\n"
    while text:
        text = text[os.write(port, text):]
tell({"boot": open("/proc/sys/kernel/random/boot_id").read().strip()})
def talk(path, text):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        peer.sendall(text.encode())
        return b"".join(iter(lambda: peer.recv(65536), b"")).decode()
for line in open(port, "rb", closefd=False):
    asked = json.loads(line)
    if asked["socket"]:
        try:
            tell({"id": asked["id"], "status": 0, "said": talk(asked["socket"], asked["input"])})
        except OSError as error:
            tell({"id": asked["id"], "status": -1, "said": str(error)})
        continue
    try:
        done = subprocess.run(asked["words"], input=asked["input"], timeout=asked["timeout"], text=True,
                              errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        status, said = done.returncode, done.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        status, said = -1, str(error)
    tell({"id": asked["id"], "status": status, "said": said})
"""

AGENT_UNIT = """[Unit]
BindsTo=dev-virtio\\x2dports-agent.device
After=dev-virtio\\x2dports-agent.device
[Service]
ExecStart=/usr/bin/python3 /usr/local/sbin/agent
Environment=LANG=C.UTF-8 HOME=/root DEBIAN_FRONTEND=noninteractive
KillMode=process
[Install]
WantedBy=multi-user.target
"""

NETWORK = """[Match]
MACAddress={}
[Network]
Address={}
IPv6AcceptRA=no
LLDP=no
"""

QUIET = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer", "getty@tty1.service")
"""What a machine without a network or a terminal does not need, and an emulated one has no time for."""


def furnish(root: DebianRoot) -> Kernel:
    """Make it one that boots, with the network that `Surroundings` draws; returns its kernel."""
    root.apt("install", "--no-install-recommends", *PACKAGES)
    etc, network = root.path / "etc", root.path / "etc/systemd/network"
    (network / "outer.network").write_text(NETWORK.format(OUTER, f"{BROKER_OUTER}/24"))
    (network / "inner.network").write_text(NETWORK.format(INNER, f"{BROKER_INNER}/64"))
    (etc / "fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    (etc / "hostname").write_text("broker\n")
    (etc / "hosts").write_text("127.0.0.1 localhost broker\n")
    (etc / "systemd/system/agent.service").write_text(AGENT_UNIT)
    (root.path / "usr/local/sbin/agent").write_text(AGENT)
    (etc / "dpkg/dpkg.cfg.d/fast").write_text("force-unsafe-io\n")
    root.run("systemctl", "enable", "agent.service", "systemd-networkd.service")
    root.run("systemctl", "mask", *QUIET)
    (modules,) = (root.path / "lib/modules").iterdir()
    return Kernel(modules.name, root.path / "boot" / f"vmlinuz-{modules.name}", modules)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the machine is connected to.

        client -------- nat -------- (machine) -------- host
        10.66.1.2/24    192.0.2.2/24           2001:db8:f::1/64
              10.66.1.1/24    192.0.2.1/24          2001:db8:f::2/64

    The NAT masquerades with other ports. The host sends 2001:db8::/32 to the machine.
    """

    client: Namespace
    nat: Namespace
    host: Namespace
    wires: tuple[int, int]
    """Descriptors of the machine's ends: outer, inner."""


def surroundings(lab: Lab, stack: contextlib.ExitStack) -> Surroundings:
    """Make what `Surroundings` draws; `stack` closes the wires."""
    client, nat, host = (lab.namespace(label) for label in ("client", "nat", "host"))
    lab.wire(client, nat, ["10.66.1.2/24"], ["10.66.1.1/24"])
    client.route("default", "via", "10.66.1.1")
    wires = _tap(nat, "machine", f"{NAT_OUTER}/24"), _tap(host, "machine", f"{HOST}/64")
    for each in wires:
        stack.callback(os.close, each)
    nat.masquerade("machine")
    host.route("2001:db8::/32", "via", BROKER_INNER)
    return Surroundings(client, nat, host, wires)


def _tap(space: Namespace, device: str, address: str) -> int:
    with space.inside():
        handle = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
    space.run("ip", "link", "set", device, "up")
    space.address(device, address)
    return handle


class Machine:
    """The virtual machine; a context manager. It is on from the beginning, and off at the end without ceremony."""

    def __init__(self, root: DebianRoot, which: Kernel, around: Surroundings, directory: Path) -> None:
        """Write `root` to a disk and boot from it."""
        self._directory = directory
        disk, initrd = directory / "disk", directory / "initrd"
        run(
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-O",
            "^metadata_csum",
            "-E",
            "lazy_itable_init=1",
            "-d",
            root.path,
            disk,
            "4G",
        )
        initrd.write_bytes(initial(which.modules, "ext4", INIT))
        argv = hardware(which, initrd, "ext4", memory="1G", clock=CLOCK)
        argv += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
        argv += ["-serial", f"file:{directory / 'console'}"]
        argv += ["-chardev", f"socket,id=agent,path={directory / 'agent'},server=on,wait=off"]
        argv += ["-device", "virtserialport,chardev=agent,name=agent"]
        for number, (wire, card) in enumerate(zip(around.wires, (OUTER, INNER), strict=True)):
            argv += ["-netdev", f"tap,id=net{number},fd={wire}"]
            argv += ["-device", f"virtio-net-pci,netdev=net{number},mac={card}"]
        with (directory / "log").open("wb") as log:
            self._qemu = subprocess.Popen(argv, pass_fds=around.wires, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._port = self._connect()
        self._heard = threading.Condition()
        self._replies: dict[int, dict[str, Any]] = {}
        self._asked = 0
        self._boots: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._wait_for_boot(1)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._qemu)
        self._listener.join(5)
        self._port.close()

    # --- what is done in it -------------------------------------------------------------------------------------

    def run(self, *words: str, input: str = "", check: bool = True, timeout: float = PATIENCE) -> str:
        """What it prints, errors included. Raises AssertionError unless the exit status is 0."""
        status, said = self._ask({"words": words, "socket": "", "input": input, "timeout": timeout})
        assert not check or status == 0, f"{' '.join(words)} ended with {status}:\n{said}"
        return said

    def talk(self, path: str, text: str) -> str:
        """What a server on a unix socket answers until it hangs up. Raises AssertionError when there is none."""
        status, said = self._ask({"words": ["talk to", path], "socket": path, "input": text, "timeout": PATIENCE})
        assert status == 0, f"{path}: {said}"
        return said

    def _ask(self, request: dict[str, Any]) -> tuple[int, str]:
        self._asked += 1
        self._port.sendall(json.dumps({"id": self._asked, **request}).encode() + b"\n")
        with self._heard:
            there = self._heard.wait_for(lambda: self._asked in self._replies, request["timeout"] + 30)
            assert there, f"no answer to {' '.join(request['words'])}\n{self.last_words()}"
            reply = self._replies.pop(self._asked)
        return reply["status"], reply["said"]

    def eventually(self, condition: Any, what: str, deadline: float = PATIENCE) -> Any:
        """As `netns.wait_until`, with breath between two looks: each of them is work in the machine."""
        limit = time.monotonic() + deadline
        while not (result := condition()):
            assert time.monotonic() < limit, f"{what} did not come true within {deadline} s\n{self.last_words()}"
            time.sleep(0.3)
        return result

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def settle(self) -> str:
        """Wait for systemd to have started what it starts; what it says of the whole: ``running`` if nothing failed."""
        return self.run("systemctl", "is-system-running", "--wait", check=False).strip()

    def reboot(self) -> None:
        """As an administrator does. Returns when it is back."""
        seen = len(self._boots)
        self.run("systemctl", "reboot", "--no-block")
        self._wait_for_boot(seen + 1)

    def bring(self, file: Path, where: str) -> None:
        """A small text file of ours."""
        self.run("tee", where, input=file.read_text())

    def last_words(self) -> str:
        """The end of its console, for who wonders why."""
        return (self._directory / "console").read_text(errors="replace")[-3000:]

    # --- the wire to the agent ----------------------------------------------------------------------------------

    def _connect(self) -> socket.socket:
        path, limit = self._directory / "agent", time.monotonic() + 30
        while True:
            handle = socket.socket(socket.AF_UNIX)
            try:
                handle.connect(str(path))
                return handle
            except OSError:
                handle.close()
                log = (self._directory / "log").read_text(errors="replace")
                assert self._qemu.poll() is None, f"QEMU did not start:\n{log}"
                assert time.monotonic() < limit, f"QEMU does not listen:\n{log}"
                time.sleep(0.05)

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._port.makefile("rb") as lines:
            for line in lines:
                try:
                    said = json.loads(line)
                except ValueError:  # what was cut off by a reboot
                    continue
                with self._heard:
                    if "boot" in said:
                        self._boots.append(said["boot"])
                    else:
                        self._replies[said["id"]] = said
                    self._heard.notify_all()

    def _wait_for_boot(self, number: int) -> None:
        with self._heard:
            there = self._heard.wait_for(lambda: len(self._boots) >= number, PATIENCE)
        assert there, f"it does not boot\n{self.last_words()}"
        assert len(set(self._boots)) == number
