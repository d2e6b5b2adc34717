"""Which of two models a person prefers, without knowing which is which (the paper's section 4.3).

Both answer the same prompts; the pairs are shuffled, and so are the two sides of each. Every vote is on disk as soon as
it is given, so that judging goes on where it was left, and may be changed: the last vote counts.
"""

import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vlmlab.batch import Message, Sample
from vlmlab.data.files import Row
from vlmlab.data.rows import open_rows
from vlmlab.evaluate.answering import Answerer, Writing, fingerprint
from vlmlab.evaluate.benchmarks import BenchmarkConfig, Parts, Question
from vlmlab.evaluate.bootstrap import Estimate
from vlmlab.evaluate.evaluation import Asking, Record
from vlmlab.evaluate.figures import RESAMPLES, Clusters, mean
from vlmlab.evaluate.known import Known
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.of_rows import OfRows

VOTES = "votes.jsonl"

Side = Literal["left", "right", "tie"]
Winner = Literal["a", "b", "tie"]


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Prompts to compare on: `path` is a file with `question`, and may have `image` or `images`, and `id`."""


class Prompts(OfRows):
    """Prompts, put as they are written. Nothing is held against the answers: people judge them."""

    metric = "exact"
    stop = ()

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.rows = open_rows(config.path, config.split)

    def parse(self, row: Row, split: str, number: int) -> Question:
        """A prompt, and its pictures."""
        parts: Parts = (*row.pictures(), row.text("question"))
        return Question(str(row.values.get("id", number)), parts, Reference(()))

    def ask(self, question: Question) -> Sample:
        """The prompt as it is written."""
        return Sample((Message("user", question.parts),))


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two answers to a prompt; `key` is the digest of all of it, and `swapped` puts the answer of B on the left."""

    key: str
    number: int
    a: Record
    b: Record
    swapped: bool

    @property
    def left(self) -> str:
        """The answer that stands on the left."""
        return (self.b if self.swapped else self.a).answer.strip()

    @property
    def right(self) -> str:
        """The answer that stands on the right."""
        return (self.a if self.swapped else self.b).answer.strip()

    @property
    def same(self) -> bool:
        """Whether there is nothing to choose between."""
        return self.left == self.right

    def winner(self, side: Side) -> Winner:
        """Whose answer a side is."""
        if side == "tie":
            return "tie"
        return "b" if (side == "left") == self.swapped else "a"


def answers(
    prompts: Prompts, answerer: Answerer, folder: Path, writing: Writing, advance: Callable[[int], None]
) -> list[Record]:
    """What one model answers to every prompt; what is known, from that folder, is not asked for again."""
    asking = Asking(prompts, answerer, writing)
    with Known(folder / f"{fingerprint(answerer.identity())[:16]}.jsonl") as known:
        advance(len(asking.asked) - len(asking.missing(known)))
        asking.answer(known, advance)
        return asking.records(known)


def pairs(first: Sequence[Record], second: Sequence[Record], seed: int = 0) -> list[Pair]:
    """The answers of two models in pairs, shuffled. Those that ended in an error are left out."""
    found = []
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        if not a.error and not b.error:
            key = fingerprint([a.question, a.answer, b.answer])
            found.append(Pair(key, number, a, b, random.Random(f"{seed} {key}").random() < 0.5))
    random.Random(seed).shuffle(found)
    return found


class Votes:
    """The votes in a folder, by judge and pair; the last one counts. Raises ValueError for a line that is none."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / VOTES
        self.given: dict[tuple[str, str], Side] = {}
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        for number, line in enumerate(lines[:-1], 1):  # what follows the last line's end was cut off
            try:
                judge, key, side = self._read(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{self.path}, line {number}: cannot be read: {error}") from None
            self.given[judge, key] = side
        if lines[-1]:
            self.path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]))

    def _read(self, told: Any) -> tuple[str, str, Side]:
        sides = get_args(Side)
        if not isinstance(told, dict) or told.get("side") not in sides:
            raise ValueError(f"a vote has a side, one of {', '.join(sides)}")
        if not isinstance(told.get("judge"), str) or not isinstance(told.get("pair"), str):
            raise ValueError("a vote names a judge and a pair")
        return told["judge"], told["pair"], told["side"]

    def give(self, judge: str, pair: Pair, side: Side) -> None:
        """Add a vote, on disk before it counts."""
        told = {"judge": judge, "pair": pair.key, "id": pair.a.id, "side": side, "winner": pair.winner(side)}
        with self.path.open("ab", buffering=0) as file:
            file.write((json.dumps(told) + "\n").encode())
        self.given[judge, pair.key] = side

    def left(self, judge: str, among: Sequence[Pair]) -> list[Pair]:
        """The pairs that a judge has yet to see, in order; where both answers are the same there is nothing to see."""
        return [pair for pair in among if not pair.same and (judge, pair.key) not in self.given]


@dataclasses.dataclass(frozen=True)
class Result:
    """What the votes come to.

    `rate` is how often B won, a tie counting half; pairs of equal answers are ties that nobody was asked about.
    `longer` is how often the longer answer won where one did and lengths differ, and `on_the_left` how often the left
    one: 0.5 is no bias. `when_longer` and `when_shorter` are B's rate where its answer was the longer, or the shorter.
    """

    votes: int
    wins: int
    losses: int
    ties: int
    same: int
    rate: Estimate
    longer: Estimate | None
    on_the_left: Estimate | None
    when_longer: Estimate | None
    when_shorter: Estimate | None
    lengths: tuple[float, float]

    def lines(self) -> list[str]:
        """What a person reads: `B wins 58.0 % [51.2, 64.7] ...`."""
        told = [
            f"B wins {_percent(self.rate)} of {self.votes + self.same} (a tie counts half): {self.wins} wins, "
            f"{self.losses} losses, {self.ties} ties, {self.same} pairs of equal answers"
        ]
        told.append(f"answers have {self.lengths[0]:.0f} letters by A, {self.lengths[1]:.0f} by B, in the mean")
        if self.longer is not None:
            told.append(f"the longer answer won {_percent(self.longer)} where one did")
        for name, rate in (("longer", self.when_longer), ("shorter", self.when_shorter)):
            if rate is not None:
                told.append(f"B wins {_percent(rate)} where its answer is the {name}")
        if self.on_the_left is not None:
            told.append(f"the left answer won {_percent(self.on_the_left)} where one did")
        return told


def result(among: Sequence[Pair], votes: Votes, resamples: int = RESAMPLES) -> Result | None:
    """What the votes of all judges on these pairs come to; None where there are none, and no equal answers."""
    given = [(pair, side) for pair in among for (_, key), side in votes.given.items() if key == pair.key]
    same = [pair for pair in among if pair.same]
    if not given and not same:
        return None
    worth: Mapping[Winner, float] = {"a": 0.0, "tie": 0.5, "b": 1.0}
    winners = [pair.winner(side) for pair, side in given]
    scored = [(pair, worth[winner]) for (pair, _), winner in zip(given, winners, strict=True)]
    clear = [(pair, side, winner) for (pair, side), winner in zip(given, winners, strict=True) if winner != "tie"]
    apart = [(pair, winner) for pair, _, winner in clear if _length(pair.a) != _length(pair.b)]

    def share(some: Sequence[tuple[Pair, float]]) -> Estimate | None:
        return _mean(some, resamples) if some else None

    rate = _mean([*scored, *((pair, 0.5) for pair in same)], resamples)
    return Result(
        votes=len(given),
        wins=winners.count("b"),
        losses=winners.count("a"),
        ties=winners.count("tie"),
        same=len(same),
        rate=rate,
        longer=share([(p, float((winner == "b") == (_length(p.b) > _length(p.a)))) for p, winner in apart]),
        on_the_left=share([(pair, float(side == "left")) for pair, side, _ in clear]),
        when_longer=share([(pair, value) for pair, value in scored if _length(pair.b) > _length(pair.a)]),
        when_shorter=share([(pair, value) for pair, value in scored if _length(pair.b) < _length(pair.a)]),
        lengths=(_mean_length([pair.a for pair in among]), _mean_length([pair.b for pair in among])),
    )


def _mean(some: Sequence[tuple[Pair, float]], resamples: int) -> Estimate:
    clusters = Clusters.of([pair.a for pair, _ in some])
    return mean([value for _, value in some], clusters, resamples, most=1.0)


def _length(record: Record) -> int:
    return len(record.answer.strip())


def _mean_length(records: Sequence[Record]) -> float:
    return float(np.mean([_length(record) for record in records]))


def _percent(estimate: Estimate) -> str:
    value, low, high = (f"{100 * number:.1f}" for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} % [{low}, {high}]"
