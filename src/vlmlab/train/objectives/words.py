"""Words of a text among its pictures' visual tokens: a quick start for a connector, in which no decoder takes part.

Not of the paper. A decoder that has never seen a picture first learns to pass over visual tokens, and a connector gets
hardly any gradient until some of them mean something to it. What it can read from the start is embeddings of words. So
each visual token is asked which word of the vocabulary it is nearest to, and each word that is learned should be what
one of its pictures' tokens says: with p(w) the mean over them of softmax(cos(token, word) / temperature), the loss is
-log p(w). Nothing is said of their order.
"""

import dataclasses
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vlmlab.batch import IGNORE, Batch
from vlmlab.model.vlm import VLM
from vlmlab.train.objectives import Loss, Objective, ObjectiveConfig


@dataclasses.dataclass(frozen=True)
class Config(ObjectiveConfig):
    """`temperature` of the cosines; `others`, one in so many words of the vocabulary that a batch does not have."""

    temperature: float = 0.05
    others: int = 16

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.others < 1:
            raise ValueError("needs a temperature above 0, and others of 1 or more")


class Words(Objective):
    """What each word costs that its pictures should have said."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def weight(self, batch: Batch) -> int:
        """The learned tokens of the batch."""
        return 0 if batch.targets is None else int((batch.targets != IGNORE).sum())

    def __call__(self, model: VLM, batch: Batch, features: Float[Tensor, "p v"] | None = None) -> Loss:
        """The loss of each learned token. Raises ValueError for a text that has no picture."""
        assert batch.targets is not None
        targets, segments = batch.targets.flatten(), batch.segments.flatten()
        rows = (targets != IGNORE).nonzero().flatten()
        owners = segments[batch.tokens.flatten() == model.config.fusion.image_token]
        lonely = ~torch.isin(segments[rows], owners)
        if batch.images is None or bool(lonely.any()):
            raise ValueError("the objective `words` needs a picture in every sample")
        visual = model.see(batch.images, features)
        if len(visual) != len(owners):
            raise ValueError("the objective `words` needs a fusion that puts visual tokens among the words")
        words, place = self._words(model, targets[rows])
        log = F.log_softmax(self._cosines(model, visual, words) / self.config.temperature, 1)
        # Tokens of other pictures say nothing about this text.
        said = log[:, place].T.masked_fill(owners[None] != segments[rows][:, None], -math.inf)
        number = (owners[None] == segments[rows][:, None]).sum(1)
        each = number.log() - said.logsumexp(1)
        return Loss(each, segments[rows], {})

    def _words(self, model: VLM, wanted: Int[Tensor, " r"]) -> tuple[Int[Tensor, " w"], Int[Tensor, " r"]]:
        """The words that tokens choose among, in order, and where those that are wanted stand among them."""
        every = torch.arange(0, model.config.language.vocabulary, self.config.others, device=wanted.device)
        words = torch.cat([every, wanted]).unique()
        return words, torch.searchsorted(words, wanted)

    def _cosines(self, model: VLM, visual: Float[Tensor, "l d"], words: Int[Tensor, " w"]) -> Float[Tensor, "l w"]:
        """How near each visual token is to each word. What all words share tells nothing and is left out."""
        with torch.no_grad():
            table = model.language.embedding.weight
            mean = table.mean(0, dtype=torch.float32)
            near = F.normalize(table[words].float() - mean, dim=1)
        return F.normalize(visual.float() - mean, dim=1) @ near.T


PLUGIN = Words
