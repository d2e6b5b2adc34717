"""The routes of text-generation-inference, for its clients and the model card's snippet."""

import importlib.metadata
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from vlmlab.generate.answers import Answer, Scored, Settings
from vlmlab.generate.decoding import DecodingConfig, greedy
from vlmlab.generate.decoding import sample as sampling
from vlmlab.processor.chat import from_markdown
from vlmlab.processor.processor import Options
from vlmlab.serve.constrain import Grammar
from vlmlab.serve.desk import Running
from vlmlab.serve.failures import Failed
from vlmlab.serve.schemas import STOPS
from vlmlab.serve.service import Events, Service, cost, event, finite, while_there
from vlmlab.serve.tgi_schemas import CompatRequest, GenerateRequest, Parameters

Json = dict[str, Any]

REASONS = {"end": "eos_token", "stop": "stop_sequence", "length": "length"}


def routes(service: Service) -> APIRouter:
    """The routes of one service."""
    router = APIRouter(tags=["text-generation-inference"])

    @router.post("/")
    async def compatible(asked: CompatRequest, request: Request) -> Response:
        """A list with the text; or a stream, where `stream` says so."""
        return await while_there(request.receive, _generate(service, asked, asked.stream, "/"))

    @router.post("/generate")
    async def generate(asked: GenerateRequest, request: Request) -> Response:
        """The text."""
        return await while_there(request.receive, _generate(service, asked, False, "/generate"))

    @router.post("/generate_stream")
    async def stream(asked: GenerateRequest, request: Request) -> Response:
        """The text, an event for each token."""
        return await while_there(request.receive, _generate(service, asked, True, "/generate_stream"))

    @router.get("/info")
    async def info() -> Json:
        """What is served, and its limits."""
        return _info(service)

    return router


async def _generate(service: Service, asked: GenerateRequest, streams: bool, path: str) -> Response:
    given = asked.parameters or Parameters.model_validate({})
    if len(given.stops) > STOPS:
        raise Failed(400, f"{len(given.stops)} stop strings are more than {STOPS}", "stop")
    adapter = service.adapter_of(given.adapter_id) if given.adapter_id else ""
    seed = secrets.randbits(48) if given.seed is None else given.seed
    scores = streams or given.details or given.top_n_tokens is not None
    settings = Settings(
        max_new_tokens=given.max_new_tokens or service.limits.new_tokens,
        decoding=decoding_of(given),
        stop=given.stops,
        seed=seed % 2**63,
        options=Options(split=given.splitting, longest=given.longest_edge, max_visual_tokens=given.max_visual_tokens),
        logprobs=(given.top_n_tokens or 0) if scores else None,
        allowed=await _grammar(service, given),
        adapter=adapter,
    )
    service.log_prompt("prompt", asked.inputs)
    running = await service.desk.ask([(from_markdown(asked.inputs), settings)], given.max_new_tokens is None)
    text = Text(service, asked.inputs, given, running, seed if given.draws else None)
    if streams:
        return Events(service, path, text.events(), running.cancel)
    try:
        [answer] = await running.answers()
    finally:
        running.cancel()
    told = text.whole(answer)
    return JSONResponse([told] if path == "/" else told)


def decoding_of(given: Parameters) -> DecodingConfig:
    """How the tokens are chosen."""
    penalty = 1.0 if given.repetition_penalty is None else given.repetition_penalty
    if not given.draws:
        return greedy.Config(repetition_penalty=penalty)
    temperature = 1.0 if given.temperature is None else given.temperature
    top_p = 1.0 if given.top_p is None else given.top_p
    return sampling.Config(repetition_penalty=penalty, temperature=temperature, top_k=given.top_k or 0, top_p=top_p)


async def _grammar(service: Service, given: Parameters) -> Grammar | None:
    wanted = given.grammar
    if wanted is None:
        return None
    try:
        if wanted.type == "json":
            schema = json.loads(wanted.value) if isinstance(wanted.value, str) else wanted.value
            if not isinstance(schema, dict):
                raise ValueError("a JSON schema is an object")
            return (await service.desk.prepare(lambda: service.desk.grammars.json(schema)))[0]
        if not isinstance(wanted.value, str):
            raise ValueError("a regular expression is a string")
        pattern = wanted.value
        return (await service.desk.prepare(lambda: service.desk.grammars.regex(pattern)))[0]
    except ValueError as error:
        raise Failed(400, f"grammar: {error}", "grammar") from None


class Text:
    """One answer in text-generation-inference's form."""

    def __init__(self, service: Service, inputs: str, given: Parameters, running: Running, seed: int | None) -> None:
        self.service, self.given, self.running, self.seed = service, given, running, seed
        self.before = inputs if given.return_full_text else ""

    def whole(self, answer: Answer) -> Json:
        """The text, and how it came about where that was asked for."""
        self.service.metrics.answered(answer, self.running.opening)
        told: Json = {"generated_text": self.before + answer.text}
        if self.given.details:
            details = self._details(answer) | {"prefill": [], "tokens": [self._token(one) for one in answer.scored]}
            if self.given.top_n_tokens:
                details["top_tokens"] = [self._likeliest(one) for one in answer.scored]
            told["details"] = details
        return told

    async def events(self) -> AsyncIterator[str]:
        """An event for each token; the texts of all are the text. The last says all of it, and why it ended.

        Text may come later than the token that began it: half a character, or what might have become a stop string.
        """
        held: Json | None = None
        count, heard = 0, 0
        async for _, thing in self.running.told():
            scored: Sequence[Scored] = thing.scored[heard:] if isinstance(thing, Answer) else thing.scored
            heard += 0 if isinstance(thing, Answer) else len(scored)
            for one in scored:
                if held is not None:
                    yield event(held)
                count += 1
                held = self._event(count, one)
            if not isinstance(thing, Answer):
                assert held is not None  # nothing is said before a token is written
                held["token"]["text"] += thing.text
                continue
            self.service.metrics.answered(thing, self.running.opening)
            assert held is not None
            yield event(held | {"generated_text": self.before + thing.text, "details": self._details(thing)})

    def _event(self, index: int, one: Scored) -> Json:
        token = self._token(one)
        shown = token | {"text": token["text"] if token["special"] else ""}
        told: Json = {"index": index, "token": shown, "generated_text": None, "details": None}
        if self.given.top_n_tokens:
            told["top_tokens"] = self._likeliest(one)
        return told

    def _details(self, answer: Answer) -> Json:
        told: Json = {
            "finish_reason": REASONS[answer.reason],
            "generated_tokens": answer.cost.written_tokens,
            "input_length": answer.cost.prompt_tokens,
            "seed": self.seed,
        }
        if self.given.report_cost:
            told["cost"] = cost(answer, self.running.opening)
        return told

    def _token(self, one: Scored) -> Json:
        return self._shown(one.token, one.logprob)

    def _likeliest(self, one: Scored) -> list[Json]:
        return [self._shown(token, logprob) for token, logprob in one.likeliest]

    def _shown(self, token: int, logprob: float) -> Json:
        text = self.service.word(token)
        special = token in self.service.engine.ends
        return {"id": token, "text": text, "logprob": finite(logprob), "special": special}


def _info(service: Service) -> Json:
    engine, limits = service.engine, service.limits
    gauges = engine.gauges()
    room = gauges.room_tokens // max(gauges.slots, 1)
    return {
        "model_id": service.names[0],
        "model_sha": None,
        "model_dtype": str(engine.model.dtype).removeprefix("torch."),
        "model_device_type": engine.model.device.type,
        "model_pipeline_tag": "image-text-to-text",
        "max_concurrent_requests": limits.at_once,
        "max_best_of": 1,
        "max_stop_sequences": STOPS,
        "max_input_tokens": max(room - 1, 0),
        "max_total_tokens": room,
        "max_client_batch_size": 1,
        "router": "vlmlab",
        "version": importlib.metadata.version("vlmlab"),
        "sha": None,
        "docker_label": None,
    }
