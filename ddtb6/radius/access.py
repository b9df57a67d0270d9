# SPDX-License-Identifier: GPL-2.0-or-later
"""Log-ins as Access-Requests, and the answers as verdicts.

Source: RFC 2865 (User-Password), 5090 (digest attributes, with the arithmetic of SASL instead of HTTP's), and
draft-sterman-aaa-sip for servers that know the numbers 206 and 207 only. `stored_digest` departs from RFC 5090 on
purpose: the server hands out MD5(user:realm:password), so that path must be protected by other means.
Invariants: silence and an answer that cannot be used are never an accept; no verdict holds a secret, and what a server
writes reaches the log and the client as one short line of printable text.
Not here: which mechanism is judged in which way (`auth.radius`), retransmission (`radius.peer`), attributes to terms
(`radius.terms`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ddtb6.addressing.endpoint import Link
from ddtb6.broker.ports import Accepted, Principal, Rejected, Unavailable, Verdict
from ddtb6.radius.attributes import Attribute, Malformed, Received, Unencodable
from ddtb6.radius.exchange import NoAnswer, RadiusClient
from ddtb6.radius.nas import Nas, SessionNames, naming
from ddtb6.radius.packets import Code, Reply
from ddtb6.radius.terms import read_terms
from ddtb6.sasl.credentials import DigestProof, Plain

LONGEST_MESSAGE = 200
"""Characters of a Reply-Message that are handed on."""

_FRAMED, _CALL_CHECK = 2, 10
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]{32}")


class RadiusAccess:
    """Asks about log-ins; implements `auth.radius.Aaa`."""

    def __init__(
        self, client: RadiusClient, nas: Nas, names: SessionNames, *, draft: bool = False, obey_interim: bool = True
    ) -> None:
        """`draft`: digests go by the draft's attributes. `obey_interim`: see `terms.read_terms`."""
        self._client = client
        self._nas = nas
        self._names = names
        self._draft = draft
        self._obey_interim = obey_interim

    async def password(self, credentials: Plain, link: Link) -> Verdict:
        """SASL PLAIN as User-Password."""
        user, name = credentials.user, self._names.next()
        asked: list[Attribute] = [("User-Name", user), ("User-Password", credentials.password.encode())]
        reply = await self._ask([*asked, *self._about(link, name)])
        return self._accepted(reply, user, name) if isinstance(reply, Reply) else reply

    async def digest(self, proof: DigestProof, link: Link) -> Verdict:
        """DIGEST-MD5, judged by the server; the accept carries its rspauth, if it gave one (Digest-Response-Auth)."""
        try:
            asked = (_drafted if self._draft else _rfc5090)(proof)
        except Unencodable as error:
            return Rejected(f"the log-in does not fit into RADIUS: {error}")
        name = self._names.next()
        reply = await self._ask([*asked, *self._about(link, name)])
        if not isinstance(reply, Reply):
            return reply
        try:
            rspauth = _hexadecimal(reply.attributes, "Digest-Response-Auth")
        except Malformed as error:
            return _unusable(reply, error)
        return self._accepted(reply, proof.user, name, rspauth=rspauth)

    async def stored_digest(
        self, user: str, realm: str, link: Link
    ) -> tuple[Principal, bytes] | Rejected | Unavailable:
        """Who `user` is, and the 16 octets of MD5(user:realm:password), without any credentials being shown."""
        name = self._names.next()
        about = self._about(link, name, "Call-Check")
        reply = await self._ask([("User-Name", user), ("Digest-Realm", realm), *about])
        if not isinstance(reply, Reply):
            return reply
        verdict = self._accepted(reply, user, name, (_FRAMED, _CALL_CHECK))
        if not isinstance(verdict, Accepted):
            return verdict
        try:
            secret = _hexadecimal(reply.attributes, "Digest-HA1")
        except Malformed as error:
            return _unusable(reply, error)
        if secret is None:
            return _unusable(reply, Malformed("it has no Digest-HA1"))
        return verdict.principal, bytes.fromhex(secret)

    def _about(self, link: Link, name: int, service: str = "Framed-User") -> list[Attribute]:
        """`name` is what the session will be called."""
        nas = self._nas
        info = f"TSP/{link.carrier.value}"
        return [*naming(name), *nas.identity(), *nas.service(service), *nas.path(link.local, link.remote, info)]

    async def _ask(self, attributes: Sequence[Attribute]) -> Reply | Rejected | Unavailable:
        """The Access-Accept, or what its absence means."""
        try:
            reply = await self._client.exchange(Code.ACCESS_REQUEST, lambda: attributes)
        except NoAnswer as error:
            return Unavailable(f"no answer from RADIUS: {error}")
        except Unencodable as error:
            return Rejected(f"the log-in does not fit into RADIUS: {error}")
        if reply.code is Code.ACCESS_ACCEPT:
            return reply
        if reply.code is Code.ACCESS_CHALLENGE:
            return Rejected(f"RADIUS server {reply.server} wants a dialogue (Access-Challenge), which TSP has not")
        message = _line(reply.attributes)
        said = f": {message}" if message else ""
        return Rejected(f"refused by RADIUS server {reply.server}{said}", message)

    def _accepted(
        self, reply: Reply, login: str, name: int, services: Sequence[int] = (_FRAMED,), rspauth: str | None = None
    ) -> Accepted | Rejected:
        try:
            service = reply.attributes.integer("Service-Type")
            if service is not None and service not in services:
                raise Malformed(f"Service-Type {service} is not what a tunnel is")
            terms = read_terms(reply.attributes, name, obey_interim=self._obey_interim)
        except Malformed as error:
            return _unusable(reply, error)
        user = terms.billed_as or login
        return Accepted(Principal(owner=f"user:{user}", user=user, terms=terms), rspauth)


def _unusable(reply: Reply, error: Malformed) -> Rejected:
    return Rejected(f"the accept of RADIUS server {reply.server} cannot be used: {error}")


def _line(attributes: Received) -> str:
    """All Reply-Messages as one line that can be shown as it stands."""
    text = b" ".join(attributes.octets("Reply-Message")).decode(errors="replace")
    printable = "".join(each if each.isprintable() else " " for each in text)
    return " ".join(printable.split())[:LONGEST_MESSAGE]


def _hexadecimal(attributes: Received, name: str) -> str | None:
    """32 lower-case digits. Raises Malformed without saying what there was."""
    text = attributes.text(name)
    if text is not None and _HEXADECIMAL.fullmatch(text) is None:
        raise Malformed(f"{name} is not 32 hexadecimal digits")
    return text.lower() if text is not None else None


def _rfc5090(proof: DigestProof) -> list[Attribute]:
    return [
        ("User-Name", proof.user),
        ("Digest-Response", proof.response),
        ("Digest-Realm", proof.realm),
        ("Digest-Nonce", proof.nonce),
        ("Digest-Method", "AUTHENTICATE"),
        ("Digest-URI", proof.digest_uri),
        ("Digest-Qop", "auth"),
        ("Digest-Algorithm", "md5-sess"),
        ("Digest-CNonce", proof.cnonce),
        ("Digest-Nonce-Count", proof.nonce_count),
        ("Digest-Username", proof.user),
    ]


def _drafted(proof: DigestProof) -> list[Attribute]:
    """One attribute of the draft for each of its sub-attributes. Raises Unencodable."""
    parts: Sequence[tuple[int, bytes]] = (
        (1, proof.realm.encode()),
        (2, proof.nonce),
        (3, b"AUTHENTICATE"),
        (4, proof.digest_uri),
        (5, b"auth"),
        (6, b"md5-sess"),
        (8, proof.cnonce),
        (9, proof.nonce_count),
        (10, proof.user.encode()),
    )
    if any(len(octets) > 251 for _, octets in parts):
        raise Unencodable("a part of the digest is longer than 251 octets")
    return [
        ("User-Name", proof.user),
        ("Draft-Digest-Response", proof.response),
        *(("Draft-Digest-Attributes", bytes((number, len(octets) + 2)) + octets) for number, octets in parts),
    ]
