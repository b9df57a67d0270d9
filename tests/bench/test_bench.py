# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's own parts: its clients against a server that only answers, and its table."""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import table
from bench.clients import Crowd
from bench.servers import Here, Server, bare

FRAMED = b"Content-length: 13\r\n200 Success\r\n"
ANSWERS = [
    b"CAPABILITY TUNNEL=V6UDPV4 AUTH=DIGEST-MD5\r\n",
    b64encode(b'realm="bench",nonce="abc",qop="auth",algorithm=md5-sess,charset=utf8') + b"\r\n",
    b64encode(b"rspauth=00000000000000000000000000000000") + b"\r\n",
    b"200 Success\r\n",
    FRAMED,
    FRAMED,
]
USERS = [f"user{number}" for number in range(40)]


@contextmanager
def serving(directory: Path, answers: list[bytes]) -> Iterator[Server]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    with bare(Here(), directory, "loop", address, answers) as server:
        yield server


def test_every_client_goes_through_all_steps(tmp_path: Path) -> None:
    with serving(tmp_path, ANSWERS) as server, Crowd(Here(), server.address, USERS) as crowd:
        outcome = crowd.log_in(range(40), at_once=7)
        assert (outcome.completed, outcome.lost, outcome.refusals) == (40, [], {})
        assert outcome.rate > 0
        assert crowd.heard == ANSWERS
        assert server.resident() > 1 << 20


def test_a_client_that_is_refused_is_lost_and_says_why(tmp_path: Path) -> None:
    refusing = [*ANSWERS[:2], b"300 Authentication failed\r\n", *ANSWERS[3:]]
    with serving(tmp_path, refusing) as server, Crowd(Here(), server.address, USERS) as crowd:
        outcome = crowd.log_in(range(3), at_once=3)
    assert sorted(outcome.lost) == [0, 1, 2]
    assert outcome.completed == 0
    assert outcome.refusals == {b"300 Authentication failed\r\n": 3}


def test_table_shows_median_spread_ratio_and_whether_the_bar_is_met() -> None:
    rows = [
        table.Row("fast", "a second", [5.0, 3000.0, 9000.0], [1500.0, 6000.0, 7000.0], bar=3000),
        table.Row("heavy", "MiB", [70.25], bar=64, at_most=True),
        table.Row("just told", "", [0.125]),
    ]
    lines = [" ".join(line.split()) for line in table.table(rows).splitlines()]
    assert lines[2] == "fast 3,000 a second 5.00 to 9,000 6,000 0.50 at least 3,000 yes"
    assert lines[3] == "heavy 70.2 MiB at most 64.0 NO"
    assert lines[4] == "just told 0.12"
    fast, heavy, told = (json.loads(json.dumps(row.plain())) for row in rows)
    assert (fast["figure"], fast["ratio"], fast["met"]) == (3000.0, 0.5, True)
    assert (heavy["met"], told["met"], told["ratio"]) == (False, None, None)
