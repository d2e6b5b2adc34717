"""Mistral, and Llama with other numbers: a decoder with grouped keys, rotary positions and gated MLPs.

Mistral-7B-v0.1 is the default; it looks back at most 4,096 tokens (`window`). Llama has no window.
"""

import dataclasses
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmlab.batch import Batch
from vlmlab.model.attention import Blocks, attend, decode, dense, rotary, rotate
from vlmlab.model.cache import Cache
from vlmlab.model.language import Language, LanguageConfig, Reading, lay_out
from vlmlab.model.layers import GatedMLP, RMSNorm, init_normal
from vlmlab.model.products import Embedding, Linear


@dataclasses.dataclass(frozen=True)
class Config(LanguageConfig):
    """The numbers of Mistral-7B-v0.1 as Idefics2 uses it (three rows added to the vocabulary)."""

    vocabulary: int = 32003
    width: int = 4096
    positions: int = 32768
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_width: int = 128
    inner: int = 14336
    eps: float = 1e-5
    theta: float = 10000.0
    window: int | None = 4096
    tied: bool = False

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")


class Attention(nn.Module):
    """Causal attention with grouped key heads, over the stream or over what a cache holds."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_width, self.window = config.head_width, config.window
        query, key = config.heads * config.head_width, config.kv_heads * config.head_width
        self.q = Linear(config.width, query, bias=False)
        self.k = Linear(config.width, key, bias=False)
        self.v = Linear(config.width, key, bias=False)
        self.o = Linear(query, config.width, bias=False)

    def forward(self, x: Float[Tensor, "n d"], reading: Reading, layer: int) -> Float[Tensor, "n d"]:
        """Each token reads its own document up to itself."""
        q, k, v = (f(x).view(len(x), -1, self.head_width) for f in (self.q, self.k, self.v))
        q, k = rotate(q, reading.cos, reading.sin), rotate(k, reading.cos, reading.sin)
        if reading.cache is None:
            seen = attend(q, k, v, reading.blocks, causal=True, window=self.window)
        elif reading.step:
            seen = self._step(q, k, v, reading, reading.cache, layer)
        else:
            seen = self._prefill(q, k, v, reading, reading.cache, layer)
        return self.o(seen.reshape(len(x), -1))

    def _step(
        self,
        q: Float[Tensor, "n h k"],
        k: Float[Tensor, "n g k"],
        v: Float[Tensor, "n g k"],
        reading: Reading,
        cache: Cache,
        layer: int,
    ) -> Float[Tensor, "n h k"]:
        rows = len(q)
        keys, values = cache.keys[layer, :rows], cache.values[layer, :rows]
        if rows == 1 and cache.grain == 1:
            at = cache.lengths[0]
            keys[0, :, at], values[0, :, at] = k[0], v[0]
        else:
            row = torch.arange(rows, device=q.device)
            keys[row, :, reading.positions], values[row, :, reading.positions] = k, v
        return decode(q, keys[:, :, : reading.extent], values[:, :, : reading.extent], reading.mask)

    def _prefill(
        self,
        q: Float[Tensor, "n h k"],
        k: Float[Tensor, "n g k"],
        v: Float[Tensor, "n g k"],
        reading: Reading,
        cache: Cache,
        layer: int,
    ) -> Float[Tensor, "n h k"]:
        parts, at = [], 0
        lengths = [b.queries for b in reading.blocks for _ in range(b.count)]
        for slot, length in zip(reading.slots, lengths, strict=True):
            cache.write(layer, slot, k[at : at + length], v[at : at + length])
            at += length
        if not any(cache.lengths[slot] for slot in reading.slots):
            return attend(q, k, v, reading.blocks, causal=True, window=self.window)
        at = 0
        for slot, length in zip(reading.slots, lengths, strict=True):
            end = cache.lengths[slot] + length
            query = rearrange(q[at : at + length], "n h k -> 1 h n k")
            keys, values = cache.keys[layer, slot, None, :, :end], cache.values[layer, slot, None, :, :end]
            parts.append(rearrange(dense(query, keys, values, True, self.window), "1 h n k -> n h k"))
            at += length
        return torch.cat(parts)


class Layer(nn.Module):
    """One decoder layer: attention, then the gated MLP, each on the normed stream and added to it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width, config.eps)
        self.mlp = GatedMLP(config.width, config.inner)

    def forward(self, x: Float[Tensor, "n d"], reading: Reading, layer: int) -> Float[Tensor, "n d"]:
        """The stream after this layer, which is number `layer`."""
        x = x + self.attention(self.attention_norm(x), reading, layer)
        return x + self.mlp(self.mlp_norm(x))


class Mistral(Language):
    """The decoder, its embedding and its head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Config = config
        self.embedding = Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.eps)
        self.output = None if config.tied else Linear(config.width, config.vocabulary, bias=False)
        init_normal(self, 0.02)

    def head(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n w"]:
        """Logits over the vocabulary; a tied head is the embedding read backwards."""
        return self.embedding.backwards(hidden) if self.output is None else self.output(hidden)

    def cache(self, slots: int, capacity: int, grain: int = 1) -> Cache:
        """An empty cache of this model's shape, on its device and in its dtype."""
        c = self.config
        return Cache(c.layers, slots, capacity, c.kv_heads, c.head_width, self.device, self.dtype, grain)

    def read(self, batch: Batch, cache: Cache | None = None, slots: Sequence[int] | None = None) -> Reading:
        """Lay the batch's tokens end to end and say what each may look at.

        With a cache, row i continues slot `slots[i]` (slot i by default) and holds one document.
        Raises ValueError when a slot has no room left, or a row of a cached batch holds more than one document.
        """
        slots = list(range(len(batch.tokens))) if slots is None else list(slots)
        if cache is not None and batch.tokens.shape[1] == 1 and slots == list(range(len(slots))):
            return self._read_step(batch, cache)
        index, lengths, rows = lay_out(batch.segments)
        positions = batch.positions.reshape(-1)
        positions = positions if index is None else positions[index]
        if cache is None:
            return Reading(index, positions, Blocks.of(lengths), *self._rotary(positions))
        if len(set(rows)) != len(rows):
            raise ValueError("a row that continues a cached document must hold one document, without gaps")
        used = tuple(slots[row] for row in rows)
        for slot, length in zip(used, lengths, strict=True):
            _check_room(cache, slot, length)
        return Reading(index, positions, Blocks.of(lengths), *self._rotary(positions), cache, used)

    def _read_step(self, batch: Batch, cache: Cache) -> Reading:
        rows = len(batch.tokens)
        for slot in range(rows):
            _check_room(cache, slot, 1)
        positions = batch.positions.reshape(-1)
        extent, window = cache.extent(rows), self.config.window
        mask = None
        if cache.grain > 1 or min(cache.lengths[:rows]) + 1 < extent or (window is not None and extent > window):
            keys, last = torch.arange(extent, device=positions.device), positions[:, None]
            mask = keys <= last if window is None else (keys <= last) & (keys > last - window)
            mask = mask[:, None, None]
        blocks = Blocks.of([1] * rows)
        return Reading(None, positions, blocks, *self._rotary(positions), cache, tuple(range(rows)), extent, mask)

    def _rotary(self, positions: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n 1 k"], Float[Tensor, "n 1 k"]]:
        cos, sin = rotary(positions, self.config.head_width, self.config.theta)
        return cos.to(self.dtype), sin.to(self.dtype)


def _check_room(cache: Cache, slot: int, length: int) -> None:
    if cache.lengths[slot] + length > cache.capacity:
        raise ValueError(
            f"slot {slot} of the cache holds {cache.lengths[slot]} of {cache.capacity} tokens; {length} more do not fit"
        )


PLUGIN = Mistral
