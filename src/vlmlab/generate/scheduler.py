"""The scheduler: many requests on one cache, each read in chunks and written token by token beside the others."""

import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlmlab.batch import Batch
from vlmlab.generate.answers import NoAdapter, Overloaded
from vlmlab.generate.bank import Bank
from vlmlab.generate.decoding import Decoding, Move
from vlmlab.generate.job import Clock, Job
from vlmlab.generate.session import Session
from vlmlab.generate.sights import Sights
from vlmlab.generate.slots import Slot, Slots
from vlmlab.model.vlm import PIECE, VLM


@dataclasses.dataclass
class Gauges:
    """How things stand, and what has happened so far: what a server's metrics show.

    `waiting` requests have no place yet, `reading` ones are being prefilled, `rows` of `slots` are written to.
    `held_tokens` of `room_tokens` in the cache belong to requests under way. So many `adapters` may be asked for; they,
    and those that are leaving, take `adapter_bytes`. The rest count from the beginning.
    """

    waiting: int = 0
    reading: int = 0
    rows: int = 0
    slots: int = 0
    held_tokens: int = 0
    room_tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    written_tokens: int = 0
    images: int = 0
    image_hits: int = 0
    adapters: int = 0
    adapter_bytes: int = 0


class Scheduler:
    """Continuous batching over the slots of one session of fixed memory.

    A `tick` admits who finds a place, looks at a few pictures, reads one chunk of at most `chunk` prompt tokens, and
    writes one token of every row: a long prompt holds the others up by no more than a chunk. What a request writes
    depends on none of this: not on company, order, chunks, or prefixes that were shared (beyond rounding).

    `tick` belongs to one thread; `add` may be called from any. At most `queue` requests wait (None: any number).
    """

    def __init__(
        self,
        model: VLM,
        sights: Sights,
        bank: Bank,
        banned: Int[Tensor, " x"],
        slots: int,
        capacity: int,
        chunk: int = 512,
        queue: int | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        if min(slots, capacity, chunk) < 1:
            raise ValueError(f"rows, capacity and chunk must be 1 or more, not {slots}, {capacity} and {chunk}")
        self.model, self.sights, self.bank, self.clock = model, sights, bank, clock
        self.slots = Slots(Session(model, slots, capacity))
        self.session = self.slots.session
        self.banned, self.chunk, self.queue = banned, chunk, queue
        self.lock = threading.Lock()
        self.waiting: deque[Job] = deque()
        self.reading: list[Job] = []
        self.writing: list[Job] = []
        self.counted = Gauges()
        self.service: float | None = None  # seconds that a request has its place, lately

    @property
    def capacity(self) -> int:
        """How many tokens one request may have, its prompt included."""
        return self.session.cache.capacity

    @property
    def busy(self) -> bool:
        """Whether any request is under way."""
        return bool(self.waiting or self.reading or self.writing)

    def gauges(self) -> Gauges:
        """How things stand now. May be called from any thread."""
        owned = [slot for slot in self.slots.table if slot.owned]
        return dataclasses.replace(
            self.counted,
            waiting=len(self.waiting),
            reading=len(self.reading),
            rows=self.session.rows,
            slots=len(self.slots.table),
            held_tokens=sum(self.slots.held(slot) for slot in owned),
            room_tokens=len(self.slots.table) * self.capacity,
            adapters=len(self.bank.listed()),
            adapter_bytes=self.bank.held,
        )

    def check_queue(self) -> None:
        """Raise Overloaded when no more requests may wait."""
        with self.lock:
            self._check_queue()

    def add(self, job: Job) -> None:
        """Let a request wait for its place. Raises Overloaded when too many do, NoAdapter when its adapter is gone."""
        with self.lock:
            self._check_queue()
            if job.adapter is not None and job.adapter.gone:
                raise NoAdapter(f"the adapter {job.adapter.name!r} was unloaded before this request found a place")
            job.queued = self.clock()
            self.waiting.append(job)

    def _check_queue(self) -> None:
        waiting = len(self.waiting)
        if self.queue is not None and waiting >= self.queue:
            self.counted.refused += 1
            each = 1.0 if self.service is None else self.service
            raise Overloaded(waiting, max(1, math.ceil(each * (waiting + 1) / len(self.slots.table))))

    @torch.inference_mode()
    def tick(self) -> bool:
        """Do the next piece of work. Returns whether there is more."""
        self.sweep()
        self._admit()
        self._look()
        self._read()
        self._step()
        if self.bank.leaving:
            self.settle()
        if not self.busy:
            self.bank.act(())  # whoever else has the model finds it without adapters
        return self.busy

    def settle(self) -> None:
        """Let go of adapters that are leaving and that no request here uses. Call it between rounds."""
        with self.lock:  # nobody comes in with an adapter that is about to go
            gone = self.bank.settle(job.adapter for job in (*self.waiting, *self.reading, *self.writing))
        for adapter in gone:
            self.session.steps.forget(adapter.key)

    def give_up(self, error: Exception | None = None) -> None:
        """End every request, with an error or as if it were cancelled."""
        with self.lock:
            jobs = [*self.waiting, *self.reading, *self.writing]
            self.waiting.clear()
        for job in jobs:
            self._end(job, error, cancelled=True)

    def sweep(self) -> None:
        """Free the places of requests that were cancelled."""
        with self.lock:
            gone = [job for job in self.waiting if job.handle.cancelled]
            for job in gone:
                self.waiting.remove(job)
        for job in [*gone, *(job for job in [*self.reading, *self.writing] if job.handle.cancelled)]:
            self._end(job, cancelled=True)

    def _admit(self) -> None:
        """Give the requests that came first a place, and the longest prefix that is there to be had."""
        while True:
            with self.lock:
                if not self.waiting:
                    break
                slots = self.slots.take(self.waiting[0].prompt.keys, self.waiting[0].decoding.views)
                if slots is None:
                    break
                job = self.waiting.popleft()
            job.slots, job.admitted = slots, self.clock()
            self.reading.append(job)
        for at, job in enumerate(self.reading):
            earlier = [other.slots[0] for other in self.reading[:at]]
            if job.began is None and self.slots.share(job.slots[0], earlier):
                job.began = self.slots.held(job.slots[0])

    def _look(self) -> None:
        """Look at pictures of the requests being read: a few at a time, for others wait for their next token."""
        room = PIECE
        chosen: dict[Job, list[int]] = {}
        looked: set[bytes] = set()
        for job in self.reading:
            for at in [] if job.began is None else job.prompt.unseen(self.slots.held(job.slots[0])):
                sight = job.prompt.sights[at]
                job.prompt.visual[at] = self.sights.recall(sight)
                if job.prompt.visual[at] is not None:
                    continue
                if sight.key not in looked:
                    if looked and len(sight.patches) > room:
                        continue
                    room -= len(sight.patches)
                    looked.add(sight.key)
                    job.looked += 1
                chosen.setdefault(job, []).append(at)
        for eye in dict.fromkeys(job.eye for job in chosen):
            self._see([(job, new) for job, new in chosen.items() if job.eye is eye])

    def _see(self, chosen: list[tuple[Job, list[int]]]) -> None:
        try:
            self.bank.act([chosen[0][0].eye])
            found = iter(self.sights.look([job.prompt.sights[at] for job, new in chosen for at in new]))
        except Exception as error:
            if len(chosen) == 1:
                self._end(chosen[0][0], error)
            else:  # find out whose picture it is
                for one in chosen:
                    self._see([one])
            return
        for job, new in chosen:
            for at in new:
                job.prompt.visual[at] = next(found)

    def _read(self) -> None:
        """Read the next chunk of the requests that came first; who has read all of its prompt begins to write."""
        room = self.chunk
        parts: list[tuple[Job, int, int]] = []
        for job in self.reading:
            if room == 0 or job.began is None:
                continue
            start = self.slots.held(job.slots[0])
            ready = job.prompt.ready(start)
            end = min(ready, start + room)
            # A small part is worth a pass only if nothing of it waits to be looked at.
            if end > start and (ready == len(job.prompt.tokens) or end == start + room):
                parts.append((job, start, end))
                room -= end - start
        for adapter in dict.fromkeys(job.adapter for job, _, _ in parts):
            self._read_parts([part for part in parts if part[0].adapter is adapter])

    def _read_parts(self, parts: Sequence[tuple[Job, int, int]]) -> None:
        """Read parts of prompts that one adapter acts for, in one pass."""
        try:
            self.bank.act([parts[0][0].adapter])
            logits = self._pass(parts)
        except Exception as error:
            for job, _, _ in parts:
                self._end(job, error)
            return
        done = [at for at, (job, _, end) in enumerate(parts) if end == len(job.prompt.tokens)]
        jobs = [parts[at][0] for at in done]
        for job in jobs:
            self.reading.remove(job)
            self.writing.append(job)
            job.live = job.slots[:1]
            job.prompt.forget()
            self.slots.join(job.slots[0])
        if jobs:
            self._advance(jobs, logits if len(done) == len(parts) else logits[done])

    def _pass(self, parts: Sequence[tuple[Job, int, int]]) -> Float[Tensor, "b w"]:
        width = max(end - start for _, start, end in parts)
        tokens, segments, positions = torch.zeros(3, len(parts), width, dtype=torch.long)
        visual, counts = [], []
        for row, (job, start, end) in enumerate(parts):
            tokens[row, : end - start] = torch.tensor(job.prompt.tokens[start:end])
            segments[row, : end - start] = 1
            positions[row, : end - start] = torch.arange(start, end)
            some, each = job.prompt.part(start, end)
            visual += [] if some is None else [some]
            counts += each
        batch = Batch(tokens, segments, positions).to(self.model.device)
        slots = [job.slots[0].index for job, _, _ in parts]
        return self.session.read(batch, torch.cat(visual) if visual else None, counts, slots)

    def _step(self) -> None:
        """Write one token of every row: in one pass, but for adapters that need their own."""
        jobs = list(self.writing)
        groups = [[jobs[at] for at in some] for some in self.bank.together([job.adapter for job in jobs])]
        outcomes = [self._write(group) for group in groups]
        for group, logits in zip(groups, outcomes, strict=True):
            if isinstance(logits, Exception):
                for job in group:
                    self._end(job, logits)
            else:
                self._advance(group, logits)

    def _write(self, jobs: Sequence[Job]) -> Float[Tensor, "b w"] | Exception:
        """The logits of what follows in the rows of these requests, laid in their order; or what went wrong."""
        owners = [(slot, job.adapter) for job in jobs for slot in job.live]
        everyone = len(owners) == len(self.slots.rows)
        if everyone:  # in their own order
            order = [slot.index for slot, _ in owners]
            owners.sort(key=lambda owner: owner[0].index)
        slots = [slot for slot, _ in owners]
        tokens = [slot.token for slot in slots]
        try:
            under = self.bank.act([adapter for _, adapter in owners])
            if everyone:
                logits = self.session.step(tokens, under)
            else:
                logits = self.session.step_some([slot.index for slot in slots], tokens)
        except Exception as error:
            return error
        for slot in slots:
            slot.keys.append(slot.token)
        return logits[order] if everyone and order != list(range(len(order))) else logits

    def _advance(self, jobs: list[Job], logits: Float[Tensor, "b w"]) -> None:
        """Choose what follows in the rows of these requests, laid in their order; then let them go on, or end."""
        own = dict(zip(jobs, logits.split([len(job.live) for job in jobs]), strict=True))
        groups: dict[Decoding, list[Job]] = {}
        scores = dict(own)
        for job in jobs:
            try:
                mask = job.mask(self.banned, logits.shape[1])
            except Exception as error:
                self._end(job, error)
                continue
            if mask is not None:
                scores[job] = own[job].masked_fill(~mask, -torch.inf)
            groups.setdefault(job.decoding, []).append(job)
        moved: list[tuple[Job, list[Move]]] = []
        for decoding, group in groups.items():
            plain = len(group) == len(jobs) and all(scores[job] is own[job] for job in group)
            together = logits if plain else torch.cat([scores[job] for job in group])
            try:
                moves = decoding.advance(together, [job.request for job in group], self.banned)
            except Exception as error:
                for job in group:
                    self._end(job, error)
                continue
            moved += zip(group, moves, strict=True)
        for job, goes_on in moved:
            job.written(own[job][0], self.clock())
            if goes_on:
                self._place(job, goes_on)
        # The last row first: it leaves without changing places.
        over = [job for job, goes_on in moved if not goes_on]
        for job in sorted(over, key=lambda job: job.live[0].index, reverse=True):
            self._end(job)

    def _place(self, job: Job, moves: Sequence[Move]) -> None:
        """Let each of a request's rows continue the past it chose; the first that chose a past continues it there."""
        sources = [job.live[source] for source, _ in moves]
        free = [slot for slot in job.slots if slot not in sources]
        live: list[Slot] = []
        for source, (_, token) in zip(sources, moves, strict=True):
            slot = source
            if source in live:
                slot = free.pop(0)
                self.slots.branch(source, slot)
            slot.token = token
            live.append(slot)
        for slot in job.live:
            if slot not in live:
                self.slots.leave(slot)
        job.live = live

    def _end(self, job: Job, error: Exception | None = None, cancelled: bool = False) -> None:
        """Free a request's place and say how it ended. What it left may be shared, unless it failed."""
        for jobs in (self.reading, self.writing):
            if job in jobs:
                jobs.remove(job)
        for slot in job.slots:
            self.slots.release(slot, forget=error is not None)
        job.slots, job.live = [], []
        now = self.clock()
        if error is not None:
            self.counted.failed += 1
            job.handle.finish(error)
            return
        answer = job.answer(now, cancelled)
        if cancelled:
            self.counted.cancelled += 1
        else:
            self.counted.finished += 1
            lately = now - (now if job.admitted is None else job.admitted)
            self.service = lately if self.service is None else 0.8 * self.service + 0.2 * lately
        if job.first is not None:
            self.counted.prompt_tokens += answer.cost.prompt_tokens
            self.counted.reused_tokens += answer.cost.reused_tokens
            self.counted.written_tokens += answer.cost.written_tokens
            self.counted.images += answer.cost.images
            self.counted.image_hits += answer.cost.image_hits
        job.handle.finish(answer)
