"""The engine: samples in, texts out. Each request's text is the same whether it comes alone or in company."""

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlmlab.batch import Batch, Images, Sample
from vlmlab.generate.decoding import Decoding, DecodingConfig, Request, greedy
from vlmlab.generate.session import Session
from vlmlab.model.vlm import VLM
from vlmlab.processor.processor import Options, Processor


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was written for one sample: the text, its token ids, why it ended, and what it cost to read.

    `reason` is `end` (an end token), `stop` (a stop string, cut off the text) or `length` (the limit).
    """

    text: str
    tokens: list[int]
    reason: str
    prompt_tokens: int
    visual_tokens: int


class Engine:
    """Writes texts with a model. Visual tokens are kept by picture content (up to `memory` bytes, oldest dropped), so
    that a picture is read once however often it comes back; `rows` requests are written at a time.
    """

    def __init__(self, model: VLM, processor: Processor, rows: int = 16, memory: int = 256 << 20) -> None:
        self.model, self.processor = model.eval(), processor
        self.rows, self.memory = rows, memory
        self.seen: OrderedDict[bytes, Tensor] = OrderedDict()
        self.banned = torch.tensor(processor.never_written, dtype=torch.long, device=model.device)
        self.ends = frozenset(processor.ends)

    def generate(
        self,
        samples: Sequence[Sample],
        max_new_tokens: int = 128,
        decoding: DecodingConfig | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        options: Options | None = None,
    ) -> list[str]:
        """The text written after each sample. `decoding` is greedy by default; see `answers` for the rest."""
        return [a.text for a in self.answers(samples, max_new_tokens, decoding, stop, seed, options)]

    def answers(
        self,
        samples: Sequence[Sample],
        max_new_tokens: int = 128,
        decoding: DecodingConfig | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        options: Options | None = None,
    ) -> list[Answer]:
        """What was written after each sample, in order.

        A text ends at an end token, before a stop string, or after `max_new_tokens`. `seed` is that of the first
        sample's draws; the next sample has the next seed. Raises ValueError for a prompt that does not fit the model's
        positions.
        """
        method = self._method(decoding, max_new_tokens, stop)
        answers: list[Answer] = []
        for start in range(0, len(samples), self.rows):
            wave = samples[start : start + self.rows]
            batch, requests, visual = self._requests(wave, max_new_tokens, seed + start, options)
            for _ in self._write(batch, requests, method, stop):
                pass
            answers += [self._answer(r, stop, v) for r, v in zip(requests, visual, strict=True)]
        return answers

    def stream(
        self,
        sample: Sample,
        max_new_tokens: int = 128,
        decoding: DecodingConfig | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        options: Options | None = None,
    ) -> Iterator[str]:
        """The text written after one sample, in pieces as it comes; together they are what `generate` returns.

        A piece never holds half a character, nor anything that might still turn out to begin a stop string.
        """
        method = self._method(decoding, max_new_tokens, stop)
        if method.views > 1:
            raise ValueError("beam search knows its text only at the end; stream with greedy or sample")
        batch, requests, _ = self._requests([sample], max_new_tokens, seed, options)
        said = ""
        for request in self._write(batch, requests, method, stop):
            text = self.processor.decode(request.written)
            safe = len(text) - _held_back(text, stop)
            if text.startswith(said) and safe > len(said):
                yield text[len(said) : safe]
                said = text[:safe]
        final = self._answer(requests[0], stop, 0).text
        if len(final) > len(said):
            yield final[len(said) :]

    def _method(self, decoding: DecodingConfig | None, max_new_tokens: int, stop: Sequence[str]) -> Decoding:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, not {max_new_tokens}")
        if isinstance(stop, str) or "" in stop:
            raise ValueError("stop should be a list of non-empty strings")
        return (greedy.Config() if decoding is None else decoding).build()

    def _requests(
        self, samples: Sequence[Sample], limit: int, seed: int, options: Options | None
    ) -> tuple[Batch, list[Request], list[int]]:
        """The prompts as a batch, a request for each, and how many image tokens each holds."""
        batch = self.processor(samples, add_generation_prompt=True, options=options)
        requests, visual = [], []
        room = self.model.config.language.positions
        for number, (tokens, segments) in enumerate(zip(batch.tokens, batch.segments, strict=True)):
            prompt = tokens[segments > 0].tolist()
            if len(prompt) + limit > room:
                raise ValueError(
                    f"sample {number}: a prompt of {len(prompt)} tokens and {limit} new ones do not fit the model's "
                    f"{room} positions"
                )
            requests.append(Request(prompt, limit, seed + number))
            visual.append(prompt.count(self.model.config.fusion.image_token))
        return batch, requests, visual

    def _write(self, batch: Batch, requests: list[Request], method: Decoding, stop: Sequence[str]) -> Iterator[Request]:
        tails = [4 * len(text.encode()) + 4 for text in stop]

        def ended(written: list[int]) -> bool:
            if written[-1] in self.ends:
                return True
            return bool(stop) and any(
                text in self.processor.decode(written[-tail:]) for text, tail in zip(stop, tails, strict=True)
            )

        capacity = max(len(request.prompt) for request in requests) + max(request.limit for request in requests)
        session = Session(self.model, len(requests) * method.views, capacity)
        visual = None if batch.images is None else self.look(batch.images)
        counts = [] if batch.images is None else self.model.count(batch.images.grid)
        logits = session.prefill(batch.to(self.model.device), visual, counts, range(len(requests)))
        yield from method.run(session, logits, requests, self.banned, ended)

    @torch.inference_mode()
    def look(self, images: Images) -> Float[Tensor, "l d"]:
        """The visual tokens of images, in order; a picture that was seen before is not computed again."""
        pieces = images.patches.split([rows * columns for rows, columns in images.sizes()])
        keys = [_fingerprint(piece, size) for piece, size in zip(pieces, images.grid, strict=True)]
        new = {key: at for at, key in reversed(list(enumerate(keys))) if key not in self.seen}
        found = {key: self.seen[key] for key in keys if key in self.seen}
        if new:
            chosen = sorted(new.values())
            fresh = Images(torch.cat([pieces[at] for at in chosen]), images.grid[chosen])
            visual = self.model.see(fresh.to(self.model.device, self.model.dtype))
            found |= zip([keys[at] for at in chosen], visual.split(self.model.count(fresh.grid)), strict=True)
        for key in keys:
            self.seen[key] = found[key]
            self.seen.move_to_end(key)
        held = sum(v.nbytes for v in self.seen.values())
        while self.seen and held > self.memory:
            held -= self.seen.popitem(last=False)[1].nbytes
        return torch.cat([found[key] for key in keys])

    def _answer(self, request: Request, stop: Sequence[str], visual: int) -> Answer:
        tokens = request.written
        reason = "end" if tokens[-1] in self.ends else "length"
        text = self.processor.decode(tokens)
        cut = min((at for at in (text.find(s) for s in stop) if at >= 0), default=-1)
        if cut >= 0:
            text, reason = text[:cut], "stop"
        return Answer(text, tokens, reason, len(request.prompt), visual)


def _held_back(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of `text` may not be said yet: part of a character, or the start of a stop."""
    held = 0
    if text.endswith("\N{REPLACEMENT CHARACTER}"):
        held = len(text) - len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    for string in stop:
        at = text.find(string)
        if at >= 0:
            held = max(held, len(text) - at)
        starts = (size for size in range(min(len(string), len(text)), 0, -1) if text.endswith(string[:size]))
        held = max(held, next(starts, 0))
    return held


def _fingerprint(patches: Float[Tensor, "p c"], size: Int[Tensor, " 2"]) -> bytes:
    numbers = patches.contiguous().view(torch.uint8).cpu().numpy()
    return hashlib.blake2b(numbers.data, key=str(size.tolist()).encode()).digest()
