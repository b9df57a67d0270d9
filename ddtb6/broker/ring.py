# SPDX-License-Identifier: GPL-2.0-or-later
"""The past of one tunnel in a fixed number of octets: a day of points and a week of coarser ones, overwritten in turn.

A cell is little-endian: stamp (16 bits, the number of its span modulo 65535 plus one, so that none is 0), octets a
second in and out (binary32), seconds of the fastest, the mean and the slowest echo in milliseconds (binary16), echoes
sent and answered (8 bits). A cell whose stamp is another one's is empty.
Invariant: `SIZE` octets whatever is written, so that a row of it fits on one page of a database.
Not here: where it is kept (`store.past`), what is written (`broker.recording`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from ddtb6.broker.history import COARSE, DAY, FINE, WEEK, Cell, TunnelHistory, TunnelPoint, TunnelSeries

_CELL = struct.Struct("<HffeeeBB")
_FINE_CELLS, _COARSE_CELLS = DAY // FINE, WEEK // COARSE
_COARSE_AT = _FINE_CELLS * _CELL.size
SIZE = (_FINE_CELLS + _COARSE_CELLS) * _CELL.size
"""Octets of a ring."""
_STAMPS = 65535
_FASTEST_MS, _SLOWEST_MS = 2.0**-14, 60_000.0
"""What binary16 can say; a tenth of a microsecond, a minute."""


def write(ring: bytes | None, cells: Iterable[Cell]) -> bytes:
    """The ring with what is in `cells` added; None: an empty one."""
    octets = bytearray(ring if ring is not None and len(ring) == SIZE else SIZE)
    for cell in cells:
        _add(octets, cell.number % _FINE_CELLS * _CELL.size, cell.number, FINE, cell)
        coarse = cell.number * FINE // COARSE
        _add(octets, _COARSE_AT + coarse % _COARSE_CELLS * _CELL.size, coarse, COARSE, cell)
    return bytes(octets)


def read(ring: bytes | None, now: float) -> TunnelHistory:
    """What a ring says at epoch second `now`."""
    octets = ring if ring is not None and len(ring) == SIZE else bytes(SIZE)
    return TunnelHistory(
        TunnelSeries(FINE, tuple(_points(octets, 0, _FINE_CELLS, FINE, now))),
        TunnelSeries(COARSE, tuple(_points(octets, _COARSE_AT, _COARSE_CELLS, COARSE, now))),
    )


def _add(octets: bytearray, at: int, number: int, step: int, cell: Cell) -> None:
    stamp, octets_in, octets_out, least, mean, most, sent, answered = _CELL.unpack_from(octets, at)
    if stamp != number % _STAMPS + 1:
        octets_in = octets_out = least = mean = most = 0.0
        sent = answered = 0
    if cell.answered:
        fastest, slowest = _milliseconds(cell.least), _milliseconds(cell.most)
        least = min(least, fastest) if answered else fastest
        most = max(most, slowest) if answered else slowest
        mean = _milliseconds((mean * answered / 1000 + cell.total) / (answered + cell.answered))
    _CELL.pack_into(
        octets,
        at,
        number % _STAMPS + 1,
        octets_in + cell.octets_in / step,
        octets_out + cell.octets_out / step,
        least,
        mean,
        most,
        min(255, sent + cell.sent),
        min(255, sent + cell.sent, answered + cell.answered),
    )


def _milliseconds(seconds: float) -> float:
    return min(max(seconds * 1000, _FASTEST_MS), _SLOWEST_MS)


def _points(octets: bytes, start: int, cells: int, step: int, now: float) -> Iterator[TunnelPoint]:
    newest = int(now) // step
    for number in range(newest - cells + 1, newest + 1):
        found = _CELL.unpack_from(octets, start + number % cells * _CELL.size)
        stamp, octets_in, octets_out, least, mean, most, sent, answered = found
        if stamp != number % _STAMPS + 1:
            continue
        # The span that is not over yet: what there is of it came in the part that is.
        part = step / max(60.0, now - number * step) if number == newest else 1.0
        yield TunnelPoint(
            at=number * step,
            octets_in=octets_in * part,
            octets_out=octets_out * part,
            least=least / 1000 if answered else None,
            mean=mean / 1000 if answered else None,
            most=most / 1000 if answered else None,
            sent=sent,
            answered=answered,
        )
