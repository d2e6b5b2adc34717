"""Your own data: a file with one sample a line, as JSON.

    {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A kite."}], "images": ["kite.jpg"]}
    {"text": "<image>A kite over the sea.", "images": ["kite.jpg"]}

Paths of pictures are relative to the file's folder. Messages may also carry their pictures inside, as for `ask`.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from vlmlab.batch import Sample
from vlmlab.data.sources import Source, SourceConfig


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig):
    """`path` is the file; a `{split}` in it is replaced by the split."""

    path: str = dataclasses.field(kw_only=True)


class Lines(Source):
    """The lines of a file, found again by where they start: only their places are held in memory."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError when there is no such file, or it holds no lines."""
        self.path = Path(config.path.replace("{split}", config.split)).expanduser()
        if not self.path.is_file():
            raise ValueError(f"data.path: no such file: {self.path}")
        self.starts = []
        at = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.strip():
                    self.starts.append(at)
                at += len(line)
        if not self.starts:
            raise ValueError(f"data.path: {self.path} holds no samples")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index`. Raises ValueError naming the line that cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self.path.open("rb") as file:
            file.seek(self.starts[index])
            line = file.readline()
        try:
            return self._sample(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{self.path}, sample {index}: {error}") from None

    def _sample(self, data: Any) -> Sample:
        if not isinstance(data, dict) or ("messages" in data) == ("text" in data):
            raise ValueError("a line should be an object with either `messages` or `text`")
        odd = data.keys() - {"messages", "text", "images"}
        if odd:
            raise ValueError(f"unknown key {sorted(odd)[0]!r}; known: messages, text, images")
        images = data.get("images", [])
        if not isinstance(images, list) or not all(isinstance(place, str) for place in images):
            raise ValueError("`images` should be a list of paths")
        pictures = [self._place(place) for place in images]
        if "text" in data:
            return Sample.from_text(data["text"], pictures)
        return Sample.from_messages([self._inside(message) for message in data["messages"]], pictures)

    def _place(self, place: str) -> str:
        remote = place.startswith(("http://", "https://", "data:"))
        return place if remote else str(self.path.parent / place)

    def _inside(self, message: Any) -> Any:
        """A message with the paths of its own pictures made relative to the file's folder."""
        if not isinstance(message, dict) or not isinstance(message.get("content"), list):
            return message
        parts = [
            {**part, "path": self._place(part["path"])}
            if isinstance(part, dict) and isinstance(part.get("path"), str)
            else part
            for part in message["content"]
        ]
        return {**message, "content": parts}


PLUGIN = Lines
