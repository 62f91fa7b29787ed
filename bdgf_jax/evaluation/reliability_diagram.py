"""The reliability diagram as SVG that takes its colours and type from the page round it."""

from collections.abc import Mapping, Sequence
from typing import Any

SIDE = 320
LEFT, TOP, BOTTOM = 46, 8, 118  # room for the axes, and below for the share of the pixels
STRIP = 44
WIDTH, HEIGHT = LEFT + SIDE + 12, TOP + SIDE + BOTTOM


def reliability_diagram(bins: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of the accuracy in each bin of confidence, its gap to the mean confidence, and how many pixels it holds.

    The gap has the class `modest` where the map is right more often than it says, else `boastful`.

    Args:
      bins: what `calibration.reliability` gives.
    """
    x = lambda share: LEFT + SIDE * share
    y = lambda share: TOP + SIDE * (1.0 - share)
    base = HEIGHT - 22.0  # of the strip
    total = sum(one["pixels"] for one in bins)
    fullest = max(one["pixels"] for one in bins)
    description = "Reliability diagram: accuracy on the test pixels by confidence"
    parts = [f'<svg class="chart reliability" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{description}">']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + SIDE}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{y(tick) + 4:.1f}">{100 * tick:.0f}</text>')
        parts.append(f'<text class="middle" x="{x(tick):.1f}" y="{TOP + SIDE + 18}">{100 * tick:.0f}</text>')
    parts.append(f'<text class="middle" x="{x(0.5):.1f}" y="{TOP + SIDE + 36}">confidence, %</text>')
    parts.append(f'<text class="middle" transform="translate(12 {y(0.5):.1f}) rotate(-90)">accuracy, %</text>')
    for one in bins:
        if not one["pixels"]:
            continue
        accuracy, confidence, share = one["accuracy"], one["confidence"], one["pixels"] / total
        left, width = x(one["from"]) + 1, x(one["to"]) - x(one["from"]) - 2
        told = (
            f"confidence {100 * confidence:.1f} %, accuracy {100 * accuracy:.1f} %: {100 * share:.1f} % of the pixels"
        )
        parts.append(f"<g><title>{told}</title>")
        low, high = sorted((accuracy, confidence))
        parts.append(_bar("kept", left, width, y(low), y(0.0)))
        parts.append(_bar("modest" if accuracy > confidence else "boastful", left, width, y(high), y(low)))
        parts.append(_bar("share", left, width, base - STRIP * one["pixels"] / fullest, base))
        parts.append("</g>")
    parts.append(f'<line class="ideal" x1="{x(0.0)}" y1="{y(0.0)}" x2="{x(1.0)}" y2="{y(1.0)}"/>')
    parts.append(f'<text class="middle" x="{x(0.5):.1f}" y="{HEIGHT - 6}">share of the pixels</text>')
    return "".join([*parts, "</svg>"])


def _bar(css: str, left: float, width: float, top: float, bottom: float) -> str:
    return f'<rect class="{css}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}"/>'
