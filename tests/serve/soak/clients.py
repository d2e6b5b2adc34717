"""Clients of every kind: those that wait, those that read slowly, those that leave. What each of them saw."""

import asyncio
import dataclasses
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

from serve.soak.asked import Request

SILENCE = 120.0
"""Seconds without a byte after which a client holds its request for lost."""


class Cut(Exception):
    """The line ended before the answer did."""


@dataclasses.dataclass
class Outcome:
    """What a client saw. `ended`: answered, refused (429), error, cut, silent, left (by itself), unreachable."""

    ended: str
    status: int = 0
    text: str = ""
    told: str = ""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    first: float | None = None
    seconds: float = 0.0


class Call:
    """One connection, one request. `window` is how many bytes may wait unread, at the least that the system allows."""

    def __init__(self, port: int, window: int | None = None) -> None:
        self.port, self.window = port, window
        self.status, self.headers = 0, dict[str, str]()
        self._left = b""

    async def __aenter__(self) -> "Call":
        line = socket.socket()
        line.setblocking(False)
        if self.window is not None:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)
        try:
            await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", self.port))
            self.reader, self.writer = await asyncio.open_connection(sock=line, limit=self.window or 1 << 16)
        except BaseException:
            line.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def drop(self) -> None:
        """Leave without a word."""
        self.writer.transport.abort()

    async def send(self, request: Request, pieces: int = 1, pause: float = 0.0, share: float = 1.0) -> None:
        """Send a request, in pieces with pauses between them; or only a share of its body.

        No more is sent once an answer begins: the request was refused before it was whole.
        """
        self.writer.write(request.head(self.port))
        body = request.body[: int(len(request.body) * share)]
        size = -(-len(body) // pieces) or 1
        for at in range(0, len(body), size):
            self.writer.write(body[at : at + size])
            await self.writer.drain()
            if at + size < len(body) and await self._answered(pause):
                return

    async def begin(self) -> int:
        """The answer's status, once it begins."""
        head = await self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        pairs = (line.partition(":") for line in lines if line)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return self.status

    async def pieces(self) -> AsyncIterator[bytes]:
        """The answer's body as it comes. Raises Cut where it is not whole."""
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while size := int(await self._until(b"\r\n"), 16):
                yield (await self._exactly(size + 2))[:-2]
            await self._exactly(2)
            return
        yield await self._exactly(int(self.headers.get("content-length", "0")))

    async def rest(self) -> bytes:
        """All of the body."""
        return b"".join([piece async for piece in self.pieces()])

    async def _answered(self, seconds: float) -> bool:
        """Whether something is heard in so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._more()
        except TimeoutError:
            return False
        return True

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._left:
            await self._more()
        found, _, self._left = self._left.partition(mark)
        return found

    async def _exactly(self, size: int) -> bytes:
        while len(self._left) < size:
            await self._more()
        found, self._left = self._left[:size], self._left[size:]
        return found

    async def _more(self) -> None:
        async with asyncio.timeout(SILENCE):
            some = await self.reader.read(1 << 16)
        if not some:
            raise Cut("the line ended before the answer did")
        self._left += some


@dataclasses.dataclass(frozen=True)
class Manner:
    """How a client behaves: it may send its request in `pieces`, or only a `share` of it, and read with a `pause`.

    It leaves after `leave_after` seconds or after so many `leave_pieces` of a stream, where those are said; `rudely`
    is without ending the connection properly.
    """

    name: str = "whole"
    stream: bool = False
    pieces: int = 1
    share: float = 1.0
    pause: float = 0.0
    leave_after: float | None = None
    leave_pieces: int | None = None
    rudely: bool = False


async def ask(port: int, request: Request, manner: Manner) -> Outcome:
    """One client's request, to whatever end."""
    began = time.perf_counter()
    outcome = Outcome("left")
    try:
        async with Call(port, 2048 if manner.pause and manner.stream else None) as call:
            try:
                async with asyncio.timeout(manner.leave_after) as limit:
                    await _asked(call, request, manner, outcome, began)
            except TimeoutError:
                outcome.ended = "left" if limit.expired() else "silent"
            if outcome.ended == "left" and manner.rudely:
                call.drop()
    except ConnectionRefusedError:
        outcome.ended = "unreachable"
    except (Cut, OSError, ValueError, LookupError) as error:
        outcome.ended, outcome.told = "cut", f"{type(error).__name__}: {error}"
    outcome.seconds = time.perf_counter() - began
    return outcome


async def _asked(call: Call, request: Request, manner: Manner, outcome: Outcome, began: float) -> None:
    try:
        await call.send(request, manner.pieces, manner.pause, manner.share)
        if manner.share < 1:
            await asyncio.sleep(manner.pause)
            return
    except ConnectionError:  # refused before it was whole: the answer says why
        pass
    outcome.status = await call.begin()
    outcome.headers = call.headers
    if outcome.status != 200:
        outcome.ended = "refused" if outcome.status == 429 else "error"
        outcome.told = (await call.rest()).decode(errors="replace")[:500]
    elif manner.stream:
        await _streamed(call, manner, outcome, began)
    else:
        outcome.text, outcome.ended = _whole(json.loads(await call.rest())), "answered"


def _whole(told: dict[str, Any]) -> str:
    if "generated_text" in told:
        return told["generated_text"]
    [choice] = told["choices"]
    if choice["finish_reason"] not in ("stop", "length"):
        raise ValueError(f"an answer that ended by {choice['finish_reason']}")
    return choice["text"] if "text" in choice else choice["message"]["content"]


async def _streamed(call: Call, manner: Manner, outcome: Outcome, began: float) -> None:
    finished, count, left = False, 0, b""
    async for some in call.pieces():
        *events, left = (left + some).split(b"\n\n")
        for line in events:
            if line == b"data: [DONE]":
                outcome.ended = "answered" if finished else "cut"
                continue
            told = json.loads(line.removeprefix(b"data: "))
            if "error" in told:
                outcome.ended, outcome.told = "error", json.dumps(told)[:500]
                return
            for choice in told["choices"]:
                piece = choice["text"] if "text" in choice else choice["delta"].get("content", "")
                finished = finished or choice["finish_reason"] is not None
                if piece and outcome.first is None:
                    outcome.first = time.perf_counter() - began
                outcome.text += piece
            count += 1
            if manner.leave_pieces is not None and count > manner.leave_pieces:
                return
        if manner.pause:
            await asyncio.sleep(manner.pause)
    if outcome.ended == "left":
        raise Cut("the stream ended without its end")
