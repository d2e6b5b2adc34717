"""What all routes share: the desk, the limits, the names of the model, the counters; and the two ways to answer."""

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vlmlab.generate.answers import Answer
from vlmlab.generate.engine import Engine
from vlmlab.serve.certificate import Certificate, certify
from vlmlab.serve.desk import Desk
from vlmlab.serve.failures import Failed, failed
from vlmlab.serve.media import Pictures
from vlmlab.serve.metrics import Metrics, responses
from vlmlab.serve.tidying import Tidying

LOG = logging.getLogger("vlmlab.serve")

Made = TypeVar("Made")

LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""The names of this machine, for itself."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server lets its clients do.

    `key` is what requests must show (None: nothing). `hosts` are the names under which browsers may reach the server
    (none given: any; see docs/serve.md on pages that reach into your machine), `origins` the sites whose pages may.
    A request has at most `body_bytes`, arrives within `body_seconds`, and at most `at_once` are taken in at a time;
    who has not read anything for `stalled_seconds`, or has not said what it wants within `head_seconds`, is cut off.
    An answer has `new_tokens` tokens unless its request says how many. `drain_seconds` is how long a server that is
    told to stop goes on with what is under way. Adapters may be loaded at run time from folders of `adapters_from`
    (None: they may not). With `chat` there is a page to talk with the model.
    """

    key: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    body_bytes: int = 32 << 20
    body_seconds: float = 30.0
    head_seconds: float = 10.0
    stalled_seconds: float = 30.0
    at_once: int = 128
    new_tokens: int = 512
    drain_seconds: float = 30.0
    chat: bool = False
    log_prompts: bool = False
    adapters_from: Path | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        if min(self.body_bytes, self.at_once, self.new_tokens) < 1 or self.drain_seconds < 0:
            raise ValueError("a server needs room for a request of 1 byte or more, 1 at once or more, 1 token or more")
        if min(self.body_seconds, self.head_seconds, self.stalled_seconds) <= 0:
            raise ValueError("clients need some time")
        if self.key is not None and (len(self.key) < 8 or not self.key.isascii() or not self.key.isprintable()):
            raise ValueError("the API key must be 8 printable ASCII letters or more")
        if self.adapters_from is not None and not self.adapters_from.is_dir():
            raise ValueError(f"{self.adapters_from} is no folder to load adapters from")


class Door:
    """Where clients come in, whoever answers them: the limits, how many requests are under way, what came of each."""

    def __init__(self, limits: Limits, registry: CollectorRegistry) -> None:
        self.limits = limits
        self.responses = responses(registry)
        self.stopping = False
        self.active = 0

    async def give_up(self) -> None:
        """Answer nothing more: what is under way is told so."""
        raise NotImplementedError

    def failed(self, error: Exception) -> Failed:
        """An error as what the client is told. What nobody foresaw is logged, and told as nothing but that."""
        told = failed(error)
        if told is None and self.stopping:
            told = Failed(503, "the server is stopping", retry_after=5.0)
        if told is None:
            LOG.error("a request failed", exc_info=error)
            told = Failed(500, "the server failed at this request; its log says how")
        return told


class Service(Door):
    """A model being served. `names` are what clients may call it, its own first."""

    def __init__(self, engine: Engine, names: tuple[str, ...], limits: Limits, pictures: Pictures) -> None:
        self.engine, self.names = engine, names
        self.desk = Desk(engine, pictures)
        self.metrics = Metrics(engine)
        super().__init__(limits, self.metrics.registry)
        self.began = int(time.time())
        self.certificate: Certificate | None = None
        self._tidying: Tidying | None = None
        self._words: dict[int, str] = {}

    def open(self) -> None:
        """Start the engine, and have it tested."""
        self.engine.start()
        self.certificate = certify(self.engine)
        self._tidying = Tidying()

    def close(self) -> None:
        """End the engine and the threads. What is under way is told that it will not be answered."""
        self.stopping = True
        if self._tidying is not None:
            self._tidying.stop()
        self.engine.close()
        self.desk.close()

    async def give_up(self) -> None:
        """Answer nothing more: what is under way is told so."""
        await asyncio.to_thread(self.engine.close)

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether it answers as it should, and what to say of that."""
        assert self.certificate is not None
        good = self.certificate.holds
        status = "stopping" if self.stopping else "ok" if good else "failed its self-test"
        told = {"status": status, "model": self.names[0], "certificate": self.certificate.told()}
        return good and not self.stopping, told

    def adapter_of(self, name: str) -> str:
        """The adapter that a request means by its model's name; empty for the model. Raises Failed for neither."""
        if name in self.names:
            return ""
        if not any(adapter.name == name for adapter in self.engine.adapters()):
            told = f"the model {name[:200]!r} is not served here; {self.names[0]!r} is"
            raise Failed(404, told, "model", "model_not_found")
        return name

    def word(self, token: int) -> str:
        """What a token says in the middle of a text; the name of one that says nothing there."""
        if token not in self._words:
            processor = self.engine.processor
            before = processor.tokenizer.encode("a", add_special_tokens=False).ids[-1:]
            said = processor.decode([*before, token])[len(processor.decode(before)) :]
            self._words[token] = said or processor.tokenizer.id_to_token(token) or ""
        return self._words[token]

    def log_prompt(self, role: str, content: object) -> None:
        """Write what is asked into the log, if whoever runs the server wants that: of each part the beginning."""
        if self.limits.log_prompts:
            parts = content if isinstance(content, list) else [content]
            LOG.info("%s: %s", role, " ".join(f"{part!s:.500}" for part in parts))


def cost(answer: Answer, opening: float) -> dict[str, Any]:
    """What an answer cost, as clients are told: counts of tokens and images, seconds of each stage."""
    told: dict[str, Any] = {"pictures_seconds": round(opening, 6)}
    for name, value in dataclasses.asdict(answer.cost).items():
        told[name] = round(value, 6) if isinstance(value, float) else value
    return told


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold: OpenAI writes -9999 for what cannot be."""
    return max(logprob, -9999.0)


class Gone(Exception):
    """Nobody waits for the answer any more."""


async def while_there(receive: Receive, work: Coroutine[Any, Any, Made]) -> Made:
    """The outcome of `work`. When the client goes, the work is cancelled, and Gone raised."""
    doing = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise Gone
    finally:
        gone.cancel()
        if not doing.done():
            doing.cancel()
            await asyncio.wait((doing,))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Events(Response):
    """Server-sent events. The last of them is an error's where `events` raises; a client that goes ends them.

    `close` is called at the end, however it came.
    """

    media_type = "text/event-stream"

    def __init__(self, service: Service, path: str, events: AsyncIterator[str], close: Callable[[], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.service, self.path, self.events, self.close = service, path, events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them as they come."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await while_there(receive, self._send(send))
        except Gone:
            return
        finally:
            self.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send) -> None:
        try:
            async for event in self.events:
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        except Exception as error:
            told = json.dumps(self.service.failed(error).body(self.path))
            await send({"type": "http.response.body", "body": f"data: {told}\n\n".encode(), "more_body": True})


def event(data: Any) -> str:
    """A server-sent event that holds JSON."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
