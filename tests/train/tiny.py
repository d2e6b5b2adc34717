"""A model of a few thousand weights, and a corpus of coloured squares named by their colour, all in memory."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from vlmlab.batch import IGNORE, Batch, Images, Message, Picture, Sample
from vlmlab.component import parse, write_toml
from vlmlab.data.mixture import Mixture
from vlmlab.data.reading import Reader, shelves
from vlmlab.data.sources import Pair, PairSource, Source, SourceConfig
from vlmlab.data.stream import Order
from vlmlab.model.vlm import VLM, VLMConfig
from vlmlab.processor.processor import Encoded, Learn, Options
from vlmlab.train.feed import Feed, Piece
from vlmlab.train.ledger import Ledger
from vlmlab.train.prepare import Preparer
from vlmlab.train.recipe import Stage

IMAGE, START, END, ASK = 3, 1, 2, 4
COLOURS = {f"colour {n}": (n * 36 % 256, n * 97 % 256, n * 151 % 256) for n in range(12)}
MODEL = {
    "vision": {"name": "siglip", "width": 32, "layers": 1, "heads": 2, "inner": 64, "patch": 4, "side": 8},
    "connector": {
        "name": "perceiver",
        "latents": 2,
        "depth": 1,
        "heads": 2,
        "kv_heads": 1,
        "head_width": 16,
        "projection_inner": 64,
    },
    "language": {
        "name": "mistral",
        "vocabulary": 128,
        "width": 32,
        "layers": 2,
        "heads": 2,
        "kv_heads": 1,
        "head_width": 16,
        "inner": 64,
        "positions": 256,
    },
    "fusion": {"name": "interleave", "image_token": IMAGE},
}


def model(seed: int = 0) -> VLM:
    torch.manual_seed(seed)
    return VLM(parse(VLMConfig, MODEL))


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """This file is a source plug-in too: `name = "train.tiny"` in a recipe."""

    count: int = 24


class Colours(PairSource):
    """Squares of different sizes: `Which?<image>` and then the colour's name."""

    def __init__(self, config: Config | int = 24) -> None:
        config = config if isinstance(config, Config) else Config(count=config)
        self.count, self.split = config.count, config.split

    def __len__(self) -> int:
        return self.count

    def pair(self, index: int) -> Pair:
        name = list(COLOURS)[index % len(COLOURS)]
        side = 8 + 4 * (index % 3)
        return Pair(Picture.of(Image.new("RGB", (side, 8), COLOURS[name]), name), name, "colours")

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        pair = self.pair(index)
        return Sample((Message("user", (pair.picture, "which?")), Message("assistant", (pair.title,))))


@functools.cache
def word(text: str) -> list[int]:
    """A number for each word: the colour's own behind one that all share, so that answers have two tokens or more."""
    return [10, 20 + int(text.split()[1])] if text.startswith("colour") else [ASK, ASK + 1]


def process(sample: Sample) -> Batch:
    """One row: a start, two image tokens for each picture, the words; the assistant's are learned, with an end."""
    tokens, learned, images = [START], [False], []
    for message in sample.messages:
        for part in message.parts:
            if isinstance(part, Picture):
                pixels = torch.tensor(list(part.source.tobytes()), dtype=torch.float32).view(8, -1, 3) / 127.5 - 1
                rows, columns = 2, pixels.shape[1] // 4
                patches = pixels.view(rows, 4, columns, 4, 3).permute(0, 2, 4, 1, 3).reshape(rows * columns, 48)
                images.append(Images(patches, torch.tensor([[rows, columns]])))
                more, are = [IMAGE, IMAGE], False
            else:
                more, are = word(part), message.role == "assistant"
            tokens += more
            learned += [are] * len(more)
    tokens, learned = [*tokens, END], [*learned, learned[-1]]
    targets = [t if on else IGNORE for t, on in zip(tokens[1:], learned[1:], strict=True)] + [IGNORE]
    row = torch.tensor([tokens])
    places = torch.arange(len(tokens))[None]
    return Batch(row, torch.ones_like(row), places, torch.tensor([targets]), Images.join(images))


def stage(**changes) -> Stage:
    values = {"steps": 6, "batch": 4, "lr": 1e-2, "warmup": 2, "save_every": 3, "train": ("connector",), **changes}
    return Stage(**values)


def preparer(of: VLM, count: int = 24, frozen: bool = True) -> Preparer:
    return Preparer(of, process, Colours(count), frozen)


def encode(sample: Sample, learn: Learn = "answers", options: Options | None = None) -> Encoded:
    """The same as `process`, as a processor tells it before it is collated."""
    batch = process(sample)
    learned = [False, *(batch.targets[0, :-1] != IGNORE).tolist()]
    grid = [] if batch.images is None else batch.images.sizes()
    patches = [] if batch.images is None else batch.images.patches.split([rows * columns for rows, columns in grid])
    bits = [((some + 1) * 127.5).round().to(torch.uint8) for some in patches]
    return Encoded(batch.tokens[0].tolist(), learned, bits, grid)


def normalise(patches: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(patches)).float() / 127.5 - 1


def feed(of: VLM, source: Source | int = 24, frozen: bool = True, seed: int = 0, tokens: int = 4096, workers=0) -> Feed:
    """The stream of one source or of a mixture, as `fit` reads it."""
    source = Colours(source) if isinstance(source, int) else source
    stock = shelves(source, "colours", "answers", tokens)
    drawn = source.weights() if isinstance(source, Mixture) else None
    order = Order(seed, {name: len(shelf.source) for name, shelf in stock.items()}, drawn)
    return Feed(of, Reader(stock, encode, IMAGE, seed), order, normalise, tokens, frozen, workers)


def ledger(of: Feed, broken: float = 0.0, drift: float = 0.05) -> Ledger:
    return Ledger({name: float(share) for name, share in of.order.shares.items()}, "samples", drift, broken)


def pieces(of: Feed, places: range) -> list[Piece]:
    return of.window(places).pieces


PLUGIN = Colours
CONTROL = ("<s>", "</s>", "<pad>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")


def tokenizer() -> Tokenizer:
    """Bytes and the control tokens, nothing else."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    return made


def recipe(folder: Path, **tables: dict) -> Path:
    """A whole recipe of a tiny model on this corpus, and its tokenizer, written into a folder."""
    made = tokenizer()
    made.save(str(folder / "tokenizer.json"))
    model_ = json.loads(json.dumps(MODEL))
    model_["fusion"]["image_token"] = made.token_to_id("<image>")
    model_["language"]["vocabulary"] = made.get_vocab_size()
    model_["connector"] |= {"ratio": 4, "projection_inner": 64}
    data = {
        "seed": 3,
        "start": {"tokenizer": str(folder / "tokenizer.json")},
        "model": model_,
        "processor": {"patch": 4, "pad": "<pad>", "images": {"name": "native", "longest": 16, "shortest": 8}},
        "data": {"name": "train.tiny"},
        "stage": {"steps": 4, "batch": 4, "lr": 1e-3, "warmup": 1, "save_every": 2},
        "score": {"candidates": 10, "resamples": 200, "every": 2, "watched": 12},
    }
    for name, changes in tables.items():
        data[name] = {**data.get(name, {}), **changes}
    path = folder / "tiny.toml"
    path.write_text("# A tiny model on coloured squares.\n" + write_toml(data), encoding="utf-8")
    return path
