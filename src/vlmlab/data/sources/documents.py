"""Interleaved documents: pages of text with their pictures in place, as OBELICS and its Wikipedia twin are published.

Their files (parquet, or JSON lines) have two lists of equal length, `images` and `texts`: at each place one of the two
holds something and the other is null. Pictures are URLs, paths, or `{"bytes": ..., "path": ...}`. The columns
`metadata` (a list, one entry a place) and `general_metadata` (an object) are JSON as text.
"""

import dataclasses
import functools
import json
from typing import Any

from vlmlab.batch import Message, Picture, Sample
from vlmlab.data.files import Row, naming
from vlmlab.data.rows import Rows, RowSource, open_rows
from vlmlab.data.sources import SourceConfig


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`path` is a file or a pattern like `obelics/*.parquet`; a `{split}` in it is replaced by the split.

    `pictures` is the folder of the pictures: paths are relative to it, and what a URL names lies there under the URL's
    SHA-256. Without it, paths are relative to the file, and URLs stay URLs.
    """

    path: str = dataclasses.field(kw_only=True)
    pictures: str = ""


class Documents(RowSource):
    """A document a row, all of it to be learned from: texts and pictures in reading order."""

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(open_rows(config.path, config.split, ("images", "texts")))

    def sample(self, row: Row) -> Sample:
        """The document. Texts that follow each other are parted by a blank line."""
        images, texts = row.items("images"), row.items("texts")
        if len(images) != len(texts):
            raise ValueError(f"`images` has {len(images)} places and `texts` {len(texts)}; they should be aligned")
        parts: list[str | Picture] = []
        for place, (image, text) in enumerate(zip(images, texts, strict=True)):
            if (image is None) == (text is None):
                raise ValueError(f"place {place} holds {'nothing' if image is None else 'both a picture and a text'}")
            if image is not None:
                parts.append(row.picture(image, self.config.pictures, place))
            elif not isinstance(text, str):
                raise ValueError(f"place {place} of `texts` should be text, not {text!r:.80}")
            elif text.strip():
                follows = bool(parts) and isinstance(parts[-1], str)
                parts.append("\n\n" + text.strip() if follows else text.strip())
        if not parts:
            raise ValueError("the document is empty")
        return Sample((Message("text", tuple(parts)),))

    def metadata(self, index: int) -> dict[str, Any]:
        """What the corpus tells of a document: what is in its JSON columns, under their names."""
        row = self.about[index]
        told = {key: row.values[key] for key in ("metadata", "general_metadata") if row.values.get(key)}
        with naming(row.place):
            return {key: json.loads(value) if isinstance(value, str) else value for key, value in told.items()}

    @functools.cached_property
    def about(self) -> Rows:
        """The rows with every column. What samples do not need is longer than they are: opened only when asked for."""
        return open_rows(self.config.path, self.config.split)


PLUGIN = Documents
