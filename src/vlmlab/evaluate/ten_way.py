"""Which of ten titles belongs to a picture: one true, nine of other held-out pictures of the same category.

The title chosen is the one that the picture speaks for: whose likelihood it raises most above what the title has with
other pictures. Plain likelihood asks as much how common a title's words are (Holtzman et al., "Surface Form
Competition", 2021); that score stands beside it, and so does the one without any picture, which is what a model that
cannot see could reach. The loss on the same titles with another picture shows the same in nats.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence

import torch
from rich.table import Table

from vlmlab.batch import Batch, Message, Picture, Sample
from vlmlab.data.sources import Pair, PairSource
from vlmlab.evaluate.bootstrap import Estimate, ratio
from vlmlab.evaluate.likelihood import Prompt, Reply, cut, likelihoods
from vlmlab.model.vlm import VLM
from vlmlab.train.prepare import Prepared, Preparer
from vlmlab.train.recipe import Score


@dataclasses.dataclass(frozen=True)
class Choice:
    """One picture's choice: its titles (the true one first), and for each the log-likelihood in nats.

    `seen` is that with the picture, `expected` the mean over other pictures (zeros: not asked), `blind` without one.
    """

    index: int
    titles: tuple[str, ...]
    seen: tuple[float, ...]
    expected: tuple[float, ...]
    blind: tuple[float, ...]

    @property
    def raised(self) -> tuple[float, ...]:
        """How much the picture raises each title's log-likelihood."""
        return tuple(own - usual for own, usual in zip(self.seen, self.expected, strict=True))

    @property
    def probabilities(self) -> tuple[float, ...]:
        """The share of each title, were all ten as likely before the picture was seen."""
        return tuple(torch.tensor(self.raised, dtype=torch.float64).softmax(0).tolist())

    @property
    def right(self) -> bool:
        """Whether the picture speaks most for the true title."""
        return first_is_best(self.raised)


def first_is_best(scores: Sequence[float]) -> bool:
    """Whether the first score is the highest."""
    return max(range(len(scores)), key=scores.__getitem__) == 0


@dataclasses.dataclass(frozen=True)
class TenWay:
    """The score. `likeliest` is by plain likelihood, `text_only` that without the picture, `gain` accuracy over it.

    Losses are in nats per token of the true titles; `gap` is how much a shuffled picture loses.
    """

    pictures: int
    left_out: int
    candidates: int
    accuracy: Estimate
    likeliest: Estimate
    text_only: Estimate
    gain: Estimate
    right: float
    shuffled: float
    gap: Estimate
    choices: tuple[Choice, ...] = ()


@dataclasses.dataclass(frozen=True)
class Question:
    """A held-out picture, the pictures whose titles it must choose among (itself first), and one to shuffle with."""

    index: int
    candidates: tuple[int, ...]
    other: int


def questions(source: PairSource, candidates: int, limit: int, seed: int) -> tuple[list[Question], int]:
    """Draw the distractors of each picture from titles of its category, and another picture to shuffle with.

    Returns the questions (`limit` of them at most, 0: all) and how many pictures were left out because their category
    has too few titles. Raises ValueError when none is left.
    """
    generator = random.Random(seed)
    pairs = [source.pair(index) for index in range(len(source))]
    titles = [" ".join(pair.title.casefold().split()) for pair in pairs]
    groups: dict[str, dict[str, int]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(pair.category, {}).setdefault(titles[index], index)
    wrong = [_wrong(pair, title, groups[pair.category], pairs) for pair, title in zip(pairs, titles, strict=True)]
    usable = [i for i in range(len(pairs)) if len(wrong[i]) >= candidates - 1]
    left_out = len(pairs) - len(usable)
    if limit:
        usable = sorted(generator.sample(usable, min(limit, len(usable))))
    if not usable or len({titles[index] for index in usable}) < 2:
        raise ValueError(f"no category of the source has {candidates} different titles to choose among")
    asked = []
    for index in usable:
        other = generator.choice([i for i in usable if titles[i] != titles[index]])
        asked.append(Question(index, (index, *generator.sample(wrong[index], candidates - 1)), other))
    return asked, left_out


def _wrong(pair: Pair, title: str, group: dict[str, int], pairs: Sequence[Pair]) -> list[int]:
    """A picture of each title of the same category that is surely not this one's: no word of it is shared."""
    return [i for other, i in group.items() if other != title and not pair.words & pairs[i].words]


def ten_way(
    model: VLM,
    process: Callable[[Sample], Batch],
    source: PairSource,
    score: Score,
    seed: int = 0,
    samples: Preparer | None = None,
    others: Preparer | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> TenWay:
    """Score a model on a source of titled pictures. `process` turns a sample into a batch of one row with targets.

    `samples` are those already prepared of the same source. `others` are those with which titles' likelihoods are
    expected, `score.others` of them: the training pictures (without, the choice is by plain likelihood). `advance` is
    told how many pictures are done.
    """
    asked, left_out = questions(source, score.candidates, score.pictures, seed)
    own = samples or Preparer(model, process, source, frozen=True)
    model.eval()
    parts = {q.index: cut(own.get([q.index])[0]) for q in asked}
    for index in {i for q in asked for i in q.candidates} - parts.keys():
        parts[index] = cut(own.read(index))
    seen, swapped = _with_pictures(model, asked, parts, advance)
    needed = sorted({index for q in asked for index in q.candidates})
    blind = _of_titles(model, [_without_picture(process, source[asked[0].index])], parts, needed)
    usual = {index: 0.0 for index in needed}
    if others is not None and score.others:
        drawn = random.Random(seed).sample(range(len(others)), min(score.others, len(others)))
        usual = _of_titles(model, [cut(sample)[0] for sample in others.get(drawn)], parts, needed)
    choices = tuple(
        Choice(
            question.index,
            tuple(source.pair(i).title for i in question.candidates),
            tuple(scores),
            tuple(usual[i] for i in question.candidates),
            tuple(blind[i] for i in question.candidates),
        )
        for question, scores in zip(asked, seen, strict=True)
    )
    hits, hits_blind = [float(c.right) for c in choices], [float(first_is_best(c.blind)) for c in choices]
    lengths = [float(parts[q.index][1].learned) for q in asked]
    right = [-scores[0] for scores in seen]
    lost = [shuffled - own_loss for shuffled, own_loss in zip(swapped, right, strict=True)]

    def estimate(above: Sequence[float], below: Sequence[float] | None = None) -> Estimate:
        return ratio(above, below, score.resamples, seed)

    return TenWay(
        pictures=len(asked),
        left_out=left_out,
        candidates=score.candidates,
        accuracy=estimate(hits),
        likeliest=estimate([float(first_is_best(c.seen)) for c in choices]),
        text_only=estimate(hits_blind),
        gain=estimate([a - b for a, b in zip(hits, hits_blind, strict=True)]),
        right=sum(right) / sum(lengths),
        shuffled=sum(swapped) / sum(lengths),
        gap=estimate(lost, lengths),
        choices=choices,
    )


LOSSES = ("right", "shuffled")
"""What `losses` tells: with the pictures' own titles, and with each other's."""


def losses(model: VLM, samples: Preparer, count: int, seed: int) -> dict[str, float]:
    """The loss of `count` samples' answers with their own pictures and with each other's, in nats per token."""
    model.eval()
    chosen = sorted(random.Random(seed).sample(range(len(samples)), min(count, len(samples))))
    parts = [cut(sample) for sample in samples.get(chosen)]
    prompts = [prompt for prompt, _ in parts]
    replies = [[parts[at][1], parts[at - 1][1]] for at in range(len(parts))]
    scores = likelihoods(model, prompts, replies)
    tokens = sum(reply.learned for _, reply in parts)
    return {
        "right": round(-sum(own for own, _ in scores) / tokens, 6),
        "shuffled": round(-sum(other for _, other in scores) / tokens, 6),
    }


def _with_pictures(
    model: VLM,
    asked: Sequence[Question],
    parts: dict[int, tuple[Prompt, Reply]],
    advance: Callable[[int], None],
) -> tuple[list[list[float]], list[float]]:
    """Scores of each question's titles with its picture, and the loss of each true title with another picture."""
    guests: dict[int, list[int]] = {}
    for question in asked:
        guests.setdefault(question.other, []).append(question.index)
    seen: list[list[float]] = []
    swapped: dict[int, float] = {}
    for start in range(0, len(asked), 8):
        group = asked[start : start + 8]
        prompts = [parts[q.index][0] for q in group]
        wanted = [[*q.candidates, *guests.get(q.index, [])] for q in group]
        scores = likelihoods(model, prompts, [[parts[i][1] for i in some] for some in wanted])
        for question, some in zip(group, scores, strict=True):
            own = len(question.candidates)
            seen.append(some[:own])
            swapped |= zip(guests.get(question.index, []), (-value for value in some[own:]), strict=True)
        advance(len(group))
    return seen, [swapped[q.index] for q in asked]


def _of_titles(
    model: VLM, prompts: Sequence[Prompt], parts: dict[int, tuple[Prompt, Reply]], needed: Sequence[int]
) -> dict[int, float]:
    """The mean over some prompts of each needed title's log-likelihood; titles that read alike are computed once."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for index in needed:
        alike.setdefault(tuple(parts[index][1].tokens.tolist()), []).append(index)
    groups = list(alike.values())
    found: dict[int, float] = {}
    for start in range(0, len(groups), 64):
        some = groups[start : start + 64]
        replies = [parts[indices[0]][1] for indices in some]
        scores = likelihoods(model, prompts, [replies] * len(prompts), together=1)
        for indices, values in zip(some, zip(*scores, strict=True), strict=True):
            found |= dict.fromkeys(indices, sum(values) / len(values))
    return found


def _without_picture(process: Callable[[Sample], Batch], sample: Sample) -> Prompt:
    """The words around a sample's picture, without it."""
    words = tuple(Message(m.role, tuple(p for p in m.parts if not isinstance(p, Picture))) for m in sample.messages)
    batch = process(Sample(words))
    assert batch.targets is not None
    return cut(Prepared(batch.tokens[0], batch.targets[0]))[0]


def table(results: dict[str, TenWay]) -> Table:
    """Results side by side, for the terminal: one column for each name."""
    first = next(iter(results.values()))
    caption = f"{first.pictures} held-out pictures, {first.candidates} titles of one category each; 95 % intervals"
    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), caption=caption, caption_justify="left")
    shown.add_column("", no_wrap=True)
    for name in results:
        shown.add_column(name, justify="right", no_wrap=True)

    def share(estimate: Estimate) -> str:
        return f"{estimate.value:.1%} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"

    def row(name: str, told: Callable[[TenWay], str]) -> None:
        shown.add_row(name, *(told(result) for result in results.values()))

    row("right title", lambda r: share(r.accuracy))
    row("  by plain likelihood", lambda r: share(r.likeliest))
    row("    without the picture", lambda r: share(r.text_only))
    row("loss, nats per token", lambda r: f"{r.right:.2f}")
    row("  with another picture", lambda r: f"{r.shuffled:.2f}")
    row("  difference", lambda r: f"{r.gap.value:+.2f} [{r.gap.low:+.2f}, {r.gap.high:+.2f}]")
    return shown
