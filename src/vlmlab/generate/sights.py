"""Pictures seen: the visual tokens of every picture, kept by its content, so that it is looked at once."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vlmlab.batch import Images
from vlmlab.model.vlm import VLM
from vlmlab.processor.patches import normalise
from vlmlab.processor.processor import Config


class Sight(NamedTuple):
    """One image to look at: its patches (8 bits a number), its rows and columns, and the fingerprint of both."""

    patches: UInt8[Tensor, "p c"]
    size: tuple[int, int]
    key: bytes

    @staticmethod
    def of(patches: UInt8[Tensor, "p c"], size: tuple[int, int], eye: str = "") -> "Sight":
        """An image with its fingerprint: two have the same only if all their numbers and shapes are equal.

        Nor do they where another `eye` looks at them: an adapter that changes what is seen, by its key.
        """
        numbers = patches.contiguous().numpy()
        key = f"{size} {eye}".encode()
        return Sight(patches, size, hashlib.blake2b(numbers.data, key=key, digest_size=32).digest())


class Sights:
    """A model's eye with a memory of `memory` bytes: what was not asked for the longest is dropped first."""

    def __init__(self, model: VLM, config: Config, memory: int) -> None:
        self.model, self.config, self.memory = model, config, memory
        self.seen: OrderedDict[bytes, Tensor] = OrderedDict()
        self.held = 0

    def recall(self, sight: Sight) -> Float[Tensor, "l d"] | None:
        """The visual tokens of an image that is remembered."""
        if sight.key in self.seen:
            self.seen.move_to_end(sight.key)
        return self.seen.get(sight.key)

    @torch.inference_mode()
    def look(self, sights: Sequence[Sight]) -> list[Float[Tensor, "l d"]]:
        """The visual tokens of each image; those not remembered are looked at, together, each once."""
        new = {sight.key: sight for sight in sights if sight.key not in self.seen}
        found = {sight.key: self.seen[sight.key] for sight in sights if sight.key in self.seen}
        if new:
            patches = normalise([s.patches for s in new.values()], self.config.mean, self.config.std)
            images = Images(patches, torch.tensor([s.size for s in new.values()]))
            visual = self.model.see(images.to(self.model.device, self.model.dtype))
            # Each in memory of its own: what is dropped is given back.
            each = [some.clone() for some in visual.split(self.model.count(images.grid))]
            found |= zip(new, each, strict=True)
        for sight in sights:
            self._keep(sight.key, found[sight.key])
        return [found[sight.key] for sight in sights]

    def _keep(self, key: bytes, visual: Float[Tensor, "l d"]) -> None:
        if key not in self.seen:
            self.held += visual.nbytes
        self.seen[key] = visual
        self.seen.move_to_end(key)
        while self.seen and self.held > self.memory:
            self.held -= self.seen.popitem(last=False)[1].nbytes
