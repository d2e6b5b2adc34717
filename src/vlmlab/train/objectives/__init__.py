"""Objectives: a model and a batch become a loss."""

import dataclasses
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from vlmlab.batch import Batch
from vlmlab.component import Plugin
from vlmlab.model.vlm import VLM


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Plugin):
    """Base of the configs of objectives."""

    home: ClassVar[str] = "vlmlab.train.objectives"


class Objective:
    """An objective: `VLM, Batch -> loss, parts`, summed so that a step may be computed in several passes.

    The loop divides the sum of the passes by the sum of their weights: a step's loss, and its gradient, do not depend
    on how the step was cut into passes.
    """

    def weight(self, batch: Batch) -> int:
        """How much a batch counts, known before it is computed; for a token loss, its learned tokens."""
        raise NotImplementedError

    def __call__(
        self, model: VLM, batch: Batch, features: Float[Tensor, "p v"] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The loss summed over what `weight` counts, and its named parts (each summed) for the log."""
        raise NotImplementedError
