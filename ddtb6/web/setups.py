# SPDX-License-Identifier: GPL-2.0-or-later
"""Client set-ups ready to paste, with the values of one owner; docs/clients.md shows the same with those of `EXAMPLE`.

Sources: `cli.connect`; the sample gogoc.conf of gogoCLIENT 1.2; systemd.service(5), systemd.network(5), netplan(5),
radvd.conf(5); OpenWrt's documentation of UCI, odhcpd and its firewall. LAN set-ups give the network behind the client
the first /64 of the prefix, the router its first address, and announce both.
Invariants: no password in any of them, only the word PASSWORD; a value is quoted as the format asks, and where the
user's name cannot be written at all, there is no set-up.
Not here: which values (`owner`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network

PORT = 3653
LAN = "eth1"
LAN_OF_OPENWRT = "br-lan"
DEVICE = "tsp0"
"""What `ddtb6 connect` calls its device."""


@dataclass(frozen=True, slots=True)
class Values:
    """What is the owner's own."""

    server: str
    """Name or IPv4 address of the broker, with a port where it is not 3653."""
    user: str
    prefix: IPv6Network | None = None
    """What the owner holds."""
    length: int | None = None
    """Of the prefix to ask for; None: the broker has none to give."""


EXAMPLE = Values("BROKER", "alice", IPv6Network("2001:db8:1000::/56"), 56)


@dataclass(frozen=True, slots=True)
class Setup:
    """One file or command."""

    id: str
    title: str
    place: str
    """The file, or where the command is typed."""
    words: str
    """What it does, and what must be put in yet."""
    text: str


def setups(values: Values) -> Sequence[Setup]:
    """All that fit: those for a LAN need a prefix. None where the name holds what no configuration can."""
    if not values.user or not values.user.isprintable():
        return ()
    made = [_connect(values), _unit(values), _gogoc(values)]
    if values.prefix is not None and values.prefix.prefixlen <= 64:
        lan = next(values.prefix.subnets(new_prefix=64))
        made += [_networkd(lan), _netplan(lan), _radvd(lan), _openwrt(lan)]
    return made


def _arguments(values: Values) -> list[str]:
    asked = ["--prefix-length", str(values.length)] if values.length else []
    user = [f"--user={values.user}"] if values.user.startswith("-") else ["--user", values.user]
    return ["--server", values.server, *user, *asked]


def _connect(values: Values) -> Setup:
    return Setup(
        "connect",
        "ddtb6 connect",
        "a shell",
        "It asks for the password, and stays until Ctrl-C.",
        f"sudo ddtb6 connect {shlex.join(_arguments(values))}\n",
    )


def _unit(values: Values) -> Setup:
    words = [*_arguments(values), "--password-file", "/etc/ddtb6-connect.password"]
    command = " ".join(["/usr/bin/ddtb6", "connect", *map(_unit_word, words)])
    return Setup(
        "unit",
        "ddtb6 connect as a service",
        "/etc/systemd/system/ddtb6-connect.service",
        "The password stands alone in the file that is named here, which only root may read. Then: "
        "systemctl enable --now ddtb6-connect.",
        f"""[Unit]
Description=IPv6 tunnel
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=30

[Install]
WantedBy=multi-user.target
""",
    )


def _unit_word(text: str) -> str:
    """An argument in ExecStart (systemd.service(5), Command lines)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if re.fullmatch(r"[\w@:./-]+", text, re.ASCII) else f'"{escaped}"'


def _gogoc(values: Values) -> Setup:
    router = f"host_type=router\nprefixlen={values.length}\nif_prefix={LAN}\n" if values.length else "host_type=host\n"
    return Setup(
        "gogoc",
        "gogoCLIENT",
        "gogoc.conf",
        f"Put the password in place of PASSWORD, and the device of your network in place of {LAN}; leave all other "
        "lines of the file as they are.",
        f"""userid={values.user}
passwd=PASSWORD
server={values.server}
auth_method=any
tunnel_mode=v6udpv4
{router}keepalive=yes
keepalive_interval=30
""",
    )


def _networkd(lan: IPv6Network) -> Setup:
    return Setup(
        "networkd",
        "The LAN by systemd-networkd",
        "/etc/systemd/network/50-lan.network",
        f"{LAN} is the device of the LAN; add the rest to its file where there is one already. The router forwards "
        "with net.ipv6.conf.all.forwarding=1 in /etc/sysctl.d/.",
        f"""[Match]
Name={LAN}

[Network]
Address={lan[1]}/64
IPv6AcceptRA=no
IPv6SendRA=yes

[IPv6Prefix]
Prefix={lan}
""",
    )


def _netplan(lan: IPv6Network) -> Setup:
    return Setup(
        "netplan",
        "The LAN by netplan",
        "/etc/netplan/60-lan.yaml",
        f"{LAN} is the device of the LAN. Netplan announces no prefix: radvd does, below. The router forwards with "
        "net.ipv6.conf.all.forwarding=1 in /etc/sysctl.d/.",
        f"""network:
  version: 2
  ethernets:
    {LAN}:
      accept-ra: false
      addresses:
        - "{lan[1]}/64"
""",
    )


def _radvd(lan: IPv6Network) -> Setup:
    return Setup(
        "radvd",
        "Announcing the LAN by radvd",
        "/etc/radvd.conf",
        "Beside netplan, or beside ddtb6 connect with --lan.",
        f"""interface {LAN} {{
    AdvSendAdvert on;
    AdvLinkMTU 1280;
    prefix {lan} {{
    }};
}};
""",
    )


def _openwrt(lan: IPv6Network) -> Setup:
    return Setup(
        "openwrt",
        "OpenWrt",
        "a shell of the router",
        "Its LAN and its firewall, beside ddtb6 connect without --lan; with gogoCLIENT the device is tun, not "
        f"{DEVICE}. The tunnel joins the zone wan, which lets nobody in.",
        f"""uci set network.lan.ip6addr='{lan[1]}/64'
uci set dhcp.lan.ra='server'
uci set dhcp.lan.ra_default='2'
uci set dhcp.lan.dhcpv6='server'
uci add_list firewall.@zone[1].device='{DEVICE}'
uci commit
reload_config
""",
    )
