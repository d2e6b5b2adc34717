"""What the stream has given so far: realised shares beside those asked for, what was skipped, and why."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vlmlab.data.mixture import Size, Unit
from vlmlab.train.feed import Window

SETTLED = 1000
"""Samples from which on shares say something: fewer are counted as so many."""

Event = tuple[str, dict[str, Any]]
"""A record for the log: its kind, and its values."""


@dataclasses.dataclass
class Account:
    """Of one source: samples drawn, those that could not be read, pieces that were too long, and how much was given."""

    drawn: int = 0
    broken: int = 0
    overlong: int = 0
    given: Size = dataclasses.field(default_factory=Size)


class Ledger:
    """Running totals of a run, by source; what a checkpoint keeps of them is `state`.

    `asked` are the shares asked for, in `unit`; `drift` is by how much a realised one may miss its own; `broken` the
    share of samples that may be unreadable. `opening` is what the log of a new run begins with.
    """

    def __init__(
        self, asked: Mapping[str, float], unit: Unit, drift: float, broken: float, opening: Sequence[Event] = ()
    ) -> None:
        self.asked, self.unit, self.drift, self.limit = dict(asked), unit, drift, broken
        self.accounts = {name: Account() for name in asked}
        self.alarmed: set[str] = set()
        self.opening = list(opening)

    def add(self, window: Window, rows: Mapping[str, int]) -> list[Event]:
        """Count a window; `rows` is how many tokens a row of each source holds. Returns what is to be told of it."""
        events: list[Event] = []
        for draw in window.draws:
            self.accounts[draw.source].drawn += 1
        for draw, why in window.broken:
            self.accounts[draw.source].broken += 1
            events.append(("skipped", {"source": draw.source, "sample": draw.number, "why": why}))
        for draw, count in window.overlong:
            self.accounts[draw.source].overlong += count
        for piece in window.pieces:
            name = piece.draw.source
            size = piece.read.size(rows[name]) + Size(samples=float(piece.number == 0))
            self.accounts[name].given += size
        return events

    def too_broken(self) -> str:
        """What is wrong, once more samples could not be read than may be; empty while all is well."""
        broken = sum(account.broken for account in self.accounts.values())
        drawn = sum(account.drawn for account in self.accounts.values())
        if broken <= self.limit * max(drawn, SETTLED):
            return ""
        named = ", ".join(
            f"{a.broken} of {name}" if name else f"{a.broken}" for name, a in self.accounts.items() if a.broken
        )
        return (
            f"{broken} of {drawn} samples could not be read ({named}): more than stage.broken = {self.limit:g} allows"
        )

    def realised(self) -> dict[str, float]:
        """The share of each source in what was given, in the unit that was asked in."""
        amounts = {name: account.given.of(self.unit) for name, account in self.accounts.items()}
        total = sum(amounts.values())
        return {name: amount / total if total else 0.0 for name, amount in amounts.items()}

    def report(self) -> list[Event]:
        """Shares asked for and realised, side by side, with what was skipped; an alarm for each new drift."""
        realised = self.realised()
        told: dict[str, Any] = {
            "unit": self.unit,
            "asked": {name: round(share, 6) for name, share in self.asked.items()},
            "realised": {name: round(share, 6) for name, share in realised.items()},
        }
        for key in ("drawn", "broken", "overlong"):
            told[key] = {name: getattr(account, key) for name, account in self.accounts.items()}
        events: list[Event] = [("mixture", told)]
        if sum(account.drawn for account in self.accounts.values()) < SETTLED:
            return events
        off = {name for name, share in self.asked.items() if abs(realised[name] - share) > self.drift}
        for name in sorted(off - self.alarmed):
            why = f"{name}: {realised[name]:.1%} of all {self.unit}, {self.asked[name]:.1%} were asked for"
            events.append(("alarm", {"source": name, "why": why}))
        self.alarmed = off
        return events

    def state(self) -> dict[str, Any]:
        """As plain data."""
        return {name: dataclasses.asdict(account) for name, account in self.accounts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name, told in state.items():
            self.accounts[name] = Account(**{**told, "given": Size(**told["given"])})
