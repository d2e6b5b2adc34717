"""Sums written on a picture: the answer is their result, or the sum itself, read off.

No sum that is held out is trained on: the split is decided by what is written.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Literal

from PIL import Image, ImageDraw

from vlmlab.data.get import split_of
from vlmlab.data.made import MadeConfig, MadeSource, Question
from vlmlab.data.made.lettering import height, own_font

Operation = Literal["add", "subtract", "multiply", "divide"]
Kind = Literal["result", "reading"]

_INKS = ((20, 20, 20), (20, 50, 130), (130, 25, 25), (20, 95, 45))
_PAPERS = ((255, 255, 255), (250, 246, 232), (235, 242, 250))


@dataclasses.dataclass(frozen=True)
class Config(MadeConfig):
    """`digits`, the most that a number has; `operations` that are used; `side` of the square pictures, in pixels.

    `kinds`: whether the result is asked for, or what is written.
    """

    digits: int = 2
    operations: tuple[Operation, ...] = ("add", "subtract", "multiply", "divide")
    side: int = 224
    kinds: tuple[Kind, ...] = ("result", "reading")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.digits <= 6:
            # With one digit there are too few sums to hold any out.
            raise ValueError(f"digits = {self.digits} should be 2 to 6")
        if not 112 <= self.side <= 4096:
            raise ValueError(f"side = {self.side} should be 112 to 4096")
        if not self.operations or not self.kinds:
            raise ValueError("operations and kinds should name one each at least")


@dataclasses.dataclass(frozen=True)
class Sum:
    """Two numbers, the sign between them, and what comes of it. Nothing is negative, and division leaves no rest.

    `stacked` has the second number under the first, as for working on paper. `share` is how much of the picture's
    width it takes, `place` where in the room that is left it stands, across and down.
    """

    first: int
    sign: str
    second: int
    result: int
    question: Question
    stacked: bool
    share: float
    place: tuple[float, float]
    ink: tuple[int, int, int]
    paper: tuple[int, int, int]

    @property
    def written(self) -> str:
        """The sum as text."""
        return f"{self.first} {self.sign} {self.second}"


class Arithmetic(MadeSource[Sum]):
    """Sums, each on a picture of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def truth(self, index: int) -> Sum:
        """The sum, its result, and what is asked. Raises IndexError past the end."""
        generator = self.generator(index)
        while True:
            operation = generator.choice(self.config.operations)
            first, sign, second, result = _OPERATIONS[operation](generator, self.config.digits)
            if split_of(f"{first} {sign} {second}") == self.config.split:
                break
        kind = generator.choice(self.config.kinds)
        if kind == "result":
            text = generator.choice(("What is the result?", "Work out the sum.", "What does this come to?"))
            question = Question(kind, text, str(result))
        else:
            text = generator.choice(("Which sum is written here?", "Copy the sum, without its result."))
            question = Question(kind, text, f"{first} {sign} {second}")
        share, place = generator.uniform(0.4, 0.9), (generator.random(), generator.random())
        stacked = operation != "divide" and generator.random() < 0.5
        looks = generator.choice(_INKS), generator.choice(_PAPERS)
        return Sum(first, sign, second, result, question, stacked, share, place, *looks)

    def questions(self, truth: Sum) -> Sequence[Question]:
        """The one that is asked."""
        return (truth.question,)

    def draw(self, truth: Sum) -> Image.Image:
        """The sum on plain paper."""
        side = self.config.side
        lines = [str(truth.first), f"{truth.sign} {truth.second}"] if truth.stacked else [f"{truth.written} ="]
        # Letters are as wide as their font is high, times something: one measure is enough.
        widest = max(own_font(100).getlength(line) for line in lines)
        font = own_font(max(8, min(side // 4, int(100 * truth.share * side / widest))))
        wide = max(font.getlength(line) for line in lines)
        tall = len(lines) * height(font)
        left = 4 + truth.place[0] * max(0.0, side - wide - 8)
        top = 4 + truth.place[1] * max(0.0, side - tall - 12)
        image = Image.new("RGB", (side, side), truth.paper)
        pen = ImageDraw.Draw(image)
        for number, line in enumerate(lines):
            pen.text((left + wide, top + number * height(font)), line, truth.ink, font, anchor="ra")
        if truth.stacked:
            pen.line((left, top + tall + 3, left + wide, top + tall + 3), truth.ink, max(1, round(font.size / 14)))
        return image


def _add(generator: random.Random, digits: int) -> tuple[int, str, int, int]:
    first, second = _number(generator, digits), _number(generator, digits)
    return first, "+", second, first + second


def _subtract(generator: random.Random, digits: int) -> tuple[int, str, int, int]:
    second, first = sorted((_number(generator, digits), _number(generator, digits)))
    return first, "-", second, first - second


def _multiply(generator: random.Random, digits: int) -> tuple[int, str, int, int]:
    first, second = _number(generator, digits), generator.randint(2, 12)
    return first, "x", second, first * second


def _divide(generator: random.Random, digits: int) -> tuple[int, str, int, int]:
    result, second = _number(generator, digits), generator.randint(2, 12)
    return result * second, "/", second, result


def _number(generator: random.Random, digits: int) -> int:
    """A number of up to so many digits, each count of digits as often as any other."""
    return generator.randrange(10 ** generator.randint(1, digits))


_OPERATIONS: dict[Operation, Callable[[random.Random, int], tuple[int, str, int, int]]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
}


PLUGIN = Arithmetic
