"""Fusion: the rule for how visual tokens and text meet, written as the loop over the decoder's layers."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from vlmlab.batch import Batch
from vlmlab.component import Plugin
from vlmlab.model.cache import Cache
from vlmlab.model.language import Language


@dataclasses.dataclass(frozen=True)
class FusionConfig(Plugin):
    """Base of the configs of fusions. A fusion is built as `PLUGIN(config, language, visual_width)`."""

    home: ClassVar[str] = "vlmlab.model.fusion"

    image_token: int
    """Id of the token that stands where an image is."""


class Fusion(nn.Module):
    """A fusion: `language, Batch, visual -> hidden [b, t, d]`. It owns no part of the decoder and keeps no state."""

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
