"""Two evaluations of the same questions, in pairs: by how much the second is better, and what it would take to tell."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vlmlab.evaluate.evaluation import Evaluation, Record
from vlmlab.evaluate.figures import RESAMPLES, Clusters, Difference, difference
from vlmlab.evaluate.summary import scores, shown


@dataclasses.dataclass(frozen=True)
class Pair:
    """One question as both answered it."""

    first: Record
    second: Record

    @property
    def apart(self) -> float:
        """By how much the second scored more, from -1 to 1."""
        return (self.second.score or 0.0) - (self.first.score or 0.0)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two evaluations side by side; `kinds` is empty where questions have one kind."""

    first: Evaluation
    second: Evaluation
    pairs: tuple[Pair, ...]
    total: Difference
    kinds: Mapping[str, Difference]

    def line(self) -> str:
        """What it comes to: `B - A = 1.3 [0.2, 2.4]; wins 64, losses 41, ties 895; to tell 0.5 you need n = 5210`."""
        return f"B - A = {told(self.total)}"

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "a": self.first.name,
            "b": self.second.name,
            "difference": dataclasses.asdict(self.total),
            "kinds": {name: dataclasses.asdict(each) for name, each in self.kinds.items()},
        }


def told(found: Difference) -> str:
    """A difference on one line."""
    needed = f"you need n = {found.needed}" if found.needed else "takes questions on which they differ"
    return (
        f"{shown(found.value)}; wins {found.wins}, losses {found.losses}, ties {found.ties}; to tell {found.tell:g} "
        f"{needed}"
    )


def compare(first: Evaluation, second: Evaluation, tell: float = 0.5, resamples: int = RESAMPLES) -> Comparison:
    """The second minus the first, in the unit of papers, on each question that both were asked: the same ones.

    Raises ValueError where their questions or metrics differ, naming what does.
    """
    if first.metric != second.metric:
        told = " and ".join(", ".join(each.metric) for each in (first, second))
        raise ValueError(f"they are scored by different metrics: {told}")
    others = {record.id: record for record in second.records}
    alone = [record.id for record in first.records if record.id not in others]
    alone += sorted(set(others) - {record.id for record in first.records})
    if alone:
        raise ValueError(f"their questions differ: {_some(alone)} stand in one of the two only")
    pairs = tuple(Pair(record, others[record.id]) for record in first.records)
    changed = [pair.first.id for pair in pairs if pair.first.question != pair.second.question]
    if changed:
        raise ValueError(f"their questions differ: the words, pictures or answers of {_some(changed)} are not the same")
    values = scores([pair.first for pair in pairs], first.metric), scores([pair.second for pair in pairs], first.metric)
    clusters = Clusters.of([pair.first for pair in pairs])
    total = difference(*values, clusters, tell, resamples)
    kinds = {}
    names = dict.fromkeys(pair.first.kind for pair in pairs)
    for name in names if len(names) > 1 else ():
        chosen = [at for at, pair in enumerate(pairs) if pair.first.kind == name]
        some = Clusters.of([pairs[at].first for at in chosen])
        one, other = ([side[at] for at in chosen] for side in values)
        kinds[name] = difference(one, other, some, tell, resamples)
    return Comparison(first, second, pairs, total, kinds)


def _some(ids: list[str]) -> str:
    shown_ids = ", ".join(ids[:3])
    return shown_ids if len(ids) <= 3 else f"{shown_ids} and {len(ids) - 3} more"
