"""The front of a server of several replicas: it keeps the limits, and passes requests on to whoever is free.

It knows no model. Replicas answer as `Replicas` says; what they are made of is theirs (see replicas.py).
"""

import abc
import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlmlab.serve.failures import Failed
from vlmlab.serve.guard import guarded
from vlmlab.serve.metrics import Together
from vlmlab.serve.service import LOG, Door, Gone, Limits, while_there

_KEPT = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "client")

_SECRET = frozenset({b"authorization", b"cookie"})
"""Headers that end at the front: no replica needs to know them."""


class Lost(Exception):
    """The replica that was answering is no more, or nobody takes the request in."""


class Replicas(abc.ABC):
    """Copies of the application."""

    wanted: int
    paths: tuple[str, ...]

    @abc.abstractmethod
    def answer(self, scope: dict[str, Any], body: bytes) -> AsyncGenerator[list[Message], None]:
        """What a replica's application sends in answer, as it comes. Raises Lost, and Failed where all are full.

        Closing the iterator, or cancelling who reads it, gives the request up.
        """

    @abc.abstractmethod
    async def healths(self) -> list[tuple[bool, dict[str, Any]]]:
        """What `Service.health` says in each replica that answers."""

    @abc.abstractmethod
    async def figures(self) -> dict[str, str]:
        """The page of figures of each replica that answers, by the replica's name."""


class Front(Door):
    """An application that has replicas answer."""

    def __init__(self, replicas: Replicas, limits: Limits) -> None:
        self.registry = CollectorRegistry()
        super().__init__(limits, self.registry)
        self.replicas = replicas
        self._over = asyncio.Event()

    def app(self) -> ASGIApp:
        """Itself behind the guard."""
        return guarded(self, self, self.replicas.paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["method"] == "GET" and scope["path"] == "/health":
            await self._health(send)
        elif scope["method"] == "GET" and scope["path"] == "/metrics":
            await self._metrics(send)
        else:
            body = await _read(receive)
            if body is not None:
                await self._pass(scope, body, receive, send)

    async def give_up(self) -> None:
        """Answer nothing more: what is under way is told so."""
        self._over.set()

    async def _pass(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Have a replica answer. Raises Failed where nothing has been answered yet."""
        telling = _Telling(scope["path"], send)
        try:
            await while_there(receive, self._unless_over(telling.all(self._answer(scope, body))))
        except Gone:
            return
        except Lost as error:
            LOG.warning("a replica was lost: %s", error)
            told = Failed(503, "the replica that was answering ended; ask again", None, "replica_lost", 1.0)
            await telling.fail(told)
        except Failed as error:
            await telling.fail(error)

    def _answer(self, scope: Scope, body: bytes) -> AsyncGenerator[list[Message], None]:
        kept = {name: scope[name] for name in _KEPT if name in scope}
        headers = [(bytes(name), bytes(value)) for name, value in scope["headers"] if name.lower() not in _SECRET]
        return self.replicas.answer(kept | {"headers": headers}, body)

    async def _unless_over(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work. Raises Failed when the front gives up before it is done."""
        doing, over = asyncio.ensure_future(work), asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((doing, over), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise Failed(503, "the server is stopping", retry_after=5.0)
            doing.result()
        finally:
            over.cancel()
            if not doing.done():
                doing.cancel()
                await asyncio.wait((doing,))

    async def _health(self, send: Send) -> None:
        """200 while a replica answers as it should."""
        found = await self.replicas.healths()
        good = [told for well, told in found if well]
        told = (good or [told for _, told in found] or [{"status": "no replica answers"}])[0]
        if self.stopping:
            told = told | {"status": "stopping"}
        told = told | {"replicas": {"wanted": self.replicas.wanted, "well": len(good)}}
        status = 200 if good and not self.stopping else 503
        await _send(send, status, "application/json", json.dumps(told).encode())

    async def _metrics(self, send: Send) -> None:
        """The figures of all replicas, each with its name; answers are counted here."""
        pages = CollectorRegistry()
        pages.register(Together(await self.replicas.figures()))
        page = generate_latest(self.registry) + generate_latest(pages)
        await _send(send, 200, "text/plain; version=0.0.4", page)


class _Telling:
    """Passes an answer on to the client, and knows how far it came."""

    def __init__(self, path: str, send: Send) -> None:
        self.path, self.send = path, send
        self.started, self.events, self.ended = False, False, False

    async def all(self, answer: AsyncGenerator[list[Message], None]) -> None:
        """The whole answer."""
        async with contextlib.aclosing(answer) as parts:
            async for messages in parts:
                for message in messages:
                    if message["type"] == "http.response.start":
                        self.started = True
                        kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
                        self.events = any(kind.startswith(b"text/event-stream") for kind in kinds)
                    self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
                    await self.send(message)

    async def fail(self, error: Failed) -> None:
        """Say that there will be no more. Raises the error where nothing was said yet, or no more can be."""
        if self.ended:
            return
        if not (self.started and self.events):
            raise error
        told = f"data: {json.dumps(error.body(self.path))}\n\n"
        await self.send({"type": "http.response.body", "body": told.encode(), "more_body": False})


async def _read(receive: Receive) -> bytes | None:
    """A request's body; None when the client went before it was there."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _send(send: Send, status: int, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    """The replicas are started and ended elsewhere."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
