"""A tiny model with a tokenizer of single characters: whatever is written is text that can be read."""

from typing import Any

import numpy as np
import PIL.Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from model.tiny import IMAGE, PATCH, VOCABULARY, build
from vlmlab.batch import Sample
from vlmlab.model.vlm import VLM
from vlmlab.processor.images import native
from vlmlab.processor.processor import Config, Processor


def tokenizer() -> Tokenizer:
    """One token for each printable ASCII character and space, and the released model's control tokens behind them."""
    letters = [chr(code) for code in range(32, 127)]
    vocabulary = {"<unk>": 0} | {letter: 1 + at for at, letter in enumerate(letters)}
    vocabulary |= {f"<{at}>": len(vocabulary) + at for at in range(98 - len(vocabulary))}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    names = ["<s>", "</s>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    assert made.token_to_id("<image>") == IMAGE and made.get_vocab_size() == VOCABULARY
    return made


def processor(model: VLM, **changes: Any) -> Processor:
    """Pictures of 8 to 40 pixels, patches of 2."""
    config = Config(images=native.Config(longest=40, shortest=8), patch=PATCH, pad="<unk>", **changes)
    return Processor(config, tokenizer(), model.placeholders, VOCABULARY)


def picture(width: int, height: int, seed: int) -> PIL.Image.Image:
    """A picture of noise."""
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def samples() -> list[Sample]:
    """Documents and conversations of different lengths, with none, one and several pictures, one of them twice."""
    ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    return [
        Sample.from_text("<image>abc", [picture(20, 30, 1)]),
        Sample.from_text("hello"),
        Sample.from_text("a<image>bcdef<image>", [picture(35, 15, 2), picture(20, 30, 1)]),
        Sample.from_messages(ask, images=[picture(33, 33, 3)]),
        Sample.from_messages([{"role": "user", "content": "And without a picture?"}]),
    ]


__all__ = ["build", "picture", "processor", "samples", "tokenizer"]
