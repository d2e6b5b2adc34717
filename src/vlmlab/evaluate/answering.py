"""Whoever answers an evaluation's questions: what decides an answer, and how answers are told apart in a cache."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlmlab import component
from vlmlab.batch import IMAGE_MARK, Message, Picture, Sample
from vlmlab.processor.processor import Options

ADDRESSED = ("http://", "https://", "data:")


@dataclasses.dataclass(frozen=True)
class Writing:
    """How answers are written: their length, the texts that end them, and how pictures are read.

    Greedily, or with a `temperature` and the `seed` of what is drawn.
    `split` turns splitting on or off and `longest` limits a picture's longer side, in pixels; None is the model's own.
    """

    max_new_tokens: int = 32
    stop: tuple[str, ...] = ()
    split: bool | None = None
    longest: int | None = None
    temperature: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be: before anything is read or asked."""
        for name, value in (("max_new_tokens", self.max_new_tokens), ("longest", self.longest)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")

    @property
    def options(self) -> Options | None:
        """What the processor is told; None where all is the model's own."""
        told = Options(split=self.split, longest=self.longest)
        return None if told == Options() else told


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came back for a question.

    `reason` is why the text ended: `end`, `stop` or `length`; `error` says why there is none. `prompt_tokens` and
    `visual_tokens` are None where they are not told. `seconds` is the question's share of those it was answered with.
    """

    text: str
    reason: str
    prompt_tokens: int | None = None
    visual_tokens: int | None = None
    seconds: float = 0.0
    error: str = ""


class Job(NamedTuple):
    """A question to be answered: its number, what messages call it, and what is asked."""

    number: int
    name: str
    sample: Sample


class Answerer:
    """Whoever answers: a model in this process, or one that is served."""

    name: str

    def identity(self) -> Mapping[str, Any]:
        """What decides an answer besides the question and the writing, as plain data: the cache tells models by it."""
        raise NotImplementedError

    def facts(self) -> Mapping[str, Any]:
        """What else a card says of it, as plain data."""
        return {}

    def answers(self, jobs: Iterable[Job], writing: Writing) -> Iterator[tuple[int, Reply]]:
        """A reply to each job by its number, in any order; jobs are taken as they are needed.

        Raises ValueError that names the question where it cannot be asked. What a server fails at is a reply's error.
        """
        raise NotImplementedError


def picture_digest(picture: Picture) -> str:
    """32 hex digits of a picture's encoded bytes (of its address, where it is on the web; of its pixels, where open).

    Raises ValueError for a file that cannot be read.
    """
    source = picture.source
    if isinstance(source, bytes):
        return _digest(source)
    if isinstance(source, str | Path):
        place = str(source)
        if place[:16].lower().startswith(ADDRESSED):
            return _digest(place.encode())
        try:
            return _digest(Path(place).read_bytes())
        except OSError as error:
            raise ValueError(f"{picture.name}: cannot be read: {error.strerror}") from None
    return _digest(f"{source.mode} {source.size}".encode() + source.tobytes())


def sample_plain(sample: Sample) -> list[Any]:
    """What is asked as plain data, with the digest of each picture in its place."""
    return [[message.role, [_plain(part) for part in message.parts]] for message in sample.messages]


def prompt_text(sample: Sample) -> str:
    """What is asked as a person reads it: `<image>` where a picture stands, the speaker before each turn."""
    return "\n".join(_turn(message) for message in sample.messages)


def key(identity: Mapping[str, Any], writing: Writing, asked: list[Any]) -> str:
    """32 hex digits of everything that decides an answer; `asked` is of `sample_plain`."""
    return fingerprint([identity, component.plain(writing), asked])


def fingerprint(plain: Any) -> str:
    """32 hex digits of plain data."""
    return _digest(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _plain(part: str | Picture) -> str | dict[str, str]:
    return part if isinstance(part, str) else {"picture": picture_digest(part)}


def _turn(message: Message) -> str:
    said = "".join(part if isinstance(part, str) else IMAGE_MARK for part in message.parts)
    return said if message.role == "text" else f"{message.role.capitalize()}: {said}"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
