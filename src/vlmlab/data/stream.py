"""The stream of samples: which sample stands at which place is a function of the seed and the place alone.

A place is a number from 0. Sources are interleaved by exact shares: after any number of places each source has come
within two samples of its share of them. The samples of a source come in passes, each a permutation of its own, so that
every one is drawn once before any is drawn again. Nothing is kept between places: the sample at place 10 million is
found in the same time as the first.
"""

import dataclasses
import hashlib
import heapq
import itertools
import json
import zlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

LARGE = 1 << 24
"""Samples of a source beyond which its permutations are computed place by place instead of being held in memory."""

REACH = 1000
"""How many samples before and after a place its digest is over."""


class Draw(NamedTuple):
    """A sample as it is drawn: its source, its number there, and the pass over that source that it belongs to."""

    source: str
    number: int
    turn: int

    def __str__(self) -> str:
        return f"{self.source} sample {self.number}" if self.source else f"sample {self.number}"


@dataclasses.dataclass(frozen=True)
class _Fork:
    """Where the stream parts: `share` of what arrives goes left. The share is exact."""

    share: Fraction
    left: "_Fork | str"
    right: "_Fork | str"

    def gone_left(self, count: int) -> int:
        """How many of the first `count` arrivals went left: their share, rounded to the nearest."""
        return (2 * count * self.share.numerator + self.share.denominator) // (2 * self.share.denominator)


class Order:
    """The order of the samples of one source or several.

    `lengths` is how many samples each source has, by name. `shares` are exact and add up to 1; a source of a single
    name needs none. Raises ValueError for a source without samples.
    """

    def __init__(self, seed: int, lengths: Mapping[str, int], shares: Mapping[str, Fraction] | None = None) -> None:
        self.seed, self.lengths = seed, dict(lengths)
        self.shares = dict(shares or {name: Fraction(1, len(lengths)) for name in lengths})
        for name, length in self.lengths.items():
            if length < 1:
                raise ValueError(f"the source {name!r} has no samples" if name else "the source has no samples")
        if self.shares.keys() != self.lengths.keys() or sum(self.shares.values()) != 1 or min(self.shares.values()) < 0:
            raise ValueError(f"the shares must be those of {', '.join(self.lengths)}, and add up to 1")
        self.root = _tree({name: share for name, share in self.shares.items() if share})
        self.permutations: dict[tuple[str, int], np.ndarray[Any, Any]] = {}

    def __getitem__(self, place: int) -> Draw:
        """The sample at a place."""
        node = self.root
        while isinstance(node, _Fork):
            before = node.gone_left(place)
            goes_left = node.gone_left(place + 1) > before
            node, place = (node.left, before) if goes_left else (node.right, place - before)
        turn, at = divmod(place, self.lengths[node])
        return Draw(node, self._permuted(node, turn, range(at, at + 1))[0], turn)

    def given(self, places: int) -> dict[str, int]:
        """How many of the first so many places each source has."""
        found = dict.fromkeys(self.lengths, 0)
        waiting: list[tuple[_Fork | str, int]] = [(self.root, places)]
        while waiting:
            node, count = waiting.pop()
            if isinstance(node, _Fork):
                left = node.gone_left(count)
                waiting += [(node.left, left), (node.right, count - left)]
            else:
                found[node] = count
        return found

    def digest(self, place: int) -> str:
        """A hash of the samples around a place: the last 1,000 before it and the next 1,000."""
        start, end = self.given(max(place - REACH, 0)), self.given(place + REACH)
        ids = {name: self._stretch(name, start[name], end[name]) for name in self.lengths}
        return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]

    def state(self, place: int) -> dict[str, Any]:
        """What a checkpoint at a place remembers of the order, as plain data; see `check`."""
        return {
            "place": place,
            "seed": self.seed,
            "lengths": self.lengths,
            "shares": {name: str(share) for name, share in self.shares.items()},
            "digest": self.digest(place),
        }

    def check(self, state: Mapping[str, Any], place: int) -> None:
        """Raise ValueError, saying what changed, unless the state of a checkpoint at `place` is of this order."""
        own = self.state(place)
        for key, what in (("seed", "the seed"), ("place", "the samples drawn before this step")):
            if state[key] != own[key]:
                raise ValueError(f"{what} changed from {state[key]} to {own[key]}: this is another order of samples")
        for key, what in (("lengths", "samples"), ("shares", "share")):
            for name in sorted(state[key].keys() | own[key].keys()):
                before, now = state[key].get(name, "none"), own[key].get(name, "none")
                if before != now:
                    raise ValueError(
                        f"the source {name!r} changed, {what}: {before} then, {now} now; this is another order"
                    )
        if state["digest"] != own["digest"]:
            raise ValueError("the same recipe gives other samples than before: was numpy changed? Use the version then")

    def _stretch(self, name: str, start: int, end: int) -> list[int]:
        """The samples of one source from one of its places to another, whatever passes they are in."""
        length, found = self.lengths[name], []
        while start < end:
            turn, at = divmod(start, length)
            stop = min(length, at + end - start)
            found += self._permuted(name, turn, range(at, stop))
            start += stop - at
        return found

    def _permuted(self, name: str, turn: int, places: range) -> list[int]:
        """The samples at some places of a pass over a source."""
        length = self.lengths[name]
        # Of one source alone the name says nothing; of several, none may follow another's order.
        key = (self.seed, turn) if len(self.lengths) == 1 else (self.seed, turn, zlib.crc32(name.encode()))
        if length > LARGE:
            return [scattered(at, length, key) for at in places]
        if (name, turn) not in self.permutations:
            while len(self.permutations) > 2 * len(self.lengths):
                self.permutations.pop(next(iter(self.permutations)))
            # Not torch's generator: it keeps only 32 bits of a seed, too few for two numbers.
            drawn = np.random.default_rng(key).permutation(length)
            self.permutations[name, turn] = drawn.astype(np.uint32)
        found: list[int] = self.permutations[name, turn][places.start : places.stop].tolist()
        return found


def _tree(shares: Mapping[str, Fraction]) -> _Fork | str:
    """Forks of nearly equal sides where there can be any: the smallest two are joined, again and again.

    That keeps rounding from adding up: each fork rounds by half a sample, of which deeper ones inherit their share.
    """
    count = itertools.count()
    heap: list[tuple[Fraction, int, _Fork | str]] = [(share, next(count), name) for name, share in shares.items()]
    heapq.heapify(heap)
    while len(heap) > 1:
        small, _, left = heapq.heappop(heap)
        large, _, right = heapq.heappop(heap)
        heapq.heappush(heap, (small + large, next(count), _Fork(small / (small + large), left, right)))
    return heap[0][2]


def scattered(at: int, length: int, key: tuple[int, ...]) -> int:
    """Where a permutation of `length` numbers, one for each key, takes the number `at`; nothing is held in memory.

    A Feistel network over the next power of four, walked until it lands inside (Black and Rogaway, 2002).
    """
    half = ((length - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    salt = ",".join(map(str, key)).encode()
    while True:
        left, right = at >> half, at & mask
        for number in range(6):
            told = hashlib.blake2b(b"%d,%d" % (number, right), key=salt[:64], digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(told, "little") & mask)
        at = left << half | right
        if at < length:
            return at


def windows(step: int, batch: int, window: int, rank: int = 0, world: int = 1) -> list[range]:
    """The places of a step's windows that fall to one of `world` ranks: they are dealt in turn.

    A window's packs depend on nothing outside it, so a step holds the same ones at any number of ranks. `batch` must be
    a multiple of `window`.
    """
    start = step * batch
    return [range(start + at, start + at + window) for at in range(rank * window, batch, world * window)]
