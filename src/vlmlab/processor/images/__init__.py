"""Image strategies: which parts of a picture the model sees, and at what size."""

import dataclasses
from typing import ClassVar, NamedTuple

from vlmlab.component import Plugin


@dataclasses.dataclass(frozen=True)
class StrategyConfig(Plugin):
    """Base of the configs of image strategies."""

    home: ClassVar[str] = "vlmlab.processor.images"


class Piece(NamedTuple):
    """A part of a picture, `box` (left, top, right, bottom, in pixels), resized to `size` (width, height)."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]


class Strategy:
    """An image strategy: a pure function from a picture's size to the pieces that the model sees, in order."""

    def plan(self, width: int, height: int) -> list[Piece]:
        """The pieces of a picture of so many pixels."""
        raise NotImplementedError
