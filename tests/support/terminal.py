# SPDX-License-Identifier: GPL-2.0-or-later
"""A program on a terminal of its own, in a network namespace, and the person before it who types answers."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from typing import Any

from support.netns import Namespace


class Terminal:
    """Ends with the lab of its namespace, if not before."""

    def __init__(self, space: Namespace, *words: str, **options: Any) -> None:
        self._ours, theirs = pty.openpty()
        self.process: subprocess.Popen[Any] = space.spawn(*words, stdin=theirs, stdout=theirs, stderr=theirs, **options)
        os.close(theirs)
        self._raw, self._seen = b"", 0

    @property
    def shown(self) -> str:
        """All that stood there so far."""
        return self._raw.decode(errors="replace").replace("\r\n", "\n")

    def look(self) -> str:
        """All that stands there now."""
        while select.select([self._ours], [], [], 0)[0] and self._read(0):
            pass
        return self.shown

    def answer(self, question: str, text: str, *, patience: float = 30) -> None:
        """Type `text` and Enter once the question stands there, behind what was answered before."""
        while (found := self.shown.find(question, self._seen)) < 0:
            assert self._read(patience), f"{question!r} was not asked:\n{self.shown}"
        self._seen = found + len(question)
        os.write(self._ours, f"{text}\n".encode())

    def end(self, status: int = 0, *, patience: float = 30) -> str:
        """All that it showed, once it has ended with that status."""
        while self._read(patience):
            pass
        assert self.process.wait(patience) == status, self.shown
        os.close(self._ours)
        return self.shown

    def _read(self, patience: float) -> bool:
        """False when the other side is closed; AssertionError when nothing comes for `patience` seconds."""
        ready, _, _ = select.select([self._ours], [], [], patience)
        assert ready, f"nothing more came after:\n{self.shown}"
        try:
            more = os.read(self._ours, 4096)
        except OSError:
            return False
        self._raw += more
        return bool(more)
