"""Which questions of an evaluation stand in a training corpus, and what the score is without them.

A question counts as found where its picture, or a passage of its words and right answer, is in the corpus: by the rules
of the filter `decontaminate`, which keeps evaluation sets out of a corpus.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmlab import component
from vlmlab.batch import Message, Sample
from vlmlab.data.filters.decontaminate import Held
from vlmlab.data.sources import Source, SourceConfig
from vlmlab.evaluate import metrics
from vlmlab.evaluate.benchmarks import Benchmark
from vlmlab.evaluate.bootstrap import Estimate
from vlmlab.evaluate.evaluation import Record
from vlmlab.evaluate.figures import RESAMPLES, Clusters, mean
from vlmlab.evaluate.summary import scores


@dataclasses.dataclass(frozen=True)
class Found:
    """The numbers of the questions that a corpus holds, each with why; how many samples were looked at, and not."""

    why: Mapping[int, str]
    samples: int
    unreadable: int


def corpus(what: str) -> Source:
    """The training corpus that a recipe, or the name of a source, stands for. Raises ValueError where it is neither."""
    plain = component.read_toml(what) if what.endswith(".toml") else {"data": {"name": what}}
    if "data" not in plain:
        raise ValueError(f"{what} has no [data]: it names no corpus")
    try:
        config: SourceConfig = component.parse(SourceConfig, plain["data"], "data")
        built: Source = config.build()
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    return built


def samples(benchmark: Benchmark) -> list[Sample]:
    """Each question as published, with its first right answer, as a corpus would hold it."""
    found = []
    for index in range(len(benchmark)):
        question = benchmark.question(index)
        asked = Message("user", question.parts)
        answer = question.reference.answers[:1]
        found.append(Sample((asked, Message("assistant", answer)) if answer else (asked,)))
    return found


def search(held: Held, corpus: Source, advance: Callable[[int], None] = lambda count: None) -> Found:
    """Look for what is held in a whole corpus. A sample that cannot be read is counted, and passed over."""
    why: dict[int, str] = {}
    unreadable = 0
    for index in range(len(corpus)):
        try:
            for number, reason in held.find(corpus[index]):
                why.setdefault(number, f"{reason.kind}: {reason.detail}")
        except (ValueError, OSError):
            unreadable += 1
        advance(1)
    return Found(why, len(corpus), unreadable)


def told(
    found: Found, against: str, records: Sequence[Record], metric: tuple[str, str], resamples: int = RESAMPLES
) -> dict[str, Any]:
    """What a card says of it: how many were found, which, and the scores with none but these, and without them."""
    plain: dict[str, Any] = {
        "against": against,
        "samples": found.samples,
        "unreadable": found.unreadable,
        "flagged": len(found.why),
        "questions": {records[number].id: why for number, why in sorted(found.why.items())},
    }
    if found.why and all(record.score is not None for record in records):
        for name, inside in (("without", False), ("only", True)):
            some = [record for number, record in enumerate(records) if (number in found.why) == inside]
            plain[name] = dataclasses.asdict(_score(some, metric, resamples)) if some else None
    return plain


def _score(records: Sequence[Record], metric: tuple[str, str], resamples: int) -> Estimate:
    most = metrics.get(*metric).published
    return mean(scores(records, metric), Clusters.of(records), resamples, most=most)
