"""Predicting the next token: cross-entropy over the learned positions, in nats."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vlmlab.batch import IGNORE, Batch
from vlmlab.model.vlm import VLM
from vlmlab.train.objectives import Loss, Objective, ObjectiveConfig


@dataclasses.dataclass(frozen=True)
class Config(ObjectiveConfig):
    """`chunk` is how many positions have their logits in memory at a time."""

    chunk: int = 1024

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"chunk must be 1 or more, not {self.chunk}")


class NextToken(Objective):
    """Cross-entropy in fp32. Logits are made for learned positions only, and never for more than a chunk of them."""

    def __init__(self, config: Config) -> None:
        self.chunk = config.chunk

    def weight(self, batch: Batch) -> int:
        """The learned tokens of the batch."""
        return 0 if batch.targets is None else int((batch.targets != IGNORE).sum())

    def __call__(self, model: VLM, batch: Batch, features: Float[Tensor, "p v"] | None = None) -> Loss:
        """The loss of each learned token. Raises ValueError for a batch in which nothing is learned."""
        if batch.targets is None or not self.weight(batch):
            raise ValueError("nothing in this batch is learned: its samples need answers (or learn = everything)")
        targets = batch.targets.flatten()
        rows = (targets != IGNORE).nonzero().flatten()
        targets = targets[rows]

        def losses(hidden: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
            def piece(some: Tensor, wanted: Tensor) -> Tensor:
                return F.cross_entropy(head(some).float(), wanted, reduction="none")

            pieces = list(zip(hidden.split(self.chunk), targets.split(self.chunk), strict=True))
            if len(pieces) == 1:
                return piece(*pieces[0])
            # The logits of a chunk are dropped after use and made again in the backward pass.
            return torch.cat([checkpoint(piece, *some, use_reentrant=False) for some in pieces])

        each = model(batch, rows=rows, then=losses, features=features)
        return Loss(each, batch.segments.flatten()[rows], {})


PLUGIN = NextToken
