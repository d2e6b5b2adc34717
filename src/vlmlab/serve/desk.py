"""The desk: takes a request in, has its pictures opened and its text prepared, and hands on what the engine writes.

Nothing that takes long happens in the thread that talks with clients: pictures are got and prompts prepared in threads,
and the engine writes in its own. A request that nobody waits for any more is given up, wherever it is.
"""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from vlmlab.batch import Message, Picture, Sample
from vlmlab.generate.answers import Answer, Handle, Said, Settings, TooLong
from vlmlab.generate.engine import Engine
from vlmlab.generate.looking import Looks
from vlmlab.processor.processor import Options, Processor
from vlmlab.serve.constrain import Grammars
from vlmlab.serve.failures import Failed
from vlmlab.serve.media import Pictures

Made = TypeVar("Made")


class Running:
    """Answers that the engine writes for one client, as asyncio sees them."""

    def __init__(self, handles: Sequence[Handle], news: asyncio.Event, opening: float) -> None:
        self.handles, self.news, self.opening = handles, news, opening

    async def told(self) -> AsyncIterator[tuple[int, Said | Answer]]:
        """The pieces of each answer as they come, by its number, and at its end the answer.

        Raises what an answer failed with, and Failed when the engine gave it up.
        """
        waiting = dict(enumerate(self.handles))
        while waiting:
            self.news.clear()
            for index, handle in list(waiting.items()):
                done = handle.done
                for piece in handle.take():
                    yield index, piece
                if done:
                    del waiting[index]
                    answer = handle.result(0.0)
                    if answer.reason == "cancelled":
                        raise Failed(503, "the server is stopping", retry_after=5.0)
                    yield index, answer
            if waiting:
                await self.news.wait()

    async def answers(self) -> list[Answer]:
        """The whole answers, once they are there. Raises as `told` does."""
        found = {index: thing async for index, thing in self.told() if isinstance(thing, Answer)}
        return [found[index] for index in range(len(self.handles))]

    def cancel(self) -> None:
        """Give up what is still under way."""
        for handle in self.handles:
            if not handle.done:
                handle.cancel()


class Desk:
    """Between the routes and the engine. `prepare` prompts are prepared at a time."""

    def __init__(self, engine: Engine, pictures: Pictures, prepare: int = 2) -> None:
        self.engine, self.pictures = engine, pictures
        self.processor: Processor = engine.processor
        self.words = engine.model.config.language.vocabulary
        self.grammars = Grammars(engine.processor, self.words)
        policy = pictures.policy
        # As many threads as pictures may be waited for: each of them stops at its deadline.
        opening = policy.fetches + policy.waiting + policy.decoding.processes + policy.decoding.waiting
        self._opening = ThreadPoolExecutor(opening, "vlmlab-pictures")
        self._preparing = ThreadPoolExecutor(prepare, "vlmlab-prompts")

    async def ask(self, asked: Sequence[tuple[Sample, Settings]], flexible: bool = False) -> Running:
        """Begin to answer samples, each by its settings. Their pictures are references, as requests name them.

        Samples that are the same object have their pictures opened once. With `flexible`, an answer may have as many
        tokens as fit, if those are fewer than its settings say. Raises what `Pictures.get` and `Engine.submit` raise;
        then nothing is under way.
        """
        began = time.perf_counter()
        opened: dict[int, Sample] = {}
        for sample, _ in asked:
            if id(sample) not in opened:
                ready = await self._in(self._opening, partial(self.open, sample)) if sample.pictures else sample
                opened[id(sample)] = ready
        running = Running([], asyncio.Event(), time.perf_counter() - began)
        handles: list[Handle] = []
        try:
            for sample, settings in asked:
                handles.append(await self._submit(opened[id(sample)], settings, running.news, flexible))
        except BaseException:
            for handle in handles:
                handle.cancel()
            raise
        running.handles = handles
        return running

    async def look(self, sample: Sample, options: Options, adapter: str = "") -> tuple[Sample, Looks, float]:
        """Where the answer that a sample ends with looked; the sample opened, and how many seconds that took.

        Raises what `Pictures.get` and `Engine.look` raise.
        """
        began = time.perf_counter()
        ready = await self._in(self._opening, partial(self.open, sample)) if sample.pictures else sample
        seconds = time.perf_counter() - began
        work = partial(self.engine.look, ready, options=options, adapter=adapter)
        looking = await self._in(self._preparing, work, _cancel_late)
        return ready, await asyncio.wrap_future(looking), seconds

    def open(self, sample: Sample) -> Sample:
        """The same sample with its pictures opened, by the rules for strangers' pictures. Raises Refused and Busy."""
        got = iter(self.pictures.get([str(picture.source) for picture in sample.pictures]))
        messages = [
            Message(message.role, tuple(next(got) if isinstance(part, Picture) else part for part in message.parts))
            for message in sample.messages
        ]
        return Sample(tuple(messages))

    async def prepare(self, work: Callable[[], Made]) -> Made:
        """Do what takes a moment, a grammar for instance, where it holds nobody up."""
        return await self._in(self._preparing, work)

    def close(self) -> None:
        """End the threads."""
        self._opening.shutdown(wait=False, cancel_futures=True)
        self._preparing.shutdown(wait=False, cancel_futures=True)

    async def _submit(self, sample: Sample, settings: Settings, news: asyncio.Event, flexible: bool) -> Handle:
        loop = asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(news.set)

        def submit() -> Handle:
            try:
                return self.engine.submit(sample, settings, tell)
            except TooLong as error:
                fits = min(error.fits, settings.max_new_tokens - 1)
                if not flexible or fits < 1:
                    raise
                try:
                    return self.engine.submit(sample, dataclasses.replace(settings, max_new_tokens=fits), tell)
                except TooLong:  # it is the prompt
                    raise error from None

        return await self._in(self._preparing, submit, _cancel_late)

    async def _in(
        self,
        pool: ThreadPoolExecutor,
        work: Callable[[], Made],
        late: Callable[[Future[Made]], None] | None = None,
    ) -> Made:
        """`work`, done by a pool. When nobody waits for it any more, it is not begun, or `late` hears what it gave."""
        future = pool.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancel() and late is not None:
                future.add_done_callback(late)
            raise


def _cancel_late(future: Future[Handle] | Future[Future[Looks]]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().cancel()
