"""What the stream has given so far: realised shares beside those asked for, what was skipped, and why."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vlmlab.data.mixture import Size, Unit
from vlmlab.data.stream import Draw
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


@dataclasses.dataclass
class Tally:
    """What a window gave: the accounts of its sources, and which samples could not be read, and why."""

    accounts: dict[str, Account]
    broken: list[tuple[Draw, str]]

    @staticmethod
    def of(window: Window, rows: Mapping[str, int]) -> "Tally":
        """Count a window; `rows` is how many tokens a row of each source holds."""
        accounts = {draw.source: Account() for draw in window.draws}
        for draw in window.draws:
            accounts[draw.source].drawn += 1
        for draw, _ in window.broken:
            accounts[draw.source].broken += 1
        for draw, count in window.overlong:
            accounts[draw.source].overlong += count
        for piece in window.pieces:
            name = piece.draw.source
            accounts[name].given += piece.read.size(rows[name]) + Size(samples=float(piece.number == 0))
        return Tally(accounts, window.broken)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {"accounts": _plain(self.accounts), "broken": self.broken}

    @staticmethod
    def read(told: Mapping[str, Any]) -> "Tally":
        """Back from plain data."""
        return Tally(_accounts(told["accounts"]), [(Draw(*draw), why) for draw, why in told["broken"]])


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

    def add(self, tally: Tally) -> list[Event]:
        """Add what a window gave. Returns what is to be told of it."""
        for name, found in tally.accounts.items():
            account = self.accounts[name]
            account.drawn += found.drawn
            account.broken += found.broken
            account.overlong += found.overlong
            account.given += found.given
        return [("skipped", {"source": d.source, "sample": d.number, "why": why}) for d, why in tally.broken]

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
        return _plain(self.accounts)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.accounts |= _accounts(state)


def _plain(accounts: Mapping[str, Account]) -> dict[str, Any]:
    return {name: dataclasses.asdict(account) for name, account in accounts.items()}


def _accounts(told: Mapping[str, Any]) -> dict[str, Account]:
    return {name: Account(**{**values, "given": Size(**values["given"])}) for name, values in told.items()}
