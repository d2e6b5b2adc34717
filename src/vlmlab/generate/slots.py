"""Slots of the cache: who has which, and which prefixes they hold that a new request may begin with."""

import dataclasses
import itertools
from collections.abc import Sequence

from vlmlab.generate.session import Session

Key = int | bytes
"""What stands at one position of a document: a token's id, or the fingerprint of the picture it belongs to.

Documents with equal keys up to a position have equal keys and values up to it.
"""

WORTH = 16
"""The fewest tokens that are worth copying."""


@dataclasses.dataclass(eq=False)
class Slot:
    """One slot: where it is now, what its owner reads and writes there, and, while it is a row, its next token.

    Without an owner it is idle: it holds what its last owner left, until someone needs the place.
    """

    index: int
    owned: bool = False
    keys: list[Key] = dataclasses.field(default_factory=list)
    token: int = 0
    used: int = 0


class Slots:
    """The slots of a session.

    A row of fixed capacity, not pages: a decoding step then reads each row's keys where they stand, in one product
    over all rows, which pages could have only with a kernel of their own for every device. What pages would save is
    memory for requests that stay shorter than the longest; what they would share without copying, a prefix, is copied
    here, which costs less than one decoding step.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.cache = session, session.cache
        self.table = [Slot(index) for index in range(session.cache.slots)]
        self.clock = itertools.count(1)

    @property
    def rows(self) -> list[Slot]:
        """The rows in progress, in order."""
        return self.table[: self.session.rows]

    def held(self, slot: Slot) -> int:
        """How many tokens a slot holds."""
        return self.cache.lengths[slot.index]

    def idle(self) -> list[Slot]:
        """The slots that nobody has, the longest unused first."""
        return sorted((slot for slot in self.table if not slot.owned), key=lambda slot: slot.used)

    def take(self, keys: list[Key], count: int) -> list[Slot] | None:
        """`count` slots for a request that will read `keys`, the first for its prompt; None if so many are not idle.

        Where an idle slot holds nothing but a prefix of the request, or there is no other, it is continued in place.
        """
        idle = self.idle()
        if len(idle) < count:
            return None
        best = max(idle, key=lambda slot: min(common(slot.keys, keys), self.held(slot)))
        alike = min(common(best.keys, keys), self.held(best), len(keys) - 1)
        if alike >= WORTH:
            idle.remove(best)  # it is continued, or copied from
        if alike >= WORTH and (alike == self.held(best) or len(idle) < count):
            chosen = [best, *idle[: count - 1]]
        else:
            chosen, alike = idle[:count], 0
        for at, slot in enumerate(chosen):
            self.cache.rewind(slot.index, 0 if at else alike)
            slot.owned, slot.keys = True, [] if at else list(keys)
        return chosen

    def share(self, slot: Slot, reading: Sequence[Slot]) -> bool:
        """Give a slot that was not read into yet the longest prefix that another slot holds.

        False where it should rather wait, because one of `reading` is about to hold most of what it would have to read.
        """
        best, most, promised = None, self.held(slot), 0
        for other in self.table:
            if other is slot:
                continue
            alike = min(common(other.keys, slot.keys), len(slot.keys) - 1)
            if min(alike, self.held(other)) > most:
                best, most = other, min(alike, self.held(other))
            if other in reading:
                promised = max(promised, alike)
        if promised - most >= max(WORTH, (len(slot.keys) - most) / 2):
            return False
        if best is not None and most >= self.held(slot) + WORTH:
            self.cache.copy(best.index, slot.index, most)
            best.used = next(self.clock)
        return True

    def join(self, slot: Slot) -> None:
        """Make a slot a row in progress."""
        self._moved(slot, self.session.join(slot.index))

    def leave(self, slot: Slot) -> None:
        """Let a row rest."""
        self._moved(slot, self.session.leave(slot.index))

    def branch(self, source: Slot, target: Slot) -> None:
        """Let `target`, a row or not, continue the past of the row `source` beside it."""
        self.cache.copy(source.index, target.index)
        target.keys = list(source.keys)
        if target.index >= self.session.rows:
            self.join(target)

    def release(self, slot: Slot, forget: bool = False) -> None:
        """Nobody has this slot any more. What it holds may be shared, unless it is to be forgotten."""
        if slot.index < self.session.rows:
            self.leave(slot)
        if forget:
            self.cache.rewind(slot.index)
        del slot.keys[self.held(slot) :]
        slot.owned, slot.used = False, 0 if forget else next(self.clock)

    def _moved(self, slot: Slot, place: int) -> None:
        other, former = self.table[place], slot.index
        self.table[place], self.table[former] = slot, other
        slot.index, other.index = place, former


def common(one: Sequence[Key], other: Sequence[Key]) -> int:
    """How many keys two documents begin with alike."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))
