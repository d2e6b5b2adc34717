"""A card as a page of Markdown, and the page that puts the cards of all studies beside the paper's six findings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmlab.study import picture
from vlmlab.study.card import Card, Result, Row, data, points
from vlmlab.study.decide import Judged
from vlmlab.study.plan import LEAST
from vlmlab.writing import write_text

FINDINGS = (
    "For a fixed number of parameters, the language model matters more than the vision backbone.",
    "Cross-attention is better while the backbones are frozen; fully autoregressive is better once they learn.",
    "Unfreezing everything can make the fully autoregressive loss diverge; LoRA learns more and keeps it stable.",
    "Fewer visual tokens through learned pooling: much cheaper, and better.",
    "A tower of fixed squares adapted to keep aspect ratio and resolution loses nothing, and saves time and memory.",
    "Splitting pictures in training lets one trade compute for score at inference, most of all where text is read.",
)
"""The paper's findings 1 to 6 (sections 3.1 to 3.4), in short."""

INDEX = "index.md"


def write(card: Card, results: Mapping[tuple[str, int], Result], out: Path) -> Path:
    """Write a card, its data and its pictures into a folder, and the folder's index. Returns the card's path."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{card.name}.json", json.dumps(data(card, results)) + "\n")
    write_text(out / f"{card.name}.svg", picture.scores(card))
    write_text(out / f"{card.name}-loss.svg", picture.losses(card))
    for across in _drawn(card):
        write_text(out / _curve(card, across), picture.curves(card, across))
    path = out / f"{card.name}.md"
    write_text(path, text(card))
    write_text(out / INDEX, index(out))
    return path


def _drawn(card: Card) -> list[str]:
    """What the curves of a card are drawn over; nothing where there are none."""
    return list(picture.ACROSS) if any(card.curves.values()) else []


def _curve(card: Card, across: str) -> str:
    return f"{card.name}-{across.replace(' ', '-')}.svg"


def text(card: Card) -> str:
    """The card."""
    verdict = f"**{card.verdict.capitalize()}**" + (f": this card does not count, {card.why}." if card.why else ".")
    parts = [
        f"# {card.question}",
        f"{verdict} {_scope(card)}",
        *([f"The budget ended before all runs were done: {card.stopped}."] if card.stopped else []),
        f"The paper ({card.paper.where}): {card.paper.says}" + _theirs(card),
        "## What came of it",
        f"![Scores of the arms]({card.name}.svg)",
        _scores(card),
        "Share of right answers in percent, with 95 % intervals over pictures and seeds; *loss* is in nats among the "
        "candidates. *Wrong pictures* is the positive control: the same questions about other pictures; *they lose* "
        "is what that costs.",
        *_kinds(card),
        "## Claims",
        _claims(card.judged),
        "## What it costs",
        _costs(card),
        "FLOPs are of training, those of the tower's one look at each picture apart; memory is weights, gradients, "
        "optimizer and what is kept for the backward pass; all computed (`vlmlab plan`). Seconds are measured, asking "
        "included.",
        "## What differs",
        _differences(card),
        *([f"From the paper: {card.plan.study.differs}"] if card.plan.study.differs else []),
        *([f"What is missing: {card.plan.study.missing}"] if card.plan.study.missing else []),
        "## How the arms learned",
        f"![Training loss of the arms]({card.name}-loss.svg)",
        _rises(card),
        *(f"![Right answers over {across}]({_curve(card, across)})" for across in _drawn(card)),
        "## To make it again",
        f"```sh\nvlmlab study studies/{card.name}.toml\n```",
        f"Budget: {card.plan.study.budget:g} minutes of two cores (or one accelerator); used: {card.minutes:.1f}. "
        f"Every answer of every run: [{card.name}.json]({card.name}.json). vlmlab {card.version}, {card.date}.",
    ]
    return "\n\n".join(parts) + "\n"


def _scope(card: Card) -> str:
    shared = {
        "samples": "all arms of a seed are given the same samples in the same order (checked by hash)",
        "count": "all arms of a seed are given as many samples (the data are what is varied)",
    }[card.plan.study.shared]
    recipe = next(iter(card.plan.recipes.values()))
    last = "".join(f" and then {each.stage.steps}" for each in list(card.plan.finishes.values())[:1])
    smallest = max((judged.difference.smallest for judged in card.judged if judged.difference), default=0.0)
    seen = f" The smallest difference it could have seen, four times in five: {100 * smallest:.1f} points."
    return (
        f"{len(card.rows)} arms, seeds {', '.join(map(str, card.seeds))}, {recipe.stage.steps}{last} steps of "
        f"{recipe.stage.batch} samples; {shared}. {card.questions:,} held-out questions about {card.pictures:,} "
        f"pictures.{seen if smallest else ''}"
    )


def _theirs(card: Card) -> str:
    if not card.paper.scores:
        return ""
    return " " + "; ".join(f"{name} {score:g}" for name, score in card.paper.scores.items()) + "."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def _scores(card: Card) -> str:
    head = ["arm", "right", "each seed", "loss", "wrong pictures", "they lose", f"less {card.plan.study.reference}"]
    return _table(head, [_score(card, row) for row in card.rows])


def _score(card: Card, row: Row) -> list[str]:
    less = "" if row.less is None or row.arm == card.plan.study.reference else points(row.less.estimate, True)
    return [
        row.arm,
        points(row.score.estimate),
        ", ".join(f"{100 * value:.1f}" for value in row.each),
        f"{row.loss.estimate.value:.3f}",
        points(row.wrong.estimate),
        points(row.control.estimate, True) + ("" if row.control.estimate.low > 0 else " (fails)"),
        less,
    ]


def _kinds(card: Card) -> list[str]:
    kinds = list(dict.fromkeys(kind for row in card.rows for kind in row.kinds))
    if len(kinds) < 2:
        return []
    return [
        _table(["by kind", *kinds], [[row.arm, *(f"{100 * row.kinds[k]:.1f}" for k in kinds)] for row in card.rows])
    ]


def _claims(judged: Sequence[Judged]) -> str:
    rows = []
    for one in judged:
        found = one.difference
        rows.append(
            [
                one.claim.text,
                one.verdict,
                points(found.estimate, True) if found else "",
                f"{100 * found.smallest:.1f}" if found else "",
                one.why,
            ]
        )
    return _table(["claim", "verdict", "difference", "smallest seen", "why"], rows)


def _costs(card: Card) -> str:
    rows = []
    for row in card.rows:
        cost = row.cost
        told = [row.arm]
        if cost:
            told += [
                f"{cost['trained'] / 1e6:.2f} M of {cost['parameters'] / 1e6:.0f} M",
                f"{cost['flops'] / 1e12:.1f} T + {cost['flops_once'] / 1e12:.1f} T once",
                f"{cost['visual_tokens']:.0f}",
                f"{cost['memory'] / 2**20:,.0f} MiB",
            ]
        rows.append([*told, *[""] * (5 - len(told)), f"{row.seconds:.0f}"])
    return _table(["arm", "learns", "FLOPs", "visual tokens a sample", "memory", "seconds a run"], rows)


def _differences(card: Card) -> str:
    arms = list(card.plan.recipes)
    rows = [[f"`{key}`", *(values[arm] for arm in arms)] for key, values in card.differences.items()]
    return _table(["recipe", *arms], rows)


def _rises(card: Card) -> str:
    rows = [
        [
            arm,
            ", ".join(f"{value:+.2f}" for value in card.rises[arm]),
            f"{sum(card.diverged[arm])} of {len(card.seeds)}",
        ]
        for arm in card.rises
    ]
    return _table(["arm", "the loss ends above its lowest by (nats), each seed", "diverged"], rows)


def index(folder: Path) -> str:
    """The page of all cards in a folder, from their data."""
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    cards = [card for card in cards if "judged" in card]
    rows = []
    for number, finding in enumerate(FINDINGS, 1):
        own = [card for card in cards if number in card["paper"]["findings"]]
        told = "<br>".join(_told(card) for card in own) or "no card yet"
        rows.append([f"{number}. {finding}", told])
    every = [
        [
            f"[{card['question']}]({card['name']}.md)",
            card["paper"]["where"],
            _verdict(card),
            f"{len(card['rows'])} x {len(card['seeds'])}",
            f"{card['questions']:,}",
            f"{card['minutes']:.0f}",
        ]
        for card in cards
    ]
    return (
        "\n\n".join(
            [
                "# The paper's findings, and ours",
                "Small studies on two cores put the paper's questions to models of nano's size or less. "
                "They cannot confirm or refute what was found with 8 billion parameters: they say whether the same "
                "direction shows here, and how large a difference they could have seen. A card whose positive control "
                f"fails, or that asks fewer than {LEAST:,} questions, does not count.",
                _table(["the paper", "here"], rows),
                "## All cards",
                _table(["question", "paper", "verdict", "arms x seeds", "questions", "minutes"], every),
                "This page is made from the cards' data by `vlmlab study`.",
            ]
        )
        + "\n"
    )


def _verdict(card: Mapping[str, Any]) -> str:
    return card["verdict"] if card["counts"] else f"does not count: {card['why']}"


def _told(card: Mapping[str, Any]) -> str:
    claims = []
    for one in card["judged"]:
        found = one.get("difference")
        size = ""
        if found:
            estimate = found["estimate"]
            size = f" ({100 * estimate['value']:+.1f} [{100 * estimate['low']:+.1f}, {100 * estimate['high']:+.1f}])"
        claims.append(f"{one['claim']['text']}: {one['verdict']}{size}")
    doubt = "" if card["counts"] else f" **Does not count: {card['why']}.**"
    return f"[{card['name']}]({card['name']}.md): " + "; ".join(claims) + "." + doubt
