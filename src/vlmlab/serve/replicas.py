"""Replicas of the server's application on Ray Serve: each a process with an engine of its own, here or elsewhere.

Ray starts them, watches them, starts them again, and chooses who answers. Its HTTP proxy is not used: the front
(front.py) listens, so that every limit of the single server holds, and hands requests to Ray's own handles.
"""

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from starlette.types import Message

from vlmlab.serve import app
from vlmlab.serve.failures import Failed
from vlmlab.serve.front import Lost, Replicas
from vlmlab.serve.service import LOG, Service

TAKEN_SECONDS = 30.0
"""How long a request may wait for a replica to take it in."""

_ASKED_SECONDS = 5.0
"""How long replicas may take to say how they are."""


class Replica:
    """One copy of the application. Ray Serve makes it, in a process of its own, from what builds its service."""

    def __init__(self, build: Callable[[], Service]) -> None:
        self._ends = contextlib.ExitStack()
        self.service = build()
        self._ends.callback(self.service.desk.pictures.close)
        self._ends.callback(self.service.close)
        prompts = self.service.limits.log_prompts
        logging.basicConfig(level=logging.INFO if prompts else logging.WARNING)
        self.service.open()
        good, told = self.service.health()
        if not good:
            raise RuntimeError(f"the self-test says that this machine does not compute as it should: {told}")
        self.app = app.create(self.service)

    def __del__(self) -> None:
        """Ray ends this replica, once it has nothing under way."""
        self._ends.close()

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncGenerator[list[Message], None]:
        """What the application sends in answer to a request, as many messages at a time as there are.

        The first list is empty: the request has been taken in. Who closes this has gone, for the application.
        """
        yield []
        told: asyncio.Queue[Message | None] = asyncio.Queue()
        gone = asyncio.Event()
        arriving: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if arriving:
                return arriving.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self.app(scope, receive, told.put)
            finally:
                told.put_nowait(None)

        running = asyncio.create_task(run())
        try:
            while messages := await _at_once(told):
                yield messages
            await running
        finally:
            gone.set()
            if not running.done():
                await asyncio.wait((running,))

    def health(self) -> tuple[bool, dict[str, Any]]:
        """What the application says of itself."""
        return self.service.health()

    def figures(self) -> tuple[str, str]:
        """What this replica is called, and its page of figures."""
        from ray import serve

        return serve.get_replica_context().replica_id.unique_id, self.service.metrics.page().decode()

    def paths(self) -> list[str]:
        """The application's routes."""
        return app.paths(self.app)

    def check_health(self) -> None:
        """Ray asks now and then, and replaces a replica for which this raises, or which does not answer."""
        good, told = self.service.health()
        if not good:
            raise RuntimeError(f"this replica is not well: {told['status']}")


async def _at_once(told: asyncio.Queue[Message | None]) -> list[Message]:
    """The messages that there are, one at least; none at the end."""
    found: list[Message] = []
    message = await told.get()
    while message is not None:
        found.append(message)
        if told.empty():
            return found
        message = told.get_nowait()
    told.put_nowait(None)  # the end comes again, after these
    return found


class Cluster(Replicas):
    """The replicas of one server, as its front sees them."""

    def __init__(self, handle: Any, wanted: int) -> None:
        self.handle, self.wanted = handle, wanted
        self.paths = tuple(handle.paths.remote().result())

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncGenerator[list[Message], None]:
        """What a replica's application sends in answer. Raises Lost and Failed, as `Replicas.answer` says."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        stream = self.handle.options(method_name="answer", stream=True).remote(scope, body)
        try:
            async with asyncio.timeout(TAKEN_SECONDS):
                await anext(stream)
            async for messages in stream:
                yield messages
        except TimeoutError:
            raise Lost(f"none took a request in within {TAKEN_SECONDS:g} s") from None
        except BackPressureError:
            raise Failed(429, "too many requests wait for a replica", None, "overloaded", 1.0) from None
        except (RayError, RayServeException) as error:
            raise Lost(type(error).__name__) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise Lost("it was told to stop") from None  # the replica's end, not ours
        finally:
            stream.cancel()

    async def healths(self) -> list[tuple[bool, dict[str, Any]]]:
        """What the replicas say of themselves, those that answer."""
        return await self._all("health")

    async def figures(self) -> dict[str, str]:
        """The page of figures of each replica that answers."""
        return dict(await self._all("figures"))

    async def _all(self, what: str) -> list[Any]:
        """Ask every replica; who does not answer in time is left out, and so is who is no more."""
        try:
            asked = self.handle.broadcast(what)
            found = await asked.results_async(timeout_s=_ASKED_SECONDS, return_exceptions=True)
        except TimeoutError:
            return []
        return [one for one in found if not isinstance(one, BaseException)]


@contextlib.contextmanager
def started(
    build: Callable[[str], Callable[[], Service]], wanted: int, device: str, name: str, drain: float
) -> Iterator[Cluster]:
    """Replicas on the Ray that was joined; ended when this is left. `wanted` 0: one for each GPU, or one.

    `build` says of a device what builds a replica's service; `name` is the application's on Ray, and one of that name
    gives way to this one. Raises ValueError where there is too little for them, and where they do not start.
    """
    from ray import serve

    wanted, device, share = _shares(wanted, device)
    options = {"num_cpus": share, "num_gpus": 1 if device == "cuda" else 0}
    deployed = serve.deployment(
        name="replica",
        num_replicas=wanted,
        ray_actor_options=options,
        max_ongoing_requests=1 << 16,  # how many there may be is known to the guards
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=drain + 1.0,
        max_constructor_retry_count=3,
    )(Replica)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING", "enable_access_log": False})
    LOG.info("starting %d replicas, each with %s", wanted, "a GPU" if device == "cuda" else f"{share:g} CPUs")
    try:
        handle = serve.run(deployed.bind(build(device)), name=name, route_prefix=None)
    except RuntimeError as error:
        raise ValueError(f"the replicas did not start: {error}") from None
    try:
        yield Cluster(handle, wanted)
    finally:
        serve.delete(name, _blocking=False)  # a cluster ends them as it should; a Ray of ours ends with this process


def own_name(port: int) -> str:
    """What a front's replicas are called on Ray: the same when it is started again at this machine and port."""
    return re.sub(r"[^a-z0-9-]", "-", f"vlmlab-{socket.gethostname().lower()}-{port}")


def _shares(wanted: int, device: str) -> tuple[int, str, float]:
    """How many replicas, what they compute on, and the CPUs of each. Raises ValueError for more than there are GPUs."""
    ray = _ray()
    there = ray.cluster_resources()
    gpus, cpus = int(there.get("GPU", 0)), max(1, int(there.get("CPU", 1)))
    device = device or ("cuda" if gpus else "cpu")
    wanted = wanted or (gpus if device == "cuda" else 1)
    if device == "cuda" and not 0 < wanted <= gpus:
        raise ValueError(f"--replicas {wanted}: each needs a GPU, and Ray has {gpus}; say fewer, or --device cpu")
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    smallest = min((count for count in nodes if count), default=1)
    return wanted, device, float(min(cpus // wanted, smallest)) if wanted <= cpus else cpus / wanted


def _ray() -> Any:
    """Ray with its Serve. Raises ValueError where a part of it is not installed."""
    try:
        import ray
        from ray import serve  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"--ray needs {error.name}: pip install 'vlmlab[serve,ray]'") from None
    return ray
