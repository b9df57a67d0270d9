# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that opens and ends sessions as fast as it can and prints what was confirmed, until it is killed.

``python -m support.store_storm DIRECTORY SEED``. A line is ``opened ID OWNER ADDRESS PREFIX``, ``closed ID``,
``releasing OWNER`` or ``released OWNER``.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from support.stored import SetClock, by_name, opening, pool
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from ddtb6.addressing.pool import Use
from ddtb6.broker.ports import Ending
from ddtb6.store.store import open_store
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import Counters

OWNERS = 60
POOLS = by_name(
    pool("links", "2001:db8:ffff:1::/64", Use.ACCOUNTS, quarantine=0.0),
    pool("guests", "2001:db8:ffff:2::/64", Use.ANONYMOUS, quarantine=0.0),
    pool("homes", "2001:db8:100::/48", quarantine=0.0),
)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main(directory: str, seed: str) -> None:
    dice = random.Random(int(seed))
    pool = ThreadPool(1, 1)
    store = open_store(
        Path(directory, "ddtb6.sqlite"),
        POOLS,
        SetClock(float(seed)),
        in_thread=lambda function: deferToThreadPool(reactor, pool, function),
        later=lambda function: reactor.callLater(0, function),
        journal=True,
    )

    async def live(number: int) -> None:
        """One owner after the other comes, and most go."""
        while True:
            owner = f"{dice.choice(('user', 'anonymous'))}:{number}-{dice.randrange(3)}"
            session = await store.open_session(opening(owner, "homes" if owner.startswith("user") else None))
            say("opened", session.id, owner, session.spec.address, session.spec.prefix)
            if dice.random() < 0.8:
                carried = dice.choice((Counters(), Counters(1, 1, 1, 1)))
                await store.close_sessions([Ending(session.id, EndReason.IDLE, carried)])
                say("closed", session.id)
            if dice.random() < 0.3:
                say("releasing", owner)
                await store.release(owner)
                say("released", owner)

    def begin() -> None:
        pool.start()
        for number in range(OWNERS):
            ensureDeferred(live(number)).addErrback(lambda failure: say("failed", failure))

    reactor.callWhenRunning(begin)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
