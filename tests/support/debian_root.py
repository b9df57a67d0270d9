# SPDX-License-Identifier: GPL-2.0-or-later
"""A clean Debian 12 in a directory, in which packages are installed and programs run.

It is made once by mmdebstrap, from the sources that this machine's apt has, and kept as an archive; so are the packages
that apt fetches. Nothing in it is started by an init system: what runs in it runs in the namespaces of the test.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path.home() / ".cache" / "ddtb6-deb"
RELEASE = "bookworm"
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("mmdebstrap", "dpkg-buildpackage", "lintian", "unshare", "setpriv")

_ENTER = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
"""In a mount namespace of its own, so that nothing of it is left when the program ends."""


def missing() -> str | None:
    """Why this cannot be done here; None when it can."""
    if os.geteuid() != 0:
        return "not root: packages are installed in a directory by root"
    for program in PROGRAMS:
        if shutil.which(program, path=PATH) is None:
            return f"the program {program} is missing: install mmdebstrap, dpkg-dev, lintian and util-linux"
    if not SOURCES.exists() or RELEASE not in SOURCES.read_text():
        return f"{SOURCES} names no packages of Debian 12 ({RELEASE})"
    return None


def run(*command: str | Path, **options: object) -> str:
    """What it prints; the exit status must be 0."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def checkout(directory: Path) -> Path:
    """A copy of what git would check out, with the changes that are not committed."""
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    return directory


def build(directory: Path, version: str | None = None) -> dict[str, Path]:
    """`make deb` on a checkout; by name of package the file. `version` instead of its own."""
    source = checkout(directory / "source")
    if version is not None:
        log = source / "debian" / "changelog"
        first, _, rest = log.read_text().partition("\n")
        own = first[first.index("(") : first.index(")") + 1]
        log.write_text(f"{first.replace(own, f'({version})')}\n{rest}")
    run("make", "deb", cwd=source)
    return {path.name.partition("_")[0]: path for path in (source / "dist").glob("*.deb")}


class DebianRoot:
    """A Debian 12 with nothing but what is essential, and apt."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "root"
        self.path.mkdir()
        run("tar", "-x", "-f", _base(), "-C", self.path)
        archives = CACHE / "archives"
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        self._archives = archives
        for name in ("resolv.conf", "hosts"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"/etc/{name}", self.path / "etc" / name)
        self.run("apt-get", "update", "-qq")
        self.clean = self.files()
        """Every path that was there in the beginning."""

    def command(self, *words: str | Path) -> list[str]:
        """What runs `words` in it, in the network of whoever runs that."""
        return [
            "env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
            "INITRD=No",  # nothing boots by one that a kernel's package would make
            "unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, str(self.path),
            *map(str, words),
        ]  # fmt: skip

    def run(self, *words: str | Path, **options: object) -> str:
        """What it prints; the exit status must be 0."""
        return run(*self.command(*words), **options)

    def apt(self, *words: str) -> str:
        """apt-get, with the packages of former times at hand."""
        with self.archives():
            return self.run(
                "apt-get", "-y", "-qq", "-o", "APT::Keep-Downloaded-Packages=true",
                "-o", "DPkg::Options::=--force-unsafe-io", *words,
            )  # fmt: skip

    @contextlib.contextmanager
    def archives(self) -> Iterator[None]:
        """Meanwhile apt finds what it fetched in former times, and other runs of the tests wait."""
        with (CACHE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with _bound(self._archives, self.path / "var/cache/apt/archives"):
                yield

    def install(self, *packages: Path, recommends: bool = False) -> str:
        """Files of packages, and from the archive what they depend on."""
        place = self.path / "tmp"
        for package in packages:
            shutil.copy(package, place)
        names = [f"/tmp/{package.name}" for package in packages]
        try:
            return self.apt("install", *([] if recommends else ["--no-install-recommends"]), *names)
        finally:
            for name in names:
                (self.path / name[1:]).unlink()

    def bring(self, directory: Path, where: str) -> None:
        """A copy of a directory of ours."""
        shutil.copytree(directory, self.path / where[1:], symlinks=True)

    def take_away(self, where: str) -> None:
        shutil.rmtree(self.path / where[1:])

    def files(self) -> set[str]:
        """Every path in it, but what apt and dpkg write down of their own work."""
        found = self.run("find", "/", "-xdev", *_but(_OF_APT), "-print")
        return set(found.splitlines())


_OF_APT = ("/proc", "/dev", "/sys", "/tmp", "/var/lib/apt", "/var/lib/dpkg", "/var/cache", "/var/log")


def _but(paths: Sequence[str]) -> Iterable[str]:
    for path in paths:
        yield from ("-path", path, "-prune", "-o")


@contextlib.contextmanager
def _bound(what: Path, where: Path) -> Iterator[None]:
    run("mount", "--bind", what, where)
    try:
        yield
    finally:
        run("umount", where)


def _base() -> Path:
    """The archive; made the first time, which takes a minute."""
    key = hashlib.sha256(SOURCES.read_bytes()).hexdigest()[:12]
    archive = CACHE / f"{RELEASE}-{key}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        fresh = archive.with_suffix(f".{os.getpid()}.tar")
        run("mmdebstrap", "--quiet", "--variant=apt", RELEASE, fresh, SOURCES)
        fresh.rename(archive)
    return archive
