"""Beam search: the `beams` likeliest unfinished continuations go on; the best finished one, scaled by length, wins."""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlmlab.generate.decoding import Decoding, DecodingConfig, Ended, Request
from vlmlab.generate.session import Session


@dataclasses.dataclass(frozen=True)
class Config(DecodingConfig):
    """A finished text's score is its log-probability over its length to the power of `length_penalty`."""

    beams: int = 4
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beams < 2:
            raise ValueError(f"beams must be 2 or more, not {self.beams}; for one, use greedy")


@dataclasses.dataclass
class Search:
    """The state of one request: live continuations (score, tokens, best first) and finished ones."""

    request: Request
    live: list[tuple[float, list[int]]]
    finished: list[tuple[float, list[int]]] = dataclasses.field(default_factory=list)
    over: bool = False


class Beam(Decoding):
    """Beam search for every request of a session side by side."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.beams, self.length_penalty = config.beams, config.length_penalty

    @property
    def views(self) -> int:
        """How many rows of a session each request takes."""
        return self.beams

    def run(
        self,
        session: Session,
        logits: Float[Tensor, "b w"],
        requests: Sequence[Request],
        banned: Int[Tensor, " x"],
        ended: Ended,
    ) -> Iterator[Request]:
        """Write every request to its end, yielding it once, when its best text is known."""
        searches = [Search(request, [(0.0, [])]) for request in requests]
        while searches:
            sources, tokens, row = [], [], 0
            scores = self._scores(logits, searches, banned)
            for search in searches:
                count = len(search.live)
                chosen = self._advance(search, scores[row : row + count], ended)
                if search.over:
                    search.request.written[:] = max(search.finished, key=lambda f: f[0])[1]
                    yield search.request
                else:
                    sources += [row + beam for beam, _ in chosen]
                    tokens += [token for _, token in chosen]
                row += count
            searches = [search for search in searches if not search.over]
            if searches:
                session.reorder(sources)
                logits = session.step(tokens)

    def _scores(self, logits: Tensor, searches: Sequence[Search], banned: Tensor) -> Tensor:
        views = [
            dataclasses.replace(search.request, written=tokens) for search in searches for _, tokens in search.live
        ]
        scores = self.prepare(logits.float().log_softmax(-1), views, banned)
        return scores + torch.tensor([[score] for search in searches for score, _ in search.live], device=scores.device)

    def _advance(self, search: Search, scores: Float[Tensor, "b w"], ended: Ended) -> list[tuple[int, int]]:
        """One step of one request: (beam continued, token) of each live continuation, best first."""
        # Enough candidates that `beams` of them go on even if the best of every beam end here.
        values, indices = scores.flatten().topk(min(3 * self.beams, scores.numel()))
        live: list[tuple[float, list[int]]] = []
        chosen: list[tuple[int, int]] = []
        width = scores.shape[1]
        for rank, (score, index) in enumerate(zip(values.tolist(), indices.tolist(), strict=True)):
            beam, token = divmod(index, width)
            tokens = [*search.live[beam][1], token]
            if ended(tokens) or len(tokens) == search.request.limit:
                if rank < self.beams:
                    search.finished.append((score / len(tokens) ** self.length_penalty, tokens))
            elif len(live) < self.beams:
                live.append((score, tokens))
                chosen.append((beam, token))
        search.finished = sorted(search.finished, key=lambda f: -f[0])[: self.beams]
        search.live = live
        full = len(search.finished) == self.beams
        hope = live[0][0] / len(live[0][1]) ** self.length_penalty if live else -torch.inf
        search.over = not live or (full and hope <= search.finished[-1][0])
        return chosen


PLUGIN = Beam
