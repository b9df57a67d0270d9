# SPDX-License-Identifier: GPL-2.0-or-later
"""Plots of a quantity over time, as geometry that the template ``plot.html`` writes as inline SVG.

Colours, strokes and sizes of text are the style sheet's, by class; nothing in an SVG is style or script. Each plot says
in words what it shows, for who cannot see it. Times are UTC.
Invariants: any values give a plot (none, one, all zero, very large); a span without a point is a gap, not a zero; the
size of a plot depends on the number of points alone.
Not here: where points come from (`broker.recording`), pages (`status`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ddtb6.broker.history import DAY, WEEK, Series, TunnelHistory, TunnelSeries

WIDTH, HEIGHT = 360, 150
"""Of the drawing, in units that are some pixels each: it is shown as wide as a phone, or a half of a page."""
LEFT, RIGHT, TOP, BOTTOM = 36, 352, 20, 130
"""Edges of the part with the curves."""
STEPS_UP = 4
"""Most lines above the one at zero."""
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


# --- units --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unit:
    """What the vertical axis is in."""

    name: str
    factor: float = 1.0
    """What a value is multiplied with to be in that unit."""
    scaled_from: float = 1e3
    """From here on thousands are said as k, M and so on."""
    least: float = 1.0
    """The top of the axis is this at least, in that unit: noise around zero is not blown up."""
    whole: bool = False
    """There are no halves."""


BITS = Unit("bit/s", 8.0, least=1000.0)
"""Of octets a second."""
COUNT = Unit("", scaled_from=1e5, least=4.0, whole=True)
AN_HOUR = Unit("an hour", scaled_from=1e5, least=4.0)
SECONDS = Unit("ms", 1000.0, scaled_from=math.inf, least=10.0)


def said(value: float, unit: Unit) -> str:
    """A value in words, such as ``12.3 Mbit/s``."""
    amount = value * unit.factor
    size, prefix = _scale(amount, unit)
    number = amount / size
    digits = 0 if number >= 100 or (unit.whole and size == 1) else 1
    return f"{number:.{digits}f} {prefix}{unit.name}".rstrip()


def _scale(amount: float, unit: Unit) -> tuple[float, str]:
    if amount >= unit.scaled_from * 0.9995:
        for size, prefix in _SCALES:
            if amount >= size * 0.9995:
                return size, prefix
    return 1.0, ""


# --- what is drawn ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity."""

    name: str
    look: str
    """Class in the style sheet: ``in``, ``out``, ``mean``, ``band``, ``lost``."""
    values: Sequence[tuple[float, float | None]]
    """Epoch second and value, oldest first; None: unknown, a gap."""
    filled: bool = False
    """The surface below is filled."""
    beneath: Sequence[tuple[float, float | None]] | None = None
    """A surface between two: its lower edge, at the same seconds."""
    share: bool = False
    """0 to 1 of the height, whatever the axis says."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A line across and what stands beside it."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A path."""

    look: str
    d: str
    surface: bool


@dataclass(frozen=True, slots=True)
class Plot:
    """All that the template needs."""

    id: str
    title: str
    words: str
    """What it shows, in sentences."""
    unit: str
    levels: tuple[Tick, ...]
    times: tuple[Tick, ...]
    shapes: tuple[Shape, ...]
    keys: tuple[tuple[str, str], ...]
    """Look and name of each curve."""
    empty: bool
    """Nothing is known."""

    width, height = WIDTH, HEIGHT
    left, right, top, bottom = LEFT, RIGHT, TOP, BOTTOM


def draw(ident: str, title: str, curves: Sequence[Curve], *, begin: float, end: float, step: float, unit: Unit) -> Plot:
    """A plot from epoch second `begin` to `end` of points `step` seconds apart. `ident` is unique on its page."""
    known = [value for curve in curves if not curve.share for _, value in curve.values if value is not None]
    highest = max((value * unit.factor for value in known if math.isfinite(value)), default=0.0)
    top, distance = _round_up(max(highest, unit.least), unit)
    size, prefix = _scale(top, unit)
    levels = tuple(
        Tick(_y(number * distance / top), _number(number * distance / size))
        for number in range(round(top / distance) + 1)
    )

    def x(at: float) -> float:
        return LEFT + (RIGHT - LEFT) * (min(max(at, begin), end) - begin) / max(end - begin, 1.0)

    return Plot(
        id=ident,
        title=title,
        words=_words(curves, unit, end - begin),
        unit=f"{prefix}{unit.name}",
        levels=levels,
        times=tuple(Tick(x(at), text) for at, text in _times(begin, end)),
        shapes=tuple(shape for curve in curves for shape in _shapes(curve, x, unit.factor / top, step, begin)),
        keys=tuple((curve.look, curve.name) for curve in curves),
        empty=not known,
    )


def _y(part: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * min(max(part, 0.0), 1.0)


def _round_up(highest: float, unit: Unit) -> tuple[float, float]:
    """The top of the axis, and the distance of its lines: 1, 2 or 5 of some power of ten."""
    power = 10.0 ** math.floor(math.log10(highest / STEPS_UP))
    several = [each * power for each in (1, 2, 5, 10, 20) if not unit.whole or each * power >= 1]
    distance = next(each for each in several if each * STEPS_UP >= highest * 0.999)
    return math.ceil(highest / distance - 1e-3) * distance, distance


def _number(value: float) -> str:
    return f"{value:,.10g}".replace(",", "\u202f") if value < 1e6 else f"{value:.0e}"


def _shapes(curve: Curve, x: Callable[[float], float], factor: float, step: float, begin: float) -> Iterator[Shape]:
    """Lines from point to point, broken where one is missing; a point stands for the middle of its span."""
    if curve.share:
        bars = [
            f"M{x(at):.1f} {BOTTOM}V{_y(value):.1f}H{x(at + step):.1f}V{BOTTOM}z"
            for at, value in curve.values
            if value and at + step > begin
        ]
        if bars:
            yield Shape(curve.look, "".join(bars), True)
        return
    lower = dict(curve.beneath or ())
    for run in _runs(curve.values, step, begin):
        tops = [(x(at + step / 2), _y(value * factor)) for at, value in run]
        if len(run) == 1:  # One point alone: as wide as its span.
            (at, value), *_ = run
            tops = [(x(at), _y(value * factor)), (x(at + step), _y(value * factor))]
        line = "M" + "L".join(f"{across:.1f} {up:.1f}" for across, up in tops)
        if curve.beneath is not None:
            under = [(x(at + step / 2), _y((lower.get(at) or 0.0) * factor)) for at, _ in reversed(run)]
            if len(run) == 1:
                under = [(tops[1][0], under[0][1]), (tops[0][0], under[0][1])]
            yield Shape(curve.look, line + "L" + "L".join(f"{a:.1f} {u:.1f}" for a, u in under) + "z", True)
            continue
        if curve.filled:
            yield Shape(curve.look, f"{line}V{BOTTOM}H{tops[0][0]:.1f}z", True)
        yield Shape(curve.look, line, False)


def _runs(
    values: Iterable[tuple[float, float | None]], step: float, begin: float
) -> Iterator[list[tuple[float, float]]]:
    run: list[tuple[float, float]] = []
    for at, value in values:
        if at + step <= begin:
            continue
        if run and (value is None or at - run[-1][0] > 1.5 * step):
            yield run
            run = []
        if value is not None and math.isfinite(value):
            run.append((at, value))
    if run:
        yield run


def _times(begin: float, end: float) -> Iterator[tuple[float, str]]:
    """What stands below: moments that people know."""
    span = end - begin
    distance = next(each for each in (60, 300, 900, 3600, 6 * 3600, DAY, 10**9) if span / each <= 7.5)
    at = math.ceil(begin / distance) * distance
    while at <= end:
        moment = datetime.fromtimestamp(at, UTC)
        # Text in the corner would be cut off.
        if span * 0.03 < at - begin < span * 0.97:
            yield at, f"{moment:%a}" if distance >= DAY else f"{moment:%H:%M}"
        at += distance


def _words(curves: Sequence[Curve], unit: Unit, span: float) -> str:
    sentences = []
    for curve in curves:
        known = [(at, value) for at, value in curve.values if value is not None]
        if curve.share:
            lost = sum(value for _, value in known) / len(known) if known else 0.0
            sentences.append(f"{curve.name.capitalize()}: {lost:.1%}.")
        elif curve.beneath is None and known:
            mean = sum(value for _, value in known) / len(known)
            at, highest = max(known, key=lambda each: each[1])
            when = f"{datetime.fromtimestamp(at, UTC):{'%A' if span > 2 * DAY else '%H:%M'}}"
            sentences.append(
                f"{curve.name.capitalize()}: {said(known[-1][1], unit)} last, {said(mean, unit)} on average, "
                f"{said(highest, unit)} at most ({when})."
            )
    return " ".join(sentences) or "Nothing is known yet."


# --- what there is to draw ----------------------------------------------------------------------------------------


def traffic(ident: str, title: str, series: Series | TunnelSeries, end: float, span: float) -> Plot:
    """Octets in and out over the `span` seconds before `end`."""
    curves = (
        Curve("in", "in", [(each.at, each.octets_in) for each in series.points], filled=True),
        Curve("out", "out", [(each.at, each.octets_out) for each in series.points]),
    )
    return draw(ident, title, curves, begin=end - span, end=end, step=series.step, unit=BITS)


def sessions(ident: str, title: str, series: Series, end: float, span: float) -> Plot:
    """How many tunnels stood."""
    curve = Curve("tunnels", "in", [(each.at, each.sessions) for each in series.points], filled=True)
    return draw(ident, title, (curve,), begin=end - span, end=end, step=series.step, unit=COUNT)


def logins(ident: str, title: str, series: Series, end: float, span: float) -> Plot:
    """Log-ins and refusals an hour."""
    curves = (
        Curve("log-ins", "in", [(each.at, each.logins) for each in series.points], filled=True),
        Curve("refusals", "refused", [(each.at, each.refusals) for each in series.points]),
    )
    return draw(ident, title, curves, begin=end - span, end=end, step=series.step, unit=AN_HOUR)


def latency(ident: str, title: str, series: TunnelSeries, end: float, span: float) -> Plot:
    """Time of an echo to a tunnel and back, from the fastest to the slowest, and which part was lost."""
    points = series.points
    curves = (
        Curve("lost", "lost", [(p.at, 1 - p.answered / p.sent if p.sent else None) for p in points], share=True),
        Curve(
            "fastest to slowest",
            "band",
            [(p.at, p.most) for p in points],
            beneath=[(p.at, p.least) for p in points],
        ),
        Curve("mean", "mean", [(p.at, p.mean) for p in points]),
    )
    return draw(ident, title, curves, begin=end - span, end=end, step=series.step, unit=SECONDS)


def of_tunnel(history: TunnelHistory, end: float) -> tuple[Plot, ...]:
    """The plots of one tunnel: traffic and latency of the day, and of the week; for ``plots`` of ``plot.html``."""
    return (
        traffic("traffic-day", "Traffic, last day", history.day, end, DAY),
        latency("latency-day", "Latency, last day", history.day, end, DAY),
        traffic("traffic-week", "Traffic, last week", history.week, end, WEEK),
        latency("latency-week", "Latency, last week", history.week, end, WEEK),
    )
