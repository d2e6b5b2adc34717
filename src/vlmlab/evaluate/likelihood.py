"""How likely a model finds given answers: a prompt is read once, then all its answers together."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vlmlab.batch import IGNORE, Batch, Images
from vlmlab.model.cache import Cache
from vlmlab.model.vlm import VLM
from vlmlab.train.prepare import Prepared


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What stands before an answer, without its last token (which the answer begins with), and its pictures."""

    tokens: Int[Tensor, " t"]
    images: Images | None = None
    features: Float[Tensor, "p v"] | None = None


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer's tokens behind the last token of its prompt, and what each must predict."""

    tokens: Int[Tensor, " t"]
    targets: Int[Tensor, " t"]

    @property
    def learned(self) -> int:
        """How many tokens its likelihood is over."""
        return int((self.targets != IGNORE).sum())


def cut(sample: Prepared) -> tuple[Prompt, Reply]:
    """A sample as its prompt and its reply. Raises ValueError when nothing in it is an answer."""
    start = sample.answer() - 1
    if start >= len(sample.tokens) - 1:
        raise ValueError("the sample has no answer")
    end = int((sample.targets != IGNORE).nonzero()[-1]) + 1
    if start < 1:
        raise ValueError("the answer has no prompt before it")
    prompt = Prompt(sample.tokens[:start], sample.images, sample.features)
    return prompt, Reply(sample.tokens[start:end], sample.targets[start:end])


@torch.inference_mode()
def likelihoods(
    model: VLM, prompts: Sequence[Prompt], replies: Sequence[Sequence[Reply]], together: int = 8
) -> list[list[float]]:
    """The log-probability (nats, summed over its tokens) of each of a prompt's replies, for every prompt.

    Prompts are read `together` at a time, pictures once each; every reply continues a copy of its prompt's cache.
    """
    found: list[list[float]] = []
    for start in range(0, len(prompts), together):
        found += _group(model, prompts[start : start + together], replies[start : start + together])
    return found


def _group(model: VLM, prompts: Sequence[Prompt], replies: Sequence[Sequence[Reply]]) -> list[list[float]]:
    every = [reply for some in replies for reply in some]
    longest = max(len(p.tokens) for p in prompts) + max((len(r.tokens) for r in every), default=0)
    # A prompt is read into the slot of its first reply, and copied into those of its others.
    firsts = [sum(len(some) for some in replies[:at]) for at in range(len(prompts))]
    cache = model.language.cache(max(len(every), len(prompts)), longest)
    kept = [at for at, some in enumerate(replies) if some]
    if not kept:
        return [[] for _ in prompts]
    _read(model, [prompts[at] for at in kept], cache, [firsts[at] for at in kept])
    for at in kept:
        for other in range(1, len(replies[at])):
            cache.copy(firsts[at], firsts[at] + other)
    scores = _score(model, every, cache)
    return [scores[first : first + len(some)] for first, some in zip(firsts, replies, strict=True)]


def _read(model: VLM, prompts: Sequence[Prompt], cache: Cache, slots: Sequence[int]) -> None:
    images = Images.join([p.images for p in prompts if p.images is not None])
    known = [p.features for p in prompts if p.features is not None]
    tokens, segments = _rows([p.tokens for p in prompts], 0)
    batch = Batch(tokens, segments, torch.arange(tokens.shape[1]).expand_as(tokens).contiguous(), None, images)
    batch = batch.to(model.device, model.dtype)
    visual = None
    if batch.images is not None:
        features = torch.cat(known).to(model.device, model.dtype) if known else None
        visual = model.see(batch.images, features)
    # No logits are wanted here: the head is given no rows.
    model.read(batch, visual, rows=torch.zeros(0, dtype=torch.long, device=model.device), cache=cache, slots=slots)


def _score(model: VLM, replies: Sequence[Reply], cache: Cache) -> list[float]:
    tokens, segments = _rows([r.tokens for r in replies], 0)
    targets, _ = _rows([r.targets for r in replies], IGNORE)
    starts = torch.tensor(cache.lengths[: len(replies)])
    positions = starts[:, None] + torch.arange(tokens.shape[1])
    batch = Batch(tokens, segments, positions, targets).to(model.device)
    learned = (targets != IGNORE).nonzero()
    rows = (learned[:, 0] * tokens.shape[1] + learned[:, 1]).to(model.device)
    wanted = targets[targets != IGNORE].to(model.device)

    def losses(hidden: Tensor, head) -> Tensor:
        pieces = zip(hidden.split(512), wanted.split(512), strict=True)
        return torch.cat([F.cross_entropy(head(some).float(), right, reduction="none") for some, right in pieces])

    lost = model.read(batch, rows=rows, cache=cache, slots=list(range(len(replies))), then=losses)
    return (-torch.zeros(len(replies), dtype=torch.float64).index_add(0, learned[:, 0], lost.double().cpu())).tolist()


def _rows(pieces: Sequence[Int[Tensor, " _"]], fill: int) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Pieces of different lengths as rows, filled up at the end, and where they are real (1) or not (0)."""
    width = max(len(piece) for piece in pieces)
    rows = torch.stack([F.pad(piece, (0, width - len(piece)), value=fill) for piece in pieces])
    real = torch.tensor([[int(at < len(piece)) for at in range(width)] for piece in pieces])
    return rows, real
