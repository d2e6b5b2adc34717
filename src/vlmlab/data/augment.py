"""Augmentations, between a source and the processor: what the paper does against seeing the same sample twice (4.2).

All of them draw from a generator of their own for each sample and each time it is drawn: the same at any number of
workers, and another one in the next pass.
"""

import dataclasses
import random

from vlmlab.batch import Message, Picture, Sample
from vlmlab.data.stream import Draw
from vlmlab.processor.processor import Options


@dataclasses.dataclass(frozen=True)
class Augment:
    """What is changed at random, all of it off by default.

    `upscale` is the share of pictures that are read as if they were larger, by a factor between the two of `factors`
    of which the larger are likelier (triangular, as in the paper's training code, which has 0.7 and 1.5 to 3). `turns`
    shuffles questions and answers about the same pictures. `split` is the share of samples whose pictures are also
    read as four crops (the paper: 0.5 does as well as 1); left out, the processor's strategy decides.
    """

    upscale: float = 0.0
    factors: tuple[float, float] = (1.5, 3.0)
    turns: bool = False
    split: float | None = None

    def __post_init__(self) -> None:
        for name, share in (("upscale", self.upscale), ("split", self.split)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} is a share, from 0 to 1, not {share}")
        if not 0 < self.factors[0] <= self.factors[1]:
            raise ValueError(f"factors should be two numbers above 0, the smaller first, not {list(self.factors)}")

    @property
    def changes(self) -> bool:
        """Whether a sample may come out differently the next time."""
        return self.upscale > 0 or self.turns or self.split is not None

    def __call__(self, sample: Sample, seed: int, draw: Draw) -> tuple[Sample, Options]:
        """The sample as it is this time, and how its pictures are read."""
        if not self.changes:
            return sample, Options()
        # Text as a seed is hashed whole, the same in every process.
        generator = random.Random(f"{seed}/{draw.source}/{draw.number}/{draw.turn}")
        if self.turns:
            sample = shuffled(sample, generator)
        low, high = self.factors
        scales = tuple(
            generator.triangular(low, high, high) if generator.random() < self.upscale else 1.0 for _ in sample.pictures
        )
        split = None if self.split is None else generator.random() < self.split
        return sample, Options(split=split, scales=scales if self.upscale else ())


def shuffled(sample: Sample, generator: random.Random) -> Sample:
    """The question and answer pairs of a conversation in another order, its pictures in front of the first question.

    Only where every pair can stand anywhere: the pictures all stand before the first question, and users and assistant
    take turns. Any other sample is given back as it is; so is one without pictures, whose turns may need each other.
    """
    system = sample.messages[:1] if sample.messages and sample.messages[0].role == "system" else ()
    turns = sample.messages[len(system) :]
    roles = tuple(message.role for message in turns)
    pictures, asked = _led(turns[0]) if turns else ((), ())
    if len(turns) < 4 or roles != ("user", "assistant") * (len(turns) // 2) or not pictures:
        return sample
    if len(pictures) != len(sample.pictures) or not asked:
        return sample
    pairs = [(Message("user", asked), turns[1]), *((turns[at], turns[at + 1]) for at in range(2, len(turns), 2))]
    generator.shuffle(pairs)
    (first, answer), *rest = pairs
    pairs = [(Message("user", (*pictures, *first.parts)), answer), *rest]
    return Sample((*system, *(message for pair in pairs for message in pair)))


def _led(message: Message) -> tuple[tuple[Picture, ...], tuple[str | Picture, ...]]:
    """The pictures that a message begins with, and what comes after them."""
    pictures: list[Picture] = []
    for part in message.parts:
        if not isinstance(part, Picture):
            break
        pictures.append(part)
    return tuple(pictures), message.parts[len(pictures) :]
