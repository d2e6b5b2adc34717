"""Charts and tables drawn from tables of real numbers, with questions that the numbers answer exactly.

Nothing is asked that could not be read off: a value or a difference only where it is printed, and which of two is
larger only where they are far enough apart to be seen. The tables are those that ship with vlmlab (data/made/tables.md)
or a folder of CSV files. Whole columns are held out for the other splits, so that no held-out number is trained on.
"""

import dataclasses
import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from PIL import Image

from vlmlab.data.made import MadeConfig, MadeSource, Question
from vlmlab.data.made.plots import PALETTE, PAPERS, SIZE, Chart, Kind, draw, room
from vlmlab.data.made.tables import Column, Table, from_folder, held_out, shipped

_SEEN = Decimal("0.04")  # two values are told apart by eye when they differ by this share of what is drawn
_LEAST = 3  # rows of a chart

# Numbers that do not add up to a whole, of which no pie is made.
_RATES = ("%", "degrees Celsius", "1982-84 = 100")


@dataclasses.dataclass(frozen=True)
class Config(MadeConfig):
    """`tables` is a folder of CSV files to draw from, in place of the tables that ship with vlmlab.

    The first row of each names its columns, the first column its rows. `rows`, the most that one chart shows;
    `questions` asked about each; `kinds` of charts that are drawn.
    """

    tables: Path | None = None
    rows: int = 8
    questions: int = 1
    kinds: tuple[Kind, ...] = ("bars", "lying bars", "line", "pie", "table")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _LEAST <= self.rows <= 12:
            raise ValueError(f"rows = {self.rows} should be {_LEAST} to 12")
        if not 1 <= self.questions <= 20:
            raise ValueError(f"questions = {self.questions} should be 1 to 20")
        if not self.kinds:
            raise ValueError("kinds is empty: name one at least, such as bars")


@dataclasses.dataclass(frozen=True)
class Truth:
    """A chart with its numbers, and what is asked about it."""

    chart: Chart
    questions: tuple[Question, ...]


class Charts(MadeSource[Truth]):
    """Charts of a few rows of a table, with questions about them."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError when `tables` holds no tables, or too few columns to hold any out."""
        super().__init__(config)
        self.config = config
        tables = shipped() if config.tables is None else from_folder(config.tables)
        # A table with sixty columns is drawn as often as one with six.
        self.tables = [(tables[number], columns) for number, columns in held_out(tables, config.split)]

    def truth(self, index: int) -> Truth:
        """The chart's numbers, and its questions with their answers. Raises IndexError past the end."""
        generator = self.generator(index)
        while True:
            # Some choices of numbers cannot be drawn as the chart that was chosen, or leave nothing to ask.
            chart = self._chart(generator)
            if chart is not None and (asked := tuple(_ask(chart, self.config.questions, generator))):
                return Truth(chart, asked)

    def questions(self, truth: Truth) -> Sequence[Question]:
        """Its questions."""
        return truth.questions

    def draw(self, truth: Truth) -> Image.Image:
        """The chart."""
        return draw(truth.chart)

    def _chart(self, generator: random.Random) -> Chart | None:
        """A chart of some numbers; None where they do not suit its kind."""
        kind = generator.choice(self.config.kinds)
        table, columns = generator.choice(self.tables)
        first = table.columns[generator.choice(columns)]
        alike = [number for number in columns if kind == "table" or table.columns[number].unit == first.unit]
        wanted = {"table": 3, "bars": 2, "line": 2}.get(kind, 1)
        chosen = generator.sample(alike, min(len(alike), generator.randint(1, wanted)))
        shown = table.only(_rows(table, kind, self.config.rows, generator), chosen)
        always = kind in ("table", "pie")
        numbers = always or (len(chosen) == 1 and generator.random() < 0.6)
        chart = Chart(kind, shown, numbers, generator.randrange(len(PALETTE)), generator.choice(PAPERS))
        return chart if _suits(chart) else None


def _rows(table: Table, kind: Kind, most: int, generator: random.Random) -> list[int]:
    """Some rows of a table: side by side where their order means something, from anywhere where it does not."""
    count = generator.randint(_LEAST, min(most, len(table.labels)))
    ordered = kind == "line" or all(label.isdigit() for label in table.labels)
    if not ordered:
        return generator.sample(range(len(table.labels)), count)
    start = generator.randint(0, len(table.labels) - count)
    return list(range(start, start + count))


def _suits(chart: Chart) -> bool:
    """Whether the numbers can be drawn as this kind of chart, so that all of it can be read."""
    table = chart.shown
    slot = (SIZE[0] - 90) / len(table.labels)
    widest = max(map(room, table.labels))
    if chart.kind == "pie":
        values = table.columns[0].values
        adds_up = min(values) > 0 and table.columns[0].unit not in _RATES
        return adds_up and min(values) >= sum(values) * _SEEN and len(values) <= 7 and widest < 100
    if chart.kind in ("bars", "line"):
        said = [room(str(value)) for value in table.columns[0].values] if chart.numbers else [0.0]
        return max(widest, *said) < slot - 4
    return widest < SIZE[0] / 3


def _ask(chart: Chart, count: int, generator: random.Random) -> Iterator[Question]:
    """Up to `count` different questions; none where nothing can be told."""
    seen: set[str] = set()
    for _ in range(4 * count):
        column = generator.choice(chart.shown.columns)
        kinds = [_extreme, _extreme, _compare, _compare, _count]
        kinds += [_value, _value, _difference] if chart.numbers else []
        question = generator.choice(kinds)(chart, column, generator)
        if question is not None and question.text not in seen and len(seen) < count:
            seen.add(question.text)
            yield question


def apart(chart: Chart, one: Decimal, other: Decimal) -> bool:
    """Whether a reader can tell which of two values is larger: they are printed and differ, or look different."""
    if chart.numbers:
        return one != other
    low, high = chart.span()
    return abs(one - other) >= _SEEN * Decimal(high - low)


def _extreme(chart: Chart, column: Column, generator: random.Random) -> Question | None:
    kind, word = generator.choice((("max", "highest"), ("min", "lowest")))
    order = sorted(range(len(column.values)), key=lambda row: column.values[row], reverse=kind == "max")
    if not apart(chart, column.values[order[0]], column.values[order[1]]):
        return None
    text = f"Which {chart.shown.key} has the {word} {column.name}?"
    return Question(kind, text, chart.shown.labels[order[0]])


def _compare(chart: Chart, column: Column, generator: random.Random) -> Question | None:
    first, second = generator.sample(range(len(column.values)), 2)
    one, other = column.values[first], column.values[second]
    if not apart(chart, one, other):
        return None
    labels, word = chart.shown.labels, generator.choice(("higher", "lower"))
    text = f"Is the {column.name} for {labels[first]} {word} than for {labels[second]}?"
    return Question("compare", text, "yes" if (one > other) == (word == "higher") else "no")


def _value(chart: Chart, column: Column, generator: random.Random) -> Question:
    row = generator.randrange(len(column.values))
    return Question("value", f"What is the {column.name} for {chart.shown.labels[row]}?", str(column.values[row]))


def _difference(chart: Chart, column: Column, generator: random.Random) -> Question:
    first, second = generator.sample(range(len(column.values)), 2)
    labels = chart.shown.labels
    text = f"By how much does the {column.name} differ between {labels[first]} and {labels[second]}?"
    return Question("difference", text, str(abs(column.values[first] - column.values[second])))


def _count(chart: Chart, column: Column, generator: random.Random) -> Question | None:
    drawn = {"bars": "bars", "lying bars": "bars", "line": "points", "pie": "slices", "table": "rows of numbers"}
    if len(chart.shown.columns) > 1 and chart.kind != "table":
        return None
    return Question("count", f"How many {drawn[chart.kind]} are there?", str(len(chart.shown.labels)))


PLUGIN = Charts
