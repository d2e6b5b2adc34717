"""The pictures of a card, as SVG: the arms' scores with their intervals, and how their losses went."""

import html

from vlmlab.study.card import Card, Row
from vlmlab.train.plot import STYLE, Line, chart

WIDTH, LEFT, RIGHT, TOP, STEP = 880, 230, 40, 78, 34


def scores(card: Card) -> str:
    """One line an arm: its score and interval, a dot for each seed, and a ring where wrong pictures leave it."""
    spans = [(row.score.estimate, row.wrong.estimate) for row in card.rows]
    low = min((min(own.low, wrong.low) for own, wrong in spans), default=0.0)
    high = max((max(own.high, wrong.high) for own, wrong in spans), default=1.0)
    low, high = max(low - 0.03, 0.0), min(high + 0.03, 1.0)
    height = TOP + STEP * len(card.rows) + 34

    def x(value: float) -> float:
        return LEFT + (value - low) / max(high - low, 1e-9) * (WIDTH - LEFT - RIGHT)

    title = html.escape(card.question)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{title}</title><desc>{html.escape(card.verdict)}</desc><style>{STYLE}</style>",
        f'<text x="24" y="26" font-size="16" font-weight="600">{title}</text>',
        '<text class="note" x="24" y="48">right answers in percent: bar 95 % interval over pictures and seeds, small '
        "dots seeds, ring wrong pictures</text>",
    ]
    floor = TOP + STEP * len(card.rows)
    for tenth in range(0, 101, 5 if high - low < 0.4 else 10):
        if low <= tenth / 100 <= high:
            at = x(tenth / 100)
            parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 14}" y2="{floor}"/>')
            parts.append(f'<text class="note" x="{at:.1f}" y="{floor + 18}" text-anchor="middle">{tenth}</text>')
    for number, row in enumerate(card.rows):
        parts.append(_row(row, float(TOP + STEP * number + 4), x, card.plan.study.reference == row.arm))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(row: Row, y: float, x, reference: bool) -> str:
    own, wrong = row.score.estimate, row.wrong.estimate
    weight = ' font-weight="600"' if reference else ""
    seeds = "".join(f'<circle cx="{x(value):.1f}" cy="{y + 9:.1f}" r="2"/>' for value in row.each)
    return (
        f'<g class="s{0 if reference else 1}"><text x="{LEFT - 14}" y="{y + 4:.1f}" text-anchor="end"{weight}>'
        f"{html.escape(row.arm)}</text>"
        f'<path stroke-width="3" d="M{x(own.low):.1f} {y:.1f}L{x(own.high):.1f} {y:.1f}"/>'
        f'<circle cx="{x(own.value):.1f}" cy="{y:.1f}" r="5"/>{seeds}'
        f'<circle cx="{x(wrong.value):.1f}" cy="{y:.1f}" r="5" style="fill:none;stroke:var(--c);stroke-width:1.5"/></g>'
    )


def losses(card: Card) -> str:
    """The training loss of each arm, the mean of its seeds."""
    lines = [
        Line(arm, [(float(step), value) for step, value in enumerate(curve, 1)], smooth=True)
        for arm, curve in card.losses.items()
    ]
    return chart("Training loss (nats per learned token), mean of the seeds", card.name, "step", lines)


ACROSS = {"steps": 0, "pictures": 1, "text tokens": 2}
"""What the curves of a card are drawn over: the place of each in a point of a curve."""


def curves(card: Card, across: str) -> str:
    """How the arms learned: right answers over steps, pictures, or text tokens (those of pictures left out)."""
    costs = {row.arm: row.cost for row in card.rows}
    lines = []
    for arm, points in card.curves.items():
        visual = costs.get(arm, {}).get("visual_tokens", 0.0)
        shown = []
        for point in points:
            x = point[ACROSS[across]] - (visual * point[1] if across == "text tokens" else 0.0)
            shown.append((x, 100 * point[3]))
        lines.append(Line(arm, shown))
    return chart(f"Right answers in percent, over {across}", card.name, across, lines)
