"""Keys and values of tokens already read, by slot: allocated once, appended in place, rewound, shared."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class Cache:
    """Room for `capacity` tokens in each of `slots` documents, for every decoder layer.

    `lengths[slot]` is how many tokens that slot holds. A pass over the model writes at the end of its slots and the
    language model advances the lengths once, after the last layer. `memory[slot]` is for a fusion that keeps more
    than the decoder's own keys (cross-attention keeps the latest image). A step reads keys in multiples of `grain`:
    above 1 its shapes repeat, and so can be recorded as a graph.
    """

    def __init__(
        self,
        layers: int,
        slots: int,
        capacity: int,
        heads: int,
        width: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        grain: int = 1,
    ) -> None:
        capacity = -(-capacity // grain) * grain
        shape = (layers, slots, heads, capacity, width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = [0] * slots
        self.grain = grain
        self.memory: list[list[Any]] = [[] for _ in range(slots)]

    @property
    def slots(self) -> int:
        """How many documents there is room for."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """How many tokens each slot can hold."""
        return self.keys.shape[3]

    def extent(self, rows: int) -> int:
        """How many keys a step of the first rows reads, the new ones included."""
        longest = max(self.lengths[:rows]) + 1
        return -(-longest // self.grain) * self.grain

    def write(self, layer: int, slot: int, k: Float[Tensor, "n g k"], v: Float[Tensor, "n g k"]) -> None:
        """Put the keys and values of a slot's next tokens behind those it holds."""
        start = self.lengths[slot]
        self.keys[layer, slot, :, start : start + len(k)] = k.transpose(0, 1)
        self.values[layer, slot, :, start : start + len(v)] = v.transpose(0, 1)

    def advance(self, slots: Sequence[int], counts: Sequence[int]) -> None:
        """Count the tokens just written as held."""
        for slot, count in zip(slots, counts, strict=True):
            self.lengths[slot] += count

    def rewind(self, slot: int, length: int = 0) -> None:
        """Forget a slot's tokens from `length` on."""
        if not 0 <= length <= self.lengths[slot]:
            raise ValueError(f"slot {slot} holds {self.lengths[slot]} tokens; cannot rewind it to {length}")
        self.lengths[slot] = length
        self.memory[slot] = [entry for entry in self.memory[slot] if entry[0] < length]

    def copy(self, source: int, target: int, length: int | None = None) -> None:
        """Give `target` the first `length` tokens of `source` (all by default): a shared prefix, or a beam's past."""
        length = self.lengths[source] if length is None else length
        if source != target:
            self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
            self.values[:, target, :, :length] = self.values[:, source, :, :length]
        self.lengths[target] = length
        self.memory[target] = [entry for entry in self.memory[source] if entry[0] < length]

    def swap(self, one: int, other: int) -> None:
        """Let two slots change places, copying no more than they hold."""
        if self.lengths[one] > self.lengths[other]:
            one, other = other, one
        short, long = self.lengths[one], self.lengths[other]
        for held in (self.keys, self.values):
            aside = held[:, one, :, :short].clone()
            held[:, one, :, :long] = held[:, other, :, :long]
            held[:, other, :, :short] = aside
        self.lengths[one], self.lengths[other] = long, short
        self.memory[one], self.memory[other] = self.memory[other], self.memory[one]
