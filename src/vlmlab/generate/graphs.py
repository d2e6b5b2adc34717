"""Decoding steps as CUDA graphs: a step's work is recorded once for each shape, then replayed without its overhead."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlmlab.batch import Batch
from vlmlab.model.cache import Cache
from vlmlab.model.vlm import VLM

GRAIN = 256
"""Keys are read in multiples of this many on a GPU, so that the shapes of a step repeat and can be recorded."""


class Step:
    """One step of up to `rows` rows over a number of keys, in buffers that stay where they are.

    With fewer, the slots behind them are computed too, and not counted: each writes where its next token will.
    """

    def __init__(self, model: VLM, cache: Cache, rows: int) -> None:
        self.model, self.cache, self.used = model, cache, rows
        self.tokens = torch.zeros(rows, 1, dtype=torch.long, device=model.device)
        self.positions = torch.zeros_like(self.tokens)
        self.ones = torch.ones_like(self.tokens)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits: Tensor | None = None

    def load(self, tokens: Sequence[int]) -> None:
        """Put the next tokens, and their places, into the buffers."""
        self.used, rows = len(tokens), len(self.tokens)
        assert max(self.cache.lengths[:rows]) < self.cache.capacity
        self.tokens.copy_(torch.tensor([*tokens, *[0] * (rows - self.used)])[:, None])
        self.positions.copy_(torch.tensor(self.cache.lengths[:rows])[:, None])

    def run(self) -> Float[Tensor, "b w"]:
        """The step itself, without counting its tokens as held: a recorded step counts them at every replay."""
        held, rows = list(self.cache.lengths), len(self.tokens)
        # How many keys are read is for the rows that count to say, however much the slots behind them hold.
        self.cache.lengths[self.used : rows] = [0] * (rows - self.used)
        try:
            return self.model.read(Batch(self.tokens, self.ones, self.positions), cache=self.cache)[:, 0]
        finally:
            self.cache.lengths = held

    def record(self, pool: Any) -> None:
        """Run the step as warm-up, then record it. Writing the same keys again changes nothing.

        Steps share the memory `pool`: no two run at once, and none keeps a result there for longer than its replay.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.run()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.logits = self.run()

    def replay(self) -> Float[Tensor, "b w"]:
        """The logits of the tokens in the buffers."""
        assert self.graph is not None and self.logits is not None
        self.graph.replay()
        return self.logits[: self.used].clone()


class Steps:
    """The steps of a session: on a GPU each shape is recorded when it first comes; elsewhere they simply run.

    So that shapes repeat while requests come and go, a recorded step has 1, 2, 4, 8, ... rows, or all slots.
    """

    def __init__(self, model: VLM, cache: Cache) -> None:
        self.model, self.cache = model, cache
        self.recorded: dict[tuple[int, int, str], Step] = {}
        self.pool: Any = None

    def __call__(self, tokens: Sequence[int], under: str | None = "") -> Float[Tensor, "b w"]:
        """Add one token to each of the first rows; the logits of what follows.

        A step is recorded for each adapter that the model is `under`, and not at all for None.
        """
        rows = len(tokens)
        if under is None or self.model.device.type != "cuda" or not self.model.fusion.recordable:
            step = Step(self.model, self.cache, rows)
            step.load(tokens)
            logits = step.run()
        else:
            shape = (min(1 << (rows - 1).bit_length(), self.cache.slots), self.cache.extent(rows), under)
            step = self.recorded.get(shape) or Step(self.model, self.cache, shape[0])
            step.load(tokens)
            if step.graph is None:
                self.pool = self.pool or torch.cuda.graph_pool_handle()
                step.record(self.pool)
                self.recorded[shape] = step
            logits = step.replay()
        self.cache.advance(range(rows), [1] * rows)
        return logits

    def forget(self, under: str) -> None:
        """Drop the steps recorded under an adapter that is let go."""
        self.recorded = {shape: step for shape, step in self.recorded.items() if shape[2] != under}
