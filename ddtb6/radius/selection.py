# SPDX-License-Identifier: GPL-2.0-or-later
"""Which session a Disconnect or CoA means.

Source: RFC 5176 section 3. All identification that is given must match, and one session exactly.
Invariant: a request that names no user, session or address of a session selects none, however few sessions there are.
Not here: what is done with it (`radius.dynamic`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from ddtb6.broker.ports import Session
from ddtb6.radius.attributes import Malformed, Received
from ddtb6.radius.nas import Nas
from ddtb6.radius.records import user_name

NAMING_NAS = frozenset({"NAS-Identifier", "NAS-IP-Address", "NAS-IPv6-Address"})
_TELLING = frozenset({"Acct-Session-Id", "User-Name", "NAS-Port", "Calling-Station-Id"})
_ADDRESSES = frozenset({"Framed-IPv6-Prefix", "Framed-IPv6-Address", "Framed-Interface-Id", "Delegated-IPv6-Prefix"})
_AMBIGUOUS = frozenset({"Called-Station-Id", "NAS-Port-Id", "Framed-Interface-Id"})
"""Alike for many sessions: they can only narrow a choice."""
IDENTIFYING = _TELLING | _ADDRESSES | _AMBIGUOUS

_NAME = re.compile(r"[0-9a-f]{16}")


class Nak(Exception):
    """The request is refused. `cause` is a name of Error-Cause; the message is for our log."""

    def __init__(self, cause: str, why: str) -> None:
        super().__init__(why)
        self.cause = cause


def check_nas(asked: Received, nas: Nas) -> None:
    """Are we meant? Whatever names the NAS must be what we say of ourselves. Raises Nak (403)."""
    try:
        identifier = asked.text("NAS-Identifier")
        address, address6 = asked.address4("NAS-IP-Address"), asked.address("NAS-IPv6-Address")
    except Malformed as error:
        raise Nak("Invalid-Attribute-Value", str(error)) from None
    for given, ours in ((identifier, nas.identifier), (address, nas.address), (address6, nas.address6)):
        if given is not None and given != ours:
            raise Nak("NAS-Identification-Mismatch", f"{given} is meant, and this is {ours or nas.identifier}")


class Sessions(Protocol):
    """Where live sessions are found (`broker.broker`)."""

    def session_named(self, name: int) -> Session | None: ...

    def session_of(self, owner: str) -> Session | None: ...

    def live_sessions(self) -> Iterable[Session]: ...


def select(asked: Received, sessions: Sessions, nas: Nas, *, renumbering: bool = False) -> Session:
    """The one session that is meant. Raises Nak.

    `renumbering`: where a session is found but has other addresses than those given, say that they cannot be changed.
    """
    given = IDENTIFYING.intersection(asked.names())
    if not given - _AMBIGUOUS:
        raise Nak("Missing-Attribute", "no Acct-Session-Id, User-Name, or address of a session")
    try:
        wanted = _Wanted(asked, nas)
    except Malformed as error:
        raise Nak("Invalid-Attribute-Value", str(error)) from None
    named = [each for each in wanted.candidates(sessions) if wanted.names(each)]
    found = [each for each in named if wanted.addresses(each)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Nak("Multiple-Session-Selection-Unsupported", f"{len(found)} sessions match {', '.join(sorted(given))}")
    if renumbering and named and given & _TELLING:
        raise Nak("Unsupported-Service", "addresses cannot be changed by CoA; send a Disconnect, the client comes back")
    raise Nak("Session-Context-Not-Found", f"no session matches {', '.join(sorted(given))}")


class _Wanted:
    """The identification in a request, read once; every session is compared with it."""

    def __init__(self, asked: Received, nas: Nas) -> None:
        """Raises Malformed."""
        self._nas = nas
        number = asked.text("Acct-Session-Id")
        self._session = None if number is None else number.lower()
        self._user = asked.text("User-Name")
        self._port = asked.integer("NAS-Port")
        self._port_id = asked.text("NAS-Port-Id")
        self._calling = asked.text("Calling-Station-Id")
        self._called = asked.text("Called-Station-Id")
        self._links = asked.prefixes("Framed-IPv6-Prefix")
        self._own = asked.addresses("Framed-IPv6-Address")
        self._interface = asked.interface_id("Framed-Interface-Id")
        self._delegated = asked.prefixes("Delegated-IPv6-Prefix")

    def candidates(self, sessions: Sessions) -> Iterable[Session]:
        """All that can match; without a session's id or a user's name that is every one."""
        found: Session | None = None
        if self._session is not None:
            if _NAME.fullmatch(self._session):
                found = sessions.session_named(int(self._session, 16))
        elif self._user is not None:
            found = sessions.session_of(f"user:{self._user}")
        else:
            return sessions.live_sessions()
        return () if found is None else (found,)

    def names(self, session: Session) -> bool:
        """What is given beside addresses is the session's."""
        spec = session.spec
        return (
            (self._session is None or self._session == f"{session.accounted_as:016x}")
            and (self._port is None or self._port == session.accounted_as & 0xFFFF_FFFF)
            and (self._user is None or self._user in (user_name(session), session.user))
            and (self._calling is None or self._calling in (str(spec.remote), spec.remote.address))
            and (self._called is None or self._called in (str(spec.local), spec.local.address))
            and (self._port_id is None or self._port_id == self._nas.port_id)
        )

    def addresses(self, session: Session) -> bool:
        """The addresses that are given are the session's."""
        spec = session.spec
        low = int(spec.address) & 0xFFFF_FFFF_FFFF_FFFF
        return (
            # The AAA may have said /64 where we account for a /128.
            all(link.prefixlen >= 64 and spec.address in link for link in self._links)
            and all(own == spec.address for own in self._own)
            and (self._interface is None or self._interface == low)
            and all(each == spec.prefix or each in spec.routes for each in self._delegated)
        )
