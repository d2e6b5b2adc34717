"""Aligning pictures with their words before a language model reads them: a contrastive loss on the connector's output.

The mean of a picture's visual tokens should be nearer to its own answer than to those of the other pictures of the
batch (InfoNCE in both directions, as CLIP has it). An answer is represented by the language model's own hidden states
after `depth` layers, so that what the connector learns to say is in the words' own space; the language model is not
trained by it. A short stage of this costs little, since no picture passes through the decoder.
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vlmlab.batch import IGNORE, Batch, Images
from vlmlab.model.vlm import VLM
from vlmlab.train.objectives import Objective, ObjectiveConfig


@dataclasses.dataclass(frozen=True)
class Config(ObjectiveConfig):
    """`keep` is the share of each picture's patches that are seen (others are dropped at random, a new draw for each
    batch); similarities are divided by `temperature`.
    """

    depth: int = 8
    temperature: float = 0.07
    keep: float = 0.5

    def __post_init__(self) -> None:
        if self.depth < 0 or self.temperature <= 0 or not 0 < self.keep <= 1:
            raise ValueError(
                "need depth >= 0, temperature > 0 and 0 < keep <= 1, not "
                f"{self.depth}, {self.temperature} and {self.keep}"
            )


class Align(Objective):
    """InfoNCE between the pictures and the answers of a batch whose samples have one picture each."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def weight(self, batch: Batch) -> int:
        """The pictures of the batch."""
        return 0 if batch.images is None else len(batch.images.grid)

    def __call__(
        self, model: VLM, batch: Batch, features: Float[Tensor, "p v"] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The loss summed over pictures, and how many found their own answer. Raises ValueError where a sample does not
        have one picture and one answer.
        """
        if batch.images is None or batch.targets is None:
            raise ValueError("aligning needs samples with a picture and an answer")
        answers = _answers(batch)
        if len(answers) != len(batch.images.grid) or any(not len(answer) for answer in answers):
            raise ValueError(
                f"aligning needs one picture and one answer in each sample; there are {len(answers)} samples with "
                f"{len(batch.images.grid)} pictures"
            )
        seen = self._pictures(model, batch, batch.images, features)
        said = self._words(model, answers)
        alike = torch.tensor([[a == b for b in answers] for a in answers], device=seen.device).float()
        wanted = alike / alike.sum(1, keepdim=True)
        scores = seen @ said.T / self.config.temperature
        both = (F.cross_entropy(way, wanted, reduction="sum") for way in (scores, scores.T))
        loss = torch.stack(list(both)).mean()
        right = alike.gather(1, scores.argmax(1, keepdim=True)).sum()
        return loss, {"found": float(right)}

    def _pictures(
        self, model: VLM, batch: Batch, images: Images, features: Float[Tensor, "p v"] | None
    ) -> Float[Tensor, "n d"]:
        features = model.vision(images) if features is None else features
        draw = torch.Generator().manual_seed(int(batch.tokens.sum()))
        kept, start = [], 0
        for rows, columns in images.sizes():
            count = max(round(self.config.keep * rows * columns), 1)
            kept.append(start + torch.randperm(rows * columns, generator=draw)[:count])
            start += rows * columns
        grid = torch.tensor([[1, len(some)] for some in kept])
        fewer = Images(images.patches.new_zeros(int(grid[:, 1].sum()), 0), grid)
        visual = model.connector(features[torch.cat(kept).to(features.device)], fewer)
        means = [some.mean(0) for some in visual.split(model.count(grid))]
        return F.normalize(torch.stack(means), dim=1)

    @torch.no_grad()
    def _words(self, model: VLM, answers: list[tuple[int, ...]]) -> Float[Tensor, "n d"]:
        device = model.device
        tokens = torch.tensor([[token for answer in answers for token in answer]], device=device)
        segments = torch.tensor([[n for n, answer in enumerate(answers, 1) for _ in answer]], device=device)
        places = torch.tensor([[at for answer in answers for at in range(len(answer))]], device=device)
        reading = model.language.read(Batch(tokens, segments, places))
        stream = model.language.embedding(tokens[0])
        numbers = segments[0] - 1
        if reading.index is not None:
            stream, numbers = stream[reading.index], numbers[reading.index]
        for number, layer in enumerate(model.language.layers[: self.config.depth]):
            stream = layer(stream, reading, number)
        sums = stream.new_zeros(len(answers), stream.shape[1]).index_add(0, numbers, stream)
        means = sums / torch.tensor([[len(answer)] for answer in answers], device=device)
        # Directions that all answers share say nothing about which is which.
        return F.normalize((means - means.mean(0)) / (means.std(0) + 1e-6), dim=1)


def _answers(batch: Batch) -> list[tuple[int, ...]]:
    """What each document of a batch learns to say, without the tokens that end it."""
    assert batch.targets is not None
    found = []
    for targets, segments in zip(batch.targets.tolist(), batch.segments.tolist(), strict=True):
        for number in sorted(set(segments) - {0}):
            said = [t for t, s in zip(targets, segments, strict=True) if s == number and t != IGNORE]
            found.append(tuple(said[:-2]))
    return found


PLUGIN = Align
