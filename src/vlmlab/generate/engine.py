"""The engine: samples in, texts out. Each request's text is the same whether it comes alone or in company."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from weakref import WeakValueDictionary

import torch

from vlmlab.batch import Sample
from vlmlab.generate import looking
from vlmlab.generate.answers import Answer, Cost, Handle, NoAdapter, Settings, TooLong
from vlmlab.generate.bank import Bank, Loaded
from vlmlab.generate.decoding import Decoding, DecodingConfig, Ended, Request, greedy
from vlmlab.generate.job import Job, Prompt
from vlmlab.generate.scheduler import Gauges, Scheduler
from vlmlab.generate.sights import Sight, Sights
from vlmlab.generate.telling import Telling
from vlmlab.generate.worker import Worker
from vlmlab.model.vlm import VLM
from vlmlab.processor.processor import Encoded, Options, Processor

ROOM = 4096
"""How many tokens a request to a started engine may have, prompt and answer, unless it is told otherwise."""

GRAIN = 256
"""A cache that grows has room for a multiple of this many tokens."""


class Engine:
    """Writes texts with a model.

    `generate`, `answers` and `stream` compute in the thread that calls them, with a cache as large as they need.
    For requests from many threads, `start` (or a `with` block) gives the engine a thread of its own and a cache of
    fixed size: `rows` requests at a time, each of up to `capacity` tokens. Then `submit` hands in a request and returns
    at once, and the other three do the same and wait. `queue` more requests may wait for a place.

    Visual tokens are kept by picture content (up to `memory` bytes, the longest unused dropped first), so that a
    picture is read once however often it comes back; so is what a request has in common with the beginning of another
    that is still in the cache. Prompts are read `chunk` tokens at a time, between steps of the requests being written.

    Adapters may be loaded by name, of up to `adapter_memory` bytes together. A request may ask for one: it then acts
    for that request alone.
    """

    def __init__(
        self,
        model: VLM,
        processor: Processor,
        rows: int = 16,
        memory: int = 256 << 20,
        capacity: int | None = None,
        queue: int = 64,
        chunk: int = 512,
        adapter_memory: int = 1 << 30,
    ) -> None:
        if rows < 1 or queue < 1 or chunk < 1 or (capacity is not None and capacity < 2):
            raise ValueError(
                f"rows, queue and chunk must be 1 or more and capacity 2 or more, not {rows}, {queue}, {chunk} and "
                f"{capacity}"
            )
        self.model, self.processor = model.eval(), processor
        self.rows, self.capacity, self.queue, self.chunk = rows, capacity, queue, chunk
        self.bank = Bank(model, adapter_memory)
        self.positions = model.config.language.positions
        self.sights = Sights(model, processor.config, memory)
        self.banned = torch.tensor(processor.never_written, dtype=torch.long, device=model.device)
        self.ends = frozenset(processor.ends)
        # Requests with equal settings are decoded together; what no request uses any more is dropped.
        self._methods: WeakValueDictionary[DecodingConfig, Decoding] = WeakValueDictionary()
        self._scheduler: Scheduler | None = None
        self._worker: Worker | None = None

    def generate(
        self,
        samples: Sequence[Sample],
        max_new_tokens: int = 128,
        decoding: DecodingConfig | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        options: Options | None = None,
        adapter: str = "",
    ) -> list[str]:
        """The text written after each sample. `decoding` is greedy by default; see `answers` for the rest."""
        return [a.text for a in self.answers(samples, max_new_tokens, decoding, stop, seed, options, adapter)]

    def answers(
        self,
        samples: Sequence[Sample],
        max_new_tokens: int = 128,
        decoding: DecodingConfig | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        options: Options | None = None,
        adapter: str = "",
    ) -> list[Answer]:
        """What was written after each sample, in order.

        A text ends at an end token, before a stop string, or after `max_new_tokens`. `seed` is that of the first
        sample's draws; the next sample has the next seed. Raises ValueError for a prompt that does not fit the model's
        positions.
        """
        settings = Settings(max_new_tokens, decoding, stop, seed, options, adapter=adapter)
        handles: list[Handle] = []
        scheduler: Scheduler | None = None
        try:
            for start in range(0, len(samples), self.rows):
                jobs = self._jobs(samples[start : start + self.rows], settings, start)
                if self._worker is not None:
                    for job in jobs:
                        self._worker.submit(job, patient=True)
                        handles.append(job.handle)
                    continue
                while scheduler is not None and (scheduler.waiting or not _fits(scheduler, jobs)) and scheduler.busy:
                    scheduler.tick()
                scheduler = self._room(jobs)
                for job in jobs:
                    scheduler.add(job)
                    handles.append(job.handle)
            while scheduler is not None and not all(handle.done for handle in handles):
                scheduler.tick()
            return [handle.result() for handle in handles]
        finally:
            self._give_up(handles, scheduler)

    def stream(
        self,
        sample: Sample,
        max_new_tokens: int = 128,
        decoding: DecodingConfig | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        options: Options | None = None,
        adapter: str = "",
    ) -> Iterator[str]:
        """The text written after one sample, in pieces as it comes; together they are what `generate` returns.

        A piece never holds half a character, nor anything that might still turn out to begin a stop string.
        """
        settings = Settings(max_new_tokens, decoding, stop, seed, options, adapter=adapter)
        if self._method(settings).views > 1:
            raise ValueError("beam search knows its text only at the end; stream with greedy or sample")
        [job] = self._jobs([sample], settings, 0)
        scheduler = None
        try:
            if self._worker is not None:
                self._worker.submit(job, patient=True)
                yield from (piece.text for piece in job.handle)
                return
            scheduler = self._room([job])
            scheduler.add(job)
            while not job.handle.done:
                scheduler.tick()
                yield from (piece.text for piece in job.handle.take())
            job.handle.result()
        finally:
            self._give_up([job.handle], scheduler)

    def submit(
        self, sample: Sample, settings: Settings | None = None, notify: Callable[[], None] | None = None
    ) -> Handle:
        """Hand in one request from any thread, and return at once; see `Handle` for how to get at its text.

        Its text and pictures are prepared here, in the calling thread: an asyncio server should call this through
        `asyncio.to_thread`. Raises ValueError for a request that cannot be served (a picture that cannot be read),
        TooLong, which is one, for a request that can never fit, with what would, NoAdapter, which is one too,
        Overloaded when too many wait, and RuntimeError when the engine is not started.
        """
        worker = self._worker
        if worker is None:
            raise RuntimeError("the engine is not started: call start(), or use it in a `with` block")
        worker.scheduler.check_queue()
        [job] = self._jobs([sample], settings or Settings(), 0, Handle(notify))
        worker.submit(job)
        return job.handle

    def look(
        self,
        sample: Sample,
        written: Sequence[int] | None = None,
        options: Options | None = None,
        adapter: str = "",
    ) -> Future[looking.Looks]:
        """Where an answer's tokens looked in its pictures, found by reading it once more; see `looking`.

        `sample` is the prompt and `written` the tokens of its answer; or `sample` ends with the answer. `adapter` names
        the one that acted for it. A started
        engine does this between two rounds of its requests, else it is done when this returns. May be called from any
        thread. Raises ValueError for what cannot be looked into, TooLong where it does not fit, Overloaded when too
        many looks wait.
        """
        asked = looking.question(self.processor, sample, written, options)
        tokens, grid = asked.encoded.tokens, asked.encoded.grid
        self._check(Cost(asked.start, sum(self.model.count(torch.tensor(grid)))), len(tokens) - asked.start, 1)
        work = partial(self._look, asked, self.bank.called(adapter))
        if self._worker is not None:
            return self._worker.aside(work)
        done: Future[looking.Looks] = Future()
        done.set_result(work())
        return done

    def _look(self, asked: looking.Question, adapter: Loaded | None) -> looking.Looks:
        if adapter is not None and adapter.gone:
            raise NoAdapter(f"the adapter {adapter.name!r} was unloaded before this look")
        self.bank.act([adapter])
        try:
            return looking.look(self.model, self.processor, asked)
        finally:
            self.bank.act(())

    def start(self) -> "Engine":
        """Begin to serve `submit` from a thread of the engine's own; its cache is allocated here. Returns itself."""
        if self._worker is None:
            capacity = min(self.positions, ROOM) if self.capacity is None else self.capacity
            self._scheduler = None
            self._worker = Worker(self._build(self.rows, capacity, self.queue))
        return self

    def close(self, drain: bool = False) -> None:
        """End the engine's thread and give its cache back. What is under way is cancelled, or with `drain` written."""
        if self._worker is not None:
            self._worker.close(drain)
            self._worker = None
            self.bank.act(())

    def __enter__(self) -> "Engine":
        """The engine, started."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel what is under way and end the thread."""
        self.close()

    def load_adapter(self, name: str, folder: Path | str) -> Loaded:
        """Load the adapter in a local folder of PEFT's files, to be asked for by `name`. May be called any time.

        Files are read here, in the calling thread; others wait only while layers are wrapped. Raises ValueError for a
        name that is taken or cannot be one, for files that are damaged, too large or do not fit the model, and for an
        adapter that acts on nothing.
        """
        return self.bank.load(name, Path(folder), self._between)

    def unload_adapter(self, name: str) -> Loaded:
        """Let go of an adapter: from now on nobody can ask for it. Requests under way go on with it to their end, and
        then its memory is free. Raises NoAdapter.
        """
        return self.bank.unload(name, lambda: self._between(self._settle))

    def adapters(self) -> list[Loaded]:
        """The adapters that may be asked for."""
        return self.bank.listed()

    def gauges(self) -> Gauges:
        """How things stand; see `Gauges`. May be called from any thread."""
        scheduler = self._scheduler if self._worker is None else self._worker.scheduler
        return Gauges() if scheduler is None else scheduler.gauges()

    def _between(self, work: Callable[[], None]) -> None:
        """Do something where no round of the engine is under way."""
        if self._worker is None:
            work()
        else:
            self._worker.aside(work, most=None).result()

    def _settle(self) -> None:
        scheduler = self._scheduler if self._worker is None else self._worker.scheduler
        if scheduler is None:
            self.bank.settle(())
        else:
            scheduler.settle()

    def _method(self, settings: Settings) -> Decoding:
        config = greedy.Config() if settings.decoding is None else settings.decoding
        method = self._methods.get(config)
        if method is None:
            method = self._methods[config] = config.build()
        return method

    def _jobs(
        self, samples: Sequence[Sample], settings: Settings, first: int, handle: Handle | None = None
    ) -> list[Job]:
        """A request for each sample; `first` is the number of the first one, by which seeds are moved on."""
        start = time.perf_counter()
        encoded = self.processor.encode_all(samples, True, options=settings.options)
        seconds = (time.perf_counter() - start) / max(len(samples), 1)
        jobs = []
        for number, one in enumerate(encoded, first):
            own = dataclasses.replace(settings, seed=settings.seed + number)
            try:
                jobs.append(self._job(one, own, handle or Handle(), seconds))
            except TooLong as error:
                raise TooLong(f"sample {number}: {error}", error.fits) if len(samples) > 1 else error from None
        return jobs

    def _job(self, encoded: Encoded, settings: Settings, handle: Handle, seconds: float) -> Job:
        start = time.perf_counter()
        method = self._method(settings)
        adapter = self.bank.called(settings.adapter)
        under = "" if adapter is None else adapter.key
        eye = under if adapter is not None and adapter.sees else ""
        pictures = zip(encoded.patches, encoded.grid, strict=True)
        sights = [Sight.of(patches, size, eye) for patches, size in pictures]
        prompt = Prompt(self.model, encoded.tokens, sights, under)
        cost = Cost(len(prompt.tokens), sum(prompt.counts), images=len(sights))
        self._check(cost, settings.max_new_tokens, method.views)
        ended = self._ended(settings.stop)
        return Job(
            request=Request(prompt.tokens, settings.max_new_tokens, settings.seed, ended, settings.allowed),
            prompt=prompt,
            decoding=method,
            telling=Telling(self.processor.decode, settings.stop),
            handle=handle,
            cost=dataclasses.replace(cost, prepare_seconds=seconds + time.perf_counter() - start),
            ends=self.ends,
            logprobs=self._logprobs(settings, method),
            adapter=adapter,
        )

    def _check(self, cost: Cost, limit: int, views: int) -> None:
        """Raise TooLong for a request that would not fit if it were alone."""
        room, what = self.positions, f"the model's {self.positions} positions"
        if self._worker is not None:
            if views > self.rows:
                raise TooLong(f"{views} beams take {views} rows; this engine has {self.rows}", self.rows)
            if self._worker.scheduler.capacity < room:
                room = self._worker.scheduler.capacity
                what = f"the {room} tokens that this engine has for one request"
        prompt = cost.prompt_tokens
        if prompt + limit <= room:
            return
        told = f"a prompt of {prompt} tokens ({cost.visual_tokens} visual) and {limit} new ones do not fit {what}: "
        if prompt < room:
            raise TooLong(f"{told}{room - prompt} new ones would", room - prompt)
        raise TooLong(f"{told}a prompt of {max(room - limit, 0)} would", max(room - limit, 0))

    def _logprobs(self, settings: Settings, method: Decoding) -> int | None:
        if settings.logprobs is None:
            return None
        if method.views > 1:
            raise ValueError("beam search knows its tokens only at the end; ask for logprobs with greedy or sample")
        words = self.model.config.language.vocabulary
        if settings.logprobs > words:
            raise ValueError(f"logprobs of {settings.logprobs} tokens were asked for; the vocabulary has {words}")
        return settings.logprobs

    def _ended(self, stop: Sequence[str]) -> Ended:
        ends, decode = self.ends, self.processor.decode
        tails = [4 * len(text.encode()) + 4 for text in stop]

        def ended(written: list[int]) -> bool:
            if written[-1] in ends:
                return True
            return any(text in decode(written[-tail:]) for text, tail in zip(stop, tails, strict=True))

        return ended

    def _room(self, jobs: Sequence[Job]) -> Scheduler:
        """The scheduler of this thread's own calls, if it has room for these requests; else a larger one."""
        rows, capacity = _need(jobs)
        if self._scheduler is not None:
            if _fits(self._scheduler, jobs):
                return self._scheduler
            if len(self._scheduler.slots.table) == rows:
                capacity = max(capacity, 2 * self._scheduler.capacity)  # a conversation that grows
        self._scheduler = None  # its memory first
        self._scheduler = self._build(rows, min(-(-capacity // GRAIN) * GRAIN, self.positions), None)
        return self._scheduler

    def _build(self, rows: int, capacity: int, queue: int | None) -> Scheduler:
        return Scheduler(self.model, self.sights, self.bank, self.banned, rows, capacity, self.chunk, queue)

    @staticmethod
    def _give_up(handles: Sequence[Handle], scheduler: Scheduler | None) -> None:
        """Free the places of requests that nobody waits for any more."""
        left = [handle for handle in handles if not handle.done]
        for handle in left:
            handle.cancel()
        if left and scheduler is not None:
            scheduler.sweep()


def _need(jobs: Sequence[Job]) -> tuple[int, int]:
    """The rows that requests take together, and the tokens that the longest may come to."""
    longest = max(len(job.prompt.tokens) + job.request.limit for job in jobs)
    return sum(job.decoding.views for job in jobs), longest


def _fits(scheduler: Scheduler, jobs: Sequence[Job]) -> bool:
    rows, capacity = _need(jobs)
    return rows <= len(scheduler.slots.table) and capacity <= scheduler.capacity
