"""The picture squeezed into a square of fixed size, whatever its shape (the paper's first stage, and Table 5)."""

import dataclasses

from vlmlab.processor.images import Piece, Strategy, StrategyConfig


@dataclasses.dataclass(frozen=True)
class Config(StrategyConfig):
    """The side of the square in pixels: 384 in the first stage of the paper, 768 in Table 5."""

    side: int = 384

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"side must be 1 or more, not {self.side}")


class Square(Strategy):
    """One piece: the whole picture, square."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def plan(self, width: int, height: int) -> list[Piece]:
        """The whole picture as a square."""
        return [Piece((0, 0, width, height), (self.config.side, self.config.side))]


PLUGIN = Square
