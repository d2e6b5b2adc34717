"""A tiny model behind a real server on this machine."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from starlette.types import ASGIApp
from tokenizers import decoders

from generate import tiny
from vlmlab.batch import Sample
from vlmlab.generate.engine import Engine
from vlmlab.processor.images import native
from vlmlab.processor.processor import Config, Processor
from vlmlab.serve import app
from vlmlab.serve.media import Pictures
from vlmlab.serve.running import Server
from vlmlab.serve.service import Limits, Service

NAME = "tiny"


def engine(window: int | None = 7, **changes: Any) -> Engine:
    """An engine of a tiny random model, with room for a few requests. Not started."""
    model = tiny.build(dtype=torch.float32, changes={"language.window": window})
    tokenizer = tiny.tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    config = Config(images=native.Config(longest=40, shortest=8), patch=2, pad="<unk>")
    processor = Processor(config, tokenizer, model.placeholders, 103)
    return Engine(model, processor, **({"rows": 4, "capacity": 512, "queue": 16} | changes))


class Served:
    """A server that runs in a thread of its own."""

    def __init__(self, service: Any, application: ASGIApp | None = None) -> None:
        self.service = service
        self.server = Server(application or app.create(service), service, "127.0.0.1", 0)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = threading.Thread(target=self._run)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """At which port."""
        return self.server.servers[0].sockets[0].getsockname()[1]

    def start(self) -> "Served":
        """Begin; it answers when this returns."""
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            threading.Event().wait(0.01)
        return self

    def stop(self) -> None:
        """Let it end as a signal does."""
        assert self.loop is not None
        with contextlib.suppress(RuntimeError):  # it may have ended
            self.loop.call_soon_threadsafe(self.server.stop)
        self.thread.join(30)
        assert not self.thread.is_alive()

    def _run(self) -> None:
        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            await self.server.serve()

        asyncio.run(serve())


@contextlib.contextmanager
def serving(pictures: Pictures, limits: Limits | None = None, **changes: Any) -> Iterator[Served]:
    """A tiny model, served."""
    service = Service(engine(**changes), (NAME, "tgi"), limits or Limits(drain_seconds=5.0), pictures)
    served = Served(service).start()
    try:
        yield served
    finally:
        served.stop()


def offline(text: str, tokens: int, **more: Any) -> str:
    """What the same model writes to one user message, without a server."""
    return engine().generate([Sample.from_messages([{"role": "user", "content": text}])], tokens, **more)[0]
