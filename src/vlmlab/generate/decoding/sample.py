"""Sampling: temperature, then the `top_k` most likely, then the smallest set whose probability reaches `top_p`."""

import dataclasses
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from vlmlab.generate.decoding import Decoding, DecodingConfig, Request


@dataclasses.dataclass(frozen=True)
class Config(DecodingConfig):
    """`top_k` = 0 and `top_p` = 1 keep every token."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}; for the likeliest token use greedy")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"top_k must be 0 or more and top_p in (0, 1], not {self.top_k} and {self.top_p}")


class Sample(Decoding):
    """Draw each request's token with a generator of its own, so that company does not change its draws."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        self.generators: WeakKeyDictionary[Request, torch.Generator] = WeakKeyDictionary()

    def choose(self, logits: Float[Tensor, "b w"], requests: Sequence[Request]) -> list[int]:
        """The next token of each request."""
        # Below the largest first, and within what floats can hold: a temperature of 1e-300 must not end in 0/0.
        bounds = torch.finfo(logits.dtype)
        temperature = min(max(self.config.temperature, bounds.tiny), bounds.max)
        logits = logits.clamp(max=bounds.max)
        below = logits - logits.amax(-1, keepdim=True)
        probabilities = self.narrow(below / temperature).softmax(-1).cpu()
        return [
            int(torch.multinomial(row, 1, generator=self._generator(request)))
            for row, request in zip(probabilities, requests, strict=True)
        ]

    def narrow(self, logits: Float[Tensor, "b w"]) -> Float[Tensor, "b w"]:
        """Logits with all but the kept tokens at minus infinity."""
        if self.config.top_k:
            least = logits.topk(min(self.config.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.config.top_p < 1:
            ranked, order = logits.sort(descending=True)
            before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)
            drop = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before >= self.config.top_p)
            logits = logits.masked_fill(drop, -torch.inf)
        return logits

    def _generator(self, request: Request) -> torch.Generator:
        if request not in self.generators:
            self.generators[request] = torch.Generator().manual_seed(request.seed)
        return self.generators[request]


PLUGIN = Sample
