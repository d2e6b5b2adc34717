"""Beam search: the `beams` likeliest unfinished continuations go on; the best finished one, scaled by length, wins."""

import dataclasses
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlmlab.generate.decoding import Decoding, DecodingConfig, Move, Request


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

    live: list[tuple[float, list[int]]]
    finished: list[tuple[float, list[int]]] = dataclasses.field(default_factory=list)
    over: bool = False


class Beam(Decoding):
    """Beam search, for every request a search of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.beams, self.length_penalty = config.beams, config.length_penalty
        self.searches: WeakKeyDictionary[Request, Search] = WeakKeyDictionary()

    @property
    def views(self) -> int:
        """How many rows of a session each request may take; it begins with one."""
        return self.beams

    def pasts(self, request: Request) -> list[list[int]]:
        """The live continuations of a request, best first."""
        return [tokens for _, tokens in self._search(request).live]

    def advance(
        self, logits: Float[Tensor, "b w"], requests: Sequence[Request], banned: Int[Tensor, " x"]
    ) -> list[list[Move]]:
        """One step of each search; a request's text is known, and written, when its search is over."""
        views = [dataclasses.replace(request, written=tokens) for request in requests for tokens in self.pasts(request)]
        before = [[score] for request in requests for score, _ in self._search(request).live]
        scores = self.prepare(logits.float().log_softmax(-1), views, banned)
        scores = scores + torch.tensor(before, device=scores.device)
        moves: list[list[Move]] = []
        row = 0
        for request in requests:
            search = self._search(request)
            count = len(search.live)
            chosen = self._extend(request, search, scores[row : row + count])
            row += count
            if search.over:
                request.written[:] = max(search.finished, key=lambda f: f[0])[1]
            moves.append([] if search.over else chosen)
        return moves

    def _search(self, request: Request) -> Search:
        if request not in self.searches:
            self.searches[request] = Search([(0.0, [])])
        return self.searches[request]

    def _extend(self, request: Request, search: Search, scores: Float[Tensor, "b w"]) -> list[Move]:
        """The continuations of one request that go on, best first."""
        # Enough candidates that `beams` of them go on even if the best of every beam end here.
        values, indices = scores.flatten().topk(min(3 * self.beams, scores.numel()))
        live: list[tuple[float, list[int]]] = []
        chosen: list[Move] = []
        width = scores.shape[1]
        for rank, (score, index) in enumerate(zip(values.tolist(), indices.tolist(), strict=True)):
            if score == -torch.inf:  # what may not be written
                break
            beam, token = divmod(index, width)
            tokens = [*search.live[beam][1], token]
            if request.over(tokens):
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
