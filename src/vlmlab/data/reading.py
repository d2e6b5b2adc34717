"""From a place in the stream to what the model reads: the sample is found, augmented, processed, and cut if too long.

What comes out is plain arrays, eight bits a number for pictures: it is small enough to be sent between processes.

    t text tokens  p patches  c numbers in a patch
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from vlmlab.batch import IGNORE, Sample
from vlmlab.data.augment import Augment
from vlmlab.data.mixture import Mixture, Size
from vlmlab.data.sources import Source
from vlmlab.data.stream import Draw
from vlmlab.processor.pack import split
from vlmlab.processor.processor import Encoded, Learn, Options

Encode = Callable[[Sample, Learn, Options], Encoded]
"""What a processor does with one sample: which of its tokens are learned, and how its pictures are read."""


@dataclasses.dataclass(frozen=True)
class Shelf:
    """A source in the stream and how its samples are read; see `Ingredient`.

    A row holds `row` tokens; a sample of more than `tokens` is too long (0: none is).
    """

    source: Source
    kind: str
    learn: Learn
    row: int
    tokens: int = 0
    overlong: Literal["drop", "split"] = "drop"
    augment: Augment = dataclasses.field(default_factory=Augment)


def shelves(source: Source, name: str, learn: Learn, row: int) -> dict[str, Shelf]:
    """The sources of a mixture by name, or a single one; `learn` and `row` where they do not say it themselves."""
    if not isinstance(source, Mixture):
        return {name: Shelf(source, name, learn, row)}
    told = source.config.sources
    return {
        key: Shelf(
            each,
            told[key].kind or key,
            told[key].learn or learn,
            told[key].tokens or row,
            told[key].tokens,
            told[key].overlong,
            told[key].augment,
        )
        for key, each in source.sources.items()
    }


class Read(NamedTuple):
    """A sample (or a piece of one) as numbers, up to the last position that learns.

    `tokens` and `targets` are [t]; `patches` are those of each image, [p, c], of the rows and columns in `grid`.
    """

    tokens: "np.ndarray[Any, np.dtype[np.int32]]"
    targets: "np.ndarray[Any, np.dtype[np.int32]]"
    patches: "tuple[np.ndarray[Any, np.dtype[np.uint8]], ...]"
    grid: tuple[tuple[int, int], ...]

    @property
    def learned(self) -> int:
        """How many of its tokens are learned."""
        return int((self.targets != IGNORE).sum())

    def size(self, row: int) -> Size:
        """How much it is, where a row holds so many tokens; whether it is a sample is not counted here."""
        length = len(self.tokens)
        return Size(0.0, length / row, float(len(self.grid)), float(self.learned), float(length))

    @staticmethod
    def of(encoded: Encoded, image_token: int) -> "Read":
        """What comes after the last position that learns is left out, unless a picture stands there."""
        tokens = np.asarray(encoded.tokens, np.int32)
        targets = np.full(len(tokens), IGNORE, np.int32)
        if encoded.learned is not None:
            targets[:-1] = np.where(encoded.learned[1:], tokens[1:], IGNORE)
        learned = np.flatnonzero(targets != IGNORE)
        end = int(learned[-1]) + 1 if len(learned) else len(tokens)
        if (tokens[end:] == image_token).any():
            end = len(tokens)
        return Read(tokens[:end], targets[:end], tuple(p.numpy() for p in encoded.patches), tuple(encoded.grid))


class Outcome(NamedTuple):
    """What became of a draw: its pieces; how many were too long; why it could not be read (empty: it could)."""

    pieces: tuple[Read, ...]
    overlong: int = 0
    why: str = ""


class Reader:
    """Reads draws: a function of the draw alone, whichever process calls it and whatever was read before."""

    def __init__(self, stock: Mapping[str, Shelf], encode: Encode, image_token: int, seed: int) -> None:
        self.stock, self.encode, self.image_token, self.seed = dict(stock), encode, image_token, seed

    def __call__(self, draw: Draw) -> Outcome:
        """The pieces of a sample, or why there are none."""
        shelf = self.stock[draw.source]
        try:
            sample, options = shelf.augment(shelf.source[draw.number], self.seed, draw)
            read = self._read(sample, shelf, options)
            if not shelf.tokens or len(read.tokens) <= shelf.tokens:
                return Outcome((read,))
            if shelf.overlong == "drop":
                return Outcome((), 1)
            return self._split(sample, shelf, options)
        except (ValueError, OSError) as error:
            return Outcome((), why=str(error) or type(error).__name__)

    def size(self, name: str, index: int) -> Size:
        """How large a sample of a source is, the first time it is drawn; see `measured`."""
        pieces = self(Draw(name, index, 0)).pieces
        return sum((piece.size(self.stock[name].row) for piece in pieces), Size(1.0 if pieces else 0.0))

    def _read(self, sample: Sample, shelf: Shelf, options: Options) -> Read:
        return Read.of(self.encode(sample, shelf.learn, options), self.image_token)

    def _split(self, sample: Sample, shelf: Shelf, options: Options) -> Outcome:
        # A piece has fewer pictures than the sample: each is found again by what it is.
        scales = {id(picture): scale for picture, scale in zip(sample.pictures, options.scales, strict=False)}

        def read(piece: Sample) -> Read:
            own = tuple(scales[id(picture)] for picture in piece.pictures) if scales else ()
            return self._read(piece, shelf, dataclasses.replace(options, scales=own))

        pieces, left_out = split(sample, lambda piece: len(read(piece).tokens), shelf.tokens)
        return Outcome(tuple(read(piece) for piece in pieces), left_out)
