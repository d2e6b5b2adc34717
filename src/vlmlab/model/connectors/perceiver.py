"""Idefics2's connector: a modality projection, then a perceiver resampler (the paper's section 3.3 and A.1.3).

Every patch is projected to the language model's width (a gated MLP; Table 13 compares a linear layer), then a fixed
number of learned latents read the patches of their own image: an image of any size becomes `latents` visual tokens.
"""

import dataclasses
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmlab.batch import Images
from vlmlab.model.attention import Blocks, attend, grouped, reorder
from vlmlab.model.connectors import Connector, ConnectorConfig
from vlmlab.model.eager import uncompiled
from vlmlab.model.layers import GatedMLP, RMSNorm, init_normal
from vlmlab.model.products import Linear


@dataclasses.dataclass(frozen=True)
class Config(ConnectorConfig):
    """The numbers of Idefics2-8B.

    `projection` is the step before the resampler: `mlp` (gated, `projection_inner` wide), `linear`, or `none`, with
    which the resampler works at the vision tower's width. `ratio` is the resampler's MLP width over its own.

    `init` says how new weights are drawn: as the released model's training code does, or so that every product keeps
    the variance of what goes in (`unit`), which learns faster in a short run. `scale` is the first weight of the last
    norm: visual tokens begin with that root mean square. 1 is the reference; a language model's words have their own.
    """

    latents: int = 64
    depth: int = 3
    heads: int = 16
    kv_heads: int = 4
    head_width: int = 96
    ratio: int = 4
    projection: Literal["mlp", "linear", "none"] = "mlp"
    projection_inner: int = 14336
    eps: float = 1e-5
    init: Literal["reference", "unit"] = "reference"
    scale: float = 1.0


class LatentAttention(nn.Module):
    """Latents look at the patches of their image, and at each other."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.head_width = config.head_width
        query, key = config.heads * config.head_width, config.kv_heads * config.head_width
        self.q = Linear(width, query, bias=False)
        self.k = Linear(width, key, bias=False)
        self.v = Linear(width, key, bias=False)
        self.o = Linear(query, width, bias=False)

    def forward(
        self, latents: Float[Tensor, "l d"], context: Float[Tensor, "p d"], gather: Int[Tensor, " m"], blocks: Blocks
    ) -> Float[Tensor, "l d"]:
        """`gather` puts keys made of [context, latents] in order: for each image its patches, then its latents."""
        q = self.q(latents).unflatten(1, (-1, self.head_width))
        k, v = (
            torch.cat([f(context), f(latents)])[gather].unflatten(1, (-1, self.head_width)) for f in (self.k, self.v)
        )
        return self.o(rearrange(attend(q, k, v, blocks), "l h k -> l (h k)"))


class ResamplerLayer(nn.Module):
    """One layer of the resampler. The context is normed by each layer and never updated."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.latents_norm = RMSNorm(width, config.eps)
        self.context_norm = RMSNorm(width, config.eps)
        self.attention = LatentAttention(width, config)
        self.mlp_norm = RMSNorm(width, config.eps)
        self.mlp = GatedMLP(width, config.ratio * width)

    def forward(
        self, latents: Float[Tensor, "l d"], context: Float[Tensor, "p d"], gather: Int[Tensor, " m"], blocks: Blocks
    ) -> Float[Tensor, "l d"]:
        """The latents after this layer."""
        seen = self.attention(self.latents_norm(latents), self.context_norm(context), gather, blocks)
        latents = latents + seen
        return latents + self.mlp(self.mlp_norm(latents))


class Perceiver(Connector):
    """Projection, resampler layers, final norm: `latents` visual tokens for every image."""

    def __init__(self, config: Config, vision_width: int, language_width: int) -> None:
        super().__init__()
        self.width = vision_width if config.projection == "none" else language_width
        self.projection: nn.Module
        if config.projection == "mlp":
            self.projection = GatedMLP(vision_width, config.projection_inner, self.width)
        elif config.projection == "linear":
            self.projection = Linear(vision_width, self.width, bias=False)
        else:
            self.projection = nn.Identity()
        self.latents = nn.Parameter(torch.empty(config.latents, self.width))
        self.layers = nn.ModuleList(ResamplerLayer(self.width, config) for _ in range(config.depth))
        self.norm = RMSNorm(self.width, config.eps)
        self._initialise(config)

    def _initialise(self, config: Config) -> None:
        """The reference: variance 0.4 over the width, smaller for what is added back."""
        nn.init.constant_(self.norm.weight, config.scale)
        nn.init.normal_(self.latents, std=1.0 if config.init == "unit" else self.width**-0.5)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and config.init == "unit":
                init_normal(module, module.in_features**-0.5)
            elif isinstance(module, nn.Linear):
                factor = 2 * config.depth if name.endswith("attention.o") else 2 if name == "projection.down" else 1
                init_normal(module, (0.4 / (self.width * factor)) ** 0.5)

    def count(self, grid: Int[Tensor, "n 2"]) -> list[int]:
        """`latents` for every image, whatever its size."""
        return [len(self.latents)] * len(grid)

    def forward(self, features: Float[Tensor, "p v"], images: Images) -> Float[Tensor, "l d"]:
        """The visual tokens of every image, in order."""
        context, n = self.projection(features), len(images.grid)
        gather, back, blocks = self._plan(images)
        latents = repeat(self.latents, "l d -> (n l) d", n=n)
        for layer in self.layers:
            latents = layer(latents, context, gather, blocks)
        visual = self.norm(latents)
        if back is not None:
            visual = rearrange(rearrange(visual, "(n l) d -> n l d", n=n)[back], "n l d -> (n l) d")
        return visual

    @uncompiled
    def _plan(self, images: Images) -> tuple[Int[Tensor, " m"], Int[Tensor, " n"] | None, Blocks]:
        """The keys, as rows of [context, latents]; where each image's latents ended up (None: in order); the blocks.

        Keys of an image are its patches, then its latents; images of equal length stand side by side. Latents are laid
        out in that order too, so that only the keys are gathered.
        """
        patches, n, size = [rows * columns for rows, columns in images.sizes()], len(images.grid), len(self.latents)
        order, device = grouped(patches), images.patches.device
        there = range(n) if order is None else order
        places = {image: place for place, image in enumerate(there)}
        gather = reorder([*patches, *[size] * n], [part for image in there for part in (image, n + places[image])])
        back = None if order is None else torch.tensor([places[image] for image in range(n)], device=device)
        return gather.to(device), back, Blocks.of([size] * n, [patches[image] + size for image in there])


PLUGIN = Perceiver
