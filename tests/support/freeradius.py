# SPDX-License-Identifier: GPL-2.0-or-later
"""A FreeRADIUS of one's own, made from the policy and dictionary that ddtb6 ships, on high ports of 127.0.0.1 and ::1.

It takes no file of the distribution's configuration, only its program, modules and dictionaries.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "etc" / "freeradius"
REALM = "ddtb6.test"
SECRET = "shared with the tests"

CONFIGURATION = """
prefix = /usr
localstatedir = {directory}
name = radiusd
rundir = {directory}
logdir = {directory}
libdir = /usr/lib/freeradius
pidfile = {directory}/radiusd.pid
max_request_time = 5
cleanup_delay = 1
max_requests = 16384
hostname_lookups = no
proxy_requests = no
log {{
	destination = stdout
	auth = no
}}
security {{
	max_attributes = 200
	reject_delay = 0
	status_server = {status_server}
}}
thread pool {{
	start_servers = 2
	max_servers = 4
	min_spare_servers = 1
	max_spare_servers = 4
}}
client four {{
	ipaddr = 127.0.0.1
	secret = "{secret}"
	require_message_authenticator = yes
	ddtb6_ha1 = {ha1}
}}
client six {{
	ipv6addr = ::1
	secret = "{secret}"
	require_message_authenticator = yes
	ddtb6_ha1 = {ha1}
}}
modules {{
	expr {{
	}}
	pap {{
		normalise = yes
	}}
	always reject {{
		rcode = reject
	}}
	digest {{
	}}
	files {{
		usersfile = ${{confdir}}/users
		acctusersfile = ${{confdir}}/acct_users
	}}
	attr_filter attr_filter.access_reject {{
		key = "%{{User-Name}}"
		filename = ${{confdir}}/access_reject
	}}
	detail {{
		filename = {directory}/detail
		permissions = 0600
		header = "%t"
	}}
}}
policy {{
	$INCLUDE policy
}}
server default {{
	listen {{
		type = auth
		ipaddr = 127.0.0.1
		port = {auth_port}
	}}
	listen {{
		type = acct
		ipaddr = 127.0.0.1
		port = {acct_port}
	}}
	listen {{
		type = auth
		ipv6addr = ::1
		port = {auth_port}
	}}
	listen {{
		type = acct
		ipv6addr = ::1
		port = {acct_port}
	}}
	authorize {{
		files
		ddtb6_ha1
		ddtb6_digest
		pap
	}}
	authenticate {{
		Auth-Type PAP {{
			pap
		}}
		digest
	}}
	preacct {{
	}}
	accounting {{
		detail
	}}
	post-auth {{
		ddtb6_rspauth
		{sign}
		Post-Auth-Type REJECT {{
			attr_filter.access_reject
			{sign}
		}}
	}}
}}
"""

ACCESS_REJECT = """
DEFAULT
	Reply-Message =* ANY,
	Proxy-State =* ANY,
	Message-Authenticator =* ANY
"""

READY_WITHIN = 30.0
PR_SET_PDEATHSIG = 1


class Process:
    """A FreeRADIUS with the configuration in `directory`. `start` and `stop` as often as wanted; the ports stay."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.auth_port, self.acct_port = free_ports(2)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._output: list[str] = []

    @property
    def output(self) -> str:
        """What it printed."""
        return "".join(self._output)

    def start(self) -> None:
        """Returns when it serves."""
        program = shutil.which("freeradius")
        assert program is not None
        self._process = process = subprocess.Popen(
            [program, "-f", "-d", str(self.directory), "-l", "stdout"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_end_with_parent,
        )
        ready = threading.Event()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                self._output.append(line)
                if "Ready to process requests" in line:
                    ready.set()
            ready.set()

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        assert ready.wait(READY_WITHIN), self.output
        assert "Ready to process requests" in self.output, self.output

    def stop(self) -> None:
        """Returns when it is gone; again is nothing."""
        if self._process is None or self._reader is None:
            return
        self._process.terminate()
        try:
            self._process.wait(3)
        except (
            subprocess.TimeoutExpired
        ):  # FreeRADIUS 3.2.1 hangs now and then when it is ended while it starts threads.
            self._process.kill()
            self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None


def _end_with_parent() -> None:
    """A test run that is killed leaves no server behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class FreeRadius(Process):
    """One server with users and log of its own."""

    def __init__(
        self, directory: Path, users: str, *, sign: bool = True, status_server: bool = True, ha1: bool = True
    ) -> None:
        super().__init__(directory)
        directory.mkdir(parents=True, exist_ok=True)
        flag = {True: "yes", False: "no"}
        text = CONFIGURATION.format(
            directory=directory,
            auth_port=self.auth_port,
            acct_port=self.acct_port,
            secret=SECRET,
            status_server=flag[status_server],
            ha1=flag[ha1],
            sign="ddtb6_sign" if sign else "",
        )
        (directory / "radiusd.conf").write_text(text)
        (directory / "users").write_text(users)
        (directory / "acct_users").write_text("")
        (directory / "access_reject").write_text(ACCESS_REJECT)
        for name in ("policy", "dictionary"):
            shutil.copy(SHIPPED / name, directory)

    @property
    def detail(self) -> str:
        """What it wrote down of accounting."""
        path = self.directory / "detail"
        return path.read_text() if path.exists() else ""


class StockFreeRadius(Process):
    """The distribution's own configuration, with our policy installed as the comments in it say.

    What is changed besides: ports and addresses to serve, directories, and no EAP, which wants certificates.
    """

    STOCK = Path("/etc/freeradius/3.0")
    SECRET = "testing123"

    def __init__(self, directory: Path, users: str) -> None:
        super().__init__(directory)
        shutil.copytree(self.STOCK, directory, symlinks=True)
        shutil.copy(SHIPPED / "dictionary", directory / "dictionary.ddtb6")
        shutil.copy(SHIPPED / "policy", directory / "policy.d" / "ddtb6")
        with (directory / "dictionary").open("a") as dictionary:
            dictionary.write("$INCLUDE dictionary.ddtb6\n")
        self._install_policy()
        (directory / "sites-enabled" / "inner-tunnel").unlink()
        eap = directory / "mods-enabled" / "eap"
        eap.unlink()
        eap.write_text("always eap {\n\trcode = noop\n}\n")
        listed = directory / "mods-config" / "files" / "authorize"
        listed.write_text(users + listed.read_text())
        main = directory / "radiusd.conf"
        text = re.sub(r"(?m)^(localstatedir|logdir|run_dir|raddbdir) = .*", rf"\1 = {directory}", main.read_text())
        main.write_text(re.sub(r"(?m)^\t(user|group) = freerad$", "", text))

    def _install_policy(self) -> None:
        """Into the default site."""
        site = self.directory / "sites-enabled" / "default"
        text = re.sub(r"(?m)^(\s*ipaddr) = \*", r"\1 = 127.0.0.1", site.read_text())
        text = re.sub(r"(?m)^(\s*ipv6addr) = ::\s.*", r"\1 = ::1", text)
        ports = iter([self.auth_port, self.acct_port] * 2)
        text = re.sub(r"(?m)^(\s*port) = 0", lambda found: f"{found[1]} = {next(ports)}", text)
        for before, after in (
            (r"(?m)^\tpap$", "\tddtb6_digest\n\tpap"),
            (r"(?m)^post-auth \{$", "post-auth {\n\tddtb6_rspauth\n\tddtb6_sign"),
            (
                r"(?m)^\tPost-Auth-Type REJECT \{$((?:\n.*)*?)\n\t\}",
                r"\tPost-Auth-Type REJECT {\1\n\t\tddtb6_sign\n\t}",
            ),
        ):
            text, found = re.subn(before, after, text, count=1)
            assert found == 1, before
        site.unlink()
        site.write_text(text)


def free_ports(count: int) -> list[int]:
    """UDP ports that are free on both loopback addresses at this moment, each once."""
    found: dict[int, tuple[socket.socket, socket.socket]] = {}
    while len(found) < count:
        four, six = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        four.bind(("127.0.0.1", 0))
        port = four.getsockname()[1]
        try:
            six.bind(("::1", port))
        except OSError:
            four.close()
            six.close()
            continue
        found[port] = (four, six)
    for pair in found.values():
        for each in pair:
            each.close()
    return list(found)
