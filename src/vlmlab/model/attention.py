"""The one attention rule, and the only file that knows kernels.

*A token sees the tokens of its own segment, and no later ones if causal.* It serves the vision tower (segment = image),
the resampler (latents read their own image), the decoder (segment = document) and cross-attention (segment = the
latest image before the token). Segments are laid end to end in one stream; work across segments is never computed and
then masked away: a varlen kernel on CUDA, one dense call for each group of equal neighbours elsewhere.
"""

import functools
import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vlmlab.model.eager import uncompiled


@functools.cache
def varlen() -> Callable[..., Any] | None:
    """CUDA's kernel for streams of segments, or None where torch does not have it.

    Its windowed, grouped form came after torch 2.10; without it CUDA takes the dense path. Imported when first asked
    for: it takes a second, which a CPU should not pay.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)
    return varlen_attn if known else None


class Block(NamedTuple):
    """`count` neighbouring segments of one shape: in each, `queries` tokens look at `keys` tokens."""

    count: int  # type: ignore[assignment]  # not tuple.count
    queries: int
    keys: int


class Blocks(tuple[Block, ...]):
    """How a stream of queries and a stream of keys fall into segments, in order, first to last."""

    __slots__ = ()

    @staticmethod
    def of(queries: Sequence[int], keys: Sequence[int] | None = None) -> "Blocks":
        """Blocks from the lengths of the segments, joining neighbours of equal shape."""
        blocks: list[Block] = []
        for q, k in zip(queries, queries if keys is None else keys, strict=True):
            if blocks and blocks[-1][1:] == (q, k):
                blocks[-1] = Block(blocks[-1].count + 1, q, k)
            else:
                blocks.append(Block(1, q, k))
        return Blocks(blocks)

    def bounds(self, device: torch.device) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], int, int]:
        """What a varlen kernel asks for: cumulative ends of queries and keys, and the longest of each."""
        queries = [b.queries for b in self for _ in range(b.count)]
        keys = [b.keys for b in self for _ in range(b.count)]
        ends = torch.tensor([[0, *queries], [0, *keys]]).cumsum(1).to(device=device, dtype=torch.int32)
        return ends[0], ends[1], max(queries), max(keys)


def grouped(lengths: Sequence[Hashable]) -> list[int] | None:
    """An order of segments in which those of equal length (or shape) are neighbours, or None when they already are."""
    first = {length: at for at, length in reversed(list(enumerate(lengths)))}
    order = sorted(range(len(lengths)), key=lambda at: first[lengths[at]])
    return None if order == list(range(len(lengths))) else order


def reorder(lengths: Sequence[int], order: Sequence[int]) -> Int[Tensor, " n"]:
    """Index that lays segments of the given lengths end to end in another order: `stream[reorder(...)]`."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return torch.cat([torch.arange(starts[at], starts[at] + lengths[at]) for at in order])


class Weave(NamedTuple):
    """Two streams laid together: for each image its rows of the first, then its rows of the second."""

    order: list[int]
    """The images as they stand in the stream: those of equal shape side by side."""
    gather: Int[Tensor, " m"]
    """The stream, as rows of the first and the second laid end to end."""
    back: Int[Tensor, " n"]
    """Where each row of the second went."""
    blocks: Blocks

    @staticmethod
    @uncompiled
    def of(first: Sequence[int], second: Sequence[int]) -> "Weave":
        """How to lay `first[i]` rows of one stream and `second[i]` of another together, for every image i."""
        n = len(first)
        order = grouped(list(zip(first, second, strict=True))) or list(range(n))
        gather = reorder([*first, *second], [part for image in order for part in (image, n + image)])
        places = {image: place for place, image in enumerate(order)}
        lengths = [length for image in order for length in (first[image], second[image])]
        back = reorder(lengths, [2 * places[image] + 1 for image in range(n)])
        return Weave(order, gather, back, Blocks.of([first[image] + second[image] for image in order]))


def attend(
    q: Float[Tensor, "n h k"],
    k: Float[Tensor, "m g k"],
    v: Float[Tensor, "m g k"],
    blocks: Blocks,
    causal: bool = False,
    window: int | None = None,
) -> Float[Tensor, "n h k"]:
    """Attention within segments, over streams of `n` queries and `m` keys laid end to end.

    `g` key heads may serve `h` query heads (h a multiple of g). Causal segments end together: the last query sees the
    last key. With a `window` a query sees that many keys, itself included. The scale is k^-0.5.
    """
    kernel = varlen() if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and len(blocks) > 0 else None
    if kernel is not None:
        reach = ((window or 0) - 1, 0) if causal else (-1, -1)
        ends_q, ends_k, longest_q, longest_k = blocks.bounds(q.device)
        many = q.shape[1] != k.shape[1]
        seen = kernel(q, k, v, ends_q, ends_k, longest_q, longest_k, window_size=reach, enable_gqa=many)
        assert isinstance(seen, Tensor)
        return seen
    # `split`, not slices: the gradient of a slice is as large as the whole stream, once for every block.
    queries = q.split([count * each for count, each, _ in blocks])
    keys, values = (x.split([count * each for count, _, each in blocks]) for x in (k, v))
    parts = []
    for block, *some in zip(blocks, queries, keys, values, strict=True):
        q_, k_, v_ = (rearrange(x, "(s n) h k -> s h n k", s=block[0]) for x in some)
        parts.append(rearrange(dense(q_, k_, v_, causal, window), "s h n k -> (s n) h k"))
    return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else q


def dense(
    q: Float[Tensor, "s h n k"],
    k: Float[Tensor, "s g m k"],
    v: Float[Tensor, "s g m k"],
    causal: bool = False,
    window: int | None = None,
) -> Float[Tensor, "s h n k"]:
    """Attention inside `s` segments of one shape; see `attend`."""
    grouped_heads = q.shape[1] != k.shape[1]
    queries, keys = q.shape[2], k.shape[2]
    if not causal or (queries == 1 and (window is None or keys <= window)):
        return scaled_dot_product_attention(q, k, v, enable_gqa=grouped_heads)
    if queries == keys and (window is None or keys <= window):
        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped_heads)
    mask = causal_mask(queries, keys, window, q.device)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped_heads)


def causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Bool[Tensor, "n m"]:
    """True where the query may look: at itself and earlier keys, at most `window` of them; the two end together."""
    ahead = torch.arange(keys, device=device) - torch.arange(keys - queries, keys, device=device)[:, None]
    return ahead <= 0 if window is None else (ahead <= 0) & (ahead > -window)


def decode(
    q: Float[Tensor, "b h k"],
    k: Float[Tensor, "b g m k"],
    v: Float[Tensor, "b g m k"],
    mask: Bool[Tensor, "b 1 1 m"] | None,
) -> Float[Tensor, "b h k"]:
    """One new query for each row over the cached keys of that row; `mask` hides keys that a row does not have."""
    b, h, width = q.shape
    # The query heads that share a key head stand as a short run of queries: no key is repeated in memory.
    q = q.reshape(b, k.shape[1], -1, width)
    if q.device.type != "cpu":
        return scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(b, h, width)
    # So little work that a fused kernel costs more to start than plain products.
    scores = torch.bmm(q.flatten(0, 1) * width**-0.5, k.flatten(0, 1).transpose(1, 2))
    if mask is not None:
        scores = scores.unflatten(0, (b, -1)).masked_fill(~mask, -torch.inf).flatten(0, 1)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(b, h, width)


def rotary(
    positions: Int[Tensor, " n"], width: int, theta: float
) -> tuple[Float[Tensor, "n 1 k"], Float[Tensor, "n 1 k"]]:
    """Cosines and signed sines of rotary embedding, each [n, 1, k] in fp32 (half-split rotation, full head width)."""
    rates = theta ** -(torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)
    angles = positions[:, None, None].float() * rates
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def rotate(
    x: Float[Tensor, "n h k"], cos: Float[Tensor, "n 1 k"], sin: Float[Tensor, "n 1 k"]
) -> Float[Tensor, "n h k"]:
    """Turn each head by its position's angle; `sin` carries the sign of the half it multiplies."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
