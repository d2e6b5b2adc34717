"""The law of equal answers: what a request writes does not change with batch, cache, chunking or order.

Every answer of many random mixes is held against the same request read whole and written alone: logits within `BOUND`,
and every greedy token the same, except where the two likeliest were closer than that. A request under an adapter is
held against a model that was loaded with that adapter and no other. It runs without the tests' type
checks, which would take most of the time; by hand, for as many mixes as you like:

    PYTHONPATH=tests python -m generate.law interleave 1000
"""

import dataclasses
import itertools
import random
import sys
import tempfile
from pathlib import Path

import torch

from generate import adapting, tiny
from vlmlab.batch import Batch, Sample
from vlmlab.generate import slots
from vlmlab.generate.answers import Answer, Handle, Settings
from vlmlab.generate.decoding import DecodingConfig, Request, beam, sample
from vlmlab.generate.engine import Engine
from vlmlab.generate.session import Session
from vlmlab.generate.sights import Sights
from vlmlab.hub import adapters

BOUND = 1e-4
LIMIT = 5
KINDS = {
    "interleave": ("interleave", None, ()),
    "window": ("interleave", 24, ()),
    "cross_attention": ("cross_attention", None, ()),
    "adapters": ("interleave", None, adapting.KINDS),
    "adapters of cross_attention": ("cross_attention", None, adapting.KINDS),
}
WAYS = [None, None, None, sample.Config(temperature=1.5), beam.Config(beams=2)]


def ask(text: str, *pictures, before: str = "") -> Sample:
    parts = [*({"type": "image"} for _ in pictures), {"type": "text", "text": text}]
    first = [{"role": "user", "content": before}, {"role": "assistant", "content": "Yes."}] if before else []
    return Sample.from_messages([*first, {"role": "user", "content": parts}], images=list(pictures))


def pool() -> list[Sample]:
    """Requests that begin alike, up to a picture, a question or not at all; pictures of one size differ in content."""
    a, b, c = tiny.picture(20, 14, 1), tiny.picture(20, 14, 2), tiny.picture(30, 12, 3)
    rules = "Look at what you are shown, and then answer in one word only."
    return [
        ask("What?", a),
        ask("What?", b),
        ask("Who is this?", a),
        ask("Which comes first?", a, b),
        ask("Which comes first?", a, c),
        ask("How many?", before=rules),
        ask("How many?", a, before=rules),
        ask("How much?", a, before=rules),
        ask("How many?", b, before=rules),
        ask("Hello?"),
        Sample.from_text("a<image>bcdef<image>" + "gh" * 20, [c, a]),
        Sample.from_text("a<image>bcdef<image>" + "gh" * 20 + "!", [c, a]),
    ]


@dataclasses.dataclass
class Alone:
    """A request read whole and written alone: its tokens, and the model's logits before each."""

    tokens: list[int]
    logits: list[torch.Tensor]


@torch.inference_mode()
def greedy_alone(engine: Engine, one: Sample) -> Alone:
    batch = engine.processor([one], add_generation_prompt=True)
    session = Session(engine.model, 1, batch.tokens.shape[1] + LIMIT)
    visual = None if batch.images is None else engine.model.see(batch.images)
    counts = [] if batch.images is None else engine.model.count(batch.images.grid)
    found = Alone([], [])
    logits = session.prefill(batch, visual, counts, [0])
    while True:
        found.logits.append(logits[0])
        found.tokens.append(int(logits[0].index_fill(0, engine.banned, -torch.inf).argmax()))
        if found.tokens[-1] in engine.ends or len(found.tokens) == LIMIT:
            return found
        logits = session.step(found.tokens[-1:])


@torch.inference_mode()
def written_alone(engine: Engine, one: Sample, way: DecodingConfig, seed: int) -> list[int]:
    """What a way of decoding writes when every step reads the whole document again, without a cache."""
    batch = engine.processor([one], add_generation_prompt=True)
    prompt, method = batch.tokens[0].tolist(), way.build()
    request = Request(prompt, LIMIT, seed, lambda written: written[-1] in engine.ends)
    going = True
    while going:
        logits = []
        for past in method.pasts(request):
            tokens = torch.tensor([prompt + past])
            positions = torch.arange(tokens.shape[1])[None]
            logits.append(engine.model(Batch(tokens, torch.ones_like(tokens), positions, images=batch.images))[0, -1])
        [moves] = method.advance(torch.stack(logits), [request], engine.banned)
        going = bool(moves)
    return request.written


def ties(engine: Engine, answer: Answer, alone: Alone) -> int:
    """Whether the two part at a tie. Fails where they part anywhere else, or where the logits differ."""
    for at, (scored, right) in enumerate(zip(answer.scored, alone.tokens, strict=False)):
        logprobs = alone.logits[at].log_softmax(-1)
        for token, logprob in [(scored.token, scored.logprob), *scored.likeliest]:
            assert abs(logprob - float(logprobs[token])) < BOUND
        if scored.token != right:
            top = alone.logits[at].index_fill(0, engine.banned, -torch.inf)
            assert top[right] - top[scored.token] < BOUND
            return 1
    return 0


class Mix:
    """One random mix: requests arrive and are given up at any time, on a scheduler of any size."""

    def __init__(self, engine: Engine, cases: list[tuple[Sample, str]], seed: int) -> None:
        self.draw = random.Random(seed)
        self.engine, self.cases = engine, cases
        engine.sights = Sights(engine.model, engine.processor.config, self.draw.choice([0, 3000, 1 << 20]))
        self.scheduler = engine._build(self.draw.randint(2, 5), 200, None)
        self.scheduler.chunk = self.draw.choice([5, 12, 30, 64, 512])
        slots.WORTH = self.draw.choice([1, 2, 5, 16])
        self.asked: list[tuple[int, Settings, Handle]] = []
        self.cancelled = {"waiting": 0, "reading": 0, "writing": 0}

    def arrive(self) -> None:
        number = self.draw.randrange(len(self.cases))
        sample, adapter = self.cases[number]
        way = self.draw.choice(WAYS)
        limit = LIMIT if way == WAYS[4] else self.draw.randint(1, LIMIT)  # a shorter search is another search
        settings = Settings(limit, way, seed=number, logprobs=3 if way is None else None, adapter=adapter)
        [job] = self.engine._jobs([sample], settings, 0)
        self.scheduler.add(job)
        self.asked.append((number, settings, job.handle))

    def give_up(self) -> None:
        stages = {
            "waiting": self.scheduler.waiting,
            "reading": self.scheduler.reading,
            "writing": self.scheduler.writing,
        }
        stage = self.draw.choice([name for name, jobs in stages.items() if jobs])
        self.draw.choice(list(stages[stage])).handle.cancel()
        self.cancelled[stage] += 1

    def run(self) -> None:
        arrivals = self.draw.randint(3, 8)
        rush, leave = self.draw.choice([0.2, 0.6, 1.0]), self.draw.choice([0.0, 0.03, 0.15])
        while arrivals or self.scheduler.busy:
            while arrivals and self.draw.random() < rush:
                self.arrive()
                arrivals -= 1
            if self.scheduler.busy and self.draw.random() < leave:
                self.give_up()
            self.scheduler.tick()
        gauges = self.scheduler.gauges()
        assert (gauges.waiting, gauges.reading, gauges.rows, gauges.held_tokens) == (0, 0, 0, 0)
        assert gauges.finished + gauges.cancelled == len(self.asked)


def build(kind: str) -> tuple[Engine, dict[str, Engine], list[tuple[Sample, str]]]:
    """An engine, one for each adapter that holds it alone (and one without), and the requests with their adapters."""
    fusion, window, names = KINDS[kind]

    def one() -> Engine:
        changes = {"language.window": window, "language.layers": 2, "vision.layers": 1}
        model = tiny.build(fusion=fusion, dtype=torch.float32, changes=changes)
        return Engine(
            model, tiny.processor(model, frame="<fake_token_around_image>" if fusion == "interleave" else None)
        )

    engine, under = one(), {"": one()}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            place = adapting.write(one().model, name, Path(folder) / name)
            engine.load_adapter(name, place)
            under[name] = one()
            adapters.read(under[name].model, place)
    samples = pool() if not names else [pool()[at] for at in (0, 2, 3, 6, 7, 9)]
    return engine, under, [(sample, name) for sample in samples for name in ("", *names)]


class Law:
    """A model, its requests, and what each of them writes alone."""

    def __init__(self, kind: str) -> None:
        self.engine, under, self.cases = build(kind)
        self.alone = [greedy_alone(under[adapter], one) for one, adapter in self.cases]
        for one, other in itertools.combinations(self.alone, 2):
            assert (one.logits[0] - other.logits[0]).abs().max() > 100 * BOUND, "a crossed answer would not be seen"
        self.others = {
            (number, way): written_alone(under[adapter], one, way, number)
            for number, (one, adapter) in enumerate(self.cases)
            for way in WAYS[3:]
        }
        self.parted = self.compared = self.tokens = self.reused = self.hits = 0
        self.gone = {"waiting": 0, "reading": 0, "writing": 0}

    def hold(self, seed: int) -> None:
        """One random mix."""
        mix = Mix(self.engine, self.cases, seed)
        mix.run()
        for number, settings, handle in mix.asked:
            answer = handle.result(0.0)
            whole = answer.reason != "cancelled"
            length = min(settings.max_new_tokens, len(self.alone[number].tokens))
            if settings.decoding is None:
                parts = ties(self.engine, answer, self.alone[number])
                assert answer.tokens == [scored.token for scored in answer.scored]
                assert parts or not whole or len(answer.tokens) == length
                self.parted += parts
                self.compared += 1
            elif settings.decoding == WAYS[3]:
                assert answer.tokens == self.others[number, settings.decoding][: len(answer.tokens)]
                assert answer.tokens or not whole
            elif whole:
                assert answer.tokens == self.others[number, settings.decoding]
            self.tokens += len(answer.tokens)
            self.reused += answer.cost.reused_tokens
            self.hits += answer.cost.image_hits
        self.gone = {stage: count + mix.cancelled[stage] for stage, count in self.gone.items()}


def main(kind: str, mixes: int) -> None:
    law = Law(kind)
    for seed in range(mixes):
        law.hold(seed)
    shared = 10 if len(law.cases) == len(pool()) else 2  # beginnings are shared under one adapter only
    assert law.compared > mixes and law.reused > shared * mixes and law.hits > mixes // 2, "the mixes are too plain"
    assert min(law.gone.values()) > 0, law.gone
    print(
        f"{mixes} mixes: {law.parted} of {law.compared} greedy answers parted at a tie; {law.tokens} tokens written, "
        f"{law.reused} not read twice, {law.hits} images not looked at twice, {sum(law.gone.values())} given up"
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
