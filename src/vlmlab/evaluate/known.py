"""Answers that are known: one line of JSON each, on disk as soon as they come, so that none is ever asked for twice."""

import contextlib
import dataclasses
import json
from pathlib import Path
from types import TracebackType
from typing import Any

from vlmlab.evaluate.answering import Reply

_KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "reason": (str,),
    "prompt_tokens": (int, type(None)),
    "visual_tokens": (int, type(None)),
    "seconds": (float,),
    "error": (str,),
}


class Known:
    """The answers in a file, by their key, and those added to it.

    A line that was cut off, or cannot be read, is passed over and counted in `unread`: its question is asked again.
    Several processes may add to one file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replies: dict[str, Reply] = {}
        self.unread = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes() if path.exists() else b""
        for line in whole.splitlines():
            read = _read(line)
            if read is None:
                self.unread += bool(line.strip())
            else:
                self.replies[read[0]] = read[1]
        self.file = path.open("ab", buffering=0)  # a line is one write: what others add stays whole
        if whole and not whole.endswith(b"\n"):
            self.file.write(b"\n")

    def __enter__(self) -> "Known":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply; one that is an error is kept for this run only."""
        self.replies[key] = reply
        if not reply.error:
            line = json.dumps({"key": key, **dataclasses.asdict(reply)}) + "\n"
            try:
                self.file.write(line.encode())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from error


def _read(line: bytes) -> tuple[str, Reply] | None:
    told: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        told = json.loads(line)
    if not isinstance(told, dict) or set(told) != {"key", *_KINDS} or not isinstance(told["key"], str):
        return None
    if not all(isinstance(told[name], kinds) for name, kinds in _KINDS.items()):
        return None
    return told.pop("key"), Reply(**told)
