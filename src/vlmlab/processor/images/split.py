"""Four crops and the picture itself: five pieces, read one after the other (the paper's section 3.4)."""

import dataclasses
from typing import Literal

from vlmlab.processor.images import Piece, Strategy, StrategyConfig
from vlmlab.processor.patches import published_size


@dataclasses.dataclass(frozen=True)
class Config(StrategyConfig):
    """The limits of each piece, as for a picture read whole, and what becomes of the crops.

    `resize = "published"` cuts first and then applies the limits to each piece on its own, as the released processor
    does; `original` enlarges each crop to the size of the whole picture, as the paper says; `maximum` raises every
    piece until its longer side is `longest`.
    """

    longest: int = 980
    shortest: int = 378
    resize: Literal["published", "original", "maximum"] = "published"

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(f"need 1 <= shortest <= longest, not {self.shortest} and {self.longest}")


class Split(Strategy):
    """Top left, top right, bottom left, bottom right, then the whole."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def plan(self, width: int, height: int) -> list[Piece]:
        """The five pieces; with odd sizes the right and bottom crops are the larger. A side of one pixel is shared."""
        middle, centre = width // 2, height // 2
        right, bottom = max(middle, 1), max(centre, 1)
        boxes = [
            (0, 0, right, bottom),
            (middle, 0, width, bottom),
            (0, centre, right, height),
            (middle, centre, width, height),
            (0, 0, width, height),
        ]
        whole = self._size(width, height)
        if self.config.resize == "original":
            return [Piece(box, whole) for box in boxes]
        return [Piece(box, self._size(box[2] - box[0], box[3] - box[1])) for box in boxes]

    def _size(self, width: int, height: int) -> tuple[int, int]:
        longest, shortest = self.config.longest, self.config.shortest
        if self.config.resize == "maximum":
            scale = longest / max(width, height)
            return max(int(width * scale), shortest), max(int(height * scale), shortest)
        return published_size(width, height, longest, shortest)


PLUGIN = Split
