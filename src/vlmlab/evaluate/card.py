"""The card of an evaluation: what was measured, how, by what, and what to keep in mind; as plain data and as a page."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from vlmlab import component
from vlmlab.evaluate import metrics
from vlmlab.evaluate.answering import Answerer, Writing
from vlmlab.evaluate.benchmarks import Benchmark, spread_over_kinds
from vlmlab.evaluate.bootstrap import Estimate
from vlmlab.evaluate.evaluation import Record
from vlmlab.evaluate.summary import scores, shares, shown, summary


def card(
    label: str,
    benchmark: Benchmark,
    answerer: Answerer,
    writing: Writing,
    records: Sequence[Record],
    variant: str,
    variants: bool,
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    """All that is known of an evaluation but its questions. `score` is there where the answers are published."""
    metric = benchmark.metric, variant
    seen = [record.visual_tokens for record in records if record.visual_tokens is not None]
    told: dict[str, Any] = {
        "label": label,
        "questions": len(records),
        "metric": {"name": metric[0], "variant": metric[1], "times": metrics.get(*metric).published},
        "benchmark": component.plain(benchmark.config),
        "model": {"name": answerer.name, **answerer.identity(), **answerer.facts()},
        "writing": component.plain(writing),
        "decoding": "greedy",
        "prompt": records[0].prompt,
        "shares": dataclasses.asdict(shares(records)),
        "visual_tokens": sum(seen) / len(seen) if seen else None,
        "seconds": sum(record.seconds for record in records),
        "versions": {"vlmlab": importlib.metadata.version("vlmlab"), "python": platform.python_version()},
        "made_by": dict(made_by),
    }
    if all(record.score is not None for record in records):
        found = summary(records, metric, variants)
        told["score"] = _plain(found.score)
        told["kinds"] = {name: {"questions": count, **_plain(each)} for name, (count, each) in found.kinds.items()}
        told["variants"] = {name: _plain(each) for name, each in found.variants.items()}
        told["apart"] = list(found.apart)
        if benchmark.spread:
            told["spread"] = spread_over_kinds(scores(records, metric), [record.kind for record in records])
    return told


def _plain(estimate: Estimate) -> dict[str, float]:
    return dataclasses.asdict(estimate)


def estimate(plain: Mapping[str, Any]) -> Estimate:
    """An estimate from a card's plain data."""
    return Estimate(plain["value"], plain["low"], plain["high"])


def warnings(card: Mapping[str, Any]) -> list[str]:
    """What a reader of the score should know first."""
    told = []
    if card.get("apart"):
        score = shown(estimate(card["score"]))
        others = ", ".join(f"{name} {card['variants'][name]['value']:.1f}" for name in card["apart"])
        told.append(f"harnesses disagree by more than the interval: {card['metric']['variant']} {score}, {others}")
    found = card["shares"]
    if found["errors"]:
        told.append(f"{found['errors']:.1%} of the questions got an error for an answer and count as wrong")
    if found["fallback"] >= 0.05:
        told.append(f"in {found['fallback']:.1%} of the answers the metric read nothing and fell back")
    if found["empty"] >= 0.05:
        told.append(f"{found['empty']:.1%} of the answers are empty")
    if found["refused"] >= 0.05:
        told.append(f"{found['refused']:.1%} of the answers refuse")
    flagged = card.get("contamination", {})
    if flagged.get("flagged"):
        told.append(f"{flagged['flagged']} of {card['questions']} questions are in the training corpus")
    return told


def markdown(card: Mapping[str, Any]) -> str:
    """The card as a page."""
    lines = [f"# {_cell(card['model']['name'])} on {_cell(card['label'])}", ""]
    if "score" in card:
        lines += [f"**{shown(estimate(card['score']))}** {_unit(card)}, {card['questions']} questions.", ""]
    else:
        lines += [f"{card['questions']} questions, scored elsewhere: see the submission.", ""]
    lines += [f"- **{_cell(warning)}**" for warning in warnings(card)] + [""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows(card)), ""]
    if card.get("kinds"):
        lines += ["## By kind", "", "| kind | questions | score |", "|---|---|---|"]
        for name, each in card["kinds"].items():
            lines.append(f"| {_cell(name)} | {each['questions']} | {shown(estimate(each))} |")
        lines.append("")
    if card.get("variants"):
        lines += ["## By variant", "", "| variant | score |", "|---|---|"]
        lines += [f"| {name} | {shown(estimate(each))} |" for name, each in card["variants"].items()] + [""]
    lines += ["## A prompt as it was asked", "", *(f"    {line}" for line in card["prompt"].splitlines()), ""]
    return "\n".join(lines)


def rows(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What stands in the card's table: names and values."""
    model, writing, found = card["model"], card["writing"], card["shares"]
    splits = writing.get("split")
    split = "as the model's own" if splits is None else "on" if splits else "off"
    told = [
        ("benchmark", _listed(card["benchmark"])),
        ("metric", f"{card['metric']['name']}, {card['metric']['variant']}"),
        *([("spread over kinds", f"{card['spread']:.1f} (standard deviation)")] if "spread" in card else []),
        ("stops at", ", ".join(map(repr, writing.get("stop", []))) or "the end of the answer only"),
        ("longest answer", f"{writing['max_new_tokens']} tokens"),
        ("decoding", card["decoding"]),
        ("splitting", split),
        ("longest side", f"{writing['longest']} pixels" if writing.get("longest") else "as the model's own"),
        *((name, _listed(value)) for name, value in model.items() if name != "name"),
        ("visual tokens a question", "unknown" if card["visual_tokens"] is None else f"{card['visual_tokens']:.1f}"),
        ("nothing read, fell back", f"{found['fallback']:.1%}"),
        ("empty", f"{found['empty']:.1%}"),
        ("refused", f"{found['refused']:.1%}"),
        ("cut at the limit", f"{found['cut']:.1%}"),
        ("errors", f"{found['errors']:.1%}"),
        (
            "time to answer",
            f"{card['seconds']:.1f} s, {card['seconds'] / card['questions']:.3f} s a question",
        ),
        *_contamination(card),
        ("versions", _listed(card["versions"])),
        ("made by", _listed(card["made_by"])),
    ]
    return told


def _contamination(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = card.get("contamination")
    if found is None:
        return [("contamination", "not checked (--against names the training corpus)")]
    told = f"{found['flagged']} of {card['questions']} questions are in {found['against']}"
    rows = [("contamination", f"{told} ({found['samples']} samples were looked at)")]
    if found.get("without"):
        rows.append(("score without these", shown(estimate(found["without"]))))
    if found.get("only"):
        rows.append(("score on these alone", shown(estimate(found["only"]))))
    return rows


def _unit(card: Mapping[str, Any]) -> str:
    return f"{card['metric']['name']} ({card['metric']['variant']}) × {card['metric']['times']:g}, 95 % interval"


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_listed(each)}" for name, each in value.items())
    return "none" if value is None else str(value)


def _cell(text: str) -> str:
    """Text inside Markdown: nothing in it begins a tag, a table's cell or a line."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
