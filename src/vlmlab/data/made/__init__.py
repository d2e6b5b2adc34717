"""Made on the spot: what the sources that draw their own pictures share.

Sample number `index` is a function of (seed, split, index) alone: any worker makes any sample, in any order. What a
picture shows is decided first, as plain values (`truth`), and drawn from those: the answers are known, not read off.
"""

import dataclasses
import io
import random
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

import PIL.Image

from vlmlab.batch import Message, Picture, Sample
from vlmlab.data.sources import Source, SourceConfig

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked about a picture and the one right answer. `kind` is what it takes to answer, for scores by kind."""

    kind: str
    text: str
    answer: str


@dataclasses.dataclass(frozen=True)
class MadeConfig(SourceConfig):
    """`samples` is where the endless stream is cut off; another `seed` is another stream, of which none is repeated.

    With `chat` a sample is a conversation; without, one plain document whose answers are its continuations.
    """

    split: Literal["train", "validation", "test"] = "train"
    seed: int = 0
    samples: int = 100_000
    chat: bool = True

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples = {self.samples}: a source needs at least one")


class MadeSource(Source, Generic[T]):
    """A source that makes its samples. A plug-in says what sample number `index` shows, asks, and looks like."""

    def __init__(self, config: MadeConfig) -> None:
        self.made = config

    def __len__(self) -> int:
        return self.made.samples

    def __getitem__(self, index: int) -> Sample:
        """The picture with its questions and answers. Raises IndexError past the end."""
        truth = self.truth(index)
        name = f"{self.made.name} {self.made.split} {index} of seed {self.made.seed}"
        return conversation(Picture(png(self.draw(truth)), name), self.questions(truth), self.made.chat)

    def truth(self, index: int) -> T:
        """All there is to know about sample number `index`; nothing is drawn. Raises IndexError past the end."""
        raise NotImplementedError

    def questions(self, truth: T) -> Sequence[Question]:
        """What is asked about it, in order: one at least."""
        raise NotImplementedError

    def draw(self, truth: T) -> PIL.Image.Image:
        """Its picture, in RGB."""
        raise NotImplementedError

    def generator(self, index: int) -> random.Random:
        """The random numbers of sample number `index`: its own, whatever was drawn before. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        # Text is hashed whole, so that streams of neighbouring numbers have nothing in common.
        return random.Random(f"{self.made.name} {self.made.split} {self.made.seed} {index}")


def conversation(picture: Picture, questions: Sequence[Question], chat: bool) -> Sample:
    """A picture and its questions as turns, or as one document, a line for each."""
    assert questions, "nothing is asked"
    if chat:
        turns: list[Message] = []
        for number, question in enumerate(questions):
            asked = (question.text,) if number else (picture, question.text)
            turns += [Message("user", asked), Message("assistant", (question.answer,))]
        return Sample(tuple(turns))
    parts: list[Message] = []
    for number, question in enumerate(questions):
        asked = ("\n" + question.text,) if number else (picture, question.text)
        parts += [Message("text", asked), Message("continuation", (" " + question.answer,))]
    return Sample(tuple(parts))


def png(image: PIL.Image.Image) -> bytes:
    """A picture as a PNG file, packed lightly: it is read once."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
