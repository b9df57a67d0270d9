# SPDX-License-Identifier: GPL-2.0-or-later
"""One command in a throw-away virtual machine with a stock Debian kernel, on this machine's own root file system.

    python tests/support/vm.py [--kernel 6.12-cloud] [--utun] [--check-log] [--shell] [--] COMMAND [ARGUMENT...]

The guest sees the root file system read-only under an overlay in memory, and the working directory read-write, so the
host's programs, its Python and this tree are there, and every other change is lost at the end. It has its own /tmp,
/run, /dev, /proc and /sys, and no network beyond loopback. Nothing is installed: kernels come with `support.vm_kernel`.

Standard output and standard error are streamed. The exit status is the command's, or 124 at the time limit, 125 when
the guest died (the tail of its console is shown), 126 when it could not be set up, 99 when the command succeeded but
the kernel's log has something that it should not have.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support.vm_kernel import CACHE, SYSTEM_PATH, Cpio, Kernel, NoKernel, initial, kernel

TREE = Path(__file__).parents[2]
MODULE = TREE / "kmod/utun"
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "insmod": "kmod",
    "gcc": "build-essential",
    "make": "build-essential",
}
"""What has to be there, and the Debian package that has it."""
SERVERS = (Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd"))
TIME_LIMIT, DIED, NO_START, DIRTY = 124, 125, 126, 99
BOOTS = 3
"""How often a guest is started that dies of its emulation or on its way up."""
EMULATION = "int3: 0000"
"""In what a kernel says that dies of QEMU 7.2: the processors it emulates may run a breakpoint that a kernel patching
itself has put back already. It comes about once in thirty boots of a busy machine, and seldom when keys switch."""

FAULT = re.compile(
    r"BUG:|WARNING:|Oops|KASAN|UBSAN|INFO: (possible|suspicious|task|lockdep|trying)|unreferenced object|"
    r"general protection|refcount_t|Kernel panic|sleeping function|unregister_netdevice: waiting"
)
"""Lines of a kernel log that say that something is wrong with the kernel."""

INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in $(cat /etc/early); do insmod /lib/$m.ko || echo "vm: insmod $m failed"; done
. /job/settings
mount_share() {  # tag, target, mode
    if [ "$FS" = virtiofs ]; then mount -t virtiofs -o "$3" "$1" "$2"
    else mount -t 9p -o "$3,trans=virtio,version=9p2000.L,msize=512000,cache=$CACHE9P" "$1" "$2"; fi
}
mkdir -p /lower /rw /new
mount_share hostroot /lower ro || echo "vm: no host root"
mount -t tmpfs -o mode=755,size=75% rw /rw
mkdir /rw/up /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/up,workdir=/rw/work overlay /new || echo "vm: no overlay"
mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount -t devtmpfs dev /new/dev
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /new/dev/pts
mount -t tmpfs -o mode=1777 shm /new/dev/shm
[ -e /new/dev/fd ] || ln -s /proc/self/fd /new/dev/fd
mount -t tmpfs -o mode=755 run /new/run
mkdir -p /new/run/lock /new/run/netns
mount -t tmpfs -o mode=1777 tmp /new/tmp
mount -t tracefs t /new/sys/kernel/tracing 2>/dev/null
mount -t debugfs d /new/sys/kernel/debug 2>/dev/null
mount -t cgroup2 c /new/sys/fs/cgroup 2>/dev/null
. /job/shares
mkdir -p /new/run/vm
cp -r /job /bin/busybox /new/run/vm/
umount /proc /sys
exec switch_root /new /run/vm/busybox sh /run/vm/job/stage2
"""

STAGE2 = r"""
B=/run/vm/busybox
J=/run/vm/job
. $J/settings
$B mkdir -p /lib/modules/$($B uname -r)
$B mount -o bind "$MODULES" /lib/modules/$($B uname -r) || echo "vm: no modules"
for p in /sys/class/virtio-ports/*; do
    read n < $p/name && eval "PORT_$n=/dev/${p##*/}"
done
$B ip link set lo up
$B hostname vm
$B sysctl -qw kernel.panic_on_oops=1 2>/dev/null
echo "ready $($B cut -d' ' -f1 /proc/uptime)" > $PORT_status
if [ -n "$CONSOLE" ]; then
    $B setsid $B cttyhack /bin/sh $J/run < /dev/ttyS0 > /dev/ttyS0 2>&1
else
    $B setsid /bin/sh $J/run < /dev/null > $PORT_out 2> $PORT_err
fi
rc=$?
$B dmesg > $PORT_dmesg
echo "exit $rc" > $PORT_status
$B poweroff -f
"""

LOAD = """
export PATH=$PATH:/usr/sbin:/sbin
modprobe udp_tunnel && modprobe tunnel4 && modprobe veth && insmod {ko} || exit 126
export DDTB6_UTUN_KO={ko}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went."""

    status: int
    log: str
    """The kernel's log; empty when the guest died."""
    ready_after: float
    """Seconds until the command began; not a number when it did not."""
    emulation: bool = False
    """The guest died of `EMULATION`."""

    @property
    def faults(self) -> list[str]:
        return [line for line in self.log.splitlines() if FAULT.search(line)]


def missing() -> str | None:
    """Why no virtual machine can be started here; None when one can."""
    lacking = {package for program, package in PROGRAMS.items() if not shutil.which(program, path=SYSTEM_PATH)}
    if lacking:
        return f"programs are missing: install {' '.join(sorted(lacking))}"
    if not shutil.which("apt-get"):
        return "kernels are fetched with apt-get, which is not here"
    if file_system() == "virtiofs" and not any(map(Path.exists, SERVERS)):
        return "there is no virtiofsd: install qemu-system-common, or virtiofsd"
    return None


def file_system() -> str:
    """What the guest reaches the host's files with; virtiofs needs root, 9p a kernel that is not of the cloud kind."""
    return "virtiofs" if os.geteuid() == 0 else "9p"


def build_utun(which: Kernel) -> Path:
    """Build the module for a kernel; returns its file. Raises NoKernel without headers, RuntimeError for bad source."""
    if not which.headers.exists():
        raise NoKernel(f"there are no headers for {which.version}: install linux-headers-{which.version}")
    made = subprocess.run(
        ["make", "-C", MODULE, f"KDIR={which.headers}", "module"], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise RuntimeError(f"utun does not build for {which.version}:\n{made.stdout[-4000:]}{made.stderr[-4000:]}")
    return MODULE / "build" / which.version / "utun.ko"


def run(
    which: Kernel,
    command: list[str],
    *,
    utun: Path | None = None,
    environment: dict[str, str] | None = None,
    cpus: int = 2,
    memory: str = "2G",
    accelerator: str = "tcg",
    time_limit: float = 600,
    console: bool = False,
    out: IO[bytes] | None = None,
    err: IO[bytes] | None = None,
) -> Outcome:
    """Run `command` in the working directory, under a kernel, with the module `utun` loaded. Raises NoKernel.

    `console`: the command has the terminal. A guest that dies of its emulation, or before the command has begun, is
    started anew.
    """
    out, err = out or sys.stdout.buffer, err or sys.stderr.buffer
    for _ in range(BOOTS):
        outcome = _boot(
            which, command, utun, environment or {}, cpus, memory, accelerator, time_limit, console, out, err
        )
        if outcome.status != DIED or not (outcome.emulation or math.isnan(outcome.ready_after)):
            break
    return outcome


def _boot(
    which: Kernel,
    command: list[str],
    utun: Path | None,
    environment: dict[str, str],
    cpus: int,
    memory: str,
    accelerator: str,
    time_limit: float,
    console: bool,
    out: IO[bytes],
    err: IO[bytes],
) -> Outcome:
    with contextlib.ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix="ddtb6-vm."))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        log = stack.enter_context((work / "log").open("wb"))
        fs = file_system()
        share = os.getcwd()
        initrd = work / "initrd"
        initrd.write_bytes(_base(which, fs) + _job(which, fs, share, command, utun, environment, console))
        argv = [*hardware(which, initrd, fs, accelerator, cpus, memory), "-no-reboot"]
        argv += (
            ["-chardev", "stdio,id=con,signal=off"] if console else ["-chardev", f"file,id=con,path={work / 'console'}"]
        )
        argv += ["-serial", "chardev:con"]
        for number, (tag, path, writable) in enumerate((("hostroot", "/", False), ("share", share, True))):
            if fs == "virtiofs":
                at = work / f"fs{number}"
                stack.callback(end, _serve(path, at, "auto" if writable else "always", log))
                argv += ["-chardev", f"socket,id=fs{number},path={at}"]
                argv += ["-device", f"vhost-user-fs-pci,chardev=fs{number},tag={tag}"]
            else:
                argv += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=passthrough,multidevs=remap"]
                argv[-1] += "" if writable else ",readonly=on"
        ports = _Ports(work, out, err)
        stack.callback(ports.close)
        argv += ports.argv
        qemu = subprocess.Popen(
            argv, stdin=None if console else subprocess.DEVNULL, stdout=None if console else log, stderr=log
        )
        stack.callback(end, qemu)
        if not ports.listen(qemu):
            raise NoKernel("QEMU did not start:\n" + (work / "log").read_text(errors="replace")[-2000:])
        try:
            qemu.wait(time_limit)
            ports.join()
            status = ports.status
        except subprocess.TimeoutExpired:
            status = TIME_LIMIT
        last_words = "" if console else (work / "console").read_text(errors="replace")
        if status is None or status == TIME_LIMIT:
            tail = last_words[-4000:]
            said = "the time limit was reached" if status else "the guest died"
            qemu_said = (work / "log").read_text(errors="replace")[-1000:]
            err.write(f"vm: {said}; its console ended with:\n{tail}\n{qemu_said}\n".encode())
            err.flush()
        log_text = ports.log.decode(errors="replace")
        died_of_emulation = status is None and EMULATION in last_words
        return Outcome(DIED if status is None else status, log_text, ports.ready_after, died_of_emulation)


def _base(which: Kernel, fs: str) -> bytes:
    key = hashlib.sha256("\0".join((INIT, fs, str(which.modules))).encode()).hexdigest()[:16]
    cached = CACHE / f"initial-{key}"
    if not cached.exists():
        part = cached.with_suffix(f".{os.getpid()}")
        part.write_bytes(initial(which.modules, fs, INIT))
        part.rename(cached)
    return cached.read_bytes()


def _job(
    which: Kernel,
    fs: str,
    share: str,
    command: list[str],
    utun: Path | None,
    environment: dict[str, str],
    console: bool,
) -> bytes:
    """The part of the initial file system that differs from run to run."""
    quote = shlex.quote
    passed = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TERM") if name in os.environ}
    exports = "".join(f"export {name}={quote(value)}\n" for name, value in {**passed, **environment}.items())
    load = LOAD.format(ko=quote(str(utun))) if utun else ""
    job = Cpio()
    job.file("job/settings", f"FS={fs}\nCACHE9P=loose\nMODULES={quote(str(which.modules))}\nCONSOLE={'1' * console}\n")
    job.file("job/shares", f"mkdir -p /new{quote(share)}; CACHE9P=mmap mount_share share /new{quote(share)} rw\n")
    job.file("job/run", f"{exports}cd {quote(share)} || exit 126\n{load}exec {shlex.join(command)}\n")
    job.file("job/stage2", STAGE2)
    return job.done()


def hardware(
    which: Kernel,
    initrd: Path,
    fs: str,
    accelerator: str = "tcg",
    cpus: int = 2,
    memory: str = "2G",
    clock: str = "tsc=reliable",
) -> list[str]:
    """QEMU's command line for a machine without disks, networks and terminals."""
    tcg = accelerator == "tcg"
    argv = ["qemu-system-x86_64", "-M", "q35,hpet=off,usb=off,vmport=off"]
    argv += ["-accel", "tcg,thread=multi,tb-size=512" if tcg else accelerator]
    argv += ["-cpu", "max,-la57,-pku,-svm" if tcg else "host", "-smp", str(cpus), "-m", memory]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"]
    argv += ["-kernel", str(which.image), "-initrd", str(initrd)]
    argv += ["-append", "console=ttyS0 panic=-1 quiet loglevel=5 mitigations=off nokaslr audit=0"]
    argv[-1] += f" apparmor=0 random.trust_cpu=on cryptomgr.notests {clock}"
    argv += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
    if fs == "virtiofs":
        argv += ["-object", f"memory-backend-memfd,id=mem,size={memory},share=on", "-machine", "memory-backend=mem"]
    return argv


def _serve(path: str, at: Path, cache: str, log: IO[bytes]) -> subprocess.Popen[Any]:
    """A server for one directory, listening at a socket."""
    server = next(each for each in SERVERS if each.exists())
    argv = [str(server), f"--socket-path={at}"]
    if "libexec" in str(server):
        argv += [f"--shared-dir={path}", f"--cache={cache}"]
    else:  # the one that came with QEMU before 8; it cannot pivot_root into "/" itself
        argv += ["-o", f"source={path},cache={cache},xattr,sandbox=chroot,no_posix_lock,no_flock,log_level=err"]
    started = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    for _ in range(500):
        if at.exists():
            return started
        if started.poll() is not None:
            break
        time.sleep(0.02)
    end(started)
    raise NoKernel("virtiofsd did not start")


def end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Ports:
    """The guest's serial ports: its output, errors, status and log."""

    def __init__(self, work: Path, out: IO[bytes], err: IO[bytes]) -> None:
        self.argv: list[str] = []
        self.status: int | None = None
        self.ready_after = float("nan")
        self.log = bytearray()
        self._began = time.monotonic()
        self._sinks = {"out": out, "err": err}
        self._listeners: dict[str, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        for number, name in enumerate(("out", "err", "status", "dmesg"), 1):
            self._listeners[name] = listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(work / name))
            listener.listen(1)
            listener.settimeout(1)
            self.argv += ["-chardev", f"socket,id={name},path={work / name}"]
            self.argv += ["-device", f"virtserialport,chardev={name},name={name},nr={number}"]

    def listen(self, qemu: subprocess.Popen[Any]) -> bool:
        """Wait for QEMU to open all of them."""
        for name, listener in self._listeners.items():
            for _ in range(30):
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    break
                if qemu.poll() is not None:
                    return False
            else:
                return False
            self._threads.append(threading.Thread(target=self._pump, args=(name, connection), daemon=True))
            self._threads[-1].start()
        return True

    def _pump(self, name: str, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                if name == "dmesg":
                    self.log += data
                elif name == "status":
                    for line in data.decode().splitlines():
                        word, _, value = line.partition(" ")
                        if word == "exit":
                            self.status = int(value)
                        else:
                            self.ready_after = time.monotonic() - self._began
                else:
                    self._sinks[name].write(data)
                    self._sinks[name].flush()

    def join(self) -> None:
        for each in self._threads:
            each.join(10)

    def close(self) -> None:
        for each in self._listeners.values():
            each.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="vm.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kernel", default="cloud", help="cloud, amd64, rt, 6.12, 6.12-cloud or a linux-image package")
    parser.add_argument("--utun", action="store_true", help="build the module and load it")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--accelerator", choices=("tcg", "kvm"), default="tcg")
    parser.add_argument("--time-limit", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--check-log", action="store_true", help="fail when the kernel's log has a warning or worse")
    parser.add_argument("--show-log", action="store_true", help="show the kernel's log at the end")
    parser.add_argument("--print-version", action="store_true", help="print the kernel's version and end")
    parser.add_argument("--shell", action="store_true", help="give the command, by default a shell, the terminal")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends as well
    command = [each for place, each in enumerate(options.command) if (place, each) != (0, "--")]
    if not command and not options.shell and not options.print_version:
        parser.error("give a command, or --shell")
    if (why := missing()) is not None:
        print(f"vm: {why}", file=sys.stderr)
        return NO_START
    try:
        which = kernel(options.kernel)
        if options.print_version:
            print(which.version)
            return 0
        outcome = run(
            which,
            command or ["/bin/bash", "-i"],
            utun=build_utun(which) if options.utun else None,
            cpus=options.cpus,
            memory=options.memory,
            accelerator=options.accelerator,
            time_limit=options.time_limit if not options.shell else 1e6,
            console=options.shell,
        )
    except (NoKernel, RuntimeError) as fault:
        print(f"vm: {fault}", file=sys.stderr)
        return NO_START
    if options.show_log:
        print(outcome.log, file=sys.stderr)
    if options.check_log and outcome.faults:
        print("vm: the kernel's log has:\n" + "\n".join(outcome.faults[:20]), file=sys.stderr)
        return outcome.status or DIRTY
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
