"""Pages of plain PDF files with their words in reading order: webdataset tars in PDFA's layout, for the source `pdf`.

Each file is a `.pdf` beside a `.json` with the words and lines of its pages and their places.
"""

import dataclasses
import json
from pathlib import Path

from vlmlab.data import pdf, raw
from vlmlab.data.builders import Builder, BuilderConfig, Tally


@dataclasses.dataclass(frozen=True)
class Config(BuilderConfig):
    """A file with more than `most` pages is dropped, and one that says fewer than `words` words in all (a scan)."""

    shard: int = 100
    most: int = 500
    words: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most < 1 or self.words < 0:
            raise ValueError("needs most of 1 or more, and words of 0 or more")


class Pages(Builder):
    """A PDF file a unit."""

    ending = ".tar"

    def __init__(self, config: Config, place: Path) -> None:
        """Finds the files. Raises ValueError when there are none."""
        self.config, self.place = config, place.expanduser()
        self.files = raw.found(self.place, (".pdf",))

    def __len__(self) -> int:
        return len(self.files)

    def fingerprint(self) -> str:
        """The names and sizes of the files."""
        return raw.listing(self.files, self.place)

    def write(self, units: range, path: Path, out: Path) -> Tally:
        """The files with their words. They are dropped as `unreadable`, `many pages` or `few words`."""
        tally = Tally()
        with raw.Shard(path) as shard:
            for unit in units:
                file = self.files[unit]
                name = raw.named(file, self.place)
                try:
                    data = file.read_bytes()
                    with pdf.opened(data) as document:
                        pages = len(document)
                        told = pdf.annotated(document) if pages <= self.config.most else {"pages": []}
                except (OSError, ValueError) as error:
                    tally.drop(name, "unreadable", str(error))
                    continue
                words = sum(len(page["words"]["text"]) for page in told["pages"])
                if pages > self.config.most:
                    tally.drop(name, "many pages", f"{pages} pages")
                elif words < self.config.words:
                    tally.drop(name, "few words", f"{words} words on {pages} pages")
                else:
                    told = {**told, "name": name}
                    shard.add(f"{unit:09}", {"pdf": data, "json": json.dumps(told, ensure_ascii=False).encode()})
                    tally.samples += 1
        return tally


PLUGIN = Pages
