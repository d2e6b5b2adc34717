"""A request inside the scheduler: what of it is read, where it stands, what it wrote, and when."""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlmlab.generate.answers import Answer, Cost, Handle, Said, Scored
from vlmlab.generate.bank import Loaded
from vlmlab.generate.decoding import Decoding, Request
from vlmlab.generate.sights import Sight
from vlmlab.generate.slots import Key, Slot
from vlmlab.generate.telling import Telling
from vlmlab.model.vlm import VLM


class Prompt:
    """A prompt as the model reads it: its tokens, and which images stand where.

    `counts` says how many visual tokens each image becomes, `keys` what stands at each position. Under another adapter
    (`under` is its key) no document begins alike.
    """

    def __init__(self, model: VLM, tokens: list[int], sights: Sequence[Sight], under: str = "") -> None:
        self.tokens, self.sights = tokens, list(sights)
        grid = torch.tensor([sight.size for sight in sights]).reshape(-1, 2)
        self.counts = model.count(grid) if sights else []
        self.shares = model.fusion.shares(self.counts)
        image = model.fusion.image_token
        self.seats = [at for at, token in enumerate(tokens) if token == image]
        places = model.fusion.placeholders(self.counts)
        if len(self.seats) != sum(places):
            raise ValueError(f"the prompt has {len(self.seats)} image tokens for pictures that take {sum(places)}")
        self.firsts = [0, *itertools.accumulate(places)]
        self.keys: list[Key] = list(tokens)
        for sight, (first, last) in zip(self.sights, itertools.pairwise(self.firsts), strict=True):
            for seat in self.seats[first:last]:
                self.keys[seat] = sight.key
        if under:
            self.keys[0] = f"{under} {self.keys[0]!r}".encode()
        self.visual: list[Tensor | None] = [None] * len(self.sights)

    def unseen(self, held: int) -> list[int]:
        """The images that must still be looked at, when the first `held` tokens have been read."""
        after = bisect.bisect_left(self.seats, held)
        return [at for at, seen in enumerate(self.visual) if seen is None and self.firsts[at + 1] > after]

    def ready(self, held: int) -> int:
        """How many tokens can be read before an image that must still be looked at."""
        waiting = self.unseen(held)
        return self.seats[self.firsts[waiting[0]]] if waiting else len(self.tokens)

    def part(self, start: int, end: int) -> tuple[Float[Tensor, "l d"] | None, list[int]]:
        """The visual tokens read with the tokens from `start` to `end`, and how many of them each image has."""
        first, last = bisect.bisect_left(self.seats, start), bisect.bisect_left(self.seats, end)
        if first == last:
            return None, []
        counts = self.shares[first:last]
        at = sum(self.shares[:first])
        some: list[Tensor] = []
        begin = 0
        for visual, count in zip(self.visual, self.counts, strict=True):
            low, high = max(at - begin, 0), min(at + sum(counts) - begin, count)
            if low < high:
                assert visual is not None
                some.append(visual[low:high])
            begin += count
        return torch.cat(some), counts

    def forget(self) -> None:
        """Let go of the images: the prompt has been read."""
        self.sights, self.visual = [], []


@dataclasses.dataclass(eq=False)
class Job:
    """One request under way, and the adapter that acts for it.

    `began` counts the prompt tokens it was given by another; None until it may read.
    """

    request: Request
    prompt: Prompt
    decoding: Decoding
    telling: Telling
    handle: Handle
    cost: Cost
    ends: frozenset[int]
    logprobs: int | None = None
    adapter: Loaded | None = None
    slots: list[Slot] = dataclasses.field(default_factory=list)
    live: list[Slot] = dataclasses.field(default_factory=list)
    began: int | None = None
    looked: int = 0
    scored: list[Scored] = dataclasses.field(default_factory=list)
    told: int = 0
    queued: float = 0.0
    admitted: float | None = None
    first: float | None = None

    @property
    def eye(self) -> Loaded | None:
        """The adapter that changes what this request sees in pictures, if its does."""
        return self.adapter if self.adapter is not None and self.adapter.sees else None

    def mask(self, banned: Int[Tensor, " x"], width: int) -> Bool[Tensor, "b w"] | None:
        """What each of its rows may write, if that is constrained. Raises ValueError where nothing is left."""
        if self.request.allowed is None:
            return None
        masks = [self.request.allowed(list(past)) for past in self.decoding.pasts(self.request)]
        if all(mask is None for mask in masks):
            return None
        rows = [torch.ones(width, dtype=torch.bool) if mask is None else mask.cpu() for mask in masks]
        for row in rows:
            if row.dtype != torch.bool or row.shape != (width,):
                raise ValueError(f"allowed gave {row.dtype} {list(row.shape)}; it should give torch.bool [{width}]")
        together = torch.stack(rows).to(banned.device).index_fill(1, banned, False)
        if not bool(together.any(1).all()):
            raise ValueError(f"the constraint leaves no token to write after {len(self.request.written)} tokens")
        return together

    def written(self, logits: Tensor, now: float) -> None:
        """Note and tell what was just written; `logits` [w] are the model's own."""
        self.first = now if self.first is None else self.first
        if self.logprobs is not None:
            logprobs = logits.float().log_softmax(-1)
            best = logprobs.topk(self.logprobs)
            token = self.request.written[-1]
            likeliest = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            self.scored.append(Scored(token, float(logprobs[token]), likeliest))
        self._say(self.telling.hear(self.request.written))

    def answer(self, now: float, cancelled: bool) -> Answer:
        """Say the rest; the answer as it stands."""
        rest, stopped = self.telling.finish()
        self._say(rest)
        written = self.request.written
        reason = "stop" if stopped else "end" if written and written[-1] in self.ends else "length"
        admitted = now if self.admitted is None else self.admitted
        first = now if self.first is None else self.first
        cost = dataclasses.replace(
            self.cost,
            written_tokens=len(written),
            reused_tokens=self.began or 0,
            image_hits=0 if self.first is None else self.cost.images - self.looked,
            queue_seconds=admitted - self.queued,
            prefill_seconds=first - admitted,
            decode_seconds=now - first,
        )
        return Answer(self.telling.text, list(written), "cancelled" if cancelled else reason, cost, tuple(self.scored))

    def _say(self, text: str) -> None:
        if text:
            self.handle.say(Said(text, tuple(self.scored[self.told :])))
            self.told = len(self.scored)


Clock = Callable[[], float]
"""Seconds, from anywhere on."""
