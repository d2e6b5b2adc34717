"""Fully autoregressive fusion (the paper's section 3.2): visual tokens take their seats among the text embeddings."""

import dataclasses
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vlmlab.batch import Batch
from vlmlab.model.cache import Cache
from vlmlab.model.fusion import Fusion, FusionConfig
from vlmlab.model.language import Language


@dataclasses.dataclass(frozen=True)
class Config(FusionConfig):
    """The id of `<image>` in Idefics2's vocabulary."""

    image_token: int = 32001


class Interleave(Fusion):
    """Seat the visual tokens at their placeholders, in reading order, and run the decoder."""

    recordable = True

    def __init__(self, config: Config, language: Language, visual_width: int) -> None:
        super().__init__()
        self.image_token = config.image_token
        if visual_width != language.config.width:
            raise ValueError(
                f"visual tokens are {visual_width} wide, the language model {language.config.width}: interleave needs "
                "them equal"
            )

    def placeholders(self, counts: Sequence[int]) -> list[int]:
        """One `<image>` token for each visual token."""
        return list(counts)

    def shares(self, counts: Sequence[int]) -> list[int]:
        """One visual token for each `<image>` token."""
        return [1] * sum(counts)

    def forward(
        self,
        language: Language,
        batch: Batch,
        visual: Float[Tensor, "l d"] | None,
        counts: Sequence[int],
        cache: Cache | None = None,
        slots: Sequence[int] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Hidden states before the head. Raises ValueError when placeholders and visual tokens differ in number."""
        x = language.embedding(batch.tokens.reshape(-1))
        reading = language.read(batch, cache, slots)
        if visual is not None or not reading.step:  # a decoding step without images need not look for their seats
            seats, given = self.seats(batch), 0 if visual is None else len(visual)
            if len(seats) != given:
                raise ValueError(f"the batch has {len(seats)} image tokens for {given} visual tokens")
            if visual is not None:
                x = x.index_copy(0, seats, visual.to(x.dtype))
        if reading.index is not None:
            x = x[reading.index]
        for number, layer in enumerate(language.layers):
            x = layer(x, reading, number)
        return self.finish(language, batch, x, reading)


PLUGIN = Interleave
