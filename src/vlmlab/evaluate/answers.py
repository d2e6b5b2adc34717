"""The page of answers: held-out pictures, what the model says of them, and the title it chose among ten."""

import dataclasses
from typing import Any

from vlmlab.batch import Picture
from vlmlab.data.page import data_url, escape
from vlmlab.data.page import page as whole_page
from vlmlab.evaluate.ten_way import Choice, TenWay
from vlmlab.processor.decode import open_picture

STYLE = """
.answers { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 18px; }
.answers .card { margin: 0; } .answers img { height: 170px; width: 100%; object-fit: contain; }
.said { font-size: 18px; font-weight: 600; margin: 12px 0 2px; }
ol { list-style: none; margin: 10px 0 0; padding: 0; font-size: 13px; }
li { position: relative; padding: 1px 6px; margin: 1px 0; display: flex; justify-content: space-between; gap: 8px; }
li i { position: absolute; inset: 0 auto 0 0; background: var(--mark); border-radius: 4px; }
li.true i { background: var(--learned); } li b, li span { position: relative; }
li.true { color: var(--learned-text); font-weight: 600; } li.wrong span:first-of-type { color: var(--wrong); }
table { border-collapse: collapse; font-size: 14px; } td, th { text-align: right; padding: 3px 18px 3px 0; }
td:first-child, th:first-child { text-align: left; } th { color: var(--quiet); font-weight: 500; }
"""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A held-out picture, the choice made for it, and what the model answered freely."""

    picture: Picture
    choice: Choice
    answer: str

    @property
    def title(self) -> str:
        """The true title."""
        return self.choice.titles[0]

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        ranked = sorted(zip(self.choice.titles, self.choice.probabilities, strict=True), key=lambda pair: -pair[1])
        return {
            "index": self.choice.index,
            "title": self.title,
            "answer": self.answer,
            "chosen": ranked[0][0],
            "right": self.choice.right,
            "probabilities": {title: round(share, 4) for title, share in ranked},
        }


def page(shown: list[Shown], before: TenWay, after: TenWay, made_by: str) -> str:
    """The whole page: the scores, then a card for each picture."""
    lead = "Pictures it was never shown: what it says when asked, and which of ten titles it thinks fits best."
    cards = "\n".join(_card(item) for item in shown)
    body = f'<section class="card">{_scores(before, after)}</section>\n<div class="answers">\n{cards}\n</div>'
    return whole_page("What the model sees", lead, body, made_by, STYLE)


def _scores(before: TenWay, after: TenWay) -> str:
    rows = [
        (
            f"right title among {after.candidates}, {after.pictures} pictures",
            [f"{r.accuracy.value:.1%}" for r in (before, after)],
        ),
        ("the same by plain likelihood", [f"{r.likeliest.value:.1%}" for r in (before, after)]),
        ("by plain likelihood without the picture", [f"{r.text_only.value:.1%}" for r in (before, after)]),
        ("loss with the right picture, nats per token", [f"{r.right:.2f}" for r in (before, after)]),
        ("loss with another picture", [f"{r.shuffled:.2f}" for r in (before, after)]),
    ]
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{a}</td><td>{b}</td></tr>" for name, (a, b) in rows)
    return f"<table><tr><th></th><th>untrained</th><th>trained</th></tr>{cells}</table>"


def _card(item: Shown) -> str:
    best = max(item.choice.probabilities)
    lines = []
    for title, share in zip(item.choice.titles, item.choice.probabilities, strict=True):
        kind = "true" if title == item.title else "wrong" if share == best else ""
        lines.append(
            (
                share,
                f'<li class="{kind}"><i style="width: {100 * share:.1f}%"></i><span>{escape(title)}</span>'
                f"<span>{share:.0%}</span></li>",
            )
        )
    ranked = "".join(line for _, line in sorted(lines, key=lambda line: -line[0]))
    mark = "✓" if item.choice.right else "✗"
    return (
        f'<section class="card"><img src="{_thumbnail(item.picture)}" alt="{escape(item.title)}">'
        f'<p class="said">“{escape(item.answer)}”</p><p class="note">its title: {escape(item.title)} · chose '
        f"{mark}</p><ol>{ranked}</ol></section>"
    )


def _thumbnail(picture: Picture) -> str:
    image = open_picture(picture)
    image.thumbnail((340, 340))
    return data_url(image)
