"""The picture at its own size and aspect ratio, within limits (the paper's section 3.3; 378 to 980 as published)."""

import dataclasses

from vlmlab.processor.images import Piece, Strategy, StrategyConfig
from vlmlab.processor.patches import published_size


@dataclasses.dataclass(frozen=True)
class Config(StrategyConfig):
    """The longer side is at most `longest` pixels, each side at least `shortest`."""

    longest: int = 980
    shortest: int = 378

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(f"need 1 <= shortest <= longest, not {self.shortest} and {self.longest}")


class Native(Strategy):
    """One piece: the whole picture."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def plan(self, width: int, height: int) -> list[Piece]:
        """The whole picture, resized by the published rule."""
        size = published_size(width, height, self.config.longest, self.config.shortest)
        return [Piece((0, 0, width, height), size)]


PLUGIN = Native
