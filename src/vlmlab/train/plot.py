"""A line chart as SVG, drawn here so that a run's picture needs no plotting library. Follows a dark or light page."""

import dataclasses
import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 880, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 64, 48
STYLE = """
svg { font: 13px system-ui, sans-serif; background: #fff; color: #1d2430; }
.grid { stroke: #e3e7ee; } .axis { stroke: #8a94a6; } .note { fill: #66707f; font-size: 12px; } text { fill: #1d2430; }
.s0 { --c: #2563eb; } .s1 { --c: #059669; } .s2 { --c: #dc6b19; } .s3 { --c: #9333ea; }
.s4 { --c: #be123c; } .s5 { --c: #0e7490; }
path { stroke: var(--c); fill: none; } circle, rect.key { fill: var(--c); stroke: none; }
@media (prefers-color-scheme: dark) {
  svg { background: #14181f; } text { fill: #e6e9ee; } .note { fill: #98a2b3; } .grid { stroke: #272d38; }
  .s0 { --c: #6ea8ff; } .s1 { --c: #34d399; } .s2 { --c: #fb923c; } .s3 { --c: #c084fc; }
  .s4 { --c: #fb7185; } .s5 { --c: #22d3ee; }
}
"""


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the chart. `smooth` draws the points faintly and their running mean over them.

    `intervals`, low and high for each point, are drawn as bars, and `labels` beside the points.
    """

    name: str
    points: Sequence[tuple[float, float]]
    smooth: bool = False
    intervals: Sequence[tuple[float, float]] = ()
    labels: Sequence[str] = ()


def chart(title: str, note: str, across: str, lines: Sequence[Line]) -> str:
    """The chart's SVG text. Lines without points are left out."""
    lines = [line for line in lines if line.points]
    xs = [x for line in lines for x, _ in line.points] or [0.0]
    shown = [y for line in lines for _, y in (_running_mean(line.points) if line.smooth else line.points)] or [0.0]
    shown += [end for line in lines for interval in line.intervals for end in interval]
    down, up = _bounds(shown)
    right = max(max(xs), 1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        share = min(max((y - down) / (up - down), 0.0), 1.0)
        return LEFT + x / right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{html.escape(title)}</title><desc>{html.escape(note)}</desc><style>{STYLE}</style>",
        f'<text x="{LEFT}" y="26" font-size="16" font-weight="600">{html.escape(title)}</text>',
    ]
    for value in _ticks(down, up):
        y = place(0.0, value)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="note" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in _ticks(0.0, right):
        x = place(value, down)[0]
        parts.append(f'<text class="note" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>')
    floor = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    parts.append(
        f'<text class="note" x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">{html.escape(across)}</text>'
    )
    key = float(LEFT)
    for number, line in enumerate(lines):
        parts.append(f'<g class="s{number % 6}">{_drawn(line, place)}')
        parts.append(f'<rect class="key" x="{key:.0f}" y="40" width="14" height="4" rx="2"/></g>')
        parts.append(f'<text class="note" x="{key + 20:.0f}" y="46">{html.escape(line.name)}</text>')
        key += 44 + 6.6 * len(line.name)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _drawn(line: Line, place) -> str:
    if not line.smooth:
        at = [place(x, y) for x, y in line.points]
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in at)
        bars = "".join(
            f'<path stroke-width="1" d="{_path([place(x, low), place(x, high)])}"/>'
            for (x, _), (low, high) in zip(line.points, line.intervals, strict=False)
        )
        beside = "".join(
            f'<text class="note" x="{x + 7:.1f}" y="{y - 6:.1f}">{html.escape(label)}</text>'
            for (x, y), label in zip(at, line.labels, strict=False)
        )
        return f'<path stroke-width="2" d="{_path(at)}"/>{bars}{dots}{beside}'
    faint = _path([place(x, y) for x, y in line.points])
    mean = _path([place(x, y) for x, y in _running_mean(line.points)])
    return f'<path stroke-width="1" opacity="0.25" d="{faint}"/><path stroke-width="2" d="{mean}"/>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """An exponential mean over about a fortieth of the points, corrected for its start."""
    rate = min(1.0, 40 / max(len(points), 1))
    total = weight = 0.0
    means = []
    for x, y in points:
        total, weight = total + rate * (y - total), weight + rate * (1 - weight)
        means.append((x, total / weight))
    return means


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.5
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two others, about six of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(step * m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 7)
    return [round(n * step, 10) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
