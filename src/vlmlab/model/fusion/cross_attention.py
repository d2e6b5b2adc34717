"""Gated cross-attention (Flamingo, Alayrac et al., 2022; Idefics1): the other architecture of the paper's section 3.2.

An image is a single `<image>` token in the text (A.1.1). Before every k-th decoder layer, tokens look at the visual
tokens of the *latest* image before them in their own document; a token that has none gets zero from attention. Both
branches pass a tanh gate that starts shut, so that at first the output is the language model's own.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmlab.batch import Batch
from vlmlab.model.attention import Blocks, attend, grouped
from vlmlab.model.cache import Cache
from vlmlab.model.eager import uncompiled
from vlmlab.model.fusion import Fusion, FusionConfig
from vlmlab.model.language import Language, Reading
from vlmlab.model.layers import GatedMLP, RMSNorm, init_normal
from vlmlab.model.products import Linear


@dataclasses.dataclass(frozen=True)
class Config(FusionConfig):
    """A block before every 4th layer as in Idefics1, with the heads of Mistral-7B; sizes chosen to match section 3.2.

    With Idefics2's resampler at the vision tower's width, 2.0 billion parameters are new (`recipes/idefics2`).
    """

    image_token: int = 32001
    every: int = 4
    heads: int = 32
    kv_heads: int = 32
    head_width: int = 128
    inner: int = 16384
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is {self.every}: a block stands before every 1st, 2nd, ... layer")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")


Keys = tuple[Float[Tensor, "l g k"], Float[Tensor, "l g k"]]
"""Keys and values of visual tokens, for one block."""


class Seen(NamedTuple):
    """An image as the blocks see it: where its token stands in its document, and its keys and values for each block."""

    position: int
    keys: list[Keys]


class Run(NamedTuple):
    """Neighbouring tokens of the stream that look at one image."""

    start: int
    length: int
    image: Seen

    @property
    def visual(self) -> int:
        """How many visual tokens there are to look at."""
        return len(self.image.keys[0][0])


class Sight(NamedTuple):
    """What the blocks of one pass share: which tokens look, at how many visual tokens, and their keys and values.

    `tokens` says where those that look are in the stream, image after image (None: they are the stream, in order).
    """

    tokens: Int[Tensor, " m"] | None
    blocks: Blocks
    keys: list[Keys]

    @staticmethod
    def of(runs: Sequence[Run], length: int, device: torch.device) -> "Sight":
        """The sight of a stream of `length` tokens; runs of equal shape are laid side by side."""
        order = grouped([(run.length, run.visual) for run in runs])
        runs = runs if order is None else [runs[at] for at in order]
        places = [place for run in runs for place in range(run.start, run.start + run.length)]
        tokens = None if places == list(range(length)) else torch.tensor(places, device=device)
        keys: list[Keys] = []
        for block in zip(*(run.image.keys for run in runs), strict=True):  # each: the keys of every run, for one block
            k, v = zip(*block, strict=True)
            keys.append((k[0], v[0]) if len(runs) == 1 else (torch.cat(k), torch.cat(v)))
        return Sight(tokens, Blocks.of([run.length for run in runs], [run.visual for run in runs]), keys)


class Attention(nn.Module):
    """Tokens ask, the visual tokens of one image answer; there are no positions."""

    def __init__(self, config: Config, width: int, visual_width: int) -> None:
        super().__init__()
        self.head_width = config.head_width
        query, key = config.heads * config.head_width, config.kv_heads * config.head_width
        self.q = Linear(width, query, bias=False)
        self.k = Linear(visual_width, key, bias=False)
        self.v = Linear(visual_width, key, bias=False)
        self.o = Linear(query, width, bias=False)

    def keys(self, visual: Float[Tensor, "l e"]) -> Keys:
        """Keys and values of visual tokens."""
        k, v = (rearrange(f(visual), "l (g k) -> l g k", k=self.head_width) for f in (self.k, self.v))
        return k, v

    def forward(self, x: Float[Tensor, "m d"], keys: Keys, blocks: Blocks) -> Float[Tensor, "m d"]:
        """What each token sees of its image."""
        q = rearrange(self.q(x), "m (h k) -> m h k", k=self.head_width)
        return self.o(rearrange(attend(q, *keys, blocks), "m h k -> m (h k)"))


class GatedBlock(nn.Module):
    """Cross-attention, then an MLP, each on the normed stream, through its gate, and added to it."""

    def __init__(self, config: Config, width: int, visual_width: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width, config.eps)
        self.attention = Attention(config, width, visual_width)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.mlp_norm = RMSNorm(width, config.eps)
        self.mlp = GatedMLP(width, config.inner)
        self.mlp_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "n d"], sight: Sight, number: int) -> Float[Tensor, "n d"]:
        """The stream after this block, which is number `number`; tokens without an image pass the MLP alone."""
        if sight.blocks:
            looking = x if sight.tokens is None else x[sight.tokens]
            seen = self.attention(self.attention_norm(looking), sight.keys[number], sight.blocks)
            seen = seen * self.attention_gate.tanh()
            x = x + seen if sight.tokens is None else x.index_add(0, sight.tokens, seen)
        return x + self.mlp(self.mlp_norm(x)) * self.mlp_gate.tanh()


class CrossAttention(Fusion):
    """Gated blocks before every k-th layer of the decoder, which itself is left as it is."""

    def __init__(self, config: Config, language: Language, visual_width: int) -> None:
        super().__init__()
        self.image_token, self.every = config.image_token, config.every
        numbers = range(0, len(language.layers), config.every)
        self.blocks = nn.ModuleList(GatedBlock(config, language.config.width, visual_width) for _ in numbers)
        self._initialise(len(language.layers))

    def _initialise(self, layers: int) -> None:
        """As Idefics1's training code does: variance 0.4 over the inputs, smaller for what the MLP adds back."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                factor = 2 * layers if name.endswith("mlp.down") else 1
                init_normal(module, (0.4 / (module.in_features * factor)) ** 0.5)

    def placeholders(self, counts: Sequence[int]) -> list[int]:
        """One `<image>` token for each image."""
        return [1] * len(counts)

    def shares(self, counts: Sequence[int]) -> list[int]:
        """All of an image's visual tokens for its one `<image>` token."""
        return list(counts)

    def forward(
        self,
        language: Language,
        batch: Batch,
        visual: Float[Tensor, "l e"] | None,
        counts: Sequence[int],
        cache: Cache | None = None,
        slots: Sequence[int] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Hidden states before the head. Raises ValueError when `<image>` tokens and images differ in number."""
        x = language.embedding(batch.tokens.reshape(-1))
        reading = language.read(batch, cache, slots)
        sight = self._look(batch, reading, visual, counts)
        if reading.index is not None:
            x = x[reading.index]
        for number, layer in enumerate(language.layers):
            if number % self.every == 0:
                x = self.blocks[number // self.every](x, sight, number // self.every)
            x = layer(x, reading, number)
        return self.finish(language, batch, x, reading)

    @uncompiled
    def _look(
        self, batch: Batch, reading: Reading, visual: Float[Tensor, "l e"] | None, counts: Sequence[int]
    ) -> Sight:
        """Find the image that each token looks at. What is new is remembered by the cache, where there is one."""
        seats: list[int] = [] if visual is None and reading.step else self.seats(batch).tolist()
        if len(seats) != len(counts):
            raise ValueError(f"the batch has {len(seats)} image tokens for {len(counts)} images")
        images = [] if visual is None else self._keys(visual, counts)
        if reading.cache is not None:  # a slot keeps its own images, not the batch they came in
            images = [[(k.clone(), v.clone()) for k, v in image] for image in images]
        runs = look(reading, seats, images)
        return Sight.of(runs, len(reading.positions), batch.tokens.device)

    def _keys(self, visual: Float[Tensor, "m e"], counts: Sequence[int]) -> list[list[Keys]]:
        """For each image, its keys and values for every block."""
        images: list[list[Keys]] = [[] for _ in counts]
        for block in self.blocks:
            assert isinstance(block, GatedBlock)
            keys, values = (x.split(list(counts)) for x in block.attention.keys(visual))
            for image, k, v in zip(images, keys, values, strict=True):
                image.append((k, v))
        return images


def look(reading: Reading, seats: Sequence[int], images: Sequence[list[Keys]]) -> list[Run]:
    """Which tokens of the stream look at which image: the latest in their document up to themselves.

    `seats` says where each new image's token is in the flattened batch. The cache remembers the new images.
    """
    runs: list[Run] = []
    at, index = 0, None if reading.index is None else reading.index.tolist()
    for document, length in enumerate(block.queries for block in reading.blocks for _ in range(block.count)):
        first, held, memory = at if index is None else index[at], 0, []
        if reading.cache is not None:
            slot = reading.slots[document]
            held, memory = reading.cache.lengths[slot], reading.cache.memory[slot]
        marks = [(0, memory[-1])] if memory else []
        for number in range(bisect.bisect_left(seats, first), bisect.bisect_left(seats, first + length)):
            offset = seats[number] - first
            marks.append((offset, Seen(held + offset, images[number])))
            memory.append(marks[-1][1])
        for (start, image), (end, _) in itertools.pairwise([*marks, (length, None)]):
            if end > start:
                runs.append(Run(at + start, end - start, image))
        at += length
    return runs


PLUGIN = CrossAttention
