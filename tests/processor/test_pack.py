"""Packing loses nothing, repeats nothing and keeps its budget; cutting keeps pictures with their texts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlmlab.batch import Message, Picture, Sample
from vlmlab.processor.pack import fill, split

lengths = st.lists(st.integers(1, 70), max_size=60)


@given(lengths, st.integers(1, 64))
def test_every_sample_is_in_one_row_that_it_fits(lengths, tokens):
    rows = fill(lengths, tokens)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    for row in rows:
        assert row == sorted(row)
        assert sum(lengths[number] for number in row) <= tokens or len(row) == 1
    assert rows == sorted(rows) == fill(lengths, tokens)


@given(lengths, st.integers(1, 64))
def test_no_two_rows_could_be_one(lengths, tokens):
    rows = [sum(lengths[number] for number in row) for row in fill(lengths, tokens)]
    within = [length for length in rows if length <= tokens]
    assert all(a + b > tokens for at, a in enumerate(within) for b in within[at + 1 :])


def test_rows_are_fuller_than_those_filled_in_order():
    generator = random.Random(0)
    lengths = [generator.randint(50, 1024) for _ in range(128)]
    in_order, room = 0, 0
    for length in lengths:
        if length > room:
            in_order, room = in_order + 1, 2048
        room -= length
    rows = fill(lengths, 2048)
    assert sum(lengths) / (2048 * len(rows)) > 0.97 > 0.85 > sum(lengths) / (2048 * in_order)


def test_what_fits_one_row_stays_as_it_came():
    assert fill([5, 9, 2, 7], 23) == [[0, 1, 2, 3]]
    assert fill([5, 9, 2, 7], 22) == [[0, 1, 3], [2]]
    assert fill([], 10) == []


def picture(name: str) -> Picture:
    return Picture.of(Image.new("RGB", (4, 4)), name)


def count(sample: Sample) -> int:
    """A token for each letter, four for each picture, and one more."""
    return 1 + sum(4 if isinstance(part, Picture) else len(part) for m in sample.messages for part in m.parts)


def told(sample: Sample) -> list[str]:
    return [f"<{p.name}>" if isinstance(p, Picture) else p for m in sample.messages for p in m.parts]


parts = st.lists(st.one_of(st.just(None), st.text("ab", min_size=1, max_size=12)), min_size=2, max_size=20)


@given(parts, st.integers(6, 40))
def test_a_document_is_cut_between_texts_only(parts, tokens):
    parts = tuple(picture(f"p{at}") if part is None else part for at, part in enumerate(parts))
    whole = Sample((Message("text", parts),))
    pieces, left_out = split(whole, count, tokens)
    assert all(count(piece) <= tokens for piece in pieces)
    kept = [part for piece in pieces for part in told(piece)]
    if not left_out:
        assert kept == told(whole)
    # Behind a picture its text follows in the same piece, unless the document has none.
    behind = {f"<p{at}>": parts[at + 1] for at in range(len(parts) - 1) if isinstance(parts[at], Picture)}
    for piece in pieces:
        seen = told(piece)
        for at, part in enumerate(seen):
            if part in behind:
                expected = behind[part]
                assert seen[at + 1] == (expected if isinstance(expected, str) else f"<{expected.name}>")


def test_a_document_in_pieces():
    parts = ("one", picture("a"), picture("b"), "two", "three", picture("c"), "four", picture("d"))
    pieces, left_out = split(Sample((Message("text", parts),)), count, 15)
    assert [told(piece) for piece in pieces] == [["one", "<a>", "<b>", "two"], ["three"], ["<c>", "four", "<d>"]]
    assert left_out == 0
    assert split(Sample((Message("text", parts),)), count, 11)[1] == 2


def test_a_conversation_keeps_its_pictures_in_every_piece():
    shown = picture("a")
    turns = [Message("system", ("be",)), Message("user", (shown, "q1")), Message("assistant", ("a1",))]
    turns += [Message("user", ("q2",)), Message("assistant", ("a2",)), Message("user", ("q3",))]
    turns += [Message("assistant", ("a three that is too long to keep",))]
    turns += [Message("user", ("q4",)), Message("assistant", ("a4",))]
    pieces, left_out = split(Sample(tuple(turns)), count, 15)
    assert [told(piece) for piece in pieces] == [
        ["be", "<a>", "q1", "a1", "q2", "a2"],
        ["be", "<a>", "q4", "a4"],
    ]
    assert left_out == 1
    assert [message.role for message in pieces[1].messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    "messages",
    [
        (Message("text", ("all in one",)),),
        (Message("text", ("a", "b")), Message("continuation", ("c",))),
        (Message("assistant", ("a",)), Message("user", ("b",)), Message("assistant", ("c",))),
    ],
)
def test_what_cannot_be_cut_is_left_out(messages):
    assert split(Sample(messages), count, 2) == ([], 1)
