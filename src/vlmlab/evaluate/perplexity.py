"""How surprised a language model is by a text: what the filter `perplexity` is handed."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from vlmlab.batch import Batch
from vlmlab.hub.assemble import read_language
from vlmlab.hub.backbones import get_nano
from vlmlab.hub.load import locate
from vlmlab.model.language import Language

NANO = "nano"
_CHUNK = 256  # positions whose logits are in memory at a time


Reader = Callable[[str, int], tuple[float, int]]


@dataclasses.dataclass(frozen=True)
class Loading:
    """Loads language models by name: `nano`, a backbone's folder, or its name on the hub. It can be sent to processes.

    Each of them loads a model once, and keeps it.
    """

    device: str

    def __call__(self, name: str) -> Reader:
        """The language model as a reader, see `reader`. Raises ValueError where there is none."""
        return _loaded(name, self.device)


def readers(device: str = "cpu") -> Loading:
    """What loads language models to a device."""
    return Loading(device)


@functools.cache
def _loaded(name: str, device: str) -> Reader:
    folder: Path = get_nano().language if name == NANO else locate(name)
    return reader(*read_language(folder, device))


def reader(language: Language, tokenizer: Tokenizer) -> Reader:
    """Reads the first so many tokens of a text: the surprise in nats of all but the first, and how many those are.

    What the tokenizer begins a text with counts as a token. A text is read alone, so that the result is the same in any
    company.
    """

    @torch.no_grad()
    def read(text: str, most: int) -> tuple[float, int]:
        ids = tokenizer.encode(text).ids[:most]
        if len(ids) < 2:
            return 0.0, 0
        tokens = torch.tensor([ids], device=language.device)
        batch = Batch(tokens, torch.ones_like(tokens), torch.arange(len(ids), device=tokens.device)[None])
        seen = language.read(batch)
        x = language.embedding(tokens[0])
        for number, layer in enumerate(language.layers):
            x = layer(x, seen, number)
        hidden, wanted = language.norm(x[:-1]), tokens[0, 1:]
        nats = 0.0
        for some, targets in zip(hidden.split(_CHUNK), wanted.split(_CHUNK), strict=True):
            nats += float(F.cross_entropy(language.head(some).float(), targets, reduction="sum"))
        return nats, len(wanted)

    return read
