"""Objectives: a model and a batch become a loss."""

import dataclasses
from typing import ClassVar, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from vlmlab.batch import Batch
from vlmlab.component import Plugin
from vlmlab.model.vlm import VLM


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Plugin):
    """Base of the configs of objectives."""

    home: ClassVar[str] = "vlmlab.train.objectives"


class Loss(NamedTuple):
    """What a batch costs: one loss for each thing that `weight` counts, and the segment that it belongs to.

    `parts` are named shares of their sum, for the log.
    """

    each: Float[Tensor, " r"]
    segments: Int[Tensor, " r"]
    parts: dict[str, float]


class Objective:
    """An objective: `VLM, Batch -> losses`, summed by the loop so that a step may be computed in several passes.

    The loop divides the sum of the passes by the sum of their weights: a step's loss, and its gradient, do not depend
    on how the step was cut into passes.
    """

    def weight(self, batch: Batch) -> int:
        """How much a batch counts; for a token loss, its learned tokens. Known before its pictures are there."""
        raise NotImplementedError

    def __call__(self, model: VLM, batch: Batch, features: Float[Tensor, "p v"] | None = None) -> Loss:
        """The losses of what `weight` counts, with their gradients, and their named parts (each summed)."""
        raise NotImplementedError
