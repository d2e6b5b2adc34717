"""Text rendered on pictures, from text of your own: webdataset tars in RenderedText's layout, for `rendered_text`.

What the source `typeset` makes on the spot, written down once: each picture beside a `.json` with its lines and their
corners.
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from vlmlab.data import raw
from vlmlab.data.builders import Builder, BuilderConfig, Tally
from vlmlab.data.made import png
from vlmlab.data.made.fonts import Choice
from vlmlab.data.sources import typeset


@dataclasses.dataclass(frozen=True)
class Config(BuilderConfig):
    """How many pictures, and what the source `typeset` needs for them; see there."""

    samples: int = 10_000
    seed: int = 0
    split: Literal["train", "validation", "test"] = "train"
    words: int = 12
    side: int = 384
    angle: float = 15.0
    fonts: Choice = "system"


class Typeset(Builder):
    """A picture a unit."""

    ending = ".tar"

    def __init__(self, config: Config, place: Path) -> None:
        """Reads the text. Raises ValueError when there is none of this split, or no fonts."""
        self.place = place.expanduser()
        self.source = typeset.Typeset(
            typeset.Config(
                split=config.split,
                seed=config.seed,
                samples=config.samples,
                text=self.place,
                words=config.words,
                side=config.side,
                angle=config.angle,
                fonts=config.fonts,
            )
        )

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """The names and sizes of the files of text, and the fonts."""
        files = raw.found(self.place, (".txt",) if self.place.is_dir() else (self.place.suffix.lower(),))
        return raw.fingerprint([raw.listing(files, self.place), *self.source.fonts])

    def write(self, units: range, path: Path, out: Path) -> Tally:
        """The pictures with their lines. None is dropped."""
        with raw.Shard(path) as shard:
            for unit in units:
                truth = self.source.truth(unit)
                corners = [[[round(x, 2), round(y, 2)] for x, y in line] for line in self.source.corners(truth)]
                told = {"ocr_annotation": {"text": list(truth.lines), "bounding_boxes": corners}}
                parts = {
                    "png": png(self.source.draw(truth)),
                    "json": json.dumps(told, ensure_ascii=False).encode(),
                }
                shard.add(f"{unit:09}", parts)
        return Tally(samples=len(units))


PLUGIN = Typeset
