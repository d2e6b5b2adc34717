"""Documents being written: one cache, one row for each document, prefilled once and extended a token at a time."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vlmlab.batch import Batch
from vlmlab.generate.graphs import GRAIN, Steps
from vlmlab.model.vlm import VLM


class Session:
    """The rows in progress stand in slots 0, 1, ... of one cache, allocated once for `rows` x `capacity` tokens.

    Rows that end are dropped by `keep`, which moves the last rows into their slots: no step computes a row that has
    ended, and no step copies the past of one that goes on.
    """

    def __init__(self, model: VLM, rows: int, capacity: int) -> None:
        self.model = model
        self.cache = model.language.cache(rows, capacity, GRAIN if model.device.type == "cuda" else 1)
        self.steps = Steps(model, self.cache)
        self.rows = 0

    @torch.inference_mode()
    def prefill(
        self, batch: Batch, visual: Float[Tensor, "l d"] | None, counts: Sequence[int], slots: Sequence[int]
    ) -> Float[Tensor, "b w"]:
        """Read prompts, one for each row of `batch`, into `slots`; the logits after each prompt's last token."""
        width = batch.tokens.shape[1]
        lengths = batch.segments.bool().sum(1).tolist()
        last = torch.tensor(
            [row * width + length - 1 for row, length in enumerate(lengths)], device=batch.tokens.device
        )
        logits = self.model.read(batch, visual, counts, rows=last, cache=self.cache, slots=slots)
        self.rows = max(self.rows, *(slot + 1 for slot in slots))
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Float[Tensor, "b w"]:
        """Add one token to each row; the logits of what follows."""
        assert len(tokens) == self.rows
        return self.steps(tokens)

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Go on with only these rows. Returns which former row each row now is, from the first."""
        kept = sorted(rows)
        places = [row if row < len(kept) else None for row in kept]
        holes = [slot for slot in range(len(kept)) if slot not in kept]
        now: list[int] = list(range(len(kept)))
        for row, place in zip(kept, places, strict=True):
            if place is None:
                slot = holes.pop()
                self.cache.copy(row, slot)
                now[slot] = row
        self.rows = len(kept)
        return now

    def reorder(self, sources: Sequence[int]) -> None:
        """Let row i continue the past of row `sources[i]`, for as many rows as `sources` has."""
        if list(sources) != list(range(self.rows)):
            self.cache.reorder(sources)
        self.rows = len(sources)
