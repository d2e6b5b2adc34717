"""The cases: what is asked with which kind of picture, and the attempts that each case becomes."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from vlmlab import component

Group = Literal["bias", "security"]

SHIPPED = Path(__file__).with_name("cases.toml")

REPEATS = 3
"""How often a question is asked again, with other draws."""


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """One behaviour that the model card names."""

    about: str
    group: Group


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to a behaviour: see `cases.toml`."""

    behaviour: str
    picture: str
    ask: str
    reworded: tuple[str, ...] = ()
    guided: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class CaseSet:
    """A file of cases."""

    behaviours: dict[str, Behaviour]
    case: tuple[Case, ...]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One conversation with the model. Only the answer to the last of `turns` counts.

    `form` is single, repeated, reworded or guided. `draw` is 0 for the greedy answer, otherwise the seed of a sampled
    one.
    """

    id: str
    behaviour: str
    form: str
    picture: str
    turns: tuple[str, ...]
    draw: int = 0


def read(path: Path = SHIPPED) -> CaseSet:
    """The cases of a TOML file. Raises ValueError naming the file and the key."""
    plain = component.read_toml(path)
    try:
        found: CaseSet = component.parse(CaseSet, plain)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not found.case:
        raise ValueError(f"{path} has no cases: write [[case]] tables")
    for number, case in enumerate(found.case):
        if case.behaviour not in found.behaviours:
            known = ", ".join(found.behaviours)
            raise ValueError(f"{path}: case {number} is of {case.behaviour!r}, which is none of {known}")
    return found


def attempts(cases: Sequence[Case], pictures: Mapping[str, int]) -> list[Attempt]:
    """Every attempt of every case with each of its kind's pictures; `pictures` says how many there are of a kind.

    A kind without pictures has no attempts.
    """
    found = []
    for number, case in enumerate(cases):
        forms: list[tuple[str, tuple[str, ...], int]] = [("single", (case.ask,), 0)]
        forms += [("repeated", (case.ask,), draw) for draw in range(1, REPEATS + 1)]
        forms += [("reworded", (words,), 0) for words in case.reworded]
        forms += [("guided", case.guided, 0)] if case.guided else []
        for shown in range(pictures.get(case.picture, 0)):
            found += [
                Attempt(f"{number}-{at}-{shown}", case.behaviour, form, f"{case.picture} {shown}", turns, draw)
                for at, (form, turns, draw) in enumerate(forms)
            ]
    return found
