"""What is measured against: the released tokenizer, put together from the pieces that a package ships."""

import functools
from importlib.resources import files

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

FAKE, IMAGE, END_OF_UTTERANCE = 32000, 32001, 32002

_NORMAL, _BYTE = 1, 6
"""Kinds of piece in a sentencepiece model; the others (unknown, control) take no part in merges."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _fields(data: bytes):
    """(number, value) of each field of a protocol buffers message; enough of the format for sentencepiece models."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def pieces() -> list[tuple[str, int]]:
    """Text and kind of each of the 32,000 pieces of the Mistral 7B v0.1 tokenizer, in the order of their ids."""
    model = (files("mistral_common") / "data" / "tokenizer.model.v1").read_bytes()
    found = []
    for number, value in _fields(model):
        if number == 1:
            piece = dict(_fields(value))
            found.append((piece[1].decode(), piece.get(3, _NORMAL)))
    return found


def _merges(vocabulary: dict[str, int], ordinary: set[str]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, the earliest piece first: in a BPE model of sentencepiece, order is rank."""
    found = []
    for piece in ordinary:
        rank = vocabulary[piece]
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in ordinary and right in ordinary:
                found.append((rank, vocabulary[left], vocabulary[right], (left, right)))
    return [pair for *_, pair in sorted(found)]


@functools.cache
def _released(base: bool) -> str:
    listed = pieces()
    vocabulary = {text: at for at, (text, _) in enumerate(listed)}
    ordinary = {text for text, kind in listed if kind == _NORMAL}
    made = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(vocabulary, ordinary),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    names = ["<unk>", "<s>", "</s>", "<fake_token_around_image>", "<image>"]
    names += [] if base else ["<end_of_utterance>"]
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    return made.to_str()


def released_tokenizer(base: bool = False) -> Tokenizer:
    """The released model's tokenizer (32,003 tokens); the base model's, without `<end_of_utterance>`, has 32,002."""
    return Tokenizer.from_str(_released(base))
