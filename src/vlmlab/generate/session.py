"""Documents being written: one cache, a slot for each document, prefilled in any chunks, then a token at a time."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vlmlab.batch import Batch
from vlmlab.generate.graphs import GRAIN, Steps
from vlmlab.model.vlm import VLM


class Session:
    """One cache, allocated once for `slots` x `capacity` tokens.

    Slots 0, 1, ... up to `rows` are the rows in progress: a step adds one token to each. The others are empty, are
    being read, or hold what a later document may begin with. Slots change places (`join`, `leave`) so that no step
    computes a row that is not in progress, and no step copies the past of one that is.
    """

    def __init__(self, model: VLM, slots: int, capacity: int) -> None:
        self.model = model
        self.cache = model.language.cache(slots, capacity, GRAIN if model.device.type == "cuda" else 1)
        self.steps = Steps(model, self.cache)
        self.rows = 0

    @torch.inference_mode()
    def read(
        self, batch: Batch, visual: Float[Tensor, "l d"] | None, counts: Sequence[int], slots: Sequence[int]
    ) -> Float[Tensor, "b w"]:
        """Read more of the documents in `slots`, one for each row of `batch`; the logits after each one's last token.

        `counts` says how many of the visual tokens belong to each image. A row may be shorter than the batch is wide
        (segment 0), but not empty.
        """
        width = batch.tokens.shape[1]
        lengths = batch.segments.bool().sum(1).tolist()
        last = torch.tensor(
            [row * width + length - 1 for row, length in enumerate(lengths)], device=batch.tokens.device
        )
        return self.model.read(batch, visual, counts, rows=last, cache=self.cache, slots=slots)

    def prefill(
        self, batch: Batch, visual: Float[Tensor, "l d"] | None, counts: Sequence[int], slots: Sequence[int]
    ) -> Float[Tensor, "b w"]:
        """Read whole prompts into the first slots: they are rows in progress from here on."""
        logits = self.read(batch, visual, counts, slots)
        self.rows = max(self.rows, *(slot + 1 for slot in slots))
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], under: str | None = "") -> Float[Tensor, "b w"]:
        """Add one token to each row; the logits of what follows.

        `under` names the model as it is now, for steps that are recorded: its adapter, or None for one of many states.
        """
        assert len(tokens) == self.rows
        return self.steps(tokens, under)

    @torch.inference_mode()
    def step_some(self, rows: Sequence[int], tokens: Sequence[int]) -> Float[Tensor, "b w"]:
        """Add one token to some rows; the logits of what follows in each."""
        device = self.model.device
        ids, places = (
            torch.tensor(some, device=device)[:, None] for some in (tokens, [self.cache.lengths[row] for row in rows])
        )
        batch = Batch(ids, torch.ones_like(ids), places)
        return self.read(batch, None, [], rows)

    def join(self, slot: int) -> int:
        """Make the document in `slot` a row in progress. Returns its slot now: what stood there stands in `slot`."""
        assert slot >= self.rows
        self.rows += 1
        return self._swap(slot, self.rows - 1)

    def leave(self, row: int) -> int:
        """Let a row rest. Returns its slot now: what stood there is the row `row`."""
        assert row < self.rows
        self.rows -= 1
        return self._swap(row, self.rows)

    def _swap(self, slot: int, place: int) -> int:
        if slot != place:
            self.cache.swap(slot, place)
        return place
