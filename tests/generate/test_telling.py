"""The text of a document as it is told: the same as all its tokens decoded at once, and never taken back."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vlmlab.generate.telling import HALF, Telling


def told(decode, tokens: list[int], stop: list[str], sizes: list[int]) -> tuple[list[str], Telling]:
    telling, pieces, at = Telling(decode, stop), [], 0
    while at < len(tokens):
        at += sizes[len(pieces) % len(sizes)]
        pieces.append(telling.hear(tokens[:at]))
    pieces.append(telling.finish()[0])
    return pieces, telling


def bytewise() -> Tokenizer:
    """A tokenizer of single bytes, as byte-level BPE has them: a character may take four tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


BYTEWISE = bytewise()
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters=HALF), max_size=20)


@given(text=TEXTS, sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
@example("né \N{GRINNING FACE}\N{COMBINING ACUTE ACCENT}b", [1])
def test_characters_of_many_tokens_come_whole(text, sizes):
    tokens = BYTEWISE.encode(text).ids
    pieces, _ = told(BYTEWISE.decode, tokens, [], sizes)
    assert "".join(pieces) == text and not any(HALF in piece for piece in pieces)


@given(text=TEXTS, stop=st.lists(st.text(min_size=1, max_size=3), max_size=3), sizes=st.just([1]))
@example("abcabd", ["abd"], [1])
@example("aab", ["aac", "ab"], [1])
def test_nothing_of_a_stop_string_is_told(text, stop, sizes):
    tokens = BYTEWISE.encode(text).ids
    pieces, telling = told(BYTEWISE.decode, tokens, stop, sizes)
    cut = min((at for at in (text.find(s) for s in stop) if at >= 0), default=len(text))
    assert "".join(pieces) == telling.text == text[:cut]


@pytest.mark.parametrize("sizes", [[1], [2, 1], [7]])
def test_the_released_tokenizers_text(idefics2_tokenizer, sizes):
    """Spaces belong to the tokens after them, and a text's first space is dropped: pieces must not lose any."""
    for text in ("There are  two cats.\n\n 1. a\n 2. b", "Zürich \N{GRINNING FACE} 漢字 x", " and so", "a   b"):
        tokens = idefics2_tokenizer.encode(text, add_special_tokens=False).ids
        tokens = [*tokens[:2], 32002, *tokens[2:], 2]

        def decode(ids):
            return idefics2_tokenizer.decode(ids, skip_special_tokens=True)

        pieces, _ = told(decode, tokens, [], sizes)
        assert "".join(pieces) == decode(tokens)


def test_half_a_character_at_the_end_is_told_at_the_end():
    tokens = BYTEWISE.encode("aé").ids[:-1]
    pieces, _ = told(BYTEWISE.decode, tokens, [], [1])
    assert pieces == ["a", "", HALF]


def test_long_texts_are_decoded_a_few_tokens_at_a_time():
    longest = []

    def decode(ids):
        longest.append(len(ids))
        return BYTEWISE.decode(ids)

    told(decode, BYTEWISE.encode("word " * 100).ids, [], [1])
    assert max(longest) <= 2
