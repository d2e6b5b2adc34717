"""Scores against visual tokens: what resolution and splitting buy, and which questions need them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vlmlab.evaluate import metrics
from vlmlab.evaluate.bootstrap import Estimate
from vlmlab.evaluate.compare import Comparison, compare
from vlmlab.evaluate.evaluation import Evaluation
from vlmlab.evaluate.figures import RESAMPLES, Clusters, mean
from vlmlab.evaluate.summary import scores, shown
from vlmlab.train.plot import Line, chart


@dataclasses.dataclass(frozen=True)
class Point:
    """A way to read pictures, what it costs in visual tokens a question, and what it scores."""

    longest: int
    split: bool
    tokens: float
    score: Estimate
    evaluation: Evaluation

    @property
    def name(self) -> str:
        """How it reads: `448 split`."""
        return f"{self.longest}{' split' if self.split else ''}"


@dataclasses.dataclass(frozen=True)
class Pareto:
    """Ways to read the same pictures. `splits` compare whole with split at each resolution.

    `chosen` is what one would score who read each question's pictures in the cheapest of the best ways for it, at so
    many visual tokens a question: no rule can do better.
    """

    points: tuple[Point, ...]
    splits: Mapping[int, Comparison]
    chosen: Estimate
    chosen_tokens: float

    def frontier(self) -> list[Point]:
        """The ways that no cheaper, or equally cheap, way beats; the cheapest first."""
        best: list[Point] = []
        for point in sorted(self.points, key=lambda point: (point.tokens, -point.score.value, point.longest)):
            if not best or point.score.value > best[-1].score.value:
                best.append(point)
        return best

    def need_splitting(self) -> list[str]:
        """The ids of the questions that score more with splitting, at the largest resolution."""
        return [pair.first.id for pair in self.splits[max(self.splits)].pairs if pair.apart > 0]

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        ahead = {point.name for point in self.frontier()}
        return {
            "points": [
                {
                    "longest": point.longest,
                    "split": point.split,
                    "visual_tokens": point.tokens,
                    "score": dataclasses.asdict(point.score),
                    "seconds": point.evaluation.card["seconds"],
                    "ahead": point.name in ahead,
                }
                for point in self.points
            ],
            "splitting": {str(side): found.plain() for side, found in self.splits.items()},
            "chosen": {"visual_tokens": self.chosen_tokens, "score": dataclasses.asdict(self.chosen)},
            "need_splitting": self.need_splitting(),
        }

    def picture(self, title: str, note: str) -> str:
        """The scores over the visual tokens, as SVG."""
        lines = []
        for split, name in ((False, "whole pictures"), (True, "split in four and whole")):
            some = sorted((point for point in self.points if point.split == split), key=lambda point: point.longest)
            lines.append(
                Line(
                    name,
                    [(point.tokens, point.score.value) for point in some],
                    intervals=[(point.score.low, point.score.high) for point in some],
                    labels=[f"{point.longest} px" for point in some],
                )
            )
        lines.append(Line("the best way for each question", [(self.chosen_tokens, self.chosen.value)]))
        return chart(title, note, "visual tokens a question", lines)

    def rows(self) -> list[tuple[str, ...]]:
        """The table: the way, visual tokens, score, seconds a question, and whether it is on the frontier."""
        ahead = {point.name for point in self.frontier()}
        found: list[tuple[str, ...]] = []
        for point in sorted(self.points, key=lambda point: (point.tokens, point.longest)):
            card = point.evaluation.card
            each = f"{card['seconds'] / card['questions']:.3f}"
            mark = "frontier" if point.name in ahead else ""
            found.append((point.name, f"{point.tokens:.1f}", shown(point.score), each, mark))
        found.append(("best of each", f"{self.chosen_tokens:.1f}", shown(self.chosen), "", "a bound"))
        return found


def pareto(evaluations: Mapping[tuple[int, bool], Evaluation], tell: float = 0.5, resamples: int = RESAMPLES) -> Pareto:
    """Of evaluations of the same questions, by longest side and splitting. Each side must be there in both ways.

    Raises ValueError where visual tokens are not known, or the questions differ.
    """
    points = []
    for (longest, split), found in evaluations.items():
        tokens = _tokens(found)
        most = metrics.get(*found.metric).published
        score = mean(scores(found.records, found.metric), Clusters.of(found.records), resamples, most=most)
        points.append(Point(longest, split, sum(tokens) / len(tokens), score, found))
    sides = sorted({longest for longest, _ in evaluations})
    splits = {
        side: compare(evaluations[side, False], evaluations[side, True], tell, resamples)
        for side in sides
        if (side, False) in evaluations and (side, True) in evaluations
    }
    return Pareto(tuple(points), splits, *_chosen(points, resamples))


def _tokens(found: Evaluation) -> list[int]:
    counts = [record.visual_tokens for record in found.records]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        raise ValueError(f"{found.name}: how many visual tokens a question took is not told")
    return known


def _chosen(points: Sequence[Point], resamples: int) -> tuple[Estimate, float]:
    records = points[0].evaluation.records
    metric = points[0].evaluation.metric
    ways = [(scores(point.evaluation.records, metric), _tokens(point.evaluation)) for point in points]
    best = [max((score[at], -tokens[at]) for score, tokens in ways) for at in range(len(records))]
    most = metrics.get(*metric).published
    score = mean([value for value, _ in best], Clusters.of(records), resamples, most=most)
    return score, -sum(tokens for _, tokens in best) / len(best)
