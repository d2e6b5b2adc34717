"""Samples as a model uses them: processed one at a time, kept where that pays, laid end to end without padding."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlmlab.batch import IGNORE, Batch, Images, Sample
from vlmlab.data.sources import Source
from vlmlab.model.vlm import VLM
from vlmlab.train.gallery import Gallery


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One sample as the model reads it, up to the last position that learns.

    With `features` known, `images` has its grid but no pixels.
    """

    tokens: Int[Tensor, " t"]
    targets: Int[Tensor, " t"]
    images: Images | None = None
    features: Float[Tensor, "p v"] | None = None

    @property
    def learned(self) -> int:
        """How many of its tokens are learned."""
        return int((self.targets != IGNORE).sum())

    def answer(self) -> int:
        """Where its answer starts: the first token that is learned, or its length when none is."""
        found = (self.targets != IGNORE).nonzero().flatten()
        return int(found[0]) + 1 if len(found) else len(self.tokens)


class Features:
    """What a vision tower that does not change sees: the features of pictures, computed once.

    They are kept in half precision, up to `memory` bytes, and computed for each sample alone, so that they do not
    depend on its company and a resumed run finds the same bits. A `gallery` keeps them beyond the run.
    """

    def __init__(self, model: VLM, memory: int = 4 << 30, gallery: Gallery | None = None) -> None:
        self.model, self.memory, self.gallery = model, memory, gallery
        self.kept: dict[Hashable, Prepared] = {}
        self.held = 0

    def see(self, made: Prepared, key: Hashable = None) -> Prepared:
        """A sample with features in place of pixels; kept under `key` while there is room (None: never)."""
        if made.images is None:
            return made
        seen = self._see(made, made.images)
        assert seen.features is not None
        if key is not None and self.held + seen.features.nbytes <= self.memory:
            self.kept[key] = seen
            self.held += seen.features.nbytes
        return seen

    @torch.no_grad()
    def _see(self, made: Prepared, images: Images) -> Prepared:
        known = None if self.gallery is None else self.gallery.find(images)
        if known is not None:
            return Prepared(made.tokens, made.targets, blind(images), known)
        features = self.model.vision(images.to(self.model.device)).to("cpu", torch.float16)
        if not features.isfinite().all():
            raise ValueError("the vision tower's features do not fit half precision; train it, or use bfloat16")
        if self.gallery is not None:
            self.gallery.add(images, features)
        return Prepared(made.tokens, made.targets, blind(images), features)


class Preparer:
    """Prepares samples of one source by number, to be measured on.

    `process` turns one sample into a batch of one row with targets. With `frozen`, features are kept; see `Features`.
    """

    def __init__(
        self, model: VLM, process: Callable[[Sample], Batch], source: Source, frozen: bool, memory: int = 4 << 30
    ) -> None:
        self.model, self.process, self.source, self.frozen = model, process, source, frozen
        self.features = Features(model, memory)

    def __len__(self) -> int:
        return len(self.source)

    def get(self, indices: Sequence[int]) -> list[Prepared]:
        """Samples by number. Raises ValueError naming the sample that cannot be used."""
        return [self._get(index) for index in indices]

    def _get(self, index: int) -> Prepared:
        if index in self.features.kept:
            return self.features.kept[index]
        made = self.read(index)
        return self.features.see(made, index) if self.frozen else made

    def read(self, index: int) -> Prepared:
        """One sample, processed and no more: no features are computed. Raises ValueError naming the sample."""
        try:
            batch = self.process(self.source[index])
        except (ValueError, OSError) as error:
            raise ValueError(f"sample {index}: {error}") from error
        assert batch.targets is not None and len(batch.tokens) == 1
        tokens, targets = batch.tokens[0], batch.targets[0]
        # What comes after the last position that learns changes nothing, unless a picture stands there.
        end = int((targets != IGNORE).nonzero()[-1]) + 1 if (targets != IGNORE).any() else len(tokens)
        if self.model.config.fusion.image_token in tokens[end:]:
            end = len(tokens)
        return Prepared(tokens[:end], targets[:end], batch.images)


def blind(images: Images) -> Images:
    """The same images without their pixels: their patches hold no numbers."""
    return Images(images.patches.new_zeros(len(images.patches), 0), images.grid)


def join(samples: Sequence[Prepared]) -> tuple[Batch, Float[Tensor, "p v"] | None]:
    """Samples laid end to end in one row, a segment each, counted from 1; with the features where they are known."""
    lengths = [len(s.tokens) for s in samples]
    segments = torch.cat([torch.full((length,), n) for n, length in enumerate(lengths, 1)])
    batch = Batch(
        torch.cat([s.tokens for s in samples])[None],
        segments[None],
        torch.cat([torch.arange(length) for length in lengths])[None],
        torch.cat([s.targets for s in samples])[None],
        Images.join([s.images for s in samples if s.images is not None]),
    )
    features = [s.features for s in samples if s.features is not None]
    return batch, torch.cat(features) if features else None
