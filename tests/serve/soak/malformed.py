"""Requests that are wrong, of every kind, and the statuses that may answer each: never 5xx, seldom 200."""

import dataclasses
import functools
import json
import random
import struct
import zlib
from collections.abc import Callable

from serve import fuzz
from serve.soak.asked import Request, Scale, url
from serve.test_bombs import png

CHAT, TEXT, TGI = "/v1/chat/completions", "/v1/completions", "/generate"


@dataclasses.dataclass(frozen=True)
class Wrong:
    """One of them. `may` are the statuses that are right; 429 is as well, wherever it comes before reading."""

    name: str
    request: Request
    may: frozenset[int]


def chat(model: str, content: object, **more: object) -> bytes:
    asked = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 4} | more
    return json.dumps(asked).encode()


def pictured(model: str, *urls: str) -> bytes:
    return chat(model, [{"type": "image_url", "image_url": {"url": each}} for each in urls])


@functools.cache
def kinds(model: str, scale: Scale) -> dict[str, tuple[Callable[[random.Random], Request], set[int]]]:
    """Each kind's name, what makes one of it, and the statuses that are right."""
    hello = chat(model, "hello")
    nested = b'{"model": "m", "messages": ' + b"[" * 900 + b"]" * 900 + b"}"
    bomb = png(60_000, 60_000, data=zlib.compress(bytes(1 << 20)))
    heavy = png(4000, 4000, data=zlib.compress(bytes(16_004_000), 9))
    words = png(20, 20, (b"zTXt", b"words\0\0" + zlib.compress(bytes(50 << 20), 9)))

    def body(data: bytes, path: str = CHAT) -> Callable[[random.Random], Request]:
        return lambda rng: Request(path, data)

    def field(**more: object) -> Callable[[random.Random], Request]:
        return body(chat(model, "hello", **more))

    def cut(rng: random.Random) -> Request:
        return Request(CHAT, hello[: rng.randrange(1, len(hello))])

    def flipped(rng: random.Random) -> Request:
        data = bytearray(hello)
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return Request(CHAT, bytes(data))

    def broken(rng: random.Random) -> Request:
        return Request(CHAT, pictured(model, url(rng.choice(_broken()))))

    def headed(data: bytes, *headers: tuple[str, str]) -> Callable[[random.Random], Request]:
        return lambda rng: Request(CHAT, data, headers=headers)

    return {
        "JSON cut off": (cut, {400}),
        "JSON with bytes changed": (flipped, {200, 400, 404}),
        "no JSON at all": (lambda rng: Request(CHAT, rng.randbytes(200)), {400}),
        "a list": (body(b"[]"), {400}),
        "nothing": (body(b""), {400}),
        "nested deeply": (body(nested), {400}),
        "half a character": (body(chat(model, "\ud800")), {400}),
        "an unknown field": (field(tempratur=1), {400}),
        "a temperature of 9": (field(temperature=9), {400}),
        "99 answers": (field(n=99), {400}),
        "no tokens": (field(max_tokens=0), {400}),
        "tools": (field(tools=[{"type": "function"}]), {400}),
        "a schema that is none": (
            field(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 5}}}),
            {400},
        ),
        "no messages": (body(json.dumps({"model": model, "messages": []}).encode()), {400}),
        "another role": (
            body(json.dumps({"model": model, "messages": [{"role": "x", "content": ""}]}).encode()),
            {400},
        ),
        "another model": (body(chat("gpt-5", "hello")), {404}),
        "an empty prompt": (body(json.dumps({"model": model, "prompt": ""}).encode(), TEXT), {400}),
        "TGI's parameters, wrong": (body(b'{"inputs": "a", "parameters": {"top_p": 7}}', TGI), {422}),
        "a prompt that never fits": (body(chat(model, "a b " * 3 * scale.context)), {400}),
        "more tokens than ever fit": (field(max_tokens=10 * scale.context), {400}),
        "17 pictures": (body(pictured(model, *[url(fuzz.signed(_small()))] * 17)), {400}),
        "base64 that is none": (body(pictured(model, "data:image/png;base64,@@@@")), {400}),
        "a picture that is none": (body(pictured(model, url(b"nothing of the kind"))), {400}),
        "a broken picture": (broken, {200, 400}),
        "a picture of 3.6 gigapixels": (body(pictured(model, url(bomb))), {400}),
        "16 megapixels in 16 kB": (body(pictured(model, url(heavy))), {200, 400}),
        "a text of 50 MB in a picture": (body(pictured(model, url(words))), {200, 400}),
        "a file's path": (body(pictured(model, "file:///etc/passwd")), {400}),
        "an address inside": (body(pictured(model, "http://169.254.169.254/latest/meta-data/")), {400}),
        "a form": (headed(hello, ("Content-Type", "application/x-www-form-urlencoded")), {415}),
        "another host": (headed(hello, ("Host", "evil.example")), {403}),
        "64 MiB, it says": (headed(b"", ("Content-Length", str(64 << 20))), {413}),
        "a length that is none": (headed(b"", ("Content-Length", "-5")), {400}),
        "no such route": (body(hello, "/v1/no/such"), {404}),
        "another method": (lambda rng: Request(CHAT, b"", "PUT"), {405}),
        "a path of 100 kB": (body(hello, "/" + "a" * 100_000), {400, 404, 414}),
    }


def wrong(name: str, model: str, scale: Scale, seed: int) -> Wrong:
    """One request of a kind."""
    make, may = kinds(model, scale)[name]
    return Wrong(name, make(random.Random(seed)), frozenset(may | {429}))


def names(model: str, scale: Scale) -> list[str]:
    """Every kind."""
    return list(kinds(model, scale))


@functools.cache
def _broken() -> list[bytes]:
    """Some hundreds of broken pictures."""
    return list(fuzz.broken(300, seed=7))


def _small() -> bytes:
    return png(4, 4, (b"tIME", struct.pack(">H5B", 2024, 1, 1, 1, 1, 1)), data=zlib.compress(bytes(20)))
