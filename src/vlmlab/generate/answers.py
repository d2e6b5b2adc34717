"""What a request asks for and what comes back: settings, pieces of text as they are written, the answer, its cost."""

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from vlmlab.generate.decoding import Allowed, DecodingConfig
from vlmlab.processor.processor import Options


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one request may ask for.

    `decoding` is greedy by default. `stop` are strings that end the text, which does not hold them. `seed` is that of
    the request's own draws. `options` say how its pictures are read: resolution, splitting, the most visual tokens
    they may cost. With `logprobs` every token comes with its log-probability and those of that many likeliest ones.
    `allowed` constrains what is written: given the tokens written so far it returns a mask [w] over the vocabulary,
    True for what may follow (an end token too, where the text may end), or None where all may. It is called in the
    engine's thread, once for each token, and what it raises fails this request. `adapter` names the one that acts for
    this request (none by default).
    """

    max_new_tokens: int = 128
    decoding: DecodingConfig | None = None
    stop: Sequence[str] = ()
    seed: int = 0
    options: Options | None = None
    logprobs: int | None = None
    allowed: Allowed | None = None
    adapter: str = ""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, not {self.max_new_tokens}")
        if isinstance(self.stop, str) or "" in self.stop:
            raise ValueError("stop should be a list of non-empty strings")
        if self.logprobs is not None and self.logprobs < 0:
            raise ValueError(f"logprobs must be 0 or more, not {self.logprobs}")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one request cost.

    `prompt_tokens` includes the image tokens; `visual_tokens` is what its pictures became. Of the prompt,
    `reused_tokens` were not computed, because another request had begun alike. A split picture is several `images`;
    `image_hits` of them had been seen before. The seconds follow one another: preparing text and pictures, waiting for
    a place, reading the prompt and writing the first token, writing the rest.
    """

    prompt_tokens: int
    visual_tokens: int
    written_tokens: int = 0
    reused_tokens: int = 0
    images: int = 0
    image_hits: int = 0
    prepare_seconds: float = 0.0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def first_token_seconds(self) -> float:
        """From the request to its first token."""
        return self.prepare_seconds + self.queue_seconds + self.prefill_seconds


@dataclasses.dataclass(frozen=True)
class Scored:
    """A token that was written, its log-probability, and the likeliest tokens in its place with theirs, best first.

    Probabilities are the model's own: before temperature, penalties and constraints.
    """

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Said:
    """A piece of text as it comes, and, where logprobs were asked for, the tokens that came since the last piece."""

    text: str
    scored: tuple[Scored, ...] = ()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was written: the text, its token ids, why it ended, what it cost, and the tokens' scores if asked for.

    `reason` is `end` (an end token), `stop` (a stop string, cut off the text), `length` (the limit) or `cancelled`.
    """

    text: str
    tokens: list[int]
    reason: str
    cost: Cost
    scored: tuple[Scored, ...] = ()


class TooLong(ValueError):
    """A request that can never be served; `fits` is the number of tokens, or of rows, that could be."""

    def __init__(self, message: str, fits: int) -> None:
        super().__init__(message)
        self.fits = fits


class NoAdapter(ValueError):
    """There is no adapter of the name that a request asks for."""


class Overloaded(Exception):
    """Too many requests wait already. `retry_after` is an estimate, in seconds, of when there will be room."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} requests are waiting; try again in {retry_after} s")
        self.retry_after = retry_after


class Handle:
    """A request under way. Every method may be called from any thread.

    Iterate over it for the pieces of text as they come (`Said`); `result` waits for the whole answer; `cancel` gives
    it up. For code that must not wait: `notify` is called in the engine's thread whenever something new may be
    taken, `take` returns the new pieces, and `done` says whether there will be more. (In asyncio:
    `notify=lambda: loop.call_soon_threadsafe(event.set)`.)
    """

    def __init__(self, notify: Callable[[], None] | None = None) -> None:
        self.notify = notify
        self._news = threading.Condition()
        self._pieces: deque[Said] = deque()
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._wake: Callable[[], None] | None = None
        self.cancelled = False

    def __iter__(self) -> Iterator[Said]:
        """The pieces as they come, waiting for each. Raises what the request failed with, after its last piece."""
        while True:
            with self._news:
                self._news.wait_for(lambda: self._pieces or self.done)
            pieces = self.take()
            yield from pieces
            if not pieces:
                self.result()
                return

    @property
    def done(self) -> bool:
        """Whether the request has ended: written, cancelled or failed."""
        return self._answer is not None or self._error is not None

    def take(self) -> list[Said]:
        """The pieces that came since they were last taken; none is no error."""
        with self._news:
            pieces = list(self._pieces)
            self._pieces.clear()
        return pieces

    def result(self, timeout: float | None = None) -> Answer:
        """The whole answer, waiting for it. Raises what the request failed with, or TimeoutError."""
        with self._news:
            if not self._news.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"no answer in {timeout} s")
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def cancel(self) -> None:
        """Give the request up: its place is free before anything else is computed. Its answer is what was written."""
        self.cancelled = True
        if self._wake is not None:
            self._wake()

    def on_cancel(self, wake: Callable[[], None]) -> None:
        """For the engine: what to call when the request is cancelled."""
        self._wake = wake

    def say(self, piece: Said) -> None:
        """For the engine: a new piece."""
        with self._news:
            self._pieces.append(piece)
            self._news.notify_all()
        self._notify()

    def finish(self, outcome: Answer | Exception) -> None:
        """For the engine: nothing more comes."""
        with self._news:
            if isinstance(outcome, Answer):
                self._answer = outcome
            else:
                self._error = outcome
            self._news.notify_all()
        self._notify()

    def _notify(self) -> None:
        if self.notify is None:
            return
        try:
            self.notify()
        except Exception as error:  # whoever listened is gone: the request fails, and nothing else does
            self.notify, self.cancelled, self._error = None, True, error
