"""Greedy decoding: the most likely token, every time (the paper's evaluations decode so)."""

import dataclasses
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vlmlab.generate.decoding import Decoding, DecodingConfig, Request


@dataclasses.dataclass(frozen=True)
class Config(DecodingConfig):
    """Nothing to choose but the repetition penalty."""


class Greedy(Decoding):
    """The most likely token."""

    def choose(self, logits: Float[Tensor, "b w"], requests: Sequence[Request]) -> list[int]:
        """The next token of each request."""
        return logits.argmax(-1).tolist()


PLUGIN = Greedy
