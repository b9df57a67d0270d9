# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Debian kernels for virtual machines: fetched with apt, unpacked in a cache, never installed.

Not here: starting them (`support.vm`).
"""

from __future__ import annotations

import fcntl
import gzip
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddtb6-vm"
ALIASES = {"cloud": "linux-image-cloud-amd64", "amd64": "linux-image-amd64", "rt": "linux-image-rt-amd64"}
SYSTEM_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

EARLY = ("virtio_pci", "virtio_mmio", "virtio_console", "virtio_rng", "overlay")
"""Modules tried before there is a root file system, in this order; one that is built in or missing is passed over."""
FILE_SYSTEMS = {
    "virtiofs": ("virtiofs",),
    "9p": ("9pnet_virtio", "9p"),
    "ext4": ("virtio_blk", "crc32c_generic", "ext4"),
}


class NoKernel(Exception):
    """No kernel could be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel in the cache."""

    version: str
    image: Path
    modules: Path

    @property
    def headers(self) -> Path:
        """Where its headers are if they are installed."""
        return Path("/usr/src") / f"linux-headers-{self.version}"


def kernel(name: str = "cloud") -> Kernel:
    """Find or fetch a kernel: ``cloud``, ``amd64``, ``6.12``, ``6.12-cloud``, or a package. Raises NoKernel."""
    package = _package(name)
    target = CACHE / package
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / ".done").exists():
            _fetch(package, target)
    (modules,) = (target / "lib/modules").iterdir()
    return Kernel(modules.name, target / "boot" / f"vmlinuz-{modules.name}", modules)


def _package(name: str) -> str:
    """The versioned package that a meta package or a short name stands for."""
    if re.fullmatch(r"\d+\.\d+(-cloud|-rt)?", name):
        number, _, flavour = name.partition("-")
        name = f"linux-image-{number}-{flavour + '-' if flavour else ''}amd64"
    name = ALIASES.get(name, name)
    if not name.startswith("linux-image-"):
        name = "linux-image-" + name
    only = ("--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces")
    asked = subprocess.run(["apt-cache", "depends", *only, name], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise NoKernel(f"apt knows no package {name}; apt-get update may help")
    found = re.search(r"Depends: (linux-image-\d\S+)", asked.stdout)
    return found[1] if found else name


def _fetch(package: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        os.chmod(place, 0o777)  # apt drops to a user of its own
        got = subprocess.run(
            ["apt-get", "-qq", "download", package], cwd=place, capture_output=True, text=True, check=False
        )
        archives = list(Path(place).glob("*.deb"))
        if not archives:
            raise NoKernel(f"apt-get could not download {package}; apt-get update may help\n{got.stderr}")
        tree = Path(place, "tree")
        subprocess.run(["dpkg", "-x", archives[0], tree], check=True)
        (modules,) = (tree / "lib/modules").iterdir()
        subprocess.run(["depmod", "-b", tree, modules.name], check=True, env={**os.environ, "PATH": SYSTEM_PATH})
        (tree / ".done").touch()
        shutil.rmtree(target, ignore_errors=True)
        tree.rename(target)


class Cpio:
    """Writes the kernel's "newc" archive: an initial file system."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._number = 300_000
        self._directories: set[str] = set()

    def _add(self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._number += 1
        name = path.encode() + b"\0"
        fields = (self._number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % each for each in fields) + name
        self._parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]

    def directory(self, path: str) -> None:
        parent = os.path.dirname(path)
        if parent and parent not in self._directories:
            self.directory(parent)
        if path not in self._directories:
            self._directories.add(path)
            self._add(path, 0o040755)

    def file(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        if os.path.dirname(path):
            self.directory(os.path.dirname(path))
        self._add(path, 0o100000 | mode, data if isinstance(data, bytes) else data.encode())

    def node(self, path: str, major: int, minor: int) -> None:
        self.directory(os.path.dirname(path))
        self._add(path, 0o020600, device=(major, minor))

    def done(self) -> bytes:
        self._add("TRAILER!!!", 0)
        whole = b"".join(self._parts)
        return whole + bytes(-len(whole) % 512)


def initial(modules: Path, file_system: str, init: str) -> bytes:
    """An initial file system with busybox, `init`, and the modules that reach the root file system. Raises NoKernel."""
    busybox = shutil.which("busybox", path=SYSTEM_PATH)
    if busybox is None:
        raise NoKernel("there is no busybox: install busybox-static")
    archive = Cpio()
    for directory in ("bin", "proc", "sys", "dev", "etc", "lib", "job"):
        archive.directory(directory)
    archive.node("dev/console", 5, 1)
    archive.file("bin/busybox", Path(busybox).read_bytes(), 0o755)
    archive.file("init", init, 0o755)
    names = []
    for path in _needed(modules, (*EARLY, *FILE_SYSTEMS[file_system])):
        names.append(_module_name(path))
        archive.file(f"lib/{names[-1]}.ko", _unpacked(modules / path))
    archive.file("etc/early", " ".join(names))
    return archive.done()


def _module_name(path: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", os.path.basename(path)).replace("-", "_")


def _needed(modules: Path, wanted: tuple[str, ...]) -> list[str]:
    """Paths of the wanted modules that are there, each after what it depends on."""
    depends: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        depends[path] = rest.split()
    by_name = {_module_name(path): path for path in depends}
    order: list[str] = []

    def need(path: str) -> None:
        for each in depends[path]:
            need(each)
        if path not in order:
            order.append(path)

    for name in wanted:
        if name in by_name:
            need(by_name[name])
    return order


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    return data
