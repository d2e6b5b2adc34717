"""Scores by kind of question on held-out pictures, beside two baselines: no picture, and the most frequent answer.

A question is right when the answer is the reference, case, a full stop at the end and, of a title, its article aside.
Kinds in `READING` are scored by the character error rate instead: edits to turn the answer into the reference, over the
reference's length.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmlab.batch import Message, Picture, Sample
from vlmlab.data.made import MadeSource, png
from vlmlab.data.sources import PairSource, Source
from vlmlab.evaluate.bootstrap import Estimate, ratio
from vlmlab.evaluate.edits import edits

READING = frozenset({"reading"})
"""Kinds whose answers are read off the picture letter by letter."""

TITLE = "title"
"""The kind of a titled picture's one question."""

Generate = Callable[[Sequence[Sample]], list[str]]
"""The greedy answers of a model."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """One question about one picture, asked alone. `picture_number` tells pictures apart for the bootstrap."""

    source: str
    kind: str
    picture_number: int
    picture: Picture
    text: str
    answer: str

    def sample(self, seen: bool = True) -> Sample:
        """The question as a conversation, with its picture or, unless `seen`, without."""
        parts = (self.picture, self.text) if seen else (self.text,)
        return Sample((Message("user", parts),))


def questions(name: str, source: Source, pictures: int, kind: str = TITLE) -> list[Asked]:
    """What is asked about the first `pictures` pictures of a source; `kind` is that of pictures with captions.

    Raises ValueError for a source whose questions have no known kind.
    """
    found: list[Asked] = []
    for index in range(min(pictures, len(source))):
        if isinstance(source, MadeSource):
            truth = source.truth(index)
            picture = Picture(png(source.draw(truth)), f"{name} {index}")
            found += [Asked(name, q.kind, index, picture, q.text, q.answer) for q in source.questions(truth)]
        elif isinstance(source, PairSource):
            pair, sample = source.pair(index), source[index]
            texts = [part for message in sample.messages[:1] for part in message.parts if isinstance(part, str)]
            found.append(Asked(name, kind, index, pair.picture, " ".join(texts).strip(), pair.title))
        else:
            raise ValueError(f"{name}: its questions have no kind; made sources and titled pictures can be scored")
    return found


def frequent(learned: Sequence[Asked]) -> dict[tuple[str, str], str]:
    """The most frequent answer to each source's questions of each kind, among those that training has seen."""
    counted: dict[tuple[str, str], collections.Counter[str]] = {}
    for asked in learned:
        counted.setdefault((asked.source, asked.kind), collections.Counter())[asked.answer] += 1
    return {key: max(sorted(counter), key=counter.__getitem__) for key, counter in counted.items()}


@dataclasses.dataclass(frozen=True)
class Score:
    """Of one kind of one source: the model's score, those of the baselines, and by how much it beats the better one.

    Shares of right answers, or for reading character error rates, where less is better and `gain` is what is saved.
    Intervals are over pictures.
    """

    source: str
    kind: str
    questions: int
    model: Estimate
    blind: Estimate
    frequent: Estimate
    gain: Estimate

    @property
    def clear(self) -> bool:
        """Whether it beats both baselines beyond chance."""
        return self.gain.low > 0


@dataclasses.dataclass(frozen=True)
class Answered:
    """A question with what was answered, with the picture and without."""

    asked: Asked
    answer: str
    blind: str
    frequent: str

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        told = {name: getattr(self.asked, name) for name in ("source", "kind", "picture_number", "text")}
        return {**told, "reference": self.asked.answer, "answer": self.answer, "blind": self.blind}


def answer(asked: Sequence[Asked], generate: Generate, known: Mapping[tuple[str, str], str]) -> list[Answered]:
    """Ask every question with its picture and without; `known` are the frequent answers."""
    seen = generate([one.sample() for one in asked])
    texts = list({one.text: one for one in asked}.values())  # without a picture the same words have the same answer
    blind = dict(zip((one.text for one in texts), generate([one.sample(seen=False) for one in texts]), strict=True))
    return [
        Answered(one, said, blind[one.text], known.get((one.source, one.kind), ""))
        for one, said in zip(asked, seen, strict=True)
    ]


def scores(answered: Sequence[Answered], resamples: int = 10_000) -> list[Score]:
    """A score for each kind of each source, in the order in which they come."""
    kinds = dict.fromkeys((one.asked.source, one.asked.kind) for one in answered)
    return [_score([one for one in answered if (one.asked.source, one.asked.kind) == key], resamples) for key in kinds]


def _score(answered: Sequence[Answered], resamples: int) -> Score:
    first = answered[0].asked
    reading = first.kind in READING
    below: collections.Counter[int] = collections.Counter()
    sides: dict[str, collections.Counter[int]] = {
        name: collections.Counter() for name in ("answer", "blind", "frequent")
    }
    for one in answered:
        shorten = without_article if first.kind == TITLE else plain
        place, reference = one.asked.picture_number, shorten(one.asked.answer)
        below[place] += max(len(reference), 1) if reading else 1
        for name, side in sides.items():
            said = shorten(getattr(one, name))
            side[place] += edits(said, reference) if reading else said == reference
    places = sorted(below)
    count = [float(below[place]) for place in places]
    sums = {name: [float(side[place]) for place in places] for name, side in sides.items()}
    model, blind, frequent_ = (ratio(sums[name], count, resamples) for name in sides)
    best = min if reading else max
    other = sums["blind"] if best(blind.value, frequent_.value) == blind.value else sums["frequent"]
    sign = -1 if reading else 1
    gain = ratio([sign * (a - b) for a, b in zip(sums["answer"], other, strict=True)], count, resamples)
    return Score(first.source, first.kind, len(answered), model, blind, frequent_, gain)


def right(answered: Answered) -> bool:
    """Whether an answer is the reference; one that was read, to the letter."""
    shorten = without_article if answered.asked.kind == TITLE else plain
    return shorten(answered.answer) == shorten(answered.asked.answer)


def yes_when_no(answered: Sequence[Answered], resamples: int = 10_000) -> Estimate | None:
    """How often it says yes where the truth is no; None where no such question was asked."""
    said = [float(plain(one.answer) == "yes") for one in answered if plain(one.asked.answer) == "no"]
    return ratio(said, None, resamples) if said else None


def plain(text: str) -> str:
    """An answer as it is compared: case, spaces and a full stop at the end aside."""
    return " ".join(text.split()).casefold().removesuffix(".").rstrip()


def without_article(text: str) -> str:
    """A title as it is compared: `A red kite.` and `red kite` are one."""
    first, _, rest = plain(text).partition(" ")
    return rest if rest and first in ("a", "an", "the") else plain(text)
