"""Looking: to which patches of its pictures an answer's tokens attended, found by reading it once more.

**Attention is not an explanation.** A map says from where numbers were taken, not what they meant to the answer: heads
that do unrelated things are averaged, and what a layer took may be undone by the next. The vision tower has by then
mixed the whole picture into every patch, so that a patch's features need not be about what is seen there. A map without
a bright place is as real as one with; to claim that an answer rests on a place, hide that place and ask again.

What is computed, for each token of the answer:

- `interleave`: the weights with which the decoder attended when it wrote that token (the row before it, as with
  `output_attentions` of transformers' `generate`), the mean over all layers and heads. What falls on image tokens, of
  all, is its `share`.
- `cross_attention`: those of the gated blocks, which read the latest picture alone, the mean over heads, each block
  counted by how far its gate is open (|tanh|). The mean of that is the share: there is nothing else to look at.

Then from visual tokens back to patches. `per_patch`: a visual token is a patch. `perceiver`: latents read patches, and
other latents, layer after layer; at each, what a latent holds counts as half what it held and half what it took, the
mean over heads ("attention rollout", Abnar and Zuidema, 2020). Other connectors attend to nothing that could be told.

Fused kernels give no weights. Here they are computed anew, softmax(q k), for the rows that wrote the answer, a few at a
time, in a pass of its own: the fusion is handed a decoder whose layers are watched. No other pass knows of it.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlmlab.batch import Batch, Images, Sample
from vlmlab.model.attention import Blocks, causal_mask, rotate
from vlmlab.model.cache import Cache
from vlmlab.model.connectors import Connector
from vlmlab.model.connectors.per_patch import PerPatch
from vlmlab.model.connectors.perceiver import Perceiver, ResamplerLayer
from vlmlab.model.fusion.cross_attention import CrossAttention, GatedBlock
from vlmlab.model.fusion.interleave import Interleave
from vlmlab.model.language import Language, Reading, mistral
from vlmlab.model.vlm import VLM
from vlmlab.processor.patches import normalise
from vlmlab.processor.processor import Encoded, Options, Processor

WRITTEN = 512
"""The most tokens of an answer that is looked into."""

CELLS = 1 << 22
"""The most numbers that all its maps may hold together: tokens of the answer times patches of the pictures."""

ROWS = 32
"""How many rows' weights are computed at a time."""


class Question(NamedTuple):
    """An answer to be looked into: all its tokens behind those of its prompt, the pictures, and where it begins."""

    encoded: Encoded
    start: int


@dataclasses.dataclass(frozen=True)
class Looks:
    """Where an answer's tokens looked. `tokens` are the answer's.

    `maps` has one map for each image (a split picture is several), of `grid` rows and columns of patches. A token's
    maps add up to 1 over all images; before that they added up to its `share`. `seconds` is how long it took.
    """

    tokens: list[int]
    share: Float[Tensor, " r"]
    maps: list[Float[Tensor, "r _"]]
    grid: list[tuple[int, int]]
    prompt_tokens: int
    visual_tokens: int
    seconds: float


def question(
    processor: Processor, sample: Sample, written: Sequence[int] | None = None, options: Options | None = None
) -> Question:
    """What is to be looked into. `sample` is the prompt and `written` its answer's tokens; or it ends with the answer.

    An answer given as text is read as tokens, without the end: nearly always those that were written. Raises ValueError
    where there is no answer or no picture, and where the answer is too long, or the maps too many.
    """
    if written is not None:
        encoded = processor.encode(sample, add_generation_prompt=True, options=options)
        start = len(encoded.tokens)
        encoded = encoded._replace(tokens=[*encoded.tokens, *written])
    else:
        if not sample.messages or sample.messages[-1].role != "assistant":
            raise ValueError("the last message should be the assistant's: the answer to look into")
        encoded, start = _split(processor, sample, options)
    count = len(encoded.tokens) - start
    if not count or not encoded.grid:
        raise ValueError(f"there is no {'picture' if count else 'answer'} to look into")
    if count > WRITTEN:
        raise ValueError(f"an answer of {count} tokens is not looked into; the longest that is has {WRITTEN}")
    patches = sum(map(len, encoded.patches))
    if count * patches > CELLS:
        most = CELLS // patches
        raise ValueError(
            f"{count} tokens over {patches} patches are too many to look into: an answer of {most} tokens would do, or "
            "smaller or fewer pictures (longest_edge)"
        )
    return Question(encoded, start)


def _split(processor: Processor, sample: Sample, options: Options | None) -> tuple[Encoded, int]:
    """A conversation whose last turn is the answer, without its end; and where the answer begins."""
    encoded = processor.encode(sample, learn="answers", options=options)
    assert encoded.learned is not None
    ends, end = set(processor.ends), len(encoded.tokens)
    while end and encoded.tokens[end - 1] in ends:
        end -= 1
    start = end
    while start and encoded.learned[start - 1]:
        start -= 1
    return encoded._replace(tokens=encoded.tokens[:end]), start


@torch.inference_mode()
def look(model: VLM, processor: Processor, asked: Question) -> Looks:
    """Read prompt and answer once more, and see where each of the answer's tokens looked.

    Raises ValueError for parts of a model whose attention cannot be told.
    """
    began = time.perf_counter()
    encoded, start = asked
    patches = normalise(encoded.patches, processor.config.mean, processor.config.std)
    images = Images(patches, torch.tensor(encoded.grid)).to(model.device, model.dtype)
    visual, carried = [], []
    for image in images.pieces(1):
        features = model.vision(image)
        visual.append(model.connector(features, image))
        carried.append(latents_to_patches(model.connector, features))
    # The last token is written, never read: what it would lead to is not asked.
    tokens = torch.tensor([encoded.tokens[:-1]], device=model.device)
    batch = Batch(tokens, torch.ones_like(tokens), torch.arange(tokens.shape[1], device=model.device)[None])
    seen = watched(model, batch, visual, len(encoded.tokens) - start)
    falls = [some @ patch for some, patch in zip(seen.split([len(v) for v in visual], 1), carried, strict=True)]
    share = torch.stack([some.sum(1) for some in falls]).sum(0)
    least = torch.finfo(share.dtype).tiny  # where all gates are shut nothing is looked at
    maps = [(some / share.clamp_min(least)[:, None]).cpu() for some in falls]
    written = list(encoded.tokens[start:])
    seconds = time.perf_counter() - began
    return Looks(written, share.cpu(), maps, encoded.grid, start, seen.shape[1], seconds)


def watched(model: VLM, batch: Batch, visual: Sequence[Tensor], rows: int) -> Float[Tensor, "r l"]:
    """How much the last `rows` rows of a document look at each visual token: of all they look at, in all layers."""
    fusion, language = model.fusion, model.language
    watch: _Interleave | _CrossAttention
    if isinstance(fusion, Interleave):
        watch = _Interleave(fusion, batch, rows)
    elif isinstance(fusion, CrossAttention):
        watch = _CrossAttention(fusion, language, batch, visual, rows)
    else:
        raise ValueError(f"where {type(fusion).__name__} looks cannot be told: it is not written here")
    counts = [len(some) for some in visual]
    fusion(_Language(language, watch), batch, torch.cat(list(visual)), counts)
    return watch.seen / watch.layers


def weights(
    q: Float[Tensor, "r h k"], k: Float[Tensor, "m g k"], mask: Bool[Tensor, "r m"] | None = None
) -> Float[Tensor, "r m"]:
    """Softmax of scaled products over the keys that `mask` lets be seen, the mean over heads, in single precision."""
    keys = rearrange(k.float(), "m g k -> g k m") * k.shape[-1] ** -0.5
    parts = []
    for at in range(0, len(q), ROWS):
        some = rearrange(q[at : at + ROWS].float(), "r (g x) k -> g (r x) k", g=len(keys))
        scores = rearrange(some @ keys, "g (r x) m -> r (g x) m", r=len(q[at : at + ROWS]))
        if mask is not None:
            scores = scores.masked_fill(~mask[at : at + ROWS, None], -torch.inf)
        parts.append(scores.softmax(-1).mean(1))
    return torch.cat(parts)


def latents_to_patches(connector: Connector, features: Float[Tensor, "p v"]) -> Float[Tensor, "l p"]:
    """How much of each visual token of one image is taken from each of its patches; each token's add up to 1."""
    if isinstance(connector, PerPatch):
        return torch.eye(len(features), device=features.device)
    if not isinstance(connector, Perceiver):
        raise ValueError(
            f"where this model looks cannot be told: its connector, {type(connector).__name__}, has no attention over "
            "patches that could be followed; a perceiver has, and one visual token for each patch needs none"
        )
    context, latents = connector.projection(features), connector.latents
    patches, count = len(context), len(latents)
    gather, blocks = torch.arange(patches + count, device=context.device), Blocks.of([count], [patches + count])
    held = torch.zeros(count, patches, device=context.device)
    for layer in connector.layers:
        assert isinstance(layer, ResamplerLayer)
        attention, normed = layer.attention, layer.latents_norm(latents)
        keys = torch.cat([attention.k(layer.context_norm(context)), attention.k(normed)])
        q, k = (x.unflatten(1, (-1, attention.head_width)) for x in (attention.q(normed), keys))
        taken = weights(q, k)
        held = (held + taken[:, :patches] + taken[:, patches:] @ held) / 2
        latents = layer(latents, context, gather, blocks)
    return held / held.sum(1, keepdim=True)


class _Interleave:
    """Adds up what the decoder's layers see of the visual tokens."""

    def __init__(self, fusion: Interleave, batch: Batch, rows: int) -> None:
        self.seats, self.rows = fusion.seats(batch), rows
        self.seen = torch.zeros(rows, len(self.seats), device=batch.tokens.device)
        self.layers = 0

    def __call__(self, layer: nn.Module, before: Tensor, after: Tensor, reading: Reading, number: int) -> None:
        """A layer was passed."""
        if not isinstance(layer, mistral.Layer):
            raise ValueError(f"where a layer of kind {type(layer).__name__} looks cannot be told")
        attention, normed, rows = layer.attention, layer.attention_norm(before), slice(-self.rows, None)
        q, k = (
            rotate(x.view(len(x), -1, attention.head_width), cos, sin)
            for x, cos, sin in (
                (attention.q(normed[rows]), reading.cos[rows], reading.sin[rows]),
                (attention.k(normed), reading.cos, reading.sin),
            )
        )
        mask = causal_mask(len(q), len(k), attention.window, q.device)
        self.seen += weights(q, k, mask)[:, self.seats]
        self.layers += 1


class _CrossAttention:
    """Adds up what the gated blocks see of the latest image, which is the last: answers hold none."""

    def __init__(
        self, fusion: CrossAttention, language: Language, batch: Batch, visual: Sequence[Tensor], rows: int
    ) -> None:
        self.fusion, self.visual, self.rows = fusion, visual[-1], rows
        self.seen = torch.zeros(rows, sum(map(len, visual)), device=batch.tokens.device)
        self.layers = 0
        self._block(0, language.embedding(batch.tokens.reshape(-1)))

    def __call__(self, layer: nn.Module, before: Tensor, after: Tensor, reading: Reading, number: int) -> None:
        """A layer was passed: the next block, if there is one, reads what it left."""
        if (number + 1) % self.fusion.every == 0 and (number + 1) // self.fusion.every < len(self.fusion.blocks):
            self._block((number + 1) // self.fusion.every, after)

    def _block(self, number: int, x: Float[Tensor, "n d"]) -> None:
        block = self.fusion.blocks[number]
        assert isinstance(block, GatedBlock)
        q = block.attention.q(block.attention_norm(x[-self.rows :])).unflatten(1, (-1, block.attention.head_width))
        k, _ = block.attention.keys(self.visual)
        self.seen[:, -len(self.visual) :] += weights(q, k) * block.attention_gate.tanh().abs().float()
        self.layers += 1


Watch = Callable[[nn.Module, Tensor, Tensor, Reading, int], None]
"""Called after each layer with the layer, the stream before and after it, the reading, and the layer's number."""


class _Layer(nn.Module):
    """A decoder layer that is watched."""

    def __init__(self, layer: nn.Module, watch: Watch) -> None:
        super().__init__()
        self.layer, self.watch = layer, watch

    def forward(self, x: Float[Tensor, "n d"], reading: Reading, number: int) -> Float[Tensor, "n d"]:
        """What the layer itself gives."""
        after: Tensor = self.layer(x, reading, number)
        self.watch(self.layer, x, after, reading, number)
        return after


class _Language(Language):
    """A decoder as a fusion sees it, its layers watched. The decoder itself is left as it is."""

    def __init__(self, language: Language, watch: Watch) -> None:
        super().__init__()
        self.language, self.config = language, language.config
        self.embedding, self.norm = language.embedding, language.norm
        self.layers = nn.ModuleList(_Layer(layer, watch) for layer in language.layers)

    def read(self, batch: Batch, cache: Cache | None = None, slots: Sequence[int] | None = None) -> Reading:
        """As the decoder does."""
        return self.language.read(batch, cache, slots)
