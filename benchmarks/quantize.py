"""Each quantization of nano: memory, speed of decoding at batch 1, and quality by part, in one table.

    python benchmarks/quantize.py

Quality beside our float32: the mean size of the differences of logits over that of the logits, perplexity on text, the
share of questions about held-out pictures that are right, by kind, and the share whose answer is another. Below it the
error of one layer's output, on weights drawn from a normal distribution and on such with one weight in a thousand
twenty times as large. Nano's decoder came out of its package rounded to four bits: four bits again cost it less than
they would cost weights that never were.
"""

import time
from collections.abc import Callable
from pathlib import Path

import _bench
import torch
from _models import pair

from vlmlab import component
from vlmlab.batch import Batch
from vlmlab.component import find
from vlmlab.data.sources import emoji, scenes
from vlmlab.evaluate import by_kind
from vlmlab.evaluate.perplexity import reader
from vlmlab.generate.engine import Engine
from vlmlab.generate.session import Session
from vlmlab.hub.load import load
from vlmlab.model.packed import held
from vlmlab.model.products import Linear
from vlmlab.quantize import QuantizerConfig, speed_up, told

METHODS = ("int8", "int4", "nf4", "awq")
PROMPT, TOKENS = 64, 24
TEXT = Path(__file__).parents[1] / "docs" / "data.md"
"""Some text of ours, which no backbone learned from."""


def arguments():
    parser = _bench.arguments(__doc__)
    parser.add_argument("--pictures", type=int, default=12, help="held-out pictures that are asked about")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="these alone beside float32")
    parser.add_argument(
        "--peer", action="store_true", help="time transformers in float32, too (another model's weights)"
    )
    return parser.parse_args()


def copied(model):
    """A model whose numbers are its own, rather than views of a file."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def calibration(processor, count=24):
    source = emoji.Config().build()
    return [processor([source[at * 40]]) for at in range(count)]


def sides(args) -> dict[str, tuple]:
    """The models by their name, each with its processor."""
    if args.tiny:
        return tiny_sides(args)
    model, processor = load("nano")
    found = {"float32": (copied(model), processor)}
    found["bfloat16"] = (copied(load("nano")[0]).to(torch.bfloat16), processor)
    for name in args.methods:
        batches = calibration(processor) if name == "awq" else []
        made = find(QuantizerConfig, name)().build(batches)(copied(load("nano")[0]))
        found[name] = (speed_up(made), processor)
    return found


def tiny_sides(args) -> dict[str, tuple]:
    found: dict[str, tuple] = {"float32": (pair(True)[0], None)}
    tokens = torch.randint(3, 200, (1, 40))
    batches = [Batch(tokens, torch.ones_like(tokens), torch.arange(40)[None])]
    for name in args.methods:
        found[name] = (speed_up(find(QuantizerConfig, name)().build(batches)(pair(True)[0])), None)
    return found


def decoding(model, tokens=TOKENS) -> Callable[[], None]:
    """Writes so many tokens after a prompt that is read once."""
    prompt = torch.randint(
        3, model.config.language.vocabulary - 10, (1, PROMPT), generator=torch.Generator().manual_seed(0)
    )
    session = Session(model, 1, PROMPT + tokens)
    session.prefill(Batch(prompt, torch.ones_like(prompt), torch.arange(PROMPT)[None]), None, [], [0])

    def run() -> None:
        session.cache.rewind(0, PROMPT)
        for token in range(tokens):
            session.step([token + 5])

    return run


def theirs(args) -> Callable[[], None]:
    """The same by transformers, with a decoder of the same shape; it reads the prompt each time."""
    _, peer = pair(args.tiny)
    prompt = torch.randint(3, 200, (1, PROMPT))

    def run() -> None:
        with torch.inference_mode():
            peer.generate(input_ids=prompt, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)

    return run


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    """Of one text, the same for every model."""
    tokens = torch.randint(
        3, model.config.language.vocabulary - 10, (2, 48), generator=torch.Generator().manual_seed(1)
    )
    positions = torch.arange(48).repeat(2, 1)
    return model(Batch(tokens, torch.ones_like(tokens), positions)).float()


def perplexity(model, processor, most=512) -> float:
    nats, count = reader(model.language, processor.tokenizer)(TEXT.read_text(), most)
    return float(torch.tensor(nats / count).exp())


def answers(model, processor, asked) -> list[str]:
    engine = Engine(model, processor)
    found: list[str] = []
    for start in range(0, len(asked), 8):
        found += engine.generate([one.sample() for one in asked[start : start + 8]], 16)
    return found


def by_part(asked, said) -> str:
    """The share that is right, by kind of question."""
    kinds = dict.fromkeys(one.kind for one in asked)
    shares = []
    for kind in kinds:
        right = [
            by_kind.plain(a) == by_kind.plain(q.answer) for q, a in zip(asked, said, strict=True) if q.kind == kind
        ]
        shares.append(f"{kind} {sum(right)}/{len(right)}")
    return ", ".join(shares)


def layers() -> None:
    """The error of a layer's output, as a share of its size, on two kinds of weights."""
    torch.manual_seed(0)
    x = torch.randn(256, 1024)
    print("\nerror of one layer's output (1024 x 1024, share of its size)")
    for kind in ("normal", "with outliers"):
        layer = Linear(1024, 1024, bias=False)
        layer.weight.data.normal_(std=0.02)
        if kind != "normal":
            layer.weight.data[torch.rand(1024, 1024) < 0.001] *= 20
        exact = x @ layer.weight.T
        shares = []
        for name in METHODS[:3]:
            packed = find(QuantizerConfig, name)().build().matrix(layer, "")
            with torch.inference_mode():
                shares.append(f"{name} {float((packed(x) - exact).norm() / exact.norm()):.2%}")
        print(f"  {kind:14} {'   '.join(shares)}")


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    models = sides(args)
    base = models["float32"][0]
    memory, exact = held(base.language), logits(base)
    runs = {name: decoding(model, 3 if args.tiny else TOKENS) for name, (model, _) in models.items()}
    if args.peer:
        runs["transformers"] = theirs(args)
    times = _bench.rounds(runs, args.rounds)
    asked, first, rows = [], [], []
    if not args.tiny:
        config = component.parse(scenes.Config, {"samples": args.pictures, "side": 140, "split": "test", "seed": 4})
        asked = by_kind.questions("scenes", config.build(), args.pictures)
    for name, (model, processor) in models.items():
        seconds = _bench.summary(times[name])
        row: dict[str, object] = {
            "side": f"vlmlab, {name}",
            "memory": round(held(model.language) / memory, 3),
            "ms_per_token": round(1000 * seconds["median_s"] / (3 if args.tiny else TOKENS), 2),
            "times_float32": round(_bench.ratio(times, name, "float32"), 2),
            "logit_error": round(float((logits(model) - exact).norm() / exact.norm()), 4),
        }
        if processor is not None:
            start = time.perf_counter()
            said = answers(model, processor, asked)
            first = first or said
            changed = sum(a != b for a, b in zip(said, first, strict=True)) / len(said)
            right = sum(by_kind.plain(a) == by_kind.plain(q.answer) for q, a in zip(asked, said, strict=True))
            row |= {
                "perplexity": round(perplexity(model, processor), 2),
                "right": f"{right}/{len(said)}",
                "changed": round(changed, 3),
                "by_kind": by_part(asked, said),
                "asking_s": round(time.perf_counter() - start, 1),
            }
        rows.append(row)
    if args.peer:
        seconds = _bench.summary(times["transformers"])["median_s"]
        rows.append({"side": "transformers, float32", "ms_per_token": round(1000 * seconds / TOKENS, 2)})
        rows[-1]["times_float32"] = round(_bench.ratio(times, "transformers", "float32"), 2)
    _bench.report("-".join(["quantize", *(() if args.methods == METHODS else args.methods)]), rows, args)
    for name, (model, _) in models.items():
        for kind, paths in told(model).items():
            print(f"{name}: {kind}: {'; '.join(paths)}")
    layers()


if __name__ == "__main__":
    main()
