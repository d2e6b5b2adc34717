"""What a source holds: samples, pictures and their sizes, text and answers in tokens, rows that cannot be read."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vlmlab.batch import Picture, Sample
from vlmlab.data.filters import said
from vlmlab.data.filters.pictures import size
from vlmlab.data.sources import Source

if TYPE_CHECKING:
    from rich.table import Table

Count = Callable[[str], int]
"""How many tokens a text has."""

LEARNED = ("assistant", "text", "continuation")
"""The roles whose text is learned: answers, and all of a plain document."""

_NAMED = 20  # broken samples whose errors are kept


@dataclasses.dataclass(frozen=True)
class Spread:
    """How some numbers are spread: their sum, and the values that so many percent of them do not exceed."""

    total: int
    mean: float
    least: int
    p5: int
    median: int
    p95: int
    most: int

    @staticmethod
    def of(numbers: Sequence[int]) -> "Spread":
        """Of any numbers; all zero where there are none."""
        if not numbers:
            return Spread(0, 0.0, 0, 0, 0, 0, 0)
        ordered = sorted(numbers)
        at = {share: ordered[max(0, -(-len(ordered) * share // 100) - 1)] for share in (5, 50, 95)}
        total = sum(ordered)
        return Spread(total, total / len(ordered), ordered[0], at[5], at[50], at[95], ordered[-1])


@dataclasses.dataclass(frozen=True)
class Stats:
    """What was found in `looked` of `samples` samples.

    `broken` are the first of the `unreadable` ones with what was wrong, by number; `absent` counts pictures that cannot
    be read, such as URLs that were not fetched. `pictures` is spread over samples; `widths`, `heights` and `pixels`
    over pictures; words and tokens over samples. Tokens are None without a tokenizer.
    """

    samples: int
    looked: int
    unreadable: int
    broken: dict[int, str]
    absent: int
    without_pictures: int
    pictures: Spread
    widths: Spread
    heights: Spread
    pixels: Spread
    words: Spread
    tokens: Spread | None
    answer_tokens: Spread | None

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return dataclasses.asdict(self)


def stats(
    source: Source,
    count: int = 0,
    tokens: Count | None = None,
    seed: int = 0,
    advance: Callable[[int], None] = lambda done: None,
) -> Stats:
    """Look at `count` samples drawn by seed (0: all of them). Pictures are not decoded: a file's head has its size."""
    total = len(source)
    indices: Sequence[int] = range(total)
    if 0 < count < total:
        indices = sorted(random.Random(seed).sample(indices, count))
    broken: dict[int, str] = {}
    held: dict[str, list[int]] = {key: [] for key in ("pictures", "widths", "heights", "words", "tokens", "answers")}
    absent = 0
    for index in indices:
        try:
            sample = source[index]
        except (ValueError, OSError) as error:
            broken[index] = str(error)
        else:
            sizes = [found for picture in sample.pictures if (found := _size(picture)) is not None]
            absent += len(sample.pictures) - len(sizes)
            held["pictures"].append(len(sample.pictures))
            held["widths"] += [width for width, _ in sizes]
            held["heights"] += [height for _, height in sizes]
            held["words"].append(len(said(sample).split()))
            if tokens is not None:
                held["tokens"].append(tokens(said(sample)))
                held["answers"].append(tokens(answers(sample)))
        advance(1)
    spread = {key: Spread.of(values) for key, values in held.items()}
    pixels = [width * height for width, height in zip(held["widths"], held["heights"], strict=True)]
    return Stats(
        samples=total,
        looked=len(indices),
        unreadable=len(broken),
        broken=dict(list(broken.items())[:_NAMED]),
        absent=absent,
        without_pictures=held["pictures"].count(0),
        pictures=spread["pictures"],
        widths=spread["widths"],
        heights=spread["heights"],
        pixels=Spread.of(pixels),
        words=spread["words"],
        tokens=spread["tokens"] if tokens is not None else None,
        answer_tokens=spread["answers"] if tokens is not None else None,
    )


def answers(sample: Sample) -> str:
    """All text of a sample that is learned, a line for each part."""
    return said(Sample(tuple(message for message in sample.messages if message.role in LEARNED)))


def _size(picture: Picture) -> tuple[int, int] | None:
    try:
        return size(picture)
    except (ValueError, OSError):
        return None


def table(name: str, found: Stats) -> "Table":
    """The figures, a row for each: of samples, and of pictures where they are indented."""
    from rich.box import SIMPLE
    from rich.table import Table

    title = f"{name}: {found.looked} of {found.samples} samples"
    drawn = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    for column in ("", "in all", "mean", "least", "5 %", "median", "95 %", "most"):
        drawn.add_column(column, justify="left" if not column else "right", no_wrap=True)
    rows: list[tuple[str, Spread | None]] = [
        ("pictures", found.pictures),
        ("  width", found.widths),
        ("  height", found.heights),
        ("  pixels", found.pixels),
        ("words", found.words),
        ("tokens", found.tokens),
        ("answer tokens", found.answer_tokens),
    ]
    for label, spread in rows:
        if spread is not None:
            counted = spread not in (found.widths, found.heights)
            numbers = [spread.least, spread.p5, spread.median, spread.p95, spread.most]
            cells = [
                f"{spread.total:,}" if counted else "",
                f"{spread.mean:,.{1 if spread.mean < 1000 else 0}f}",
                *(f"{n:,}" for n in numbers),
            ]
            drawn.add_row(label, *cells)
    notes = f"{found.unreadable} samples and {found.absent} pictures cannot be read"
    drawn.caption_justify = "left"
    drawn.caption = f"{notes}; {found.without_pictures} samples have no picture"
    return drawn
