"""Decoding: how logits become tokens. A plug-in says, step by step, how the rows of each request go on."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlmlab.component import Plugin


@dataclasses.dataclass(frozen=True)
class DecodingConfig(Plugin):
    """What every way of decoding has.

    `repetition_penalty` divides the positive scores (and multiplies the negative ones) of every token already in the
    document, prompt included; 1 is none.
    """

    home: ClassVar[str] = "vlmlab.generate.decoding"

    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")


Ended = Callable[[list[int]], bool]
"""Whether a document ends with the last of the tokens written so far (an end token, or a stop string)."""

Allowed = Callable[[list[int]], Tensor | None]
"""Which tokens may follow those written so far: a mask [w], True where one may; None where all may."""


def _never(written: list[int]) -> bool:
    return False


@dataclasses.dataclass(eq=False)
class Request:
    """One document being written: its prompt's ids, how much may be written, where it ends, and what has been."""

    prompt: list[int]
    limit: int
    seed: int = 0
    ended: Ended = _never
    allowed: Allowed | None = None
    written: list[int] = dataclasses.field(default_factory=list)

    def over(self, written: list[int]) -> bool:
        """Whether nothing may follow these tokens."""
        return len(written) >= self.limit or self.ended(written)


Move = tuple[int, int]
"""Which of a request's rows goes on, and with which token."""


class Decoding:
    """A way of decoding: from the logits of a request's rows to the rows that go on. One serves many requests."""

    def __init__(self, config: DecodingConfig) -> None:
        self.penalty = config.repetition_penalty

    @property
    def views(self) -> int:
        """How many rows of a session each request may take; it begins with one."""
        return 1

    def pasts(self, request: Request) -> list[list[int]]:
        """What each of a request's rows has written so far."""
        return [request.written]

    def advance(
        self, logits: Float[Tensor, "b w"], requests: Sequence[Request], banned: Int[Tensor, " x"]
    ) -> list[list[Move]]:
        """One step of each request: how its rows go on, or nothing when it is over; then `written` is what it wrote.

        The rows of each request stand side by side, in the order of the moves it made last. `banned` ids are never
        produced.
        """
        tokens = self.choose(self.prepare(logits, requests, banned), requests)
        moves: list[list[Move]] = []
        for request, token in zip(requests, tokens, strict=True):
            request.written.append(token)
            moves.append([] if request.over(request.written) else [(0, token)])
        return moves

    def prepare(self, scores: Float[Tensor, "b w"], requests: Sequence[Request], banned: Int[Tensor, " x"]) -> Tensor:
        """Scores in fp32 with the banned ids at minus infinity and the repetition penalty applied."""
        scores = scores.float().index_fill(1, banned, -torch.inf)
        if self.penalty != 1.0:
            for row, request in enumerate(requests):
                seen = torch.tensor(sorted({*request.prompt, *request.written}), device=scores.device)
                old = scores[row, seen]
                new = torch.where(old < 0, old * self.penalty, old / self.penalty).nan_to_num()  # finite: no 0/0 later
                scores[row, seen] = torch.where(old.isinf(), old, new)
        return scores

    def choose(self, logits: Float[Tensor, "b w"], requests: Sequence[Request]) -> list[int]:
        """The next token of each request."""
        raise NotImplementedError
