"""The test tokenizer is the released one: ids that its publication and its authors' code pin down."""

import pytest

from oracles import pieces, released_tokenizer

IDS = {
    "User:<fake_token_around_image><image><fake_token_around_image>What is it?<end_of_utterance>\nAssistant:": [
        *[1, 1247, 28747, 32000, 32001, 32000, 1824, 349, 378, 28804, 32002, 28705, 13, 7226, 11143, 28747]
    ],
    "<fake_token_around_image> this": [1, 32000, 259, 894],
    "<end_of_utterance>\nAssistant:": [1, 32002, 28705, 13, 7226, 11143, 28747],
    "Assistant: A cat.": [1, 21631, 28747, 330, 5255, 28723],
    "And <fake_token_around_image>": [1, 1015, 28705, 32000],
}


@pytest.mark.parametrize("text", IDS)
def test_ids(idefics2_tokenizer, text):
    assert idefics2_tokenizer.encode(text).ids == IDS[text]


def test_32000_pieces_and_the_added_tokens():
    assert len(pieces()) == 32000
    assert released_tokenizer().get_vocab_size() == 32003
    assert released_tokenizer(base=True).get_vocab_size() == 32002
    assert released_tokenizer(base=True).token_to_id("<end_of_utterance>") is None


def test_text_survives(idefics2_tokenizer):
    for text in ("Héllo, wörld", "日本語 🦙 \n\t x", "a  b   c"):
        assert idefics2_tokenizer.decode(idefics2_tokenizer.encode(text).ids) == text
