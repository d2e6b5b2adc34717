"""Samples as the loop uses them: processed one at a time, kept where that pays, packed without padding."""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlmlab.batch import IGNORE, Batch, Images, Sample
from vlmlab.data.sources import Source
from vlmlab.model.vlm import VLM


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


class Preparer:
    """Prepares samples of a source by number.

    `process` turns one sample into a batch of one row with targets. Without `frozen`, samples are processed anew each
    time, the next ones ahead of need on a thread. With `frozen`, the vision tower is taken not to change: the features
    of each picture are computed once and kept in half precision, up to `memory` bytes. They are computed for each
    sample alone, so that they do not depend on its company and a resumed run finds the same bits.
    """

    def __init__(
        self, model: VLM, process: Callable[[Sample], Batch], source: Source, frozen: bool, memory: int = 4 << 30
    ) -> None:
        self.model, self.process, self.source = model, process, source
        self.frozen, self.memory = frozen, memory
        self.kept: dict[int, Prepared] = {}
        self.held = 0
        self.waiting: dict[int, Future[Prepared]] = {}
        self.ahead = ThreadPoolExecutor(1, thread_name_prefix="prepare")

    def __len__(self) -> int:
        return len(self.source)

    def expect(self, indices: Sequence[int]) -> None:
        """Start processing samples that will be asked for next."""
        for index in indices:
            if index not in self.kept and index not in self.waiting:
                self.waiting[index] = self.ahead.submit(self.read, index)

    def get(self, indices: Sequence[int]) -> list[Prepared]:
        """Samples by number. Raises ValueError naming the sample that cannot be used."""
        return [self._get(index) for index in indices]

    def close(self) -> None:
        """Stop what was started ahead of need."""
        self.ahead.shutdown(wait=True, cancel_futures=True)
        self.waiting.clear()

    def _get(self, index: int) -> Prepared:
        if index in self.kept:
            return self.kept[index]
        waiting = self.waiting.pop(index, None)
        made = self.read(index) if waiting is None else waiting.result()
        if not self.frozen or made.images is None:
            return made
        made = self._see(made, made.images)
        if made.features is not None and self.held + made.features.nbytes <= self.memory:
            self.kept[index] = made
            self.held += made.features.nbytes
        return made

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

    @torch.no_grad()
    def _see(self, made: Prepared, images: Images) -> Prepared:
        features = self.model.vision(images.to(self.model.device)).to("cpu", torch.float16)
        if not features.isfinite().all():
            raise ValueError("the vision tower's features do not fit half precision; train it, or use bfloat16")
        return Prepared(made.tokens, made.targets, blind(images), features)


def blind(images: Images) -> Images:
    """The same images without their pixels: their patches hold no numbers."""
    return Images(images.patches.new_zeros(len(images.patches), 0), images.grid)


def order(seed: int, step: int, batch: int, length: int) -> list[int]:
    """The samples of step number `step`: a function of these four numbers alone.

    Each pass over the source is a permutation of its own; every sample is drawn once before any is drawn again.
    """
    places = range(step * batch, (step + 1) * batch)
    return [_permutation(seed, place // length, length)[place % length] for place in places]


_PERMUTATIONS: dict[tuple[int, int, int], list[int]] = {}


def _permutation(seed: int, epoch: int, length: int) -> list[int]:
    key = (seed, epoch, length)
    if key not in _PERMUTATIONS:
        while len(_PERMUTATIONS) > 3:
            _PERMUTATIONS.pop(next(iter(_PERMUTATIONS)))
        # Not torch's generator: it keeps only 32 bits of a seed, too few for two numbers.
        _PERMUTATIONS[key] = np.random.default_rng((seed, epoch)).permutation(length).tolist()
    return _PERMUTATIONS[key]


def pack(samples: Sequence[Prepared], tokens: int) -> list[tuple[Batch, Float[Tensor, "p v"] | None]]:
    """Samples laid end to end in one row, as many to a batch as fit in `tokens`; with the features where known.

    A sample longer than that has a batch of its own.
    """
    groups: list[list[Prepared]] = []
    room = 0
    for sample in samples:
        if not groups or len(sample.tokens) > room:
            groups.append([])
            room = tokens
        groups[-1].append(sample)
        room -= len(sample.tokens)
    return [_join(group) for group in groups]


def _join(samples: Sequence[Prepared]) -> tuple[Batch, Tensor | None]:
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
