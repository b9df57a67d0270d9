# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of live tunnels: what is found, in which order, and how much is looked at with very many."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stored import now
from support.virtual import world

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.broker import tunnels
from ddtb6.broker.ports import Session
from ddtb6.broker.registry import Live, Registry
from ddtb6.broker.search import SessionQuery, Sort, find
from ddtb6.tunnel.spec import Counters, TunnelId, TunnelSpec

POOL = int(IPv6Address("2001:db8:1000::"))


def live(number: int) -> Live:
    """Tunnel `number` of user-NUMBER backwards, at 10.x.y.z, with a /56."""
    remote = Endpoint(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 4000 + number % 7)
    spec = TunnelSpec(
        TunnelId(number),
        Encapsulation.V6UDPV4,
        Endpoint("192.0.2.1", 3653),
        remote,
        IPv6Address("2001:db8::") + number,
        IPv6Network((POOL + (number << 72), 56)),
        1280,
    )
    user = None if number % 10 == 0 else f"User{100_000 - number}"
    owner = f"user:{user}" if user else f"anonymous:{remote}"
    session = Session(
        spec.id, owner, user, spec, "PLAIN", f"v{number % 3}", 180.0, float(number), Counters(octets_in=number % 5)
    )
    return Live(session, 0.0, nat=None, established=True, ends_at=None)


def registry(count: int) -> Registry:
    made = Registry()
    for number in range(1, count + 1):
        made.add(live(number))
    return made


HUNDRED = registry(100)


def ids(query: SessionQuery, of: Registry = HUNDRED) -> list[int]:
    return [each.session.id for each in find(of, query)[1]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("user99993", [7]),
        ("99993", [7]),
        (" USER99993 ", [7]),
        ("7", [7, *(n for n in range(1, 101) if n % 10 and "7" in str(100_000 - n))]),
        ("2001:db8::7", [7]),
        ("2001:DB8:0::7", [7]),
        ("2001:db8::7/128", [7]),
        ("2001:db8:1000:700::1", [7]),
        ("2001:db8:1000:7ff:ffff::", [7]),
        ("2001:db9::", []),
        ("10.0.0.7", [7, *range(70, 80)]),
        ("10.0.0.7:4000", [7]),
        ("10.0.0.7:4001", []),
        ("nobody", []),
        ("<script>", []),
        ("9" * 300, []),
    ],
)
def test_what_is_searched_for(text: str, found: list[int]) -> None:
    assert ids(SessionQuery(text, descending=False)) == sorted(set(found))
    assert find(HUNDRED, SessionQuery(text, limit=1))[0] == len(set(found))


def test_one_user_exactly() -> None:
    assert ids(SessionQuery(user="User99993")) == [7]
    assert ids(SessionQuery(user="User9999")) == []
    assert ids(SessionQuery("10.0.0.8", user="User99993")) == []


@given(
    sort=st.sampled_from(Sort),
    descending=st.booleans(),
    offset=st.integers(0, 130),
    limit=st.integers(1, 130),
    text=st.sampled_from(["", "10.0.0.", "user"]),
)
def test_pages_are_pieces_of_the_whole(sort: Sort, descending: bool, offset: int, limit: int, text: str) -> None:
    whole = ids(SessionQuery(text, sort=sort, descending=descending, limit=1000))
    assert ids(SessionQuery(text, None, sort, descending, offset, limit)) == whole[offset : offset + limit]
    assert sorted(whole) == sorted(ids(SessionQuery(text, limit=1000)))


def test_orders() -> None:
    assert ids(SessionQuery(limit=3)) == [100, 99, 98]
    assert ids(SessionQuery(sort=Sort.USER, descending=False, limit=12))[10:] == [99, 98]
    assert ids(SessionQuery(sort=Sort.IN, limit=3)) == [4, 9, 14], "of equals, the older first"
    assert ids(SessionQuery(sort=Sort.REMOTE, descending=False, limit=3)) == [1, 10, 100]
    assert ids(SessionQuery(sort=Sort.ADDRESS, limit=2)) == [100, 99]


def test_very_many_cost_a_page_of_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for, the data plane is asked about, and views are made of, what the page shows."""
    made: list[Any] = []
    view = tunnels.session_view
    monkeypatch.setattr(tunnels, "session_view", lambda *given: made.append(given) or view(*given))
    with world(tmp_path) as lab:
        crowd = lab.broker._tunnels._live
        for number in range(1, 5001):
            crowd.add(live(number))
        asked: list[int] = []
        dump = lab.plane.dump

        async def counted(only: Any = None) -> Any:
            asked.append(-1 if only is None else len(only))
            return await dump(only)

        lab.plane.dump = counted  # type: ignore[method-assign]
        for sort in Sort:
            for text in ("", "user", "10.0.1.", "2001:db8:1000:700::1"):
                page = now(lab.broker.page(SessionQuery(text, sort=sort, offset=50, limit=25)))
                assert len(page.sessions) <= 25
        now(lab.broker.sessions(TunnelId(77)))
        assert max(asked) <= 25
        assert min(asked) >= 0, "never all of them"
        assert len(made) <= 25 * 4 * len(Sort) + 1
        for each in list(crowd):
            crowd.remove(each)


def test_newest_first_looks_at_nothing_behind_the_page() -> None:
    class Counting(Registry):
        seen = 0

        def by_age(self, *, newest_first: bool) -> Any:
            for each in super().by_age(newest_first=newest_first):
                self.seen += 1
                yield each

    made = Counting()
    for number in range(1, 1001):
        made.add(live(number))
    assert ids(SessionQuery(offset=30, limit=20), made)[:2] == [970, 969]
    assert made.seen == 50
