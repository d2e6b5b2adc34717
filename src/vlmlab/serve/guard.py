"""The guard: who may ask, from where, how much and how fast; before anything of a request is read."""

import asyncio
import hmac
import json
import time
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlmlab.serve.failures import Failed
from vlmlab.serve.service import LOG, Door

OPEN = frozenset({"/health", "/chat", "/chat.js"})
"""Where no key is asked for: what watches a server need not know its secrets, and the page asks for the key itself."""

_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})


class Guard:
    """Stands before the routes. Refuses by the service's limits, counts and logs what was answered.

    Logs hold the path of a route, the status and the time: nothing that a client wrote.
    """

    def __init__(self, app: ASGIApp, door: Door, paths: Iterable[str]) -> None:
        self.app, self.door, self.limits = app, door, door.limits
        self.paths = frozenset(paths)
        self.hosts = {host.lower() for host in self.limits.hosts}
        self.key = None if self.limits.key is None else self.limits.key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, started = time.perf_counter(), 499, False

        async def noted(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
            await send(message)

        self.door.active += 1
        try:
            self._check(scope)
            await self.app(scope, self._bounded(receive), noted)
        except Exception as error:
            if started:
                raise  # half an answer: the line is cut
            await refuse(self.door.failed(error), scope["path"], noted)
        finally:
            self.door.active -= 1
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.door.responses.labels(path, str(status)).inc()
            method = scope["method"] if scope["method"] in _METHODS else "other"
            LOG.info("%s %s %d in %.3f s", method, path, status, time.perf_counter() - began)

    def _check(self, scope: Scope) -> None:
        """Raise Failed for what need not be read."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts and _bare(host) not in self.hosts:
            raise Failed(403, "this server does not answer under that name; see --names")
        if self.key is not None and scope["path"] not in OPEN and scope["method"] != "OPTIONS":
            self._check_key(headers.get("authorization", ""))
        if scope["method"] != "POST":
            return
        if self.door.stopping:
            raise Failed(503, "the server is stopping", retry_after=5.0)
        if self.door.active > self.limits.at_once:
            raise Failed(429, f"{self.limits.at_once} requests are being answered", None, "overloaded", 1.0)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.limits.body_bytes:
            raise self._too_large()
        # What a page of another site may send without asking first is no JSON.
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Failed(415, "requests are JSON: say Content-Type: application/json")

    def _check_key(self, shown: str) -> None:
        assert self.key is not None
        kind, _, key = shown.partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self.key):
            raise Failed(401, "this server asks for a key: Authorization: Bearer ...", code="invalid_api_key")

    def _too_large(self) -> Failed:
        return Failed(413, f"a request has at most {self.limits.body_bytes} bytes here")

    def _bounded(self, receive: Receive) -> Receive:
        """The same request, as long as it keeps to its limits of bytes and time."""
        left = self.limits.body_bytes
        end = asyncio.get_running_loop().time() + self.limits.body_seconds
        whole = False

        async def bounded() -> Message:
            nonlocal left, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                told = f"the request took longer than {self.limits.body_seconds:g} s to arrive"
                raise Failed(408, told) from None
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if left < 0:
                    raise self._too_large()
            return message

        return bounded


def guarded(app: ASGIApp, door: Door, paths: Iterable[str]) -> ASGIApp:
    """An application behind its guard; before that come the rules for pages of other sites, which may read its errors.

    `paths` are what the routes are called in logs and figures.
    """
    guard = Guard(app, door, paths)
    if not door.limits.origins:
        return guard
    return CORSMiddleware(
        guard,
        allow_origins=door.limits.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type"],
    )


async def refuse(error: Failed, path: str, send: Send) -> None:
    """Answer with an error, whatever is left of the request."""
    error = error.for_path(path)
    body = json.dumps(error.body(path)).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    raw = [(name.lower().encode(), value.encode()) for name, value in (headers | error.headers).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _bare(host: str) -> str:
    """A host's name without its port."""
    host = host.lower()
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
