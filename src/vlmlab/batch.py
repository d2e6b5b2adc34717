"""The values that flow through vlmlab: a conversation with pictures, and the numbers a model reads.

One legend of dimension letters, used in every tensor annotation:

    b rows  t text tokens  n images  p patches of all images  l visual tokens of all images
    c numbers in a patch  v vision width  d language width  h heads  k head width  w vocabulary

and beside those, where a second of a kind is needed:

    e other width  g key heads  m other tokens (keys, say)  r rows asked for  s segments  x candidates  i in  o out
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    import PIL.Image

IGNORE = -100
"""The target of a position that is not learned."""

IMAGE_MARK = "<image>"
"""Where a picture stands in plain text."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that is still encoded: it is opened only when its pixels are needed.

    `source` is the encoded file's bytes, a path, a URL or data URL as text, or an already opened PIL image.
    `name` is what messages call it.
    """

    source: Union[bytes, str, Path, "PIL.Image.Image"] = dataclasses.field(repr=False)
    name: str = ""

    @staticmethod
    def of(value: Any, name: str = "") -> "Picture":
        """A Picture from a path, URL, data URL, encoded bytes, PIL image, or another Picture."""
        if isinstance(value, Picture):
            return value
        if isinstance(value, str | Path):
            text = str(value)
            shown = text if len(text) <= 200 else text[:60] + "..."
            return Picture(value, name or shown)
        if isinstance(value, bytes | bytearray | memoryview):
            return Picture(bytes(value), name or f"picture of {len(value)} bytes")
        if hasattr(value, "convert") and hasattr(value, "size"):  # a PIL image, without importing PIL
            return Picture(value, name or getattr(value, "filename", "") or "picture in memory")
        raise ValueError(f"not a picture: {type(value).__name__}; give a path, a URL, bytes or a PIL image")


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn: who speaks (`user`, `assistant`, `system`), and text and pictures in reading order.

    The role `text` marks a plain document: it is read exactly as written, without the chat template. What it is to be
    continued with may follow with the role `continuation`.
    """

    role: str
    parts: tuple[str | Picture, ...]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A conversation (or a plain document) with its pictures in place."""

    messages: tuple[Message, ...]

    @property
    def pictures(self) -> list[Picture]:
        """Every picture, in reading order."""
        return [part for message in self.messages for part in message.parts if isinstance(part, Picture)]

    @staticmethod
    def from_text(text: str, images: Sequence[Any] = ()) -> "Sample":
        """A plain document, as a base model reads it; each `<image>` in `text` is the next of `images`.

        Raises ValueError when the counts differ.
        """
        pieces = text.split(IMAGE_MARK)
        if len(pieces) - 1 != len(images):
            raise ValueError(f"the text has {len(pieces) - 1} {IMAGE_MARK} marks but {len(images)} images were given")
        parts: list[str | Picture] = [pieces[0]] if pieces[0] else []
        for image, piece in zip(images, pieces[1:], strict=True):
            parts.append(Picture.of(image))
            if piece:
                parts.append(piece)
        return Sample((Message("text", tuple(parts)),))

    @staticmethod
    def from_messages(messages: Sequence[Mapping[str, Any]], images: Sequence[Any] | None = None) -> "Sample":
        """A conversation from messages in OpenAI's form (`image_url`) or Hugging Face's (`{"type": "image"}`).

        Content is text or a list of parts: `{"type": "text", "text": ...}`, `{"type": "image_url", "image_url":
        {"url": ...}}` (http, https or data URL), `{"type": "image", "image" | "path" | "url": ...}`, or a bare
        `{"type": "image"}` which takes the next of `images`. Raises ValueError naming the message at fault.
        """
        waiting = list(images or [])
        given = len(waiting)
        turns = []
        for index, message in enumerate(messages):
            where = f"message {index}"
            if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
                raise ValueError(f"{where}: expected a mapping with `role` and `content`, not {message!r:.80}")
            role, content = message["role"], message["content"]
            if role not in ("system", "user", "assistant"):
                raise ValueError(f"{where}: role {role!r} is not one of system, user, assistant")
            if isinstance(content, str):
                content = [{"type": "text", "text": content}]
            if not isinstance(content, Sequence):
                raise ValueError(f"{where}: content should be text or a list of parts, not {content!r:.80}")
            parts = tuple(_part(part, waiting, f"{where}, part {at}") for at, part in enumerate(content))
            turns.append(Message(role, parts))
        if waiting:
            raise ValueError(f"{given} images were given but only {given - len(waiting)} image parts stand for them")
        return Sample(tuple(turns))


def _part(part: Any, waiting: list[Any], where: str) -> str | Picture:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise ValueError(f"{where}: expected text or a mapping with `type`, not {part!r:.80}")
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    if kind == "image_url":
        link = part.get("image_url")
        link = link.get("url") if isinstance(link, Mapping) else link
        if isinstance(link, str):
            return Picture.of(link)
    if kind == "image":
        for key in ("image", "path", "url"):
            if part.get(key) is not None:
                return Picture.of(part[key])
        if not waiting:
            raise ValueError(f"{where}: an image part without a picture, and no more `images` are left for it")
        return Picture.of(waiting.pop(0))
    raise ValueError(f"{where}: cannot read a part of type {kind!r}; use text, image_url or image")


@dataclasses.dataclass(frozen=True)
class Images:
    """Every image of a batch, cut into patches and laid end to end: nothing is padded.

    `patches` holds each patch's numbers in channel, row, column order, already normalised; `grid` the rows and columns
    of each image, whose products add up to `p`.
    """

    patches: Float[Tensor, "p c"]
    grid: Int[Tensor, "n 2"]

    def __post_init__(self) -> None:
        if not self.grid.is_meta and int(self.grid.prod(-1).sum()) != len(self.patches):
            raise ValueError(f"the grids hold {int(self.grid.prod(-1).sum())} patches, {len(self.patches)} were given")

    def sizes(self) -> list[tuple[int, int]]:
        """Rows and columns of each image, as plain numbers on the host."""
        return [(int(rows), int(columns)) for rows, columns in self.grid.tolist()]

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> "Images":
        """The same images elsewhere; `dtype` applies to the patches. `grid` stays on the host, where it is read."""
        return Images(self.patches.to(device=device, dtype=dtype), self.grid.cpu())

    def pieces(self, patches: int) -> list["Images"]:
        """The same images in order, a few at a time: up to `patches` patches, or one image that has more."""
        counts = self.grid.prod(-1).tolist()
        cuts, room = [0], patches
        for at, count in enumerate(counts):
            if count > room and at > cuts[-1]:
                cuts.append(at)
                room = patches
            room -= count
        spans = list(itertools.pairwise([*cuts, len(counts)]))
        patches_of = self.patches.split([sum(counts[a:b]) for a, b in spans])
        return [Images(some, self.grid[a:b]) for some, (a, b) in zip(patches_of, spans, strict=True)]

    @staticmethod
    def join(many: Sequence["Images"]) -> "Images | None":
        """Several sets of images laid end to end; None when there are none."""
        if not many:
            return None
        return Images(torch.cat([i.patches for i in many]), torch.cat([i.grid for i in many]))


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a model reads. Padding and packing are the same thing with other `segments`.

    `segments` says which document a token belongs to (0 is padding); `positions` restart at 0 in each segment.
    `targets`, where present, is the token that each position must predict (already shifted), or -100 at a segment's
    last token and wherever nothing is learned.
    """

    tokens: Int[Tensor, "b t"]
    segments: Int[Tensor, "b t"]
    positions: Int[Tensor, "b t"]
    targets: Int[Tensor, "b t"] | None = None
    images: Images | None = None

    def __post_init__(self) -> None:
        for name in ("segments", "positions", "targets"):
            value = getattr(self, name)
            if value is not None and value.shape != self.tokens.shape:
                raise ValueError(f"{name} is {tuple(value.shape)}, tokens is {tuple(self.tokens.shape)}")

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> "Batch":
        """The same batch elsewhere; `dtype` applies to the patches."""
        return Batch(
            self.tokens.to(device),
            self.segments.to(device),
            self.positions.to(device),
            None if self.targets is None else self.targets.to(device),
            None if self.images is None else self.images.to(device, dtype),
        )
