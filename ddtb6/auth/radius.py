# SPDX-License-Identifier: GPL-2.0-or-later
"""Users that the ISP's AAA keeps: which mechanism is judged in which way, and what an answer must have.

Modes: `pap` judges PLAIN, the others DIGEST-MD5: `digest` and `digest-draft` let the AAA judge, `ha1` has it hand out
MD5(user:realm:password) and judges here.
Invariants: no answer is never an accept; a DIGEST-MD5 client is let in only with the proof that it waits for, unless
the configuration says otherwise.
Not here: how the AAA is asked (`radius.access`), the order of asking (`auth.chain`), local users (`auth.local`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from ddtb6.addressing.endpoint import Link
from ddtb6.broker.ports import Accepted, NotMine, Principal, Rejected, Unavailable, Verdict
from ddtb6.sasl import digest
from ddtb6.sasl.credentials import Credentials, DigestProof, Plain

JUDGED: Mapping[str, str] = {
    "pap": "PLAIN",
    "digest": "DIGEST-MD5",
    "digest-draft": "DIGEST-MD5",
    "ha1": "DIGEST-MD5",
}
"""Mode to mechanism."""


class Aaa(Protocol):
    """Whom `RadiusUsers` asks. Raises nothing."""

    async def password(self, credentials: Plain, link: Link) -> Verdict:
        """Judge a password."""

    async def digest(self, proof: DigestProof, link: Link) -> Verdict:
        """Judge a DIGEST-MD5 proof; `Accepted.rspauth` is None when no proof of the server was given."""

    async def stored_digest(
        self, user: str, realm: str, link: Link
    ) -> tuple[Principal, bytes] | Rejected | Unavailable:
        """Who `user` is, and MD5(user:realm:password)."""


class RadiusUsers:
    """Judges by asking the AAA; every account it is asked about is the AAA's."""

    def __init__(self, aaa: Aaa, realm: str, modes: Collection[str], *, without_rspauth: bool = False) -> None:
        """`modes` are keys of `JUDGED`, at most one for each mechanism. Raises ValueError for others.

        `without_rspauth`: accept DIGEST-MD5 although the AAA proved nothing; most clients then give up.
        """
        judged = [JUDGED[each] for each in modes if each in JUDGED]
        if not judged or len({*judged}) < len(modes):
            raise ValueError(f"no such modes, or two for one mechanism: {', '.join(modes)}")
        self._aaa = aaa
        self._realm = realm
        self._hands_out = "ha1" in modes
        self._without_rspauth = without_rspauth
        self.mechanisms = frozenset(judged)

    async def verify(self, credentials: Credentials, link: Link) -> Verdict:
        if credentials.mechanism not in self.mechanisms:
            return NotMine()
        match credentials:
            case Plain():
                return await self._aaa.password(credentials, link)
            case DigestProof():
                if credentials.realm != self._realm:
                    return Rejected("not the realm that was offered")
                judge = self._judged_here if self._hands_out else self._judged_there
                return await judge(credentials, link)
        return NotMine()

    async def _judged_there(self, proof: DigestProof, link: Link) -> Verdict:
        verdict = await self._aaa.digest(proof, link)
        if isinstance(verdict, Accepted) and verdict.rspauth is None and not self._without_rspauth:
            return Rejected(
                "the AAA accepted but sent no Digest-Response-Auth, without which the client would wait for ever; "
                "install the policy that comes with ddtb6, or set radius.without_rspauth"
            )
        return verdict

    async def _judged_here(self, proof: DigestProof, link: Link) -> Verdict:
        known = await self._aaa.stored_digest(proof.user, self._realm, link)
        if not isinstance(known, tuple):
            return known
        principal, secret = known
        rspauth = digest.check(proof, secret)
        return Rejected("wrong password") if rspauth is None else Accepted(principal, rspauth)
