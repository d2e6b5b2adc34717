"""Language models: a stack of decoder layers that reads a stream of tokens laid end to end."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlmlab.batch import Batch
from vlmlab.component import Plugin
from vlmlab.model.attention import Blocks, grouped
from vlmlab.model.cache import Cache
from vlmlab.model.eager import uncompiled
from vlmlab.model.layers import RMSNorm
from vlmlab.model.products import Embedding


@dataclasses.dataclass(frozen=True)
class LanguageConfig(Plugin):
    """What every language model has: a vocabulary, a width, and room for so many positions."""

    home: ClassVar[str] = "vlmlab.model.language"

    vocabulary: int
    width: int
    positions: int


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the layers of one pass share: where each token of the stream stands and what it may look at.

    The stream holds the batch's real tokens only, documents of equal length side by side; `index` says where each
    came from in the flattened batch (None: it is the batch, in order). With a cache, `slots` are those of the stream's
    documents in order, and `mask` hides, in a step of one token each, the keys that a shorter row does not have.
    """

    index: Int[Tensor, " n"] | None
    positions: Int[Tensor, " n"]
    blocks: Blocks
    cos: Float[Tensor, "n 1 k"]
    sin: Float[Tensor, "n 1 k"]
    cache: Cache | None = None
    slots: tuple[int, ...] = ()
    extent: int = 0
    mask: Bool[Tensor, "b 1 1 m"] | None = None

    @property
    def step(self) -> bool:
        """Whether this is a decoding step: one new token for each slot."""
        return self.extent > 0


class Language(nn.Module):
    """A language model: `embedding`, `layers`, `norm` and `head`; a fusion runs the layers."""

    config: LanguageConfig
    embedding: Embedding
    layers: nn.ModuleList
    norm: RMSNorm

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the stream between the layers is made of: the norm's, since matrices may be held in fewer bits."""
        return self.norm.weight.dtype

    def read(self, batch: Batch, cache: Cache | None = None, slots: Sequence[int] | None = None) -> Reading:
        """Lay the batch's tokens end to end and say what each may look at."""
        raise NotImplementedError

    def head(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n w"]:
        """Logits over the vocabulary."""
        raise NotImplementedError

    def cache(self, slots: int, capacity: int, grain: int = 1) -> Cache:
        """An empty cache of this model's shape, on its device and in its dtype."""
        raise NotImplementedError


@uncompiled
def lay_out(segments: Int[Tensor, "b t"]) -> tuple[Int[Tensor, " n"] | None, list[int], list[int]]:
    """Find the documents of a batch: runs of one non-zero segment within a row.

    Returns the index [n] of their tokens in the flattened batch with documents of equal length side by side (None when
    that is the batch as it stands), their lengths, and their rows, both in that order.
    """
    width = segments.shape[1]
    flat = segments.reshape(-1).cpu()
    edges = torch.ones(len(flat) + 1, dtype=torch.bool)
    edges[1:-1] = flat[1:] != flat[:-1]
    edges[torch.arange(0, len(flat) + 1, max(width, 1))] = True
    bounds = edges.nonzero().flatten().tolist()
    kept = flat.bool().tolist()
    runs = [(start, end) for start, end in itertools.pairwise(bounds) if kept[start]]
    lengths = [end - start for start, end in runs]
    rows = [start // width for start, _ in runs]
    order = grouped(lengths)
    if order is None:
        if sum(lengths) == len(flat):
            return None, lengths, rows
        order = list(range(len(runs)))
    index = torch.cat([torch.arange(*runs[at]) for at in order]) if runs else torch.zeros(0, dtype=torch.long)
    return index.to(segments.device), [lengths[at] for at in order], [rows[at] for at in order]
