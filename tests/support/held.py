# SPDX-License-Identifier: GPL-2.0-or-later
"""A data plane and a store that do at once what they are told, and answer when the test lets them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from ddtb6.dataplane.memory import MemoryPlane
from ddtb6.store.store import Store

T = TypeVar("T")

VERBS = ("raise_tunnel", "lower_tunnel", "dump", "start")
METHODS = ("open_session", "close_sessions", "checkpoint", "release")


class Holder:
    """Answers kept back, oldest first."""

    def __init__(self) -> None:
        self.on = False
        self.waiting: list[tuple[str, Deferred[None]]] = []

    def let_go(self, index: int = 0) -> str:
        """Give one of the answers; returns the name of what was called."""
        name, answer = self.waiting.pop(index)
        answer.callback(None)
        return name

    def let_all_go(self) -> None:
        while self.waiting:
            self.let_go()

    async def _held(self, name: str, work: Awaitable[T]) -> T:
        try:
            outcome: Any = await work
            failure = None
        except Exception as error:
            failure = error
        if self.on:
            answer: Deferred[None] = Deferred()
            self.waiting.append((name, answer))
            await answer
        if failure is not None:
            raise failure
        return outcome  # type: ignore[no-any-return]

    def wrap(self, name: str, method: Callable[..., Awaitable[T]]) -> Callable[..., Coroutine[Any, Any, T]]:
        """`method`, which acts when it is called, but answers when it may."""

        async def held(*args: Any, **kwargs: Any) -> T:
            return await self._held(name, method(*args, **kwargs))

        return held


def hold(holder: Holder, plane: MemoryPlane, store: Store) -> None:
    """Have all that is asked of both answered by `holder`."""
    for name in VERBS:
        setattr(plane, name, holder.wrap(f"plane.{name}", getattr(plane, name)))
    for name in METHODS:
        setattr(store, name, holder.wrap(f"store.{name}", getattr(store, name)))


def begin(coroutine: Coroutine[Any, Any, T]) -> list[T | BaseException]:
    """Run it as far as it gets; the list has its outcome once it has one."""
    outcome: list[Any] = []
    Deferred.fromCoroutine(coroutine).addCallbacks(outcome.append, lambda failure: outcome.append(failure.value))
    return outcome
