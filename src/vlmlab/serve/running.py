"""Running the server: the lines to its clients, the slow ones cut off; signals, and an end without loss."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from vlmlab.serve.service import LOG, Door

HEAD_BYTES = 64 << 10
"""The most that a request's line and headers may have."""


class Line(H11Protocol):
    """The line to a client. Who does not say what it wants in time, or does not read what it is sent, is cut off."""

    head_seconds = 10.0
    stalled_seconds = 30.0
    silent: asyncio.TimerHandle | None = None
    stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: it has so long to send a request's headers."""
        super().connection_made(transport)
        self.silent = self.loop.call_later(self.head_seconds, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self.silent, self.stalled = _cancelled(self.silent), _cancelled(self.stalled)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Something came, or an answer is over. Between answers a client has so long to say what it wants next.

        The rest of a request that was refused unread is passed over in that time too.
        """
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self.silent = _cancelled(self.silent)
        elif self.silent is None:
            self.silent = self.loop.call_later(self.head_seconds, self.transport.abort)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is told things."""
        super().pause_writing()
        self.stalled = self.loop.call_later(self.stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self.stalled = _cancelled(self.stalled)


def _cancelled(alarm: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What is left of an alarm that is called off: nothing."""
    if alarm is not None:
        alarm.cancel()
    return None


class Server(uvicorn.Server):
    """Serves until a signal. The first lets what is under way end, and refuses the rest; the second ends it at once."""

    def __init__(self, app: ASGIApp, door: Door, host: str, port: int) -> None:
        limits = door.limits

        class Bounded(Line):
            head_seconds, stalled_seconds = limits.head_seconds, limits.stalled_seconds

        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=Bounded,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=2,
                h11_max_incomplete_event_size=HEAD_BYTES,
                limit_concurrency=None,
            )
        )
        self.door = door
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the engine, then listen; and say where."""
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                LOG.info("listening at http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        self._captured_signals.append(sig)
        if self._draining is not None:
            self.force_exit = self.should_exit = True
            return
        self.stop()

    def stop(self) -> None:
        """Begin to stop. Call it in the server's own thread."""
        self.door.stopping = True
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        LOG.info("stopping: %d requests are under way", self.door.active)
        await self._empty(self.door.limits.drain_seconds)
        if self.door.active:  # those are told that they will not be answered
            LOG.info("giving up %d requests", self.door.active)
            await self.door.give_up()
            await self._empty(1.0)
        self.should_exit = True

    async def _empty(self, seconds: float) -> None:
        """Wait until nothing is under way, so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.door.active:
                    await asyncio.sleep(0.02)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are heard in the event loop, between other things. Outside the main thread there are none."""
        loop = asyncio.get_running_loop()
        heard = []
        for sig in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.add_signal_handler(sig, self.handle_exit, sig, None)
                heard.append(sig)
        try:
            yield
        finally:
            for sig in heard:
                loop.remove_signal_handler(sig)
