"""An evaluation: ours against transformers' `generate`, one question at a time, as lmms-eval asks; and the bootstrap.

    python benchmarks/evaluation.py              # questions a second, four questions a picture (as DocVQA and VQAv2)
    python benchmarks/evaluation.py --each 1     # a picture of its own for each question (as MMMU)
    python benchmarks/evaluation.py --bootstrap  # intervals of 10,000 questions

Both sides read the same files from disk, ask the same questions and write 16 tokens for each. Ours is all of what
`vlmlab eval` does: it reads and hashes the questions, keeps each answer on disk, and scores them. The peer gets the
token ids and opens the picture once for each question; it is not charged for prompts, stops, scores or files.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _bench
import numpy as np
import PIL.Image
import torch
from _models import pair
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from vlmlab import component
from vlmlab.evaluate.answering import Writing
from vlmlab.evaluate.benchmarks import Benchmark, BenchmarkConfig
from vlmlab.evaluate.bootstrap import ratio
from vlmlab.evaluate.evaluation import Asking
from vlmlab.evaluate.figures import Clusters, mean
from vlmlab.evaluate.known import Known
from vlmlab.evaluate.local import Local
from vlmlab.generate.engine import Engine
from vlmlab.processor.images import native
from vlmlab.processor.processor import Config, Processor

TOKENS = 16
SIZES = [(640, 480), (480, 640), (500, 375), (640, 427)]


class InMemory(Local):
    """A model that is loaded already."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.engine = "in memory", engine

    def identity(self) -> Mapping[str, Any]:
        return {}


def tokenizer(words: int) -> Tokenizer:
    """Words of a letter and a number, enough for the model's vocabulary: text is not what is measured."""
    made = Tokenizer(models.WordLevel({f"w{at}": at for at in range(words - 3)}, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    for name in ("<fake_token_around_image>", "<image>", "<end_of_utterance>"):
        made.add_special_tokens([AddedToken(name, special=True)])
    assert made.get_vocab_size() == words
    return made


def questions(folder: Path, pictures: int, each: int) -> Benchmark:
    """Photographs' sizes and smoothness, as JPEG files, and questions of 6 to 15 words."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(pictures):
        small = PIL.Image.fromarray(draw.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        size = SIZES[number % len(SIZES)]
        small.resize(size, PIL.Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
        for _ in range(each):
            words = " ".join(f"w{word}" for word in draw.integers(5, 250, draw.integers(6, 16)))
            rows.append({"question": words, "answers": ["w1"], "image": f"{number}.jpg"})
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = component.parse(BenchmarkConfig, {"name": "own", "path": str(path), "max_new_tokens": TOKENS})
    built: Benchmark = config.build()
    return built


def throughput(args: argparse.Namespace, folder: Path) -> None:
    ours, peer = pair(args.tiny)
    words = ours.config.language.vocabulary
    config = Config(images=native.Config(), bos=None, eos="w2", pad="w0", ends=())
    processor = Processor(config, tokenizer(words), ours.placeholders)
    benchmark = questions(folder, 1 if args.tiny else args.pictures, args.each)
    pictures = Idefics2ImageProcessorPil(do_image_splitting=False)
    banned = [[words - 3], [words - 2]]

    def mine() -> list[str]:
        answerer = InMemory(Engine(ours, processor))
        with tempfile.TemporaryDirectory() as kept, Known(Path(kept) / "answers.jsonl") as known:
            asking = Asking(benchmark, answerer, Writing(TOKENS, tuple(benchmark.stop)))
            asking.answer(known)
            return [record.answer for record in asking.records(known)]

    def theirs() -> list[str]:
        found = []
        for index in range(len(benchmark)):
            sample = benchmark.ask(benchmark.question(index))
            tokens = torch.tensor([prompts[index]])
            with PIL.Image.open(sample.pictures[0].source) as image:
                seen = pictures([[image.convert("RGB")]], return_tensors="pt")
            with torch.inference_mode():
                out = peer.generate(
                    input_ids=tokens,
                    attention_mask=torch.ones_like(tokens),
                    pixel_values=seen["pixel_values"],
                    pixel_attention_mask=seen["pixel_attention_mask"],
                    max_new_tokens=TOKENS,
                    min_new_tokens=TOKENS,
                    do_sample=False,
                    bad_words_ids=banned,
                )
            found.append(processor.decode(out[0, tokens.shape[1] :].tolist()))
        return found

    samples = [benchmark.ask(benchmark.question(index)) for index in range(len(benchmark))]
    prompts = [processor.encode(sample, add_generation_prompt=True).tokens for sample in samples]
    sides = {"vlmlab": mine, "transformers, one by one": theirs}
    answers = [run() for run in sides.values()]
    equal = sum(one == other for one, other in zip(*answers, strict=True))
    times = _bench.rounds(sides, args.rounds)
    rows = [
        {
            "side": side,
            **_bench.summary(times[side]),
            "questions_per_s": round(len(prompts) / _bench.summary(times[side])["median_s"], 2),
            "times_ours": round(_bench.ratio(times, "vlmlab", side), 2),
            "equal_answers": f"{equal} of {len(prompts)}" if side == "vlmlab" else "",
        }
        for side in sides
    ]
    _bench.report("evaluation" if args.each > 1 else "evaluation-one-each", rows, args)


def bootstrap(args: argparse.Namespace) -> None:
    draw = np.random.default_rng(0)
    count = 500 if args.tiny else 10_000
    alone = Clusters(np.arange(count), np.ones(count))
    four = Clusters(np.arange(count) // 4, np.ones(count))
    right = (draw.random(count) < 0.6).astype(float).tolist()
    tenths = (draw.integers(0, 11, count) / 10).tolist()
    near = draw.random(count).tolist()
    sides = {
        "vlmlab, right or wrong": lambda: mean(right, alone),
        "vlmlab, VQA accuracy, four a picture": lambda: mean(tenths, four),
        "vlmlab, scores all different": lambda: mean(near, alone),
        "vlmlab, all different, four a picture": lambda: mean(near, four),
        "vlmlab, drawn one by one": lambda: ratio(near),
    }
    times = _bench.rounds(sides, args.rounds)
    rows = [{"side": side, **_bench.summary(times[side]), "questions": count, "draws": 10_000} for side in sides]
    _bench.report("evaluation-bootstrap", rows, args)


def main() -> None:
    parser = _bench.arguments(__doc__)
    parser.add_argument("--pictures", type=int, default=8, help="how many pictures are asked about")
    parser.add_argument("--each", type=int, default=4, help="questions about each of them")
    parser.add_argument("--bootstrap", action="store_true", help="time the intervals instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.bootstrap:
        bootstrap(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        throughput(args, Path(folder))


if __name__ == "__main__":
    main()
