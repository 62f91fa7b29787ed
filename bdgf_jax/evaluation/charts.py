"""Curves of a training log as SVG that takes its colours and type from the page round it."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 560, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 30
MOST_POINTS = 400  # more than the chart has room for would only make the page heavy


@dataclass(frozen=True, eq=False)
class Curve:
    """One term of a log: its name, the steps at which it was logged and its values."""

    name: str
    steps: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]

    @property
    def trend(self) -> Float[np.ndarray, " n"]:
        """A running mean over a fifteenth of the curve, shorter at its ends."""
        half = len(self.values) // 30
        totals = np.concatenate([[0.0], np.cumsum(self.values)])
        last = np.minimum(np.arange(len(self.values)) + half + 1, len(self.values))
        first = np.maximum(np.arange(len(self.values)) - half, 0)
        return (totals[last] - totals[first]) / (last - first)


def curves(log: Sequence[Mapping[str, Any]], prefix: str) -> list[Curve]:
    """The terms `prefix/…` of a log in the order in which they turn up, without entries that are not finite."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in log:
        for key, value in line.items():
            if key.startswith(f"{prefix}/") and value is not None and math.isfinite(value):
                found.setdefault(key.removeprefix(f"{prefix}/"), []).append((line["step"], value))
    return [_shortened(name, np.array(points, np.float64)) for name, points in found.items()]


def line_chart(lines: Sequence[Curve], *, description: str) -> str:
    """An SVG of the curves over their steps: each as logged, faintly, and its trend on top.

    The vertical axis begins at 0 if no trend is negative, and is cut at 2.5 times what the trends reach after their
    first twentieth, so that a spike in the first steps does not flatten the rest. Line i has the class `line-i` and
    is coloured by the page.
    """
    trends = [line.trend for line in lines]
    low = min(0.0, *(float(trend.min()) for trend in trends))
    reach = max(float(trend.max()) for trend in trends) - low
    settled = max(float(trend[len(trend) // 20 :].max()) for trend in trends) - low
    high = low + 1.04 * (min(reach, 2.5 * settled) or reach or 1.0)
    first, last = (float(end(end(line.steps) for line in lines)) for end in (min, max))
    last = max(last, first + 1.0)

    x = lambda steps: LEFT + (steps - first) / (last - first) * (WIDTH - LEFT - RIGHT)
    y = lambda values: HEIGHT - BOTTOM - (values - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(description)}">']
    for tick in _ticks(low, high, 5):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{y(tick) + 4:.1f}">{tick:g}</text>')
    for tick in _ticks(first, last, 6):
        anchor = "end" if x(tick) > WIDTH - RIGHT - 20 else "middle"
        parts.append(f'<text class="{anchor}" x="{x(tick):.1f}" y="{HEIGHT - 8}">{_grouped(tick)}</text>')
    # A nested svg element clips what leaves the frame, without an id that could clash with another chart's.
    frame = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    parts.append(f'<svg {frame} viewBox="{LEFT} {TOP} {WIDTH - LEFT - RIGHT} {HEIGHT - TOP - BOTTOM}">')
    parts += [_polyline(f"raw line-{i}", x(line.steps), y(line.values)) for i, line in enumerate(lines)]
    parts += [
        _polyline(f"trend line-{i}", x(line.steps), y(trend)) for i, (line, trend) in enumerate(zip(lines, trends))
    ]
    return "".join([*parts, "</svg></svg>"])


def _shortened(name: str, points: Float[np.ndarray, "n 2"]) -> Curve:
    if len(points) > MOST_POINTS:
        points = np.array([block.mean(axis=0) for block in np.array_split(points, MOST_POINTS)])
    return Curve(name, *points.T)


def _ticks(low: float, high: float, count: int) -> list[float]:
    ticks = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _grouped(step: float) -> str:
    return f"{step:,.0f}".replace(",", "\u202f")


def _polyline(css: str, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> str:
    return f'<polyline class="{css}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))}"/>'
