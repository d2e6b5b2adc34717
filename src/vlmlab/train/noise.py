"""NEFTune: noise on the embeddings of the text while training (Jain et al., 2024; the paper's section 4.2).

Uniform within alpha / sqrt(t d), for a sample of t tokens and embeddings of width d. Of each sample it depends on which
one it is and how often it came before, not on its company.
"""

import contextlib
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlmlab.data.stream import Draw
from vlmlab.model.vlm import VLM


class Place(NamedTuple):
    """Whose tokens stand next: a draw, which piece of it, and how many there are."""

    draw: Draw
    number: int
    length: int


def seeded(place: Place, seed: int) -> None:
    """Seed torch's generator for the dropout of a pass, by the first sample in it: whoever computes it, and when."""
    draw = place.draw
    numbers = (seed, zlib.crc32(draw.source.encode()), draw.number, draw.turn, place.number, 1)
    torch.manual_seed(int(np.random.default_rng(numbers).integers(1 << 63)))


def drawn(places: Sequence[Place], width: int, alpha: float, seed: int) -> Float[Tensor, "t d"]:
    """The noise of samples laid end to end."""
    found = []
    for draw, number, length in places:
        generator = np.random.default_rng((seed, zlib.crc32(draw.source.encode()), draw.number, draw.turn, number))
        bound = alpha / math.sqrt(length * width)
        found.append((generator.random((length, width), dtype=np.float32) * 2 - 1) * np.float32(bound))
    return torch.from_numpy(np.concatenate(found))


@contextlib.contextmanager
def noised(model: VLM, noise: Float[Tensor, "t d"] | None) -> Iterator[None]:
    """While inside, the text is embedded with noise (None: without); visual tokens take their seats over it."""
    if noise is None:
        yield
        return

    def add(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + noise.to(output.device, output.dtype)

    handle = model.language.embedding.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
