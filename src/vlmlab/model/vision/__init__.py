"""Vision towers: images cut into patches become features, one for each patch."""

import dataclasses
from typing import ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vlmlab.batch import Images
from vlmlab.component import Plugin
from vlmlab.model.attention import Blocks, Weave
from vlmlab.model.products import Activation, Linear


@dataclasses.dataclass(frozen=True)
class VisionConfig(Plugin):
    """What every tower has: its width, and the side of its square patches in pixels."""

    home: ClassVar[str] = "vlmlab.model.vision"

    width: int
    patch: int


class Vision(nn.Module):
    """A vision tower: `Images -> features [p, v]`, the images in order and nothing padded."""

    width: int
    """Width of the features (`v`)."""

    def forward(self, images: Images) -> Float[Tensor, "p v"]:
        """The features of every patch, in the order of `images.patches`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ClassTokenConfig(VisionConfig):
    """What towers with a class token have; the position table has `side` x `side` rows and one for the class."""

    layers: int
    heads: int
    inner: int
    side: int
    activation: Activation
    eps: float


class ClassTokenTower(Vision):
    """What CLIP, DINOv2 and EVA-CLIP share: a class token goes before each image's patches and is dropped at the end.

    The square position table is stretched to each image's grid (bicubic, in fp32, as transformers does when asked to
    interpolate), so images of any size and aspect ratio can be read.
    """

    def __init__(self, config: ClassTokenConfig, patch_bias: bool) -> None:
        super().__init__()
        self.width, self.side = config.width, config.side
        self.patch = Linear(3 * config.patch**2, config.width, bias=patch_bias)
        self.class_token = nn.Parameter(torch.empty(config.width))
        self.position = nn.Embedding(config.side**2 + 1, config.width)
        nn.init.normal_(self.class_token, std=0.02)

    def weave(self, images: Images) -> tuple[Float[Tensor, "m v"], Blocks, Int[Tensor, " p"]]:
        """The stream that the layers read: for each image its class token, then its patches, with positions added.

        Images of equal length stand side by side. Also its blocks, and where each patch of `images` stands in it.
        """
        sizes = images.sizes()
        patches = self.patch(images.patches.to(self.patch.weight.dtype))
        weave = Weave.of([1] * len(sizes), [rows * columns for rows, columns in sizes])
        classes = repeat(self.class_token, "v -> n v", n=len(sizes))
        tables = {size: self.table(*size) for size in set(sizes)}
        stream = torch.cat([classes, patches])[weave.gather.to(patches.device)]
        stream = stream + torch.cat([tables[sizes[image]] for image in weave.order])
        return stream, weave.blocks, weave.back.to(patches.device)

    def table(self, rows: int, columns: int) -> Float[Tensor, "m v"]:
        """The position of the class token, then those of the patches of one image, row after row."""
        if (rows, columns) == (self.side, self.side):
            return self.position.weight
        square = rearrange(self.position.weight[1:].float(), "(r c) v -> 1 v r c", r=self.side)
        stretched = F.interpolate(square, size=(rows, columns), mode="bicubic", align_corners=False)
        stretched = rearrange(stretched, "1 v r c -> (r c) v").to(self.position.weight.dtype)
        return torch.cat([self.position.weight[:1], stretched])
