"""OpenAI's routes: chats, completions, and which model there is."""

import importlib.metadata
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from vlmlab.batch import Message, Picture, Sample
from vlmlab.generate.answers import Answer, Said, Scored, Settings
from vlmlab.generate.decoding import DecodingConfig, greedy
from vlmlab.generate.decoding import sample as sampling
from vlmlab.processor.chat import from_markdown
from vlmlab.processor.processor import Options
from vlmlab.serve.constrain import Grammar
from vlmlab.serve.desk import Running
from vlmlab.serve.failures import Failed
from vlmlab.serve.schemas import Asking, ChatRequest, CompletionRequest, Format, TextPart, Turn
from vlmlab.serve.service import Events, Service, cost, event, finite, while_there

FINGERPRINT = f"vlmlab-{importlib.metadata.version('vlmlab')}"

Json = dict[str, Any]


def routes(service: Service) -> APIRouter:
    """The routes of one service."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.get("/models")
    async def models() -> Json:
        """The model that is served here, by its names, and the adapters that act in it."""
        adapters = [adapter.name for adapter in service.engine.adapters()]
        return {"object": "list", "data": [_model(service, name) for name in (*service.names, *adapters)]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> Json:
        """One model or adapter, by its name."""
        service.adapter_of(name)
        return _model(service, name)

    @router.post("/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Continue a conversation with pictures."""
        return await while_there(request.receive, _chat(service, asked))

    @router.post("/completions")
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        """Go on from a text, read as it stands."""
        return await while_there(request.receive, _complete(service, asked))

    return router


def conversation(turns: Sequence[Turn]) -> Sample:
    """The messages as a sample whose pictures are still references."""
    messages = []
    for turn in turns:
        parts: list[str | Picture] = []
        for part in [turn.content] if isinstance(turn.content, str) else turn.content:
            if isinstance(part, str):
                parts.append(part)
            else:
                parts.append(part.text if isinstance(part, TextPart) else Picture(part.image_url.url))
        messages.append(Message("system" if turn.role == "developer" else turn.role, tuple(parts)))
    return Sample(tuple(messages))


def decoding_of(asked: Asking) -> DecodingConfig:
    """How the tokens of a request are chosen: OpenAI's temperature is 1 where none is said; 0 is greedy."""
    penalty = 1.0 if asked.repetition_penalty is None else asked.repetition_penalty
    temperature = 1.0 if asked.temperature is None else asked.temperature
    top_p = 1.0 if asked.top_p is None else asked.top_p
    if temperature < 1e-4 or top_p == 0:
        return greedy.Config(repetition_penalty=penalty)
    return sampling.Config(repetition_penalty=penalty, temperature=temperature, top_k=asked.top_k or 0, top_p=top_p)


def settings_of(
    asked: Asking,
    limit: int,
    logprobs: int | None,
    grammars: Sequence[Grammar] = (),
    count: int = 1,
    adapter: str = "",
) -> list[Settings]:
    """The settings of each of a request's `count` answers; each draws by a seed of its own."""
    options = None
    if asked.splitting is not None or asked.longest_edge is not None or asked.max_visual_tokens is not None:
        options = Options(split=asked.splitting, longest=asked.longest_edge, max_visual_tokens=asked.max_visual_tokens)
    seed = secrets.randbits(48) if asked.seed is None else asked.seed
    decoding = decoding_of(asked)
    return [
        Settings(
            max_new_tokens=limit,
            decoding=decoding,
            stop=asked.stops,
            seed=(seed + number) % 2**63,
            options=options,
            logprobs=logprobs,
            allowed=grammars[number] if grammars else None,
            adapter=adapter,
        )
        for number in range(count)
    ]


def _check(service: Service, asked: Asking) -> str:
    """The adapter that a request asks for. Raises Failed for what cannot be."""
    if asked.stream_options is not None and not asked.stream:
        raise Failed(400, "stream_options needs stream: true", "stream_options")
    return service.adapter_of(asked.model)


async def _chat(service: Service, asked: ChatRequest) -> Response:
    adapter = _check(service, asked)
    if asked.top_logprobs and not asked.logprobs:
        raise Failed(400, "top_logprobs needs logprobs: true", "top_logprobs")
    count = asked.n or 1
    said = asked.max_completion_tokens or asked.max_tokens
    grammars = await _grammars(service, asked.response_format, count)
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    sample = conversation(asked.messages)
    settings = settings_of(asked, said or service.limits.new_tokens, logprobs, grammars, count, adapter)
    for turn in asked.messages:
        service.log_prompt(turn.role, turn.content)
    running = await service.desk.ask([(sample, some) for some in settings], said is None)
    return await Chat(service, asked, running).response()


async def _complete(service: Service, asked: CompletionRequest) -> Response:
    adapter = _check(service, asked)
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    count = asked.n or 1
    if count * len(prompts) > 16:
        raise Failed(400, f"{len(prompts)} prompts with {count} answers each are more than 16 answers", "n")
    if not all(prompts):
        raise Failed(400, "an empty prompt leaves nothing to go on from", "prompt")
    limit = asked.max_tokens or service.limits.new_tokens
    settings = settings_of(asked, limit, asked.logprobs, count=count, adapter=adapter)
    samples = [from_markdown(prompt) for prompt in prompts]
    for prompt in prompts:
        service.log_prompt("prompt", prompt)
    running = await service.desk.ask(
        [(sample, some) for sample in samples for some in settings], asked.max_tokens is None
    )
    return await Completion(service, asked, running, [prompt for prompt in prompts for _ in settings]).response()


async def _grammars(service: Service, wanted: Format | None, count: int) -> list[Grammar]:
    if wanted is None or wanted.type == "text":
        return []
    schema = None
    if wanted.type == "json_schema":
        if wanted.json_schema is None:
            raise Failed(400, "response_format.json_schema is missing", "response_format")
        schema = wanted.json_schema.schema_
    try:
        return await service.desk.prepare(lambda: service.desk.grammars.json(schema, count))
    except ValueError as error:
        raise Failed(400, str(error), "response_format") from None


class Form:
    """An answer in OpenAI's form, whole or in pieces. A chat and a completion differ in what a choice looks like."""

    prefix, whole, part = "", "", ""

    def __init__(self, service: Service, asked: Asking, running: Running) -> None:
        self.service, self.asked, self.running = service, asked, running
        self.id, self.created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())
        options = asked.stream_options
        self.usage_asked = options is not None and bool(options.include_usage)

    async def response(self) -> Response:
        """The answer as asked for: a stream, or all of it once it is there."""
        if self.asked.stream:
            return Events(self.service, "/v1", self._events(), self.running.cancel)
        try:
            answers = await self.running.answers()
        finally:
            self.running.cancel()
        choices = [self.choice(index, answer) | self._end(answer) for index, answer in enumerate(answers)]
        self._count(answers)
        return JSONResponse(self._head(self.whole) | {"choices": choices, "usage": self.usage(answers)})

    async def _events(self) -> AsyncIterator[str]:
        answers: dict[int, Answer] = {}
        head = self._head(self.part) | ({"usage": None} if self.usage_asked else {})
        for index in range(len(self.running.handles)):
            for first in self.first(index):
                yield event(head | {"choices": [first]})
        async for index, thing in self.running.told():
            if isinstance(thing, Answer):
                answers[index] = thing
                yield event(head | {"choices": [self.last(index, thing) | self._end(thing)]})
            else:
                for piece in self.piece(index, thing):
                    yield event(head | {"choices": [piece | {"finish_reason": None}]})
        self._count(list(answers.values()))
        if self.usage_asked:
            yield event(head | {"choices": [], "usage": self.usage([answers[at] for at in sorted(answers)])})
        yield "data: [DONE]\n\n"

    def usage(self, answers: Sequence[Answer]) -> Json:
        """The tokens that were read and written; a prompt that several answers share is counted once."""
        costs = [answer.cost for answer in answers]
        each = self.asked.n or 1
        read = sum(cost.prompt_tokens for cost in costs[::each])
        written = sum(cost.written_tokens for cost in costs)
        details = {
            "cached_tokens": sum(cost.reused_tokens for cost in costs[::each]),
            "visual_tokens": sum(cost.visual_tokens for cost in costs[::each]),
        }
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": details,
        }

    def choice(self, index: int, answer: Answer) -> Json:
        """A whole choice, but for how it ended."""
        raise NotImplementedError

    def first(self, index: int) -> list[Json]:
        """What is said of a choice before anything is written."""
        return []

    def piece(self, index: int, said: Said) -> list[Json]:
        """A piece of a choice; none where it says nothing."""
        raise NotImplementedError

    def last(self, index: int, answer: Answer) -> Json:
        """The end of a choice, without its reason."""
        raise NotImplementedError

    def _head(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
            "system_fingerprint": FINGERPRINT,
        }

    def _end(self, answer: Answer) -> Json:
        told: Json = {"finish_reason": "length" if answer.reason == "length" else "stop"}
        if self.asked.report_cost:
            told["cost"] = cost(answer, self.running.opening)
        return told

    def _count(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            self.service.metrics.answered(answer, self.running.opening)

    def _shown(self, scored: Sequence[Scored]) -> list[Scored]:
        """The scores of tokens that are text: an end token is none."""
        return [one for one in scored if one.token not in self.service.engine.ends]


class Chat(Form):
    """A turn of the assistant. The space that the template puts before it is left out."""

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, service: Service, asked: ChatRequest, running: Running) -> None:
        super().__init__(service, asked, running)
        self.scores = bool(asked.logprobs)
        self.begun: set[int] = set()
        self.told: dict[int, int] = {}

    def choice(self, index: int, answer: Answer) -> Json:
        """The whole turn."""
        message = {"role": "assistant", "content": answer.text.lstrip(), "refusal": None}
        return {"index": index, "message": message, "logprobs": self._scores(answer.scored)}

    def first(self, index: int) -> list[Json]:
        """Who speaks."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def piece(self, index: int, said: Said) -> list[Json]:
        """More of the turn."""
        text = said.text if index in self.begun else said.text.lstrip()
        if text:
            self.begun.add(index)
        self.told[index] = self.told.get(index, 0) + len(said.scored)
        if not text and not (self.scores and said.scored):
            return []
        return [{"index": index, "delta": {"content": text}, "logprobs": self._scores(said.scored)}]

    def last(self, index: int, answer: Answer) -> Json:
        """The turn is over; scores of tokens that said nothing come here."""
        rest = self._scores(answer.scored[self.told.get(index, 0) :])
        return {"index": index, "delta": {}, "logprobs": rest}

    def _scores(self, scored: Sequence[Scored]) -> Json | None:
        if not self.scores:
            return None
        content = []
        for one in self._shown(scored):
            best = [self._score(token, logprob) for token, logprob in one.likeliest]
            content.append(self._score(one.token, one.logprob) | {"top_logprobs": best})
        return {"content": content, "refusal": None}

    def _score(self, token: int, logprob: float) -> Json:
        text = self.service.word(token)
        return {"token": text, "logprob": finite(logprob), "bytes": list(text.encode())}


class Completion(Form):
    """A text that goes on."""

    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def __init__(self, service: Service, asked: CompletionRequest, running: Running, prompts: Sequence[str]) -> None:
        super().__init__(service, asked, running)
        self.prompts = [prompt if asked.echo else "" for prompt in prompts]
        self.scores = asked.logprobs is not None
        self.offsets = [len(prompt) for prompt in self.prompts]
        self.told = [0 for _ in prompts]

    def choice(self, index: int, answer: Answer) -> Json:
        """The whole text, after its prompt where that was asked for."""
        return {
            "index": index,
            "text": self.prompts[index] + answer.text,
            "logprobs": self._scores(index, answer.scored),
        }

    def first(self, index: int) -> list[Json]:
        """The prompt, where it was asked for."""
        if not self.prompts[index]:
            return []
        return [{"index": index, "text": self.prompts[index], "logprobs": None, "finish_reason": None}]

    def piece(self, index: int, said: Said) -> list[Json]:
        """More of the text."""
        self.told[index] += len(said.scored)
        return [{"index": index, "text": said.text, "logprobs": self._scores(index, said.scored)}]

    def last(self, index: int, answer: Answer) -> Json:
        """The text is over."""
        rest = answer.scored[self.told[index] :]
        return {"index": index, "text": "", "logprobs": self._scores(index, rest)}

    def _scores(self, index: int, scored: Sequence[Scored]) -> Json | None:
        if not self.scores:
            return None
        shown = self._shown(scored)
        words = [self.service.word(one.token) for one in shown]
        offsets = []
        for word in words:
            offsets.append(self.offsets[index])
            self.offsets[index] += len(word)
        best = [{self.service.word(token): finite(p) for token, p in one.likeliest} for one in shown]
        return {
            "tokens": words,
            "token_logprobs": [finite(one.logprob) for one in shown],
            "top_logprobs": best,
            "text_offset": offsets,
        }


def _model(service: Service, name: str) -> Json:
    told: Json = {"id": name, "object": "model", "created": service.began, "owned_by": "vlmlab"}
    for adapter in service.engine.adapters():
        if adapter.name == name:
            told |= {"parent": service.names[0], "bytes": adapter.nbytes}
    return told
