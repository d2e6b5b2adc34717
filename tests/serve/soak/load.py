"""The load: a closed loop that finds what the server can do, then an open one that offers twice that."""

import asyncio
import dataclasses
import random
import time
from collections import Counter

from serve.soak import malformed
from serve.soak.asked import Request, Scale, request, secret
from serve.soak.clients import Manner, Outcome, ask
from serve.soak.truth import Heard

SHARES = {
    "whole": 0.30,
    "stream": 0.25,
    "slow reader": 0.04,
    "slow writer": 0.03,
    "cancels": 0.08,
    "hangs up": 0.05,
    "leaves early": 0.03,
    "malformed": 0.22,
}
"""The kinds of clients, and how many of each."""

AGAIN = 0.2
"""The share that asks about a secret which was asked about lately, so that what is remembered is used too."""


def manner(kind: str, rng: random.Random) -> Manner:
    """How a client of this kind behaves."""
    rudely = rng.random() < 0.5
    if kind == "slow reader":
        return Manner(kind, stream=True, pause=0.05)
    if kind == "slow writer":
        return Manner(kind, pieces=5, pause=0.2)
    if kind == "cancels":
        return Manner(kind, stream=True, leave_pieces=rng.randrange(12), rudely=rudely)
    if kind == "hangs up":
        return Manner(kind, leave_after=rng.uniform(0.0, 1.0), rudely=rudely)
    if kind == "leaves early":
        return Manner(kind, share=rng.uniform(0.1, 0.9), pause=rng.uniform(0.0, 0.3), rudely=rudely)
    return Manner(kind, stream=kind == "stream")


@dataclasses.dataclass
class Tally:
    """What came of the requests. `broken` are those that ended as none should, each with what was seen.

    `refused` good ones were turned away with 429, `away` of all kinds.
    """

    ends: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    heard: list[Heard] = dataclasses.field(default_factory=list)
    first: list[float] = dataclasses.field(default_factory=list)
    broken: list[str] = dataclasses.field(default_factory=list)
    refused: int = 0
    away: int = 0
    lag: float = 0.0

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(sum(counted.values()) for counted in self.ends.values())

    def ended(self, how: str) -> int:
        """How many ended so."""
        return sum(counted[how] for counted in self.ends.values())


class Load:
    """Requests to one server, each decided by the seed and its number."""

    def __init__(self, port: int, model: str, scale: Scale, seed: int) -> None:
        self.port, self.model, self.scale, self.seed = port, model, scale, seed
        self.kinds = malformed.names(model, scale)
        self.stopping = False

    async def one(self, number: int, tally: Tally) -> None:
        """The request of a number."""
        rng = random.Random(f"{self.seed} {number}")
        [kind] = rng.choices(list(SHARES), list(SHARES.values()))
        if kind == "malformed":
            await self._wrong(number, rng, tally)
            return
        await self.good(number, kind, rng, tally)

    async def good(self, number: int, kind: str, rng: random.Random, tally: Tally) -> None:
        """One that should be answered."""
        asked = number - rng.randrange(1, 50) if rng.random() < AGAIN else number
        about, how = secret(self.seed, max(asked, 0), self.scale), manner(kind, rng)
        made = request(about, self.model, how.stream, tgi=rng.random() < 0.5)
        outcome = await ask(self.port, made, how)
        tally.ends.setdefault(kind, Counter())[outcome.ended] += 1
        if outcome.ended == "answered" or (outcome.ended == "left" and outcome.text):
            tally.heard.append(Heard(number, about.number, outcome.text, outcome.ended == "answered"))
        if kind == "stream" and outcome.first is not None:
            tally.first.append(outcome.first)
        if told := self._amiss(outcome, made):
            tally.broken.append(f"request {number} ({kind}): {told}")
        tally.refused += outcome.ended == "refused"
        tally.away += outcome.ended == "refused"

    def _amiss(self, outcome: Outcome, made: Request) -> str:
        """What is wrong with how a good request ended; nothing where nothing is."""
        if outcome.ended in ("answered", "left"):
            return ""
        if outcome.ended == "refused" and outcome.headers.get("retry-after", "").isdecimal():
            return ""
        if self.stopping and (outcome.ended == "unreachable" or outcome.status == 503):
            return ""
        return f"{outcome.ended} {outcome.status} {made.path} after {outcome.seconds:.1f} s: {outcome.told}"

    async def _wrong(self, number: int, rng: random.Random, tally: Tally) -> None:
        name = rng.choice(self.kinds)
        wrong = malformed.wrong(name, self.model, self.scale, number)
        outcome = await ask(self.port, wrong.request, Manner(name))
        ended = "not refused" if outcome.status == 200 else f"refused {outcome.status}"
        tally.ends.setdefault("malformed", Counter())[ended] += 1
        stopped = self.stopping and (outcome.ended == "unreachable" or outcome.status == 503)
        tally.away += outcome.status == 429
        if outcome.status not in wrong.may and not stopped:
            told = f"{outcome.ended} {outcome.status}: {outcome.told}"
            tally.broken.append(f"request {number} (malformed, {name}): {told}")

    async def closed(self, clients: int, seconds: float, first: int) -> float:
        """Requests a second that so many clients get answered, each asking again when it was."""
        numbers, tally, end = iter(range(first, first + 10**9)), Tally(), time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < end:
                await self.one(next(numbers), tally)

        began = time.monotonic()
        await asyncio.gather(*(client() for _ in range(clients)))
        if tally.broken:
            raise SystemExit("before the load: " + tally.broken[0])
        return tally.requests / (time.monotonic() - began)

    async def open(self, rate: float, seconds: float, tally: Tally) -> float:
        """Requests that come at a rate, whatever becomes of them. Returns the rate at the end.

        A capacity that was found too low, while the machine did something else, would make this no overload: where
        nothing was turned away in five seconds, the rate is raised by a quarter.
        """
        rng = random.Random(self.seed)
        began = at = window = time.monotonic()
        number, refused, tasks = 0, 0, set[asyncio.Task[None]]()
        while at < began + seconds:
            at += rng.expovariate(rate)
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            tally.lag = max(tally.lag, time.monotonic() - at)
            task = asyncio.create_task(self.one(number, tally))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            if at > window + 5.0:
                rate *= 1.25 if tally.refused == refused else 1.0
                window, refused = at, tally.refused
        await asyncio.gather(*tasks)
        return rate
