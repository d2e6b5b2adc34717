"""Charts: real numbers, drawn so that they can be read off, and answered exactly."""

import collections
import io
import json
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlmlab import component
from vlmlab.data.made import plots, tables
from vlmlab.data.made.lettering import missing, own_font, wrapped
from vlmlab.data.made.tables import Column, Table
from vlmlab.data.sources import SourceConfig


def source(**changes):
    return component.parse(SourceConfig, {"name": "charts", **changes}).build()


def worked_out(table: Table, text: str) -> str:
    """The answer, from the words and the numbers alone."""
    known = {
        (column.name, label): value
        for column in table.columns
        for label, value in zip(table.labels, column.values, strict=True)
    }
    if found := re.fullmatch(r"Which .*? has the (highest|lowest) (.*)\?", text):
        of = {label: value for (name, label), value in known.items() if name == found[2]}
        best = (max if found[1] == "highest" else min)(of.values())
        (label,) = [label for label, value in of.items() if value == best]
        return label
    if found := re.fullmatch(r"Is the (.*) for (.*) (higher|lower) than for (.*)\?", text):
        one, other = known[found[1], found[2]], known[found[1], found[4]]
        return "yes" if (one > other if found[3] == "higher" else one < other) else "no"
    if found := re.fullmatch(r"What is the (.*) for (.*)\?", text):
        return str(known[found[1], found[2]])
    if found := re.fullmatch(r"By how much does the (.*) differ between (.*) and (.*)\?", text):
        return str(abs(known[found[1], found[2]] - known[found[1], found[3]]))
    assert re.fullmatch(r"How many .* are there\?", text)
    return str(len(table.labels))


def test_every_answer_can_be_worked_out_from_the_words_and_the_numbers():
    charts = source(questions=4)
    kinds, drawn, answers = collections.Counter(), collections.Counter(), collections.Counter()
    for index in range(600):
        truth = charts.truth(index)
        drawn[truth.chart.kind] += 1
        for question in truth.questions:
            assert worked_out(truth.chart.shown, question.text) == question.answer, (index, question)
            kinds[question.kind] += 1
            answers[question.answer] += question.kind == "compare"
            # What is not printed and cannot be seen exactly is not asked for.
            assert truth.chart.numbers or question.kind in ("max", "min", "compare", "count")
    assert set(kinds) == {"max", "min", "value", "compare", "difference", "count"} and min(kinds.values()) > 50
    assert set(drawn) == {"bars", "lying bars", "line", "pie", "table"} and min(drawn.values()) > 50
    assert abs(answers["yes"] - answers["no"]) < 5 * (answers.total() ** 0.5)


def test_what_is_compared_by_eye_is_far_apart():
    charts = source(questions=4, kinds=["bars", "line"])
    seen = 0
    for index in range(200):
        chart, asked = charts.truth(index).chart, charts.truth(index).questions
        low, high = chart.span()
        for question in asked:
            found = re.fullmatch(r"Is the (.*) for (.*) (?:higher|lower) than for (.*)\?", question.text)
            if found and not chart.numbers:
                (column,) = [c for c in chart.shown.columns if c.name == found[1]]
                one, other = (float(column.values[chart.shown.labels.index(found[n])]) for n in (2, 3))
                assert abs(one - other) / (high - low) >= 0.0399
                seen += 1
    assert seen > 50


RED = plots.PALETTE.index((214, 39, 40))


def runs(image: Image.Image, colour) -> list[tuple[int, int]]:
    """Where bars of a colour stand, as (first column, height in pixels)."""
    found, before = [], 0
    for x in range(image.width):
        tall = sum(image.getpixel((x, y)) == colour for y in range(image.height))
        if tall and not before:
            found.append((x, tall))
        before = tall
    return found


def test_bars_are_as_tall_as_their_numbers():
    column = Column("x", "", tuple(map(Decimal, (10, 40, 25))))
    chart = plots.Chart("bars", Table("", "k", ("a", "b", "c"), (column,)), numbers=False, first=RED)
    found = runs(plots.draw(chart), plots.PALETTE[RED])
    heights = [tall for _, tall in found]
    assert len(found) == 3 and heights[0] / heights[1] == pytest.approx(10 / 40, abs=0.02)
    assert heights[2] / heights[1] == pytest.approx(25 / 40, abs=0.02)


def test_lying_bars_are_as_long_as_their_numbers():
    column = Column("x", "", tuple(map(Decimal, (10, 40))))
    chart = plots.Chart("lying bars", Table("", "k", ("a", "b"), (column,)), numbers=False, first=RED)
    image = plots.draw(chart).transpose(Image.Transpose.ROTATE_90)
    lengths = [tall for _, tall in runs(image, plots.PALETTE[RED])]
    assert len(lengths) == 2 and lengths[0] / lengths[1] == pytest.approx(10 / 40, abs=0.02)


def test_slices_are_as_large_as_their_numbers():
    column = Column("x", "", tuple(map(Decimal, (1, 3))))
    chart = plots.Chart("pie", Table("", "k", ("a", "b"), (column,)), numbers=True)
    image = plots.draw(chart).crop((0, 0, 250, plots.SIZE[1]))  # without the key
    counts = collections.Counter(image.getdata())
    assert counts[chart.colour(0)] / counts[chart.colour(1)] == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("kind", ["bars", "lying bars", "line", "pie", "table"])
def test_each_number_changes_the_picture(kind):
    """Swapping two numbers gives another picture: none is left undrawn."""
    values = [Decimal(value) for value in (12, 30, 21, 17)]

    def drawn(some):
        table = Table("A title", "year", ("a", "b", "c", "d"), (Column("x", "kg", tuple(some)),))
        return plots.draw(plots.Chart(kind, table, numbers=False)).tobytes()

    pictures = {drawn(values)}
    for at in range(4):
        changed = [*values[:at], Decimal(25), *values[at + 1 :]]
        pictures.add(drawn(changed))
    assert len(pictures) == 5


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12))
def test_ticks_are_few_round_and_reach_around(low, width):
    high = low + width
    marks = plots.ticks(low, high)
    slack = max(abs(low), abs(high)) * 1e-9 + width * 1e-6
    assert 2 <= len(marks) <= 8
    assert marks[0] <= low + slack and marks[-1] >= high - slack


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=9))
def test_numbers_are_rounded_alike(values):
    printed = tables.printed(values)
    assert len({value.as_tuple().exponent for value in printed}) == 1
    assert all(
        abs(float(p) - v) <= max(0.5, max(map(abs, values)) * 1e-3) for p, v in zip(printed, values, strict=True)
    )
    assert all(str(value) not in ("-0", "-0.0", "-0.00", "-0.000") for value in printed)


def test_no_held_out_number_is_trained_on():
    shown = {}
    for split in ("train", "validation", "test"):
        charts = source(split=split)
        held = {(t.title, t.key, t.columns[c].name) for t, columns in charts.tables for c in columns}
        drawn = set()
        for index in range(150):
            table = charts.truth(index).chart.shown
            drawn |= {(table.title, table.key, column.name) for column in table.columns}
        assert drawn <= held and len(held) >= 8
        shown[split] = held
    assert not shown["train"] & shown["test"] and not shown["train"] & shown["validation"]
    assert not shown["test"] & shown["validation"]
    assert sum(map(len, shown.values())) == sum(len(table.columns) for table in tables.shipped())


def test_the_shipped_tables_are_whole():
    found = tables.shipped()
    assert [(len(t.labels), len(t.columns)) for t in found] == [
        (16, 5),
        (51, 4),
        (50, 8),
        (100, 1),
        (309, 1),
        (61, 12),
        (12, 61),
    ]
    nile = next(t for t in found if t.title == "The Nile at Aswan")
    assert nile.labels[0] == "1871" and str(nile.columns[0].values[0]) == "1120"
    assert all(label == label.strip() and label for table in found for label in table.labels)


def test_a_sample_is_a_function_of_seed_and_number():
    one, again = source(seed=1), source(seed=1)
    assert [one[index] for index in (5, 0)] == [again[index] for index in (5, 0)]
    assert source(seed=2).truth(0) != one.truth(0)
    image = Image.open(io.BytesIO(one[0].pictures[0].source))
    assert image.size == plots.SIZE and image.mode == "RGB"
    with pytest.raises(IndexError):
        source(samples=3).truth(3)


def folder(tmp_path, **files):
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    return str(tmp_path)


def test_a_folder_of_tables(tmp_path):
    rows = "".join(f"w{n},{n}.25,{n * n},x,{-n}\n" for n in range(6))
    place = folder(tmp_path, my_table="word,length (cm),area,kind,cold\n" + rows)
    (table,) = tables.from_folder(tmp_path)
    assert (table.title, table.key) == ("my table", "word")
    assert [(c.name, c.unit) for c in table.columns] == [("length", "cm"), ("area", ""), ("cold", "")]
    for split in ("train", "validation", "test"):
        charts = source(tables=place, split=split)
        for index in range(30):
            truth = charts.truth(index)
            assert worked_out(truth.chart.shown, truth.questions[0].text) == truth.questions[0].answer
            plots.draw(truth.chart)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no CSV files in"),
        ("", "not a CSV file with a row of names"),
        ("a,b\n1,2\n3\n4,5\n", "t.csv, row 3: 1 cells under 2 names"),
        ("a,b\nx,1\nx,2\ny,3\n", "no two the same"),
        ("a,b\nx,1\ny,2\n", "three or more"),
        ("a,b\nx,1\nÅ,2\nz,3\n", "t.csv: the font of charts has no 'Å'"),
        ("a,b\nx,q\ny,2\nz,3\n", "t.csv: no column of numbers"),
        ("a,b\nx,nan\ny,2\nz,3\n", "t.csv: no column of numbers"),
        ("a,b\nx,1\ny,2\nz,3\n", "1 columns of numbers; three are needed"),
    ],
)
def test_tables_that_cannot_be_used_are_named(tmp_path, text, told):
    place = folder(tmp_path, **({} if text is None else {"t": text}))
    with pytest.raises(ValueError, match=re.escape(told)):
        source(tables=place)


@pytest.mark.parametrize("changes", [{"rows": 2}, {"questions": 0}, {"kinds": []}, {"kinds": ["radar"]}])
def test_what_is_wrong_is_said(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        source(**changes)


def test_the_shipped_tables_can_be_written():
    words = "".join(w for t in tables.shipped() for w in (t.title, t.key, *t.labels, *(c.heading for c in t.columns)))
    assert missing(words, own_font(12)) == ""


def test_long_words_are_wrapped():
    text = "a word longer or shorter " * 20 + "x" * 30 + " end"
    font = own_font(12)
    lines = wrapped(text, font, 100.0)
    assert " ".join(lines) == text and len(lines) > 10
    assert all(font.getlength(line) <= 100 or " " not in line for line in lines)


def test_the_tables_file_is_what_its_page_says():
    path = tables.importlib.resources.files("vlmlab.data.made")
    sources = {json.loads(line)["source"] for line in path.joinpath("tables.jsonl").read_text().splitlines()}
    page = path.joinpath("tables.md").read_text(encoding="utf-8")
    assert "public domain" in page and all(f"`{name}`" in page for name in sources)
