# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is asked about credentials and in which order, what is offered for that, and who lets anonymous clients in.

Invariant: a link that cannot answer ends the chain; nobody is let in because somebody else could not be asked.
Not here: local users (`auth.local`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ddtb6.addressing.endpoint import Link
from ddtb6.broker.ports import Accepted, Authenticator, NotMine, Principal, Rejected, Verdict
from ddtb6.sasl import credentials as sasl
from ddtb6.sasl.credentials import Credentials

ORDER = ("ANONYMOUS", "PLAIN", "DIGEST-MD5")
"""As the mechanisms stand in CAPABILITY; clients take the best they know wherever it stands."""


class Chain:
    """Asks its links in order until one knows the account."""

    def __init__(self, links: Sequence[Authenticator]) -> None:
        self._links = tuple(links)

    @property
    def mechanisms(self) -> frozenset[str]:
        """What any of the links can judge."""
        return frozenset().union(*(each.mechanisms for each in self._links))

    async def verify(self, credentials: Credentials, link: Link) -> Verdict:
        """The first verdict that is not NotMine; a link is asked only about mechanisms that it can judge."""
        for each in self._links:
            if credentials.mechanism in each.mechanisms:
                verdict = await each.verify(credentials, link)
                if not isinstance(verdict, NotMine):
                    return verdict
        return Rejected("no such account")


class Anonymous:
    """Lets anybody in, as the owner of what belongs to their outer endpoint."""

    mechanisms = frozenset({"ANONYMOUS"})

    async def verify(self, credentials: Credentials, link: Link) -> Verdict:
        if not isinstance(credentials, sasl.Anonymous):
            return NotMine()
        return Accepted(Principal(owner=f"anonymous:{link.remote}", user=None))


def offered(configured: Collection[str], authenticator: Authenticator) -> tuple[str, ...]:
    """The mechanisms to advertise, in order: those of `configured` (any case) that `authenticator` can judge."""
    wanted = {each.upper() for each in configured} & authenticator.mechanisms
    return tuple(each for each in ORDER if each in wanted)
