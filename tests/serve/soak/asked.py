"""What is asked: requests that follow from a seed and a number, each about a secret picture of its own."""

import base64
import dataclasses
import io
import json

import numpy as np
import PIL.Image

from vlmlab.batch import Sample
from vlmlab.processor.formats import decoded

FORMATS = {"PNG": "png", "JPEG": "jpeg", "BMP": "bmp", "WEBP": "webp"}


@dataclasses.dataclass(frozen=True)
class Scale:
    """What suits a model: the sides of pictures in pixels, the tokens of answers, and those of a whole request."""

    name: str
    sides: tuple[int, int]
    tokens: tuple[int, ...]
    context: int


TINY = Scale("tiny", (8, 300), (12, 24, 48, 96), 512)
NANO = Scale("nano", (100, 900), (8, 16, 32, 64), 2048)


@dataclasses.dataclass(frozen=True)
class Secret:
    """Something that nobody else asks: pictures of a number, or a text that holds it; and how long an answer may be.

    With `chat` it is a message, else a text to go on from.
    """

    number: int
    chat: bool
    files: tuple[bytes, ...]
    text: str
    limit: int

    def sample(self) -> Sample:
        """The same for an engine."""
        pictures = [decoded(file, "it") for file in self.files]
        if not self.chat:
            return Sample.from_text("<image>" * len(pictures) + self.text, pictures)
        parts = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": self.text}]
        return Sample.from_messages([{"role": "user", "content": parts}], images=pictures)

    def said(self, text: str) -> str:
        """What a client is told of an answer: chats leave the space before it out."""
        return text.lstrip() if self.chat else text


def secret(seed: int, number: int, scale: Scale) -> Secret:
    """The secret of a number: two in three are one picture, the others two or none."""
    draw = np.random.default_rng([seed, number])
    count = int(draw.choice(3, p=[0.2, 0.65, 0.15]))
    text = "What is it?" if count else f"Say {number}."
    files = tuple(_picture(draw, scale.sides) for _ in range(count))
    return Secret(number, bool(draw.random() < 0.6), files, text, int(draw.choice(scale.tokens)))


def _picture(draw: np.random.Generator, sides: tuple[int, int]) -> bytes:
    """Fields of colours that were drawn, as a file of one kind or another."""
    columns, rows = draw.integers(2, 8, 2)
    width, height = np.exp(draw.uniform(*np.log(sides), 2)).astype(int).tolist()
    fields = PIL.Image.fromarray(draw.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
    out = io.BytesIO()
    kind = str(draw.choice(list(FORMATS), p=[0.5, 0.3, 0.1, 0.1]))
    fields.resize((width, height), PIL.Image.Resampling.NEAREST).save(out, kind)
    return out.getvalue()


def url(file: bytes, kind: str = "png") -> str:
    """A picture in a request. What the server goes by is what is in it, not what it is called."""
    return f"data:image/{kind};base64," + base64.b64encode(file).decode()


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as it goes out: `path`, `body`, and headers beside the usual, which they replace."""

    path: str
    body: bytes
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()

    def head(self, port: int) -> bytes:
        """What comes before the body."""
        usual = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json"}
        told = usual | {"Content-Length": str(len(self.body))} | dict(self.headers)
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
        return "\r\n".join([*lines, "", ""]).encode()


def request(about: Secret, model: str, stream: bool, tgi: bool = False) -> Request:
    """A request about a secret; with `tgi`, one that is no chat goes by text-generation-inference's route."""
    urls = [url(file) for file in about.files]
    if about.chat:
        parts = [{"type": "image_url", "image_url": {"url": each}} for each in urls]
        content = [*parts, {"type": "text", "text": about.text}]
        asked = {"model": model, "messages": [{"role": "user", "content": content}]}
        return _greedy("/v1/chat/completions", asked, about.limit, stream)
    prompt = "".join(f"![]({each})" for each in urls) + about.text
    if tgi and not stream:
        return Request(
            "/generate", json.dumps({"inputs": prompt, "parameters": {"max_new_tokens": about.limit}}).encode()
        )
    return _greedy("/v1/completions", {"model": model, "prompt": prompt}, about.limit, stream)


def _greedy(path: str, asked: dict[str, object], limit: int, stream: bool) -> Request:
    more = {"temperature": 0, "max_tokens": limit, "stream": stream}
    return Request(path, json.dumps(asked | more).encode())
