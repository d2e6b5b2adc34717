"""Sixteen clients of the server against transformers one by one; a picture asked again; what the server itself costs.

    python benchmarks/serve.py            # pictures of 378 to 450 pixels
    python benchmarks/serve.py --large    # pictures of 980 pixels: bound by the products of the vision tower

Sixteen requests at once, distinct pictures, half of the requests text only, 64 tokens each, nothing cached from before;
over HTTP on this machine, pictures as PNG in data URLs. transformers (whose own server runs requests with pictures one
after the other) gets the same prompts and decoded pictures, one by one, without HTTP. Then one client: the time to the
first token of a picture that is new, and of the same picture asked again; and the time of a token through the server
beside that of the engine it stands before, in turn.
"""

import base64
import contextlib
import functools
import http.client
import io
import json
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import _bench
import numpy as np
import PIL.Image
import torch
from _models import FRAME, IMAGE, pair
from batch import tokenizer
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from vlmlab.batch import Sample
from vlmlab.generate.answers import Settings
from vlmlab.generate.engine import Engine
from vlmlab.processor.images import native
from vlmlab.processor.processor import Config, Processor
from vlmlab.serve import app
from vlmlab.serve.decoders import Decoders
from vlmlab.serve.media import Pictures, Policy
from vlmlab.serve.running import Server
from vlmlab.serve.service import Limits, Service

SMALL = [(378, 378), (450, 400), (400, 430), (420, 378), (378, 450), (430, 430), (440, 390), (390, 410)]
LARGE = [(980, 980), (980, 735), (735, 980), (980, 653), (653, 980), (980, 551), (900, 900), (980, 800)]


@contextlib.contextmanager
def serving(engine: Engine, decoders: Decoders) -> Iterator[int]:
    """The port of a server of this engine, in a thread of this process."""
    service = Service(engine, ("model",), Limits(drain_seconds=1.0), Pictures(Policy(), decoders))
    server = Server(app.create(service), service, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


class Load:
    """What is asked: prompts of words, pictures of noise, never the same twice."""

    def __init__(self, sizes: list[tuple[int, int]], tokens: int) -> None:
        self.sizes, self.tokens = sizes, tokens
        self.draw = np.random.default_rng(0)

    def words(self, count: int) -> str:
        """So many words, drawn."""
        return " ".join(f"w{self.draw.integers(10, 49000)}" for _ in range(count))

    def picture(self, size: tuple[int, int]) -> PIL.Image.Image:
        """Noise."""
        return PIL.Image.fromarray(self.draw.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))

    def requests(self) -> list[tuple[str, PIL.Image.Image | None]]:
        """One with each picture, as many without."""
        found: list[tuple[str, PIL.Image.Image | None]] = []
        for number, size in enumerate(self.sizes):
            found += [(self.words(12 + 3 * number), self.picture(size)), (self.words(12 + 3 * number), None)]
        return found


def url(picture: PIL.Image.Image) -> str:
    """A picture as a data URL."""
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def body(text: str, picture: PIL.Image.Image | None, tokens: int) -> bytes:
    """A request for a stream."""
    marked = text if picture is None else f"![]({url(picture)}){text}"
    asked = {"model": "model", "prompt": marked, "temperature": 0, "max_tokens": tokens, "stream": True}
    return json.dumps(asked).encode()


def ask(port: int, asked: bytes) -> tuple[float, float, int]:
    """Seconds to the first and to the last piece of an answer, and the pieces."""
    began, first, pieces = time.perf_counter(), 0.0, 0
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=600)) as connection:
        connection.request("POST", "/v1/completions", asked, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        for line in answer:
            if b'"text":"' in line and b'"text":""' not in line:
                pieces += 1
                first = first or time.perf_counter() - began
    return first, time.perf_counter() - began, pieces


def main() -> None:
    parser = _bench.arguments(__doc__)
    parser.add_argument("--large", action="store_true", help="pictures of 980 pixels")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours, peer = pair()
    tokens = 8 if args.tiny else 64
    load = Load((LARGE if args.large else SMALL)[: 2 if args.tiny else 8], tokens)
    config = Config(images=native.Config(), bos=None, eos="w2", pad="w0", ends=())
    processor = Processor(config, tokenizer(), ours.placeholders)

    def engine() -> Engine:
        return Engine(ours, processor, rows=16, capacity=512)

    with Decoders() as decoders:
        report(
            measured(engine, decoders, load, lambda asked: theirs(peer, processor, asked, tokens), args.rounds), args
        )


Pairs = list[tuple[float, float]]
"""Seconds of two sides, round by round."""


def measured(engine, decoders: Decoders, load: Load, peer, count: int) -> dict[str, Pairs]:
    """Each comparison's seconds, ours first; a first round is not counted."""
    found: dict[str, Pairs] = {"all": [], "picture": [], "token": []}

    def both(number: int, *runs) -> tuple[float, float]:
        first, second = (run() for run in (runs if number % 2 else runs[::-1]))
        return (first, second) if number % 2 else (second, first)

    for number in range(count + 1):
        asked = load.requests()
        ours = functools.partial(clients, engine(), decoders, asked, load.tokens)
        found["all"].append(both(number, ours, functools.partial(peer, asked)))
    with serving(engine(), decoders) as port:
        for _ in range(count + 1):
            picture = load.picture(load.sizes[0])
            new, seen = (ask(port, body(load.words(12), picture, load.tokens))[0] for _ in range(2))
            found["picture"].append((seen, new))
    bare = engine()
    with serving(bare, decoders) as port:
        for number in range(2 * count + 1):
            runs = [functools.partial(side, load.words(12), load.tokens) for side in (through(port), alone(bare))]
            found["token"].append(both(number, *runs))
    return {name: pairs[1:] for name, pairs in found.items()}


def report(found: dict[str, Pairs], args) -> None:
    """Print what came of it, and write it."""
    sides = {
        "all": ("vlmlab, 16 clients", "transformers, one by one"),
        "picture": ("vlmlab, first token, picture seen before", "vlmlab, first token, new picture"),
        "token": ("vlmlab, a token through the server", "vlmlab, a token of the engine"),
    }
    rows: list[dict[str, object]] = []
    for name, pairs in found.items():
        for side, times in zip(sides[name], zip(*pairs, strict=True), strict=True):
            rows.append({"side": side} | _bench.summary(list(times)))
        over = statistics.median(other / own for own, other in pairs)
        rows[-2]["times_faster"] = round(over, 3)
    print(f"requests a second over the peer: {rows[0]['times_faster']} (aim: 5 or more)")
    print(f"first token of a picture asked again: {1 / rows[2]['times_faster']:.2f} of a new one's (aim: 0.3 or less)")
    print(f"the server's own time for each token: {1 / rows[4]['times_faster'] - 1:+.1%} (aim: 5 % or less)")
    _bench.report("serve-large" if args.large else "serve", rows, args)


def clients(engine: Engine, decoders: Decoders, requests, tokens: int) -> float:
    """Seconds until all are answered, each by a client of its own, by a server that has seen none of it."""
    bodies = [body(text, picture, tokens) for text, picture in requests]
    with serving(engine, decoders) as port, ThreadPoolExecutor(len(bodies)) as pool:
        began = time.perf_counter()
        found = list(pool.map(lambda one: ask(port, one), bodies))
        seconds = time.perf_counter() - began
    assert all(pieces >= tokens // 2 for _, _, pieces in found), found
    return seconds


def theirs(peer, processor: Processor, requests, tokens: int) -> float:
    """Seconds in which transformers answers them, one by one."""
    pictures = Idefics2ImageProcessorPil(do_image_splitting=False)
    samples = [Sample.from_text("<image>" * (p is not None) + t, [] if p is None else [p]) for t, p in requests]
    began = time.perf_counter()
    for sample in samples:
        inputs = {"input_ids": torch.tensor([processor.encode(sample).tokens])}
        if sample.pictures:
            done = pictures([[p.source for p in sample.pictures]], return_tensors="pt")
            inputs |= {"pixel_values": done["pixel_values"], "pixel_attention_mask": done["pixel_attention_mask"]}
        with torch.inference_mode():
            peer.generate(
                **inputs,
                attention_mask=torch.ones_like(inputs["input_ids"]),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                bad_words_ids=[[FRAME], [IMAGE]],
                disable_compile=True,
            )
    return time.perf_counter() - began


def through(port: int):
    """A client that reads one answer: seconds of a token after the first."""

    def run(text: str, tokens: int) -> float:
        first, last, _ = ask(port, body(text, None, tokens))
        return (last - first) / (tokens - 1)

    return run


def alone(engine: Engine):
    """The same from the engine itself."""

    def run(text: str, tokens: int) -> float:
        first = 0.0
        for _ in engine.submit(Sample.from_text(text), Settings(tokens)):
            first = first or time.perf_counter()
        return (time.perf_counter() - first) / (tokens - 1)

    return run


if __name__ == "__main__":
    main()
