"""Decoding: how logits become tokens. A plug-in writes the documents of a session to their ends."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlmlab.component import Plugin
from vlmlab.generate.session import Session


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


@dataclasses.dataclass(eq=False)
class Request:
    """One document being written: its prompt's ids, how much may be written, and what has been."""

    prompt: list[int]
    limit: int
    seed: int = 0
    written: list[int] = dataclasses.field(default_factory=list)


Ended = Callable[[list[int]], bool]
"""Whether a document ends with the last of the tokens written so far (an end token, or a stop string)."""


class Decoding:
    """A way of decoding: it fills `written` of every request, starting from the logits after their prompts."""

    def __init__(self, config: DecodingConfig) -> None:
        self.penalty = config.repetition_penalty

    @property
    def views(self) -> int:
        """How many rows of a session each request takes."""
        return 1

    def run(
        self,
        session: Session,
        logits: Float[Tensor, "b w"],
        requests: Sequence[Request],
        banned: Int[Tensor, " x"],
        ended: Ended,
    ) -> Iterator[Request]:
        """Write every request to its end, yielding it each time a token was added. `banned` ids are never produced."""
        active = list(requests)
        while active:
            tokens = self.choose(self.prepare(logits, active, banned), active)
            going = []
            for row, (request, token) in enumerate(zip(active, tokens, strict=True)):
                request.written.append(token)
                if not ended(request.written) and len(request.written) < request.limit:
                    going.append(row)
                yield request
            if not going:
                return
            if len(going) < len(active):
                now = session.keep(going)
                active, tokens = [active[row] for row in now], [tokens[row] for row in now]
            logits = session.step(tokens)

    def prepare(self, scores: Float[Tensor, "b w"], requests: Sequence[Request], banned: Int[Tensor, " x"]) -> Tensor:
        """Scores in fp32 with the banned ids at minus infinity and the repetition penalty applied."""
        scores = scores.float().index_fill(1, banned, -torch.inf)
        if self.penalty != 1.0:
            for row, request in enumerate(requests):
                seen = torch.tensor(sorted({*request.prompt, *request.written}), device=scores.device)
                old = scores[row, seen]
                scores[row, seen] = torch.where(old < 0, old * self.penalty, old / self.penalty)
        return scores

    def choose(self, logits: Float[Tensor, "b w"], requests: Sequence[Request]) -> list[int]:
        """The next token of each request."""
        raise NotImplementedError
