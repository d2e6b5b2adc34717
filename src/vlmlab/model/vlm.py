"""The model: an eye (vision), a bridge (connector), a reader (language), and a rule for how they meet (fusion)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmlab.batch import Batch, Images
from vlmlab.model.cache import Cache
from vlmlab.model.connectors import Connector, ConnectorConfig
from vlmlab.model.fusion import Fusion, FusionConfig
from vlmlab.model.language import Language, LanguageConfig
from vlmlab.model.vision import Vision, VisionConfig

PARTS = ("vision", "connector", "language", "fusion")

PIECE = 3000
"""How many patches a CPU looks at together, if that is more than one image."""


@dataclasses.dataclass(frozen=True)
class VLMConfig:
    """A whole model, as the `[model]` table of a recipe says it."""

    vision: VisionConfig
    connector: ConnectorConfig
    language: LanguageConfig
    fusion: FusionConfig


class VLM(nn.Module):
    """A vision-language model: `forward(batch) -> logits` (figure 2 of the paper)."""

    vision: Vision
    connector: Connector
    language: Language
    fusion: Fusion

    def __init__(self, config: VLMConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = config.vision.build()
        self.language = config.language.build()
        self.connector = config.connector.build(self.vision.width, config.language.width)
        self.fusion = config.fusion.build(self.language, self.connector.width)

    def forward(
        self,
        batch: Batch,
        rows: Int[Tensor, " r"] | None = None,
        then: Callable[[Tensor, Callable[[Tensor], Tensor]], Any] | None = None,
        features: Float[Tensor, "p v"] | None = None,
    ) -> Any:
        """Logits [b, t, w] of a batch; with `rows` (indices into its flattened tokens), only theirs, [r, w].

        With `then`, no logits are made here: its result on (hidden states of the rows, the head) is returned, which is
        how a loss reads the head in pieces. `features` are the vision tower's, where they are known already.
        """
        visual = None if batch.images is None else self.see(batch.images, features)
        return self.read(batch, visual, rows=rows, then=then)

    def see(self, images: Images, features: Float[Tensor, "p v"] | None = None) -> Float[Tensor, "l d"]:
        """The visual tokens of images, in order: `count(images.grid)` of them each.

        With the vision tower's `features` of those images, their patches are not read.
        """
        if features is not None:
            return self.connector(features, images)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not images.patches.is_cpu:
            return self.connector(self.vision(images), images)
        # What a layer leaves for the next one should still be in the processor's caches.
        return torch.cat([self.connector(self.vision(some), some) for some in images.pieces(PIECE)])

    def read(
        self,
        batch: Batch,
        visual: Float[Tensor, "l d"] | None = None,
        counts: Sequence[int] | None = None,
        rows: Int[Tensor, " r"] | None = None,
        cache: Cache | None = None,
        slots: Sequence[int] | None = None,
        then: Callable[[Tensor, Callable[[Tensor], Tensor]], Any] | None = None,
    ) -> Any:
        """Logits of a batch whose images have already become visual tokens (`counts` of them each).

        With a `cache`, row i of the batch continues the document in slot `slots[i]` and is kept there.
        """
        if counts is None:
            counts = [] if batch.images is None else self.count(batch.images.grid)
        hidden = self.fusion(self.language, batch, visual, counts, cache, slots)
        if rows is not None:
            hidden = hidden.flatten(0, 1)[rows]
        return self.language.head(hidden) if then is None else then(hidden, self.language.head)

    def count(self, grid: Int[Tensor, "n 2"]) -> list[int]:
        """How many visual tokens each image becomes."""
        return self.connector.count(grid)

    def placeholders(self, grid: Int[Tensor, "n 2"]) -> list[int]:
        """How many `<image>` tokens stand in the text for each image."""
        return self.fusion.placeholders(self.connector.count(grid))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of each part, by the part's name; together they are all parameters, each once."""
        return {name: list(self.get_submodule(name).parameters()) for name in PARTS}

    @property
    def device(self) -> torch.device:
        """Where the language model's weights are."""
        return self.language.device

    @property
    def dtype(self) -> torch.dtype:
        """What the language model's stream is made of."""
        return self.language.dtype
