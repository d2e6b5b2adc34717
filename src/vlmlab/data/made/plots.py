"""Charts and tables drawn from numbers: bars, lines, pies and plain tables, with nothing but Pillow."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Literal

from PIL import Image, ImageDraw

from vlmlab.data.made.lettering import height, own_font, wrapped
from vlmlab.data.made.tables import Table

Kind = Literal["bars", "lying bars", "line", "pie", "table"]
Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (31, 119, 180),
    (255, 140, 20),
    (44, 150, 60),
    (214, 39, 40),
    (140, 100, 190),
    (140, 86, 75),
    (225, 120, 190),
    (110, 110, 110),
    (190, 190, 40),
    (25, 190, 205),
)
PAPERS: tuple[Colour, ...] = ((255, 255, 255), (250, 250, 245), (240, 244, 250))
INK = (30, 30, 30)
GRID = (208, 208, 208)
SIZE = (448, 336)
"""Width and height of every chart, in pixels."""


@dataclasses.dataclass(frozen=True)
class Chart:
    """What a chart shows and how: `shown` has few rows, and the columns that are drawn, all with one unit in bars.

    With `numbers`, each value is printed where it is drawn; tables and pies always print them. `first` is where in the
    palette its colours begin.
    """

    kind: Kind
    shown: Table
    numbers: bool
    first: int = 0
    paper: Colour = PAPERS[0]

    def colour(self, number: int) -> Colour:
        """The colour of series, or slice, number `number`."""
        return PALETTE[(self.first + number) % len(PALETTE)]

    def span(self) -> tuple[float, float]:
        """The least and the greatest value on its axis. Bars begin at nought; lines need not."""
        values = [float(value) for column in self.shown.columns for value in column.values]
        low, high = min(values), max(values)
        if self.kind != "line" or (low >= 0 and low < 0.5 * high):
            low, high = min(low, 0.0), max(high, 0.0)
        marks = ticks(low, high)
        return min(low, marks[0]), max(high, marks[-1])


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where a chart's numbers lie on the picture: `along` its axis from `begin` to `end`, in pixels."""

    box: tuple[int, int, int, int]
    low: float
    high: float
    lying: bool = False

    def place(self, value: float) -> float:
        """The pixel, along the axis of numbers, of a value."""
        left, top, right, bottom = self.box
        share = (value - self.low) / (self.high - self.low)
        return left + share * (right - left) if self.lying else bottom - share * (bottom - top)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers, four to seven of them, that reach from `low` or below to `high` or above.

    >>> ticks(0, 87)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def draw(chart: Chart) -> Image.Image:
    """The picture of a chart, in RGB, `SIZE` pixels large."""
    image = Image.new("RGB", SIZE, chart.paper)
    pen = ImageDraw.Draw(image)
    top = _title(pen, chart)
    _DRAWN[chart.kind](pen, chart, top)
    return image


def _title(pen: ImageDraw.ImageDraw, chart: Chart) -> int:
    """The title; below it what is shown, or a line for each series in its colour. Returns where the rest begins."""
    at = _lines(pen, chart.shown.title, 16, 6, INK)
    if chart.kind == "table":
        return at + 6
    several = len(chart.shown.columns) > 1
    for number, column in enumerate(chart.shown.columns):
        if several:
            left = SIZE[0] / 2 - min(own_font(13).getlength(column.heading), SIZE[0] - 60.0) / 2
            pen.rectangle((left - 20, at + 4, left - 8, at + 16), fill=chart.colour(number))
        at = _lines(pen, column.heading, 13, at + 2, INK)
    return at + 6


def _lines(pen: ImageDraw.ImageDraw, text: str, size: int, at: int, ink: Colour) -> int:
    font = own_font(size)
    for line in wrapped(text, font, SIZE[0] - 60.0):
        pen.text((SIZE[0] / 2, at), line, ink, font, anchor="ma")
        at += height(font)
    return at


def _axis(pen: ImageDraw.ImageDraw, chart: Chart, top: int, left: int, lying: bool) -> Frame:
    """Grid lines with their numbers, and the place where the values go."""
    low, high = chart.span()
    marks = ticks(low, high)
    font = own_font(12)
    said = [f"{mark:.10g}" for mark in marks]
    if not lying:
        left = int(max(font.getlength(text) for text in said)) + 16
    frame = Frame((left, top + 14, SIZE[0] - 24, SIZE[1] - 28), low, high, lying)
    begin, above, end, below = frame.box
    for mark, text in zip(marks, said, strict=True):
        at = frame.place(mark)
        if lying:
            pen.line((at, above, at, below), GRID)
            pen.text((at, below + 4), text, INK, font, anchor="ma")
        else:
            pen.line((begin, at, end, at), GRID)
            pen.text((begin - 6, at), text, INK, font, anchor="rm")
    return frame


def _number(pen: ImageDraw.ImageDraw, chart: Chart, place: tuple[float, float], value: Decimal, anchor: str) -> None:
    """A printed value, with a rim of paper around it: it is read on any colour, and across a line."""
    pen.text(place, str(value), INK, own_font(12), anchor=anchor, stroke_width=2, stroke_fill=chart.paper)


def _bars(pen: ImageDraw.ImageDraw, chart: Chart, top: int) -> None:
    table, font = chart.shown, own_font(12)
    frame = _axis(pen, chart, top, 0, lying=False)
    left, _, right, bottom = frame.box
    slot, series = (right - left) / len(table.labels), len(table.columns)
    wide = 0.7 * slot / series
    for row, label in enumerate(table.labels):
        middle = left + (row + 0.5) * slot
        pen.text((middle, bottom + 4), label, INK, font, anchor="ma")
        for number, column in enumerate(table.columns):
            begin = middle + (number - series / 2) * wide
            edges = sorted((frame.place(float(column.values[row])), frame.place(0.0)))
            pen.rectangle((begin, edges[0], begin + wide - 1, edges[1]), chart.colour(number))
            if chart.numbers:
                _number(pen, chart, (begin + wide / 2, edges[0] - 2), column.values[row], "mb")


def _lying_bars(pen: ImageDraw.ImageDraw, chart: Chart, top: int) -> None:
    table, font = chart.shown, own_font(12)
    room = max(font.getlength(label) for label in table.labels)
    frame = _axis(pen, chart, top - 10, int(min(room, SIZE[0] / 2)) + 14, lying=True)
    left, above, _, bottom = frame.box
    slot = (bottom - above) / len(table.labels)
    for row, label in enumerate(table.labels):
        middle = above + (row + 0.5) * slot
        pen.text((left - 6, middle), label, INK, font, anchor="rm")
        value = table.columns[0].values[row]
        edges = sorted((frame.place(float(value)), frame.place(0.0)))
        pen.rectangle((edges[0], middle - 0.35 * slot, edges[1], middle + 0.35 * slot), chart.colour(0))
        if chart.numbers:
            inside = edges[1] - edges[0] > font.getlength(str(value)) + 8
            place, anchor = (edges[1] - 4, "rm") if inside else (edges[1] + 4, "lm")
            _number(pen, chart, (place, middle), value, anchor)


def _line(pen: ImageDraw.ImageDraw, chart: Chart, top: int) -> None:
    table, font = chart.shown, own_font(12)
    frame = _axis(pen, chart, top, 0, lying=False)
    left, _, right, bottom = frame.box
    slot = (right - left) / len(table.labels)
    across = [left + (row + 0.5) * slot for row in range(len(table.labels))]
    for x, label in zip(across, table.labels, strict=True):
        pen.text((x, bottom + 4), label, INK, font, anchor="ma")
    for number, column in enumerate(table.columns):
        points = [(x, frame.place(float(value))) for x, value in zip(across, column.values, strict=True)]
        pen.line(points, chart.colour(number), 2, joint="curve")
        for (x, y), value in zip(points, column.values, strict=True):
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), chart.colour(number))
            if chart.numbers:
                _number(pen, chart, (x, y - 6), value, "mb")


def _pie(pen: ImageDraw.ImageDraw, chart: Chart, top: int) -> None:
    table, font = chart.shown, own_font(13)
    values = [float(value) for value in table.columns[0].values]
    radius = min(SIZE[1] - top - 16, SIZE[0] / 2 - 20) / 2
    x, y = 16 + radius, top + radius
    start = -90.0
    for number, value in enumerate(values):
        end = start + 360 * value / sum(values)
        pen.pieslice((x - radius, y - radius, x + radius, y + radius), start, end, chart.colour(number), chart.paper)
        start = end
        at = y + (number - (len(values) - 1) / 2) * 26
        pen.rectangle((x + radius + 20, at - 7, x + radius + 34, at + 7), chart.colour(number))
        said = f"{table.labels[number]}: {table.columns[0].values[number]}"
        pen.text((x + radius + 42, at), said, INK, font, anchor="lm")


def _table(pen: ImageDraw.ImageDraw, chart: Chart, top: int) -> None:
    table, font = chart.shown, own_font(13)
    cells = [[table.key, *(column.heading for column in table.columns)]]
    cells += [[label, *map(str, values)] for label, values in zip(table.labels, _rows(table), strict=True)]
    wide = (SIZE[0] - 24) / len(cells[0])
    at = float(top)
    for number, row in enumerate(cells):
        folded = [wrapped(cell, font, wide - 8) for cell in row]
        tall = max(map(len, folded)) * height(font) + 6
        if number == 0:
            pen.rectangle((12, at, SIZE[0] - 12, at + tall), chart.colour(0))
        for column, lines in enumerate(folded):
            x = 16 + column * wide if column == 0 else 12 + (column + 1) * wide - 6
            for line, text in enumerate(lines):
                ink = (255, 255, 255) if number == 0 else INK
                pen.text((x, at + 3 + line * height(font)), text, ink, font, anchor="la" if column == 0 else "ra")
        at += tall
        pen.line((12, at, SIZE[0] - 12, at), GRID)


def _rows(table: Table) -> Sequence[tuple[object, ...]]:
    return list(zip(*(column.values for column in table.columns), strict=True))


_DRAWN: dict[str, Callable[[ImageDraw.ImageDraw, Chart, int], None]] = {
    "bars": _bars,
    "lying bars": _lying_bars,
    "line": _line,
    "pie": _pie,
    "table": _table,
}


@functools.cache
def room(label: str) -> float:
    """Pixels that a label takes."""
    return float(own_font(12).getlength(label))
