"""Fusion: the rule for how visual tokens and text meet, written as the loop over the decoder's layers."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmlab.batch import Batch
from vlmlab.component import Plugin
from vlmlab.model.cache import Cache
from vlmlab.model.eager import uncompiled
from vlmlab.model.language import Language, Reading


@dataclasses.dataclass(frozen=True)
class FusionConfig(Plugin):
    """Base of the configs of fusions. A fusion is built as `PLUGIN(config, language, visual_width)`."""

    home: ClassVar[str] = "vlmlab.model.fusion"

    image_token: int
    """Id of the token that stands where an image is."""


class Fusion(nn.Module):
    """A fusion: `language, Batch, visual -> hidden [b, t, d]`. It owns no part of the decoder and keeps no state."""

    image_token: int
    recordable = False
    """Whether a decoding step does the same work whatever was read before, so that it can be recorded as a graph."""

    def forward(
        self,
        language: Language,
        batch: Batch,
        visual: Float[Tensor, "l d"] | None,
        counts: Sequence[int],
        cache: Cache | None = None,
        slots: Sequence[int] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Hidden states before the head. `counts` says how many visual tokens each image has, in reading order.

        With a `cache`, row i of the batch continues slot `slots[i]`, and each row holds one document.
        """
        raise NotImplementedError

    def placeholders(self, counts: Sequence[int]) -> list[int]:
        """How many `<image>` tokens stand in the text for an image of so many visual tokens."""
        raise NotImplementedError

    def shares(self, counts: Sequence[int]) -> list[int]:
        """How many visual tokens each `<image>` token of the text stands for, image after image.

        A part of a document may end between any two tokens: this says which visual tokens are read with it.
        """
        raise NotImplementedError

    @uncompiled
    def seats(self, batch: Batch) -> Int[Tensor, " s"]:
        """Where the `<image>` tokens are in the flattened batch, in reading order."""
        return (batch.tokens.reshape(-1) == self.image_token).nonzero().flatten()

    @staticmethod
    def finish(language: Language, batch: Batch, x: Float[Tensor, "m d"], reading: Reading) -> Float[Tensor, "b t d"]:
        """What follows the last layer: the norm, counting the tokens as held by the cache, and a place in the batch."""
        x = language.norm(x)
        if reading.cache is not None:
            counts = [block.queries for block in reading.blocks for _ in range(block.count)]
            reading.cache.advance(reading.slots, counts)
        if reading.index is not None:
            x = x.new_zeros(batch.tokens.numel(), x.shape[1]).index_copy(0, reading.index, x)
        return torch.unflatten(x, 0, tuple(batch.tokens.shape))
