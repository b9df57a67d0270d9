# SPDX-License-Identifier: GPL-2.0-or-later
"""The page that is kept up to date: what is carried now, who listens, how many, how long, and who does not read."""

from __future__ import annotations

import unittest
from unittest import mock

import pytest
from support.stored import SetClock
from support.web import Browser, Fetch
from support.website import WebCase
from twisted.internet.defer import Deferred

from ddtb6.broker.planes import Carried
from ddtb6.web import live
from ddtb6.web.live import EVERY, LIFETIME, REMEMBERED, STREAMS_OF_SOURCE, Pulse, event


class Carrying:
    def __init__(self) -> None:
        self.clock = SetClock()
        self.counted: Carried | None = Carried(0, 0, 0, 0)
        self.pulse = Pulse(self.clock, lambda: self.counted)
        self.pulse.tick()

    def pass_by(self, seconds: int, octets: int = 0) -> None:
        for _ in range(seconds):
            self.clock.now += 1
            if self.counted is not None:
                self.counted = Carried(self.counted[0] + octets, self.counted[1] + 2 * octets, 0, 0)
            self.pulse.tick()


class Samples(unittest.TestCase):
    def test_a_rate_of_the_last_seconds(self) -> None:
        carrying = Carrying()
        assert carrying.pulse.latest() is None
        carrying.pass_by(EVERY, 100)
        latest = carrying.pulse.latest()
        assert latest is not None
        assert (latest.octets_in, latest.octets_out) == (100.0, 200.0)

    def test_counters_that_begin_anew(self) -> None:
        carrying = Carrying()
        carrying.pass_by(EVERY, 100)
        carrying.counted = Carried(0, 0, 0, 0)
        carrying.pass_by(EVERY)
        assert [each.octets_in for each in carrying.pulse.series().points] == [100.0, 0.0]
        carrying.counted = None
        carrying.pass_by(EVERY)
        assert len(carrying.pulse.series().points) == 2
        carrying.pass_by(3 * EVERY)
        carrying.clock.now += 4 * EVERY
        assert carrying.pulse.latest() is None, "what is old is not now"

    def test_it_is_bounded(self) -> None:
        carrying = Carrying()
        carrying.pass_by(3 * REMEMBERED, 1)
        assert len(carrying.pulse.series().points) == REMEMBERED // EVERY


def events(fetch: Fetch) -> list[tuple[str, str]]:
    """Names and texts of all events so far."""
    assert fetch.got is not None
    found = []
    for block in fetch.got.text.replace("\r\n", "\n").split("\n\n"):
        fields = [line.partition(": ") for line in block.splitlines() if ": " in line or line.startswith("data:")]
        name = next((value for field, _, value in fields if field == "event"), "")
        if name:
            found.append((name, "\n".join(value for field, _, value in fields if field == "data")))
    return found


class Streams(WebCase):
    def setUp(self) -> None:
        super().setUp()
        self.visitor = Browser(self.site)

    def listen(self) -> Fetch:
        return self.visitor.ask("GET", "/events")

    def seconds(self, count: int) -> None:
        for _ in range(count):
            self.world.clock.advance(1)
            self.web.tick()

    def test_what_changes_is_sent(self) -> None:
        fetch = self.listen()
        assert fetch.got is not None
        assert fetch.got.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert fetch.got.headers["cache-control"] == "no-store"
        assert fetch.got.headers["x-accel-buffering"] == "no"
        assert "retry: 5000" in fetch.got.text
        self.seconds(2 * EVERY)
        assert ["<strong>0</strong><span>tunnels" in text for name, text in events(fetch) if name == "now"][-1]
        self.world.ping(self.tunnel())
        self.seconds(EVERY)
        assert ["<strong>1</strong><span>tunnel<" in text for name, text in events(fetch) if name == "now"][-1]
        assert "bit/s" in dict(events(fetch))["now"]
        fetch.hang_up()
        assert len(self.web._live) == 0

    def test_a_minute_that_is_over_is_sent_once(self) -> None:
        fetch = self.listen()
        self.seconds(2 * EVERY)
        assert "past" not in dict(events(fetch))
        self.world.pass_time(61)
        self.seconds(3 * EVERY)
        assert [name for name, _ in events(fetch)].count("past") == 1
        assert "traffic-week" in dict(events(fetch))["past"]
        fetch.hang_up()

    def test_it_is_the_part_of_the_page(self) -> None:
        self.tunnel()
        self.seconds(2 * EVERY)
        fetch = self.listen()
        page = self.visitor.get("/").text
        for name, text in events(fetch):
            assert f'id="{name}"' in page
            lines = [line for line in text.splitlines() if line.strip()]
            assert lines
            assert all(line in page for line in lines), name
        fetch.hang_up()

    def test_head_is_no_stream(self) -> None:
        assert self.visitor.take(self.visitor.ask("HEAD", "/events")).status == 200
        assert len(self.web._live) == 0

    def test_no_more_than_so_many_from_one_source(self) -> None:
        open_ = [self.listen() for _ in range(STREAMS_OF_SOURCE)]
        refused = self.visitor.get("/events")
        assert refused.status == 503
        assert "loaded again" in refused.text
        open_.pop().hang_up()
        open_.append(self.listen())
        assert len(self.web._live) == STREAMS_OF_SOURCE
        for each in open_:
            each.hang_up()
        assert not self.web._live._of_source

    def test_no_more_than_so_many_at_all(self) -> None:
        with mock.patch.object(live, "STREAMS", 3):
            open_ = [self.listen() for _ in range(3)]
            assert self.visitor.get("/events").status == 503
        for each in open_:
            each.hang_up()

    def test_who_does_not_read_is_hung_up_on(self) -> None:
        slow, fast = self.listen(), self.listen()
        slow.transport.producer.pauseProducing()
        self.seconds(2 * EVERY)
        assert slow.transport.disconnecting or getattr(slow.transport, "aborting", False)
        assert len(events(slow)) < len(events(fast))
        slow.hang_up()
        fast.hang_up()

    def test_who_reads_late_but_in_time_stays(self) -> None:
        fetch = self.listen()
        fetch.transport.producer.pauseProducing()
        fetch.transport.producer.resumeProducing()
        self.seconds(2 * EVERY)
        assert len(self.web._live) == 1
        fetch.hang_up()

    def test_nothing_goes_on_for_ever(self) -> None:
        fetch = self.listen()
        self.world.clock.advance(LIFETIME)
        self.seconds(2 * EVERY)
        assert len(self.web._live) == 0
        assert fetch.transport.value().endswith(b"0\r\n\r\n") or fetch.transport.disconnecting

    def test_they_end_with_the_daemon(self) -> None:
        self.listen()
        self.successResultOf(Deferred.fromCoroutine(self.web.stop()))
        assert len(self.web._live) == 0

    def test_nothing_is_made_for_nobody(self) -> None:
        with mock.patch("ddtb6.web.status.fragment") as made:
            self.seconds(3 * EVERY)
        assert made.call_count == 0


@pytest.mark.parametrize("text", ["one", "two\nlines", "", "a\r\nb", "\u2028odd"])
def test_any_text_is_one_event(text: str) -> None:
    octets = event({"now": text}).decode()
    assert octets.startswith("event: now\n")
    assert octets.endswith("\n\n")
    assert octets.count("\n\n") == 1
    assert all(line.startswith(("event: ", "data: ")) for line in octets.strip("\n").split("\n"))
