"""Your own data: a file with one sample a line, as JSON.

    {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A kite."}], "images": ["kite.jpg"]}
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "kite.jpg"}}, ...
    {"text": "<image>A kite over the sea.", "images": ["kite.jpg"]}

Paths of pictures are relative to the file's folder, whether they stand in `images` or in the messages themselves.
"""

import dataclasses
from pathlib import Path
from typing import Any

from vlmlab.batch import Sample
from vlmlab.data.files import Row
from vlmlab.data.rows import RowSource, open_rows
from vlmlab.data.sources import SourceConfig


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`path` is a file, or a pattern like `data/*.jsonl`; a `{split}` in it is replaced by the split."""

    path: str = dataclasses.field(kw_only=True)


class Lines(RowSource):
    """The lines of a file, found again by where they start: only their places are held in memory."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError when there is no such file, or it holds no lines."""
        super().__init__(open_rows(config.path, config.split))

    def sample(self, row: Row) -> Sample:
        """The conversation or the document of a line."""
        data = row.values
        if ("messages" in data) == ("text" in data):
            raise ValueError("a line should be an object with either `messages` or `text`")
        odd = data.keys() - {"messages", "text", "images"}
        if odd:
            raise ValueError(f"unknown key {sorted(odd)[0]!r}; known: messages, text, images")
        images = data.get("images", [])
        if not isinstance(images, list) or not all(isinstance(place, str) for place in images):
            raise ValueError("`images` should be a list of paths")
        pictures = [_place(place, row.folder) for place in images]
        if "text" in data:
            if not isinstance(data["text"], str):
                raise ValueError(f"`text` should be text, not {data['text']!r:.80}")
            return Sample.from_text(data["text"], pictures)
        return Sample.from_messages([_inside(message, row.folder) for message in row.items("messages")], pictures)


def _place(place: str, folder: Path) -> str:
    remote = place.startswith(("http://", "https://", "data:"))
    return place if remote else str(folder / place)


def _inside(message: Any, folder: Path) -> Any:
    """A message with the paths of its own pictures made relative to the file's folder."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    return {**message, "content": [_placed(part, folder) for part in message["content"]]}


def _placed(part: Any, folder: Path) -> Any:
    if not isinstance(part, dict):
        return part
    for key in ("path", "image"):
        if isinstance(part.get(key), str):
            part = {**part, key: _place(part[key], folder)}
    link = part.get("image_url")
    if isinstance(link, str):
        return {**part, "image_url": _place(link, folder)}
    if isinstance(link, dict) and isinstance(link.get("url"), str):
        return {**part, "image_url": {**link, "url": _place(link["url"], folder)}}
    return part


PLUGIN = Lines
