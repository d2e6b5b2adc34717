"""What is published about large corpora: how many samples they have, and what one holds in the mean.

`vlmlab plan` counts with these where the files are not at hand. Sizes of the instruction sets are those of Table 14.
"""

import dataclasses
import functools
import importlib.resources
import tomllib
from collections.abc import Mapping
from typing import Any

from vlmlab.component import plain
from vlmlab.data.sft_mixture import Entry, of_subset, table, text_sets
from vlmlab.data.sources import SourceConfig

TOKENS_A_WORD = 1.3

TEMPLATE = 15
"""Tokens taken for a question of Table 14 and what surrounds it: the paper counts answers only."""


@dataclasses.dataclass(frozen=True)
class Published:
    """Means of a sample: `images`, `text` tokens, those of them that answer, a picture's `size` in pixels (w, h)."""

    what: str
    samples: int
    images: float
    text: float
    answers: float
    size: tuple[int, int]
    told: str


def published(config: SourceConfig) -> Published | None:
    """What is known of the corpus that a source reads, told by the source's name and keys; None where nothing is."""
    keys: Mapping[str, Any] = plain(config)
    if config.name == "cauldron":
        return _instruction(of_subset(keys["subset"]))
    if config.name == "text" and "set" in keys:
        return _instruction({e.name: e for e in table()}[text_sets()[keys["set"]]])
    for what, told in _file().items():
        if told["source"] == config.name and told.get("caption") in (None, keys.get("caption")):
            text = float(told.get("tokens", 0) or told["words"] * TOKENS_A_WORD)
            taken = f"; {told['taken']} taken" if "taken" in told else ""
            width, height = told["size"]
            return Published(
                what, told["samples"], float(told["images"]), text, text, (width, height), told["from"] + taken
            )
    return None


def _instruction(entry: Entry) -> Published:
    """A set of Table 14: a conversation has one picture there, or is one question without any."""
    samples = entry.images or entry.pairs
    answers = entry.answer_tokens / samples
    text = answers + TEMPLATE * entry.pairs / samples
    told = f"Table 14; {TEMPLATE} tokens taken for a question, and 640 x 480 for pictures"
    return Published(entry.name, samples, float(entry.images > 0), text, answers, (640, 480), told)


@functools.cache
def _file() -> Mapping[str, Mapping[str, Any]]:
    text = importlib.resources.files("vlmlab.data").joinpath("published.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
