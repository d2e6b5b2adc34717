"""The parity certificate: what a server finds out about itself before it answers anybody.

A tiny model of Idefics2's kind, whose weights are made by arithmetic, goes the whole way: text and pictures to tokens
and patches, patches to places on the position table, logits, first tokens. All of it must be what `certificate.json`
holds, which tests compare with transformers. Then the model that is served writes the same texts alone and in company.
"""

import dataclasses
import hashlib
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from jaxtyping import Int
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from vlmlab.batch import Sample
from vlmlab.component import parse
from vlmlab.generate.answers import Answer, Handle, Overloaded, Settings
from vlmlab.generate.engine import Engine
from vlmlab.model.vision import siglip
from vlmlab.model.vlm import VLM, VLMConfig
from vlmlab.processor.images import native
from vlmlab.processor.processor import Config, Options, Processor

LOG = logging.getLogger("vlmlab.serve")

FIXTURE = Path(__file__).with_name("certificate.json")
CLOSE = 1e-4
"""How far a logit may be from the stored one; two texts may part where the two likeliest tokens are this close."""

CONTROL = ("<s>", "</s>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")
IMAGE, VOCABULARY = 101, 103
TABLES: dict[str, dict[str, Any]] = {
    "vision": {"name": "siglip", "width": 24, "layers": 2, "heads": 3, "inner": 40, "patch": 14, "side": 70},
    "connector": {
        "name": "perceiver",
        "latents": 4,
        "depth": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 8,
        "projection_inner": 48,
    },
    "language": {
        "name": "mistral",
        "vocabulary": VOCABULARY,
        "width": 32,
        "layers": 3,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 8,
        "inner": 48,
        "window": 4096,
    },
    "fusion": {"name": "interleave", "image_token": IMAGE},
}


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What was found. `checks` are those of the stored fixture; the rest is of the model that is served.

    `company` says whether its texts were the same alone and together; where they were not, how near the two likeliest
    tokens were where they parted.
    """

    checks: dict[str, bool]
    logit_error: float
    company: bool
    nearest: float | None
    dtype: str

    @property
    def holds(self) -> bool:
        """Whether all is as it should be. In half precision, texts may part in company."""
        same = self.company or self.dtype != "float32" or (self.nearest is not None and self.nearest < CLOSE)
        return all(self.checks.values()) and same

    def told(self) -> dict[str, Any]:
        """For the health page."""
        found: dict[str, Any] = {"holds": self.holds, **self.checks, "logit_error": self.logit_error}
        found["same_alone_and_in_company"] = self.company
        if self.nearest is not None:
            found["margin_where_texts_part"] = self.nearest
        return found


def certify(engine: Engine) -> Certificate:
    """Test the code against the fixture, and a started engine against itself."""
    stored, found = json.loads(FIXTURE.read_text(encoding="utf-8")), measure()
    error = max(
        abs(a - b)
        for ours, theirs in zip(found["logits"], stored["logits"], strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )
    checks = {
        "processor": found["tokens"] == stored["tokens"] and found["patches"] == stored["patches"],
        "positions": found["positions"] == stored["positions"],
        "logits": error < CLOSE,
        "first_tokens": found["written"] == stored["written"],
    }
    nearest = company(engine)
    dtype = str(engine.model.dtype).removeprefix("torch.")
    made = Certificate(checks, error, nearest is None, nearest, dtype)
    if not made.holds:
        LOG.error("the self-test failed: %s", made.told())
    return made


def measure() -> dict[str, Any]:
    """What the fixture holds, as this machine finds it."""
    model = tiny()
    processor = tiny_processor(model)
    asked = samples()
    ways = [Options(split=at == 0) for at in range(len(asked))]
    encoded = processor.encode_all(asked, add_generation_prompt=True, options=ways)
    with torch.inference_mode():
        logits = model(processor.collate(encoded))
    last = [logits[row, len(one.tokens) - 1, ::8].tolist() for row, one in enumerate(encoded)]
    patches = hashlib.blake2b(digest_size=16)
    for some in (some for one in encoded for some in one.patches):
        patches.update(some.contiguous().numpy().tobytes())
    places = [siglip.buckets(side, 70) for side in range(1, 71)]
    engine = Engine(model, processor)
    return {
        "tokens": [one.tokens for one in encoded],
        "patches": patches.hexdigest(),
        "positions": hashlib.blake2b(json.dumps(places).encode(), digest_size=16).hexdigest(),
        "logits": [[round(value, 6) for value in row] for row in last],
        "written": [engine.answers([one], 8, options=way)[0].tokens for one, way in zip(asked, ways, strict=True)],
    }


def company(engine: Engine) -> float | None:
    """None when a started engine writes the same texts alone and together; else the margin where they first part."""
    settings = [Settings(8, options=None, logprobs=2) for _ in range(3)]
    asked = [Sample.from_text("What is it? <image>", [picture(64, 48)]), *(Sample.from_text(t) for t in ("Two", "A"))]
    alone = [_submit(engine, one, some).result() for one, some in zip(asked, settings, strict=True)]
    handles = [_submit(engine, one, some) for one, some in zip(asked, settings, strict=True)]
    together = [handle.result() for handle in handles]
    margins = [_parts(a, b) for a, b in zip(alone, together, strict=True)]
    found = [margin for margin in margins if margin is not None]
    return max(found) if found else None


def _submit(engine: Engine, sample: Sample, settings: Settings) -> Handle:
    """Hand in a request when there is room for it to wait."""
    while True:
        try:
            return engine.submit(sample, settings)
        except Overloaded:
            time.sleep(0.01)


def _parts(a: Answer, b: Answer) -> float | None:
    for one, two in zip(a.scored, b.scored, strict=False):
        if one.token != two.token:
            return one.likeliest[0][1] - one.likeliest[1][1]
    return None if len(a.tokens) == len(b.tokens) else math.inf


def tiny() -> VLM:
    """The tiny model. Its weights come from whole numbers, so that they are the same on every machine."""
    model = VLM(parse(VLMConfig, TABLES)).eval()
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(model.named_parameters())):
            drawn = (spread(parameter.numel(), number).double() / 2**31 - 1).reshape(parameter.shape).float()
            if parameter.ndim > 1:
                parameter.copy_(drawn * 0.4)
            else:
                parameter.copy_(parameter + drawn * 0.1)
    return model


def spread(count: int, seed: int) -> Int[Tensor, " m"]:
    """Numbers from 0 to 2^32 without visible order, by whole-number arithmetic alone."""
    x = torch.arange(count, dtype=torch.long) + 1_000_003 * (seed + 1)
    for factor in (0x45D9F3B, 0x2C1B3C6D):
        x = ((x ^ (x >> 15)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 13)


def tiny_processor(model: VLM) -> Processor:
    """Its processor: a token for each letter of ASCII, pictures of 28 to 112 pixels."""
    letters = [chr(code) for code in range(32, 127)]
    vocabulary = {"<unk>": 0} | {letter: 1 + at for at, letter in enumerate(letters)}
    vocabulary |= {f"<{at}>": len(vocabulary) + at for at in range(VOCABULARY - len(CONTROL) - len(vocabulary))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL])
    config = Config(images=native.Config(longest=112, shortest=28))
    return Processor(config, tokenizer, model.placeholders, VOCABULARY)


def picture(width: int, height: int) -> PIL.Image.Image:
    """A picture made by arithmetic."""
    numbers = (spread(3 * width * height, 77) >> 24).to(torch.uint8).reshape(height, width, 3)
    return PIL.Image.fromarray(numbers.numpy())


def samples() -> list[Sample]:
    """What the tiny model is asked: a picture that is split, two that are not, none."""
    ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    both = Sample.from_text("a<image>b<image>", [picture(90, 31), picture(40, 200)])
    return [
        Sample.from_messages(ask, images=[picture(130, 75)]),
        both,
        Sample.from_messages([{"role": "user", "content": "And without?"}]),
    ]


def write() -> None:
    """Store the fixture anew, after a change that is meant; `tests/parity/test_certificate.py` says if it is right."""
    from vlmlab.writing import write_text

    write_text(FIXTURE, json.dumps(measure(), indent=1) + "\n")
