"""Where an answer looked: vlmlab's own route, for who wants to see it. It is there where the page is (`--chat`)."""

import base64
from collections.abc import Sequence
from typing import Annotated, Any

import PIL.Image
import torch
from fastapi import APIRouter, Request
from jaxtyping import Float
from pydantic import Field
from starlette.responses import JSONResponse, Response
from torch import Tensor

from vlmlab.batch import Sample
from vlmlab.generate.looking import CELLS, WRITTEN, Looks
from vlmlab.generate.telling import Telling
from vlmlab.processor.images import Piece
from vlmlab.processor.processor import Options
from vlmlab.serve.openai import conversation
from vlmlab.serve.schemas import Schema, Turn
from vlmlab.serve.service import Service, while_there

Json = dict[str, Any]

ABOUT = "Where the tokens of an answer looked in its pictures. Attention is not an explanation: see docs/serve.md."


class AttentionRequest(Schema):
    """A conversation that ends with the answer to look into, and how its pictures were read."""

    model: str
    messages: list[Turn] = Field(min_length=2)
    splitting: bool | None = Field(None, description="As in the request that was answered.")
    longest_edge: Annotated[int, Field(ge=1, le=100_000)] | None = Field(None, description="As in that request.")
    max_visual_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(None, description="As in that request.")
    each: bool = Field(False, description="Maps of each token, beside those of the whole answer.")


def routes(service: Service) -> APIRouter:
    """The route of one service."""
    router = APIRouter(prefix="/v1/vlmlab", tags=["vlmlab"])

    @router.post("/attention", description=f"{ABOUT} At most {WRITTEN} tokens, and {CELLS} tokens times patches.")
    async def attention(asked: AttentionRequest, request: Request) -> Response:
        """Where the tokens of an answer looked in its pictures."""
        return await while_there(request.receive, _attention(service, asked))

    return router


def options_of(asked: AttentionRequest) -> Options:
    """How the pictures are read."""
    return Options(split=asked.splitting, longest=asked.longest_edge, max_visual_tokens=asked.max_visual_tokens)


async def _attention(service: Service, asked: AttentionRequest) -> Response:
    adapter = service.adapter_of(asked.model)
    for turn in asked.messages:
        service.log_prompt(turn.role, turn.content)
    opened, looks, seconds = await service.desk.look(conversation(asked.messages), options_of(asked), adapter)
    service.metrics.looks.observe(looks.seconds)
    return await service.desk.prepare(lambda: JSONResponse(_told(service, asked, opened, looks, seconds)))


def _told(service: Service, asked: AttentionRequest, opened: Sample, looks: Looks, seconds: float) -> Json:
    sizes = [picture.source.size for picture in opened.pictures if isinstance(picture.source, PIL.Image.Image)]
    plan = service.engine.processor.plan(sizes, options_of(asked))
    pieces = [(number, piece) for number, some in enumerate(plan) for piece in some]
    cost = {
        "prompt_tokens": looks.prompt_tokens,
        "visual_tokens": looks.visual_tokens,
        "written_tokens": len(looks.tokens),
        "pictures_seconds": round(seconds, 6),
        "look_seconds": round(looks.seconds, 6),
    }
    said = zip(_texts(service, looks.tokens), looks.share.tolist(), strict=True)
    whole = _scaled([some.mean(0, keepdim=True) for some in looks.maps])
    each = _scaled(looks.maps) if asked.each else None
    images: list[Json] = []
    for at, ((number, piece), grid) in enumerate(zip(pieces, looks.grid, strict=True)):
        box = _covered(piece, sizes[number], service.engine.processor.config.patch)
        images.append({"picture": number, "box": box, "rows": grid[0], "columns": grid[1], "answer": whole[at]})
        images[-1] |= {} if each is None else {"tokens": each[at]}
    return {
        "object": "vlmlab.attention",
        "model": asked.model,
        "tokens": [{"text": text, "share": round(share, 6)} for text, share in said],
        "images": images,
        "cost": cost,
    }


def _texts(service: Service, tokens: Sequence[int]) -> list[str]:
    """What each token says, together the answer: a token that ends no character says nothing, the next says it."""
    telling = Telling(service.engine.processor.decode)
    said = [telling.hear(tokens[: at + 1]) for at in range(len(tokens))]
    said[-1] += telling.finish()[0]
    return said


def _covered(piece: Piece, size: tuple[int, int], patch: int) -> list[float]:
    """Left, top, right and bottom of what a piece's whole patches cover, in shares of the picture's sides."""
    left, top, right, bottom = piece.box
    across, down = (side // patch * patch / side for side in piece.size)
    end, foot = left + (right - left) * across, top + (bottom - top) * down
    return [round(share, 6) for share in (left / size[0], top / size[1], end / size[0], foot / size[1])]


def _scaled(maps: Sequence[Float[Tensor, "r _"]]) -> list[str]:
    """Maps of each image in 8 bits, row by row: 255 is the brightest patch of all images, for each row of the maps."""
    brightest = torch.stack([some.amax(1) for some in maps]).amax(0).clamp_min(torch.finfo(torch.float32).tiny)
    small = [(some * (255 / brightest[:, None])).round().to(torch.uint8) for some in maps]
    return [base64.b64encode(some.numpy().tobytes()).decode() for some in small]
