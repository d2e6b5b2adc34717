"""What an evaluation comes to: its score with an interval, by kind, by variant, and how far it can be trusted."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from vlmlab.evaluate import metrics
from vlmlab.evaluate.bootstrap import Estimate
from vlmlab.evaluate.evaluation import Record
from vlmlab.evaluate.figures import RESAMPLES, Clusters, mean

REFUSED = re.compile(
    r"^\W*(?:i[' ’]?a?m (?:very )?sorry|sorry\b|i apologi[sz]e|i(?: can(?:not| not|[’']?t)| am unable| am not able|"
    r"[’']m unable|[’']m not able)\b|as an ai\b|(?:it is|it[’']s) (?:not possible|impossible) to\b|unable to\b|"
    r"cannot determine\b|(?:un)?answerable\W*$)",
    re.IGNORECASE,
)
"""How an answer begins that refuses, or says that there is none."""


@dataclasses.dataclass(frozen=True)
class Shares:
    """Of all answers, in how many nothing was read and the metric fell back, and how many are of no use, or cut."""

    fallback: float
    empty: float
    refused: float
    cut: float
    errors: float


def shares(records: Sequence[Record]) -> Shares:
    """The shares of some records. An answer is `cut` when it reached the limit of tokens."""

    def share(chosen: Sequence[bool]) -> float:
        return sum(chosen) / max(1, len(chosen))

    return Shares(
        share([not record.found for record in records]),
        share([not record.answer.strip() for record in records]),
        share([bool(REFUSED.search(record.answer)) for record in records]),
        share([record.reason == "length" for record in records]),
        share([bool(record.error) for record in records]),
    )


@dataclasses.dataclass(frozen=True)
class Summary:
    """Scores as papers print them (times the metric's `published`), each with its interval.

    `kinds` is empty where questions have one kind; `variants` holds every variant of the metric where they were asked
    for, and `apart` names those whose score lies outside the interval of the one that scored.
    """

    score: Estimate
    kinds: Mapping[str, tuple[int, Estimate]]
    variants: Mapping[str, Estimate]
    apart: tuple[str, ...]


def summary(
    records: Sequence[Record], metric: tuple[str, str], variants: bool = False, resamples: int = RESAMPLES
) -> Summary:
    """The figures of scored records. Raises ValueError where a question has no score."""
    values = scores(records, metric)
    most = metrics.get(*metric).published
    total = mean(values, Clusters.of(records), resamples, most=most)
    kinds = {}
    names = dict.fromkeys(record.kind for record in records)
    for name in names if len(names) > 1 else ():
        chosen = [at for at, record in enumerate(records) if record.kind == name]
        some = [records[at] for at in chosen]
        kinds[name] = len(some), mean([values[at] for at in chosen], Clusters.of(some), resamples, most=most)
    others = _variants(records, metric[0], resamples) if variants else {}
    apart = tuple(name for name, other in others.items() if not total.low <= other.value <= total.high)
    return Summary(total, kinds, others, apart)


def scores(records: Sequence[Record], metric: tuple[str, str]) -> list[float]:
    """The score of each record as papers print it. Raises ValueError where one has none."""
    scale = metrics.get(*metric).published
    found = []
    for record in records:
        if record.score is None:
            raise ValueError(f"question {record.id} has no score: its answer is not published")
        found.append(scale * record.score)
    return found


def _variants(records: Sequence[Record], metric: str, resamples: int) -> dict[str, Estimate]:
    said = [record.answer for record in records]
    scored = metrics.side_by_side(metric, said, [record.reference for record in records])
    clusters = Clusters.of(records)
    scale = metrics.get(metric).published
    return {
        name: mean([scale * score.value for score in found], clusters, resamples, most=scale)
        for name, found in scored.items()
    }


def shown(estimate: Estimate, digits: int = 1) -> str:
    """A value and its interval on one line: `63.2 [61.0, 65.4]`."""
    value, low, high = (f"{number:.{digits}f}" for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
