"""A model at an address that answers: any server that speaks OpenAI's language (`POST /chat/completions`).

Questions go out several at a time. What fails for a while is tried again, later and later; what fails for good is that
question's error. An answer that the server refuses to give anyone (no such model, a wrong key) ends the evaluation.
"""

import base64
import dataclasses
import http.client
import io
import json
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from vlmlab.batch import Message, Picture
from vlmlab.evaluate.answering import ADDRESSED, Answerer, Job, Reply, Writing
from vlmlab.processor.chat import DOCUMENTS
from vlmlab.processor.decode import open_picture, read

KINDS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png", b"GIF8": "gif"}
"""Files of pictures that are sent as they are, by how they begin; others are sent as PNG."""

_FOR_ALL = (401, 403, 404, 405)
_FOR_NOW = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_MOST_BYTES = 8 << 20
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long an answer is waited for, and how often and how late it is asked for again, in seconds."""

    timeout: float = 300.0
    tries: int = 6
    first: float = 1.0
    most: float = 60.0


class _Again(Exception):
    """It may work later: in how many seconds, where the server says."""

    def __init__(self, told: str, after: float | None = None) -> None:
        super().__init__(told)
        self.after = after


class _Straight(urllib.request.HTTPRedirectHandler):
    """A key is sent to the address that was named, and nowhere else."""

    def redirect_request(self, *told: Any) -> None:
        """No redirect is followed."""
        return


class Served(Answerer):
    """The model `served` at an address such as `http://127.0.0.1:8000/v1`. Raises ValueError for what is no address.

    `secret` is the key, sent as a bearer's; it is in no message, file or cache. `rest` is how it waits so many seconds.
    """

    def __init__(
        self,
        address: str,
        served: str,
        secret: str = "",
        parallel: int = 8,
        patience: Patience = Patience(),
        rest: Callable[[float], object] | None = None,
    ) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError(f"{_bare(address)} is no address of a server such as http://127.0.0.1:8000/v1")
        if not served:
            raise ValueError(f"which model at {address}? write {address}#NAME")
        if not secret.isascii() or any(letter.isspace() for letter in secret):
            raise ValueError("the key should be letters, digits and signs, without spaces")
        self.address, self.served, self.secret = address.rstrip("/"), served, secret
        self.parallel, self.patience = parallel, patience
        self.ended, self.heard = threading.Event(), threading.Event()
        self.rest = rest or self.ended.wait
        self.name = f"{served} at {self.address}"
        own = [urllib.request.ProxyHandler({})] if parts.hostname in _HERE else []
        self.opener = urllib.request.build_opener(_Straight, *own)

    def identity(self) -> Mapping[str, Any]:
        """The address and the model's name there: what they stand for is the server's affair."""
        return {"address": self.address, "served": self.served}

    def answers(self, jobs: Iterable[Job], writing: Writing) -> Iterator[tuple[int, Reply]]:
        """Replies as they come. Raises ValueError where the server would refuse every question, or is not there."""
        if writing.split is not None or writing.longest is not None:
            raise ValueError("how a served model reads pictures is its server's affair: leave out split and longest")
        self.ended.clear()
        running: dict[Future[Reply], int] = {}
        pool = ThreadPoolExecutor(self.parallel)
        try:
            for job in jobs:
                running[pool.submit(self.reply, job, writing)] = job.number
                if len(running) >= 2 * self.parallel:
                    yield from self._done(running)
            while running:
                yield from self._done(running)
        finally:
            self.ended.set()  # those that are asked again, later, are not
            pool.shutdown(wait=False, cancel_futures=True)

    def _done(self, running: dict[Future[Reply], int]) -> list[tuple[int, Reply]]:
        ready, _ = wait(running, return_when=FIRST_COMPLETED)
        replies = [(running.pop(future), future.result()) for future in ready]
        if not self.heard.is_set():  # asked as often as there is patience for, it has never said anything
            raise ValueError(f"{replies[0][1].error}; is the server there?")
        return replies

    def reply(self, job: Job, writing: Writing) -> Reply:
        """The reply to one question. Raises ValueError where none would get one, or it cannot be asked."""
        body = json.dumps(
            {
                "model": self.served,
                "messages": [_message(message, job.name) for message in job.sample.messages],
                "max_tokens": writing.max_new_tokens,
                "temperature": writing.temperature or 0,
                **({"seed": writing.seed} if writing.seed is not None else {}),
                **({"stop": list(writing.stop)} if writing.stop else {}),
            }
        ).encode()
        begun = time.monotonic()
        told = ""
        for attempt in range(self.patience.tries):
            if self.ended.is_set():
                break
            try:
                return self._ask(body, writing, begun)
            except _Again as error:
                told = str(error)
                late = min(self.patience.first * 2**attempt, self.patience.most) * random.uniform(0.5, 1)
                if attempt + 1 < self.patience.tries:
                    self.rest(late if error.after is None else min(error.after, self.patience.most))
        return Reply("", "", seconds=time.monotonic() - begun, error=told)

    def _ask(self, body: bytes, writing: Writing, begun: float) -> Reply:
        headers = {"Content-Type": "application/json"}
        if self.secret:
            headers["Authorization"] = f"Bearer {self.secret}"
        request = urllib.request.Request(f"{self.address}/chat/completions", body, headers)
        try:
            with self.opener.open(request, timeout=self.patience.timeout) as answer:
                self.heard.set()
                whole = answer.read(_MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            self.heard.set()
            with error:
                return self._refused(error, begun)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise _Again(f"{self.address} does not answer: {reason or type(error).__name__}") from None
        return _reply(whole, writing, time.monotonic() - begun)

    def _refused(self, error: urllib.error.HTTPError, begun: float) -> Reply:
        said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:300]
        told = f"{self.address} says {error.code}: {said or error.reason}"
        if self.secret:
            told = told.replace(self.secret, "(the key)")
        if error.code in _FOR_ALL or 300 <= error.code < 400:
            raise ValueError(told)
        if error.code in _FOR_NOW:
            after = error.headers.get("Retry-After", "")
            raise _Again(told, float(after) if after.isdecimal() else None)
        return Reply("", "", seconds=time.monotonic() - begun, error=told)


def _reply(whole: bytes, writing: Writing, seconds: float) -> Reply:
    """What an answer's body says; a body that says nothing of use is an error."""
    if len(whole) > _MOST_BYTES:
        return Reply("", "", seconds=seconds, error=f"the answer has more than {_MOST_BYTES} bytes")
    try:
        told = json.loads(whole)
        choice = told["choices"][0]
        text = choice["message"]["content"]
        usage = told.get("usage") or {}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Reply("", "", seconds=seconds, error=f"the answer cannot be read: {whole[:200]!r}")
    if text is None:
        text = ""  # a refusal stands in a field of its own, or nowhere
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if not isinstance(text, str):
        return Reply("", "", seconds=seconds, error=f"the answer is no text: {text!r:.200}")
    cut = min((at for at in (text.find(stop) for stop in writing.stop) if at >= 0), default=-1)
    reason = "length" if choice.get("finish_reason") == "length" else "end"
    if cut >= 0:
        text, reason = text[:cut], "stop"
    return Reply(text, reason, count if isinstance(count, int) else None, None, seconds)


def _message(message: Message, name: str) -> dict[str, Any]:
    if message.role in DOCUMENTS:
        raise ValueError(f"question {name}: a served model is asked in conversation: leave out form=document")
    if not any(isinstance(part, Picture) for part in message.parts):
        return {"role": message.role, "content": "".join(part for part in message.parts if isinstance(part, str))}
    try:
        return {"role": message.role, "content": [_part(part) for part in message.parts]}
    except ValueError as error:
        raise ValueError(f"question {name}: {error}") from error


def _part(part: str | Picture) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": _address(part)}}


def _address(picture: Picture) -> str:
    """A picture's own address on the web, or a data URL of it: its file where servers read that, else a PNG."""
    source = picture.source
    if isinstance(source, str | Path):
        if str(source)[:16].lower().startswith(ADDRESSED):
            return str(source)
        source = read(str(source), None, picture.name)
    if isinstance(source, bytes):
        kind = next((kind for start, kind in KINDS.items() if source.startswith(start)), "")
        if kind:
            return f"data:image/{kind};base64,{base64.b64encode(source).decode()}"
    held = io.BytesIO()
    open_picture(Picture(source, picture.name)).save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def _bare(address: str) -> str:
    """An address without a name and password in it."""
    return address.rpartition("@")[2]
