"""How likely a model finds given answers: a prompt is read once, then all its answers together."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vlmlab.batch import IGNORE, Batch, Images
from vlmlab.model.cache import Cache
from vlmlab.model.vlm import VLM
from vlmlab.train.parallel import sharded
from vlmlab.train.prepare import Prepared


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What stands before an answer, and its pictures."""

    tokens: Int[Tensor, " t"]
    images: Images | None = None
    features: Float[Tensor, "p v"] | None = None


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer's tokens, and which of them its likelihood is over."""

    tokens: Int[Tensor, " t"]
    counts: Bool[Tensor, " t"]

    @property
    def learned(self) -> int:
        """How many tokens its likelihood is over."""
        return int(self.counts.sum())


def cut(sample: Prepared) -> tuple[Prompt, Reply]:
    """A sample as its prompt and its reply, from the first to the last learned token.

    Raises ValueError when nothing in it is learned, or nothing stands before that.
    """
    found = (sample.targets != IGNORE).nonzero().flatten().tolist()
    if not found:
        raise ValueError("the sample has no answer")
    first, last = found[0], found[-1]
    prompt = Prompt(sample.tokens[: first + 1], sample.images, sample.features)
    # Targets are shifted: position t holds the token after it.
    said = torch.cat([sample.tokens[first + 1 : last + 1], sample.targets[last : last + 1]])
    return prompt, Reply(said, sample.targets[first : last + 1] != IGNORE)


@torch.no_grad()
def likelihoods(
    model: VLM, prompts: Sequence[Prompt], replies: Sequence[Sequence[Reply]], together: int = 8
) -> list[list[float]]:
    """The log-probability (nats, summed over its tokens) of each of a prompt's replies, for every prompt.

    Prompts are read `together` at a time, pictures once each; every reply continues a copy of its prompt's cache. Where
    a model is sharded, all its processes call this with the same.
    """
    found: list[list[float]] = []
    # Weights that were gathered in inference mode could not be gathered again to learn.
    with contextlib.nullcontext() if sharded(model) else torch.inference_mode():
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
    firsts_of = _read(model, [prompts[at] for at in kept], cache, [firsts[at] for at in kept])
    for at in kept:
        for other in range(1, len(replies[at])):
            cache.copy(firsts[at], firsts[at] + other)
    owners = torch.tensor([row for row, at in enumerate(kept) for _ in replies[at]])
    opening = torch.stack([reply.tokens[0] for reply in every])
    scores = (_score(model, every, cache) + firsts_of[owners, opening]).tolist()
    return [scores[first : first + len(some)] for first, some in zip(firsts, replies, strict=True)]


def _read(model: VLM, prompts: Sequence[Prompt], cache: Cache, slots: Sequence[int]) -> Float[Tensor, "s w"]:
    """Read prompts into slots. Returns the log-probabilities of what follows each."""
    images = Images.join([p.images for p in prompts if p.images is not None])
    known = [p.features for p in prompts if p.features is not None]
    tokens, segments = _rows([p.tokens for p in prompts], 0)
    width = tokens.shape[1]
    batch = Batch(tokens, segments, torch.arange(width).expand_as(tokens).contiguous(), None, images)
    batch = batch.to(model.device, model.dtype)
    visual = None
    if batch.images is not None:
        features = torch.cat(known).to(model.device, model.dtype) if known else None
        visual = model.see(batch.images, features)
    last = torch.tensor([at * width + len(p.tokens) - 1 for at, p in enumerate(prompts)], device=model.device)
    logits = model.read(batch, visual, rows=last, cache=cache, slots=slots)
    return logits.float().log_softmax(-1).double().cpu()


def _score(model: VLM, replies: Sequence[Reply], cache: Cache) -> Float[Tensor, " s"]:
    """The log-probability of each reply's tokens behind its first, which continue the slots of the cache."""
    tokens, segments = _rows([r.tokens for r in replies], 0)
    ahead = [torch.where(r.counts[1:], r.tokens[1:], IGNORE) for r in replies]
    targets, _ = _rows([F.pad(some, (0, 1), value=IGNORE) for some in ahead], IGNORE)
    starts = torch.tensor(cache.lengths[: len(replies)])
    positions = starts[:, None] + torch.arange(tokens.shape[1])
    batch = Batch(tokens, segments, positions, targets).to(model.device)
    learned = (targets != IGNORE).nonzero()
    rows = (learned[:, 0] * tokens.shape[1] + learned[:, 1]).to(model.device)
    wanted = targets[targets != IGNORE].to(model.device)

    def losses(hidden: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
        pieces = zip(hidden.split(512), wanted.split(512), strict=True)
        return torch.cat([F.cross_entropy(head(some).float(), right, reduction="none") for some, right in pieces])

    lost = model.read(batch, rows=rows, cache=cache, slots=list(range(len(replies))), then=losses)
    return -torch.zeros(len(replies), dtype=torch.float64).index_add(0, learned[:, 0], lost.double().cpu())


def _rows(pieces: Sequence[Int[Tensor, " _"]], fill: int) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Pieces of different lengths as rows, filled up at the end, and where they are real (1) or not (0)."""
    width = max(len(piece) for piece in pieces)
    rows = torch.stack([F.pad(piece, (0, width - len(piece)), value=fill) for piece in pieces])
    real = torch.tensor([[int(at < len(piece)) for at in range(width)] for piece in pieces])
    return rows, real
