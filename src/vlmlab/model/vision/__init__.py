"""Vision towers: images cut into patches become features, one for each patch."""

import dataclasses
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from vlmlab.batch import Images
from vlmlab.component import Plugin


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
