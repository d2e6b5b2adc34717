"""Held-out questions with few candidates: each asked alone, about its own picture and about a wrong one.

A picture is read once, and every question about it goes on from there. The answer is the candidate whose first token
is the likeliest: no two candidates share it (a space that all answers begin with aside). The wrong picture is that of a
neighbour, the same in every run.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from vlmlab.batch import Batch, Images, Message, Picture, Sample
from vlmlab.data.made import MadeSource, png
from vlmlab.model.cache import Cache
from vlmlab.model.vlm import VLM
from vlmlab.processor.processor import Options, Processor
from vlmlab.study.plan import Choices
from vlmlab.train.prepare import Features, Prepared


@dataclasses.dataclass(frozen=True)
class Question:
    """One question: about picture `picture`; the right answer is the first of `candidates`.

    All of them begin with the tokens of `opening`; then come `tokens`, by which they are told apart.
    """

    picture: int
    kind: str
    text: str
    candidates: tuple[str, ...]
    opening: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def answer(self) -> str:
        """The right one."""
        return self.candidates[0]


@dataclasses.dataclass(frozen=True)
class Asked:
    """The questions of a study, and the pictures they are about by number."""

    questions: list[Question]
    pictures: dict[int, Picture]
    chat: bool


@dataclasses.dataclass(frozen=True)
class Answers:
    """For each question: whether the right candidate was the likeliest, and its loss among the candidates, in nats.

    `wrong` and `wrong_losses` are those with a wrong picture, for the questions numbered `controlled`.
    """

    right: list[bool]
    losses: list[float]
    controlled: list[int]
    wrong: list[bool]
    wrong_losses: list[float]


def questions(choices: Choices, tokenizer: Tokenizer) -> Asked:
    """All questions of the source, in order; one without another candidate is left out. See `Choices`.

    Raises ValueError for a source that is not made, and where nothing can be asked.
    """
    source = choices.data.build()
    if not isinstance(source, MadeSource):
        name = choices.data.name
        raise ValueError(f"evaluate.data.name = {name!r}: only made sources know what can be asked of them")
    found, pictures = [], {}
    for index in range(len(source)):
        truth = source.truth(index)
        pictures[index] = Picture(png(source.draw(truth)), f"{choices.data.name} {index}")
        found += [(index, asked) for asked in source.questions(truth)]
    known: dict[str, dict[str, list[int]]] = {}
    given: dict[str, Counter[str]] = {}
    for _, asked in found:
        ids = tokenizer.encode(f" {asked.answer}", add_special_tokens=False).ids
        known.setdefault(asked.kind, {})[asked.answer] = ids
        given.setdefault(asked.kind, Counter())[asked.answer] += 1
    forks = {kind: _forks(spelled, given[kind]) for kind, spelled in known.items()}
    generator = random.Random(choices.seed)
    every = []
    for index, asked in found:
        right = known[asked.kind][asked.answer]
        opening, tokens, words = _candidates(right, forks[asked.kind], choices.candidates, generator)
        if words:
            every.append(Question(index, asked.kind, asked.text, (asked.answer, *words), opening, tokens))
    if not every:
        raise ValueError("nothing can be asked: no kind of question has two answers that begin with different tokens")
    return Asked(every, pictures, source.made.chat)


class Way(NamedTuple):
    """A token by which answers go on: one of them, and how many questions have such an answer."""

    word: str
    given: int


Forks = dict[tuple[int, ...], dict[int, Way]]
"""Where the answers of a kind part: behind each opening, the tokens that may come next."""


def _forks(spelled: dict[str, list[int]], given: Mapping[str, int]) -> Forks:
    found: Forks = {}
    for word, ids in sorted(spelled.items()):
        for at, token in enumerate(ids):
            ways = found.setdefault(tuple(ids[:at]), {})
            first, before = ways.get(token, Way(word, 0))
            ways[token] = Way(first, before + given[word])
    return found


def _candidates(
    right: Sequence[int], forks: Forks, count: int, generator: random.Random
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """What all candidates begin with, the token that comes next in each, the right one's first; and the other answers.

    They part where most do: behind the space that all numbers begin with, say, and not before it. Of more than `count`
    those that many answers go on with are drawn more often, as the right one is: what is common is no hint.
    """
    places = [tuple(right[:at]) for at in range(len(right))]
    opening = max(places, key=lambda place: (min(len(forks[place]), count), -len(place)))
    own = right[len(opening)]
    ways = forks[opening]
    chosen = [token for token in ways if token != own]
    if len(chosen) > count - 1:
        chosen = sorted(chosen, key=lambda token: generator.random() ** (1 / ways[token].given))[1 - count :]
    return opening, (own, *chosen), tuple(ways[token].word for token in chosen)


def answer(
    model: VLM, processor: Processor, asked: Asked, choices: Choices, options: Options, features: Features | None = None
) -> Answers:
    """Ask everything. `features` keep what the tower sees, where it does not learn."""
    model.eval()
    by_picture: dict[int, list[int]] = {number: [] for number in asked.pictures}
    for at, question in enumerate(asked.questions):
        by_picture[question.picture].append(at)
    order = [number for number, some in by_picture.items() if some]
    swapped = set(order[: choices.control or len(order)])
    own: dict[int, tuple[bool, float]] = {}
    other: dict[int, tuple[bool, float]] = {}
    for group in _groups(order, choices.together):
        heads, tails = _encoded(processor, asked, [by_picture[number] for number in group], options)
        if features is not None:
            heads = [features.see(head) for head in heads]
        slots = [(place, at) for place, number in enumerate(group) for at in by_picture[number]]
        wrong = [((place + 1) % len(group), at) for place, at in slots if group[place] in swapped]
        logits = _read(model, heads, [(place, tails[at]) for place, at in [*slots, *wrong]])
        for row, (_, at) in enumerate([*slots, *wrong]):
            scores = logits[row, list(asked.questions[at].tokens)].double().log_softmax(0)
            (own if row < len(slots) else other)[at] = (int(scores.argmax()) == 0, -float(scores[0]))
    every, controlled = range(len(asked.questions)), sorted(other)
    return Answers(
        [own[at][0] for at in every],
        [own[at][1] for at in every],
        controlled,
        [other[at][0] for at in controlled],
        [other[at][1] for at in controlled],
    )


def _groups(order: Sequence[int], size: int) -> list[list[int]]:
    """Pictures that are read together; none is alone, as each other's are the wrong ones."""
    groups = [list(order[start : start + size]) for start in range(0, len(order), size)]
    if len(groups) > 1 and len(groups[-1]) == 1:
        alone = groups.pop()
        groups[-1] += alone
    return groups


def _encoded(
    processor: Processor, asked: Asked, rows: Sequence[Sequence[int]], options: Options
) -> tuple[list[Prepared], dict[int, Int[Tensor, " _"]]]:
    """What is read of each picture before any question, and what follows it for each question."""
    heads, tails = [], {}
    special = {processor.image_id, processor.frame_id}
    for row in rows:
        for at in row:
            question = asked.questions[at]
            parts = (asked.pictures[question.picture], question.text)
            sample = Sample((Message("user" if asked.chat else "text", parts),))
            batch = processor([sample], add_generation_prompt=asked.chat, options=options)
            tokens = batch.tokens[0]
            end = max(place for place, token in enumerate(tokens.tolist()) if token in special) + 1
            tails[at] = torch.cat([tokens[end:], torch.tensor(question.opening, dtype=torch.long)])
            if at == row[0]:
                heads.append(Prepared(tokens[:end], torch.full((end,), -100), batch.images))
    return heads, tails


@torch.inference_mode()
def _read(
    model: VLM, heads: Sequence[Prepared], tails: Sequence[tuple[int, Int[Tensor, " _"]]]
) -> Float[Tensor, "n w"]:
    """The logits behind each tail, which goes on from the head of its number."""
    longest = max(len(head.tokens) for head in heads) + max(len(tail) for _, tail in tails)
    count = len(heads)
    cache = model.language.cache(count + len(tails), longest)
    images = Images.join([head.images for head in heads if head.images is not None])
    known = [head.features for head in heads if head.features is not None]
    batch = _rows([head.tokens for head in heads], [0] * count, images).to(model.device, model.dtype)
    visual = None
    if batch.images is not None:
        features = torch.cat(known).to(model.device, model.dtype) if known else None
        visual = model.see(batch.images, features)
    nothing = torch.zeros(0, dtype=torch.long, device=model.device)
    model.read(batch, visual, rows=nothing, cache=cache, slots=range(count))
    for row, (head, _) in enumerate(tails):
        cache.copy(head, count + row)
    return _follow(model, [tail for _, tail in tails], cache, count)


def _follow(model: VLM, tails: Sequence[Int[Tensor, " _"]], cache: Cache, start: int) -> Float[Tensor, "n w"]:
    slots = list(range(start, start + len(tails)))
    batch = _rows(tails, [cache.lengths[slot] for slot in slots], None).to(model.device)
    width = batch.tokens.shape[1]
    last = torch.tensor([row * width + len(tail) - 1 for row, tail in enumerate(tails)], device=model.device)
    return model.read(batch, rows=last, cache=cache, slots=slots).float().cpu()


def _rows(pieces: Sequence[Int[Tensor, " _"]], starts: Sequence[int], images: Images | None) -> Batch:
    """Pieces as rows, filled up at the end, whose positions go on from `starts`."""
    width = max(len(piece) for piece in pieces)
    tokens, segments = (torch.zeros(len(pieces), width, dtype=torch.long) for _ in range(2))
    for row, piece in enumerate(pieces):
        tokens[row, : len(piece)], segments[row, : len(piece)] = piece, 1
    positions = torch.tensor(starts)[:, None] + torch.arange(width)
    return Batch(tokens, segments, positions, None, images)
