"""What a source holds, counted: against numbers known beforehand."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from data.test_filters import Listed, picture, sample
from vlmlab.batch import Message, Picture, Sample
from vlmlab.data.stats import Spread, answers, stats, table


def asked(question, answer, *parts):
    return Sample((Message("user", (*parts, question)), Message("assistant", (answer,))))


def letters(text):
    return len(text)


SOURCE = Listed(
    asked("two words", "one", picture(30, 20)),
    ValueError("row 1: cut short"),
    sample("all of it learned", picture(10, 40), picture(20, 20)),
    asked("none", "at all"),
    sample("gone", Picture("https://example.org/a.png", "x"), Picture(b"no picture", "y")),
)


def test_everything_is_counted():
    done = []
    found = stats(SOURCE, tokens=letters, advance=done.append)
    assert (found.samples, found.looked, found.unreadable, sum(done)) == (5, 5, 1, 5)
    assert found.broken == {1: "row 1: cut short"}
    assert (found.absent, found.without_pictures) == (2, 1)
    assert (found.pictures.total, found.pictures.most, found.pictures.least) == (5, 2, 0)
    assert (found.widths.least, found.widths.median, found.widths.most) == (10, 20, 30)
    assert found.pixels.total == 30 * 20 + 10 * 40 + 20 * 20
    assert found.words.total == 3 + 4 + 3 + 1
    assert found.answer_tokens is not None and found.tokens is not None
    assert found.answer_tokens.total == len("one") + len("all of it learned") + len("at all") + len("gone")
    assert found.tokens.total == len("two words\none") + len("all of it learned") + len("none\nat all") + len("gone")
    assert stats(SOURCE).tokens is None


def test_some_are_drawn_by_seed():
    source = Listed(*(sample("x " * number) for number in range(100)))
    first = stats(source, 10)
    assert first.looked == 10 and first == stats(source, 10) != stats(source, 10, seed=1)
    assert stats(source, 1000).looked == 100


def test_answers_are_what_is_learned():
    turns = Sample(tuple(Message(role, (role,)) for role in ("system", "user", "assistant", "user", "assistant")))
    assert answers(turns) == "assistant\nassistant"
    assert answers(Sample((Message("text", ("a",)), Message("continuation", ("b",))))) == "a\nb"


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60))
def test_a_spread_is_in_order(numbers):
    spread = Spread.of(numbers)
    assert spread.least == min(numbers) and spread.most == max(numbers) and spread.total == sum(numbers)
    assert spread.least <= spread.p5 <= spread.median <= spread.p95 <= spread.most
    assert sum(n <= spread.p95 for n in numbers) >= 0.95 * len(numbers)
    assert sum(n < spread.median for n in numbers) <= len(numbers) / 2


def test_sizes_need_no_decoding(monkeypatch):
    source = Listed(sample("x", picture(30, 20)))
    monkeypatch.setattr(Image.Image, "load", None)
    assert stats(source).widths.most == 30


@pytest.mark.parametrize("tokens", [None, letters])
def test_the_table_tells_it(tokens):
    console = Console(file=io.StringIO(), width=140)
    console.print(table("mine", stats(SOURCE, tokens=tokens)))
    text = console.file.getvalue()
    assert "mine: 5 of 5 samples" in text and "1 samples and 2 pictures cannot be read" in text
    assert ("answer tokens" in text) == (tokens is not None)
