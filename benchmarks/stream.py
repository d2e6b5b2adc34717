"""From 10,000 mixed samples on disk to batches: ours, packed, against `datasets` and transformers' processor, padded.

python benchmarks/stream.py

Half are photos with a question, three tenths small pictures with a caption, two tenths text alone; parquet, shuffled,
two worker processes on each side. The second part takes up a stream at step 10 and at step 100,000, to its first batch.
"""

import functools
import io
import random
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import _bench
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import torch
from _models import pair
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from processor import photo
from vlmlab.batch import Batch
from vlmlab.component import parse
from vlmlab.data.mixture import Mixture
from vlmlab.data.reading import Reader, shelves
from vlmlab.data.sources import SourceConfig
from vlmlab.data.stream import Order, windows
from vlmlab.processor.patches import normalise
from vlmlab.processor.processor import Config, Processor
from vlmlab.train.feed import Feed
from vlmlab.train.prepare import join

CONTROL = ("<s>", "</s>", "<unk>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")
PHOTOS = [(500, 375), (640, 480), (480, 640), (800, 600), (1024, 768)]
SMALL = [(224, 224), (320, 240), (256, 384)]
SHARES = {"photos": 0.5, "captions": 0.3, "texts": 0.2}
BATCH, TOKENS = 16, 4096
WINDOW = 128
STEP = 2048  # samples to a step, as in the paper
PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))


def words() -> list[str]:
    found = " ".join(page.read_text(encoding="utf-8") for page in PAGES).split()
    return [word for word in found if "<" not in word]  # no control token's name


def tokenizer() -> Tokenizer:
    """Byte-level pairs learned from our own pages: text costs what it costs."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator([" ".join(words())], trainers.BpeTrainer(vocab_size=8000, show_progress=False))
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL])
    return made


def corpus(folder: Path, rows: int, shrunk: int = 1) -> None:
    """Three parquet files, `rows` rows each, in groups of 100 as The Cauldron has them."""
    draw, known = random.Random(0), words()

    def text(low: int, high: int) -> str:
        start = draw.randrange(len(known) - high)
        return " ".join(known[start : start + draw.randint(low, high)])

    def coded(sizes: list[tuple[int, int]], count: int) -> list[bytes]:
        shapes = [(width // shrunk, height // shrunk) for width, height in sizes]
        return [photo(*shapes[at % len(shapes)], seed=at) for at in range(min(count, rows))]

    pictures = {"photos": coded(PHOTOS, 100), "captions": coded(SMALL, 60), "texts": [None]}
    lengths = {"photos": (3, 60), "captions": (5, 20), "texts": (50, 500)}
    for name, some in pictures.items():
        held = [
            {"picture": some[at % len(some)], "question": text(5, 30), "answer": text(*lengths[name])}
            for at in range(rows)
        ]
        schema = pyarrow.schema([("picture", pyarrow.binary()), ("question", "string"), ("answer", "string")])
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(held, schema), folder / f"{name}.parquet", 100)


def mixture(folder: Path) -> Mixture:
    sources = {
        name: {"weight": share, "data": {"name": "table", "path": str(folder / f"{name}.parquet")}}
        for name, share in SHARES.items()
    }
    return parse(SourceConfig, {"name": "mixture", "sources": sources}).build()


def opened(source: Mixture, processor: Processor, workers: int) -> Feed:
    """The stream as `vlmlab train` makes it, with a small model that is not run."""
    stock = shelves(source, "", "answers", TOKENS)
    reader = Reader(
        stock,
        lambda sample, learn, options: processor.encode(sample, learn=learn, options=options),
        processor.image_id,
        0,
    )
    order = Order(0, {name: len(shelf.source) for name, shelf in stock.items()}, source.weights())
    told = processor.config
    return Feed(_model(), reader, order, lambda p: normalise(list(p), told.mean, told.std), TOKENS, False, workers)


@functools.cache
def _model():
    return pair(tiny=True)[0]


def packed(feed: Feed, samples: int, window: int) -> Iterator[Batch]:
    """Batches of rows without padding."""
    ahead = windows(0, samples // window * window, window)
    try:
        for number, places in enumerate(ahead):
            read = feed.window(places)
            feed.expect(ahead[number + 1 :])
            for some in feed.passes(read.pieces):
                yield join([feed.prepare(piece) for piece in some])[0]
    finally:
        feed.close()


class Collate:
    """What a collate function for transformers' Trainer usually is."""

    def __init__(self, made: Tokenizer) -> None:
        from transformers import Idefics2Processor, PreTrainedTokenizerFast
        from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

        fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<unk>", bos_token="<s>", eos_token="</s>")
        images = Idefics2ImageProcessorPil(do_image_splitting=False)
        self.processor = Idefics2Processor(images, fast, image_seq_len=64)

    def __call__(self, rows: list[dict]) -> dict:
        texts, images = [], []
        for row in rows:
            mark = "<image>" if row["picture"] is not None else ""
            texts.append(
                f"User:{mark}{row['question']}<end_of_utterance>\nAssistant: {row['answer']}<end_of_utterance>"
            )
            images.append([PIL.Image.open(io.BytesIO(row["picture"])).convert("RGB")] if mark else [])
        batch = self.processor(images if any(images) else None, texts, padding=True, return_tensors="pt")
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return dict(batch)


def padded(folder: Path, collate: Collate, samples: int, workers: int) -> Iterator[dict]:
    """Batches of rows filled up to the longest, pictures to the largest."""
    import datasets

    datasets.disable_progress_bars()
    parts = [
        datasets.Dataset.from_parquet(str(folder / f"{name}.parquet"), cache_dir=str(folder / "cache")).shuffle(0)
        for name in SHARES
    ]
    mixed = datasets.interleave_datasets(parts, list(SHARES.values()), seed=0, stopping_strategy="all_exhausted")
    while len(mixed) < samples:
        mixed = datasets.concatenate_datasets([mixed, mixed])
    mixed = mixed.select(range(samples))
    yield from torch.utils.data.DataLoader(mixed, BATCH, num_workers=workers, collate_fn=collate)


def drain(batches: Iterator) -> int:
    return sum(1 for _ in batches)


def throughput(folder: Path, source: Mixture, processor: Processor, made: Tokenizer, args) -> list[dict[str, object]]:
    """Samples a second from disk to batches."""
    window = 8 if args.tiny else WINDOW
    samples = args.samples // window * window
    collate = Collate(made)
    sides = {
        "vlmlab": lambda: drain(packed(opened(source, processor, args.workers), samples, window)),
        "transformers, datasets": lambda: drain(padded(folder, collate, samples, args.workers)),
    }
    times = _bench.rounds(sides, args.rounds)
    filled = [len(b.tokens[0]) for b in packed(opened(source, processor, args.workers), samples, window)]
    rates = {side: round(samples / statistics.median(some), 1) for side, some in times.items()}
    notes = {"vlmlab": f"rows {np.mean(filled) / TOKENS:.1%} full", "transformers, datasets": f"{BATCH} to a batch"}
    return [
        {
            "side": side,
            "workload": f"{samples} samples, {args.workers} workers",
            **_bench.summary(times[side]),
            "samples_per_s": rates[side],
            "times_ours": round(_bench.ratio(times, "vlmlab", side), 2),
            "batches": notes[side],
        }
        for side in sides
    ]


def going_on(source: Mixture, processor: Processor, args) -> list[dict[str, object]]:
    """Seconds from nothing but a checkpoint's state to knowing the next samples, and to their first batch."""
    # Pictures differ in size from step to step: each side is ten neighbouring steps (tiny: one).
    steps = {f"vlmlab, step {first:,}": range(first, first + (1 if args.tiny else 10)) for first in (10, 100_000)}
    states = {step: opened(source, processor, 0).order.state(step * STEP) for some in steps.values() for step in some}

    def resumed(some: range, whole: bool) -> None:
        for step in some:
            feed = opened(source, processor, 0)
            feed.order.check(states[step], step * STEP)
            places = range(step * STEP, step * STEP + BATCH)
            if not whole:
                _ = [feed.order[place] for place in places]
                continue
            for pieces in feed.passes(feed.window(places).pieces):
                join([feed.prepare(piece) for piece in pieces])

    rows = []
    for what, whole in (("the next samples", False), ("the first batch", True)):
        sides = {side: functools.partial(resumed, some, whole) for side, some in steps.items()}
        times = _bench.rounds(sides, args.rounds)
        rows += [
            {
                "side": side,
                "workload": f"going on, ten times to {what}",
                **_bench.summary(times[side]),
                "times_ours": round(_bench.ratio(times, next(iter(sides)), side), 2),
            }
            for side in sides
        ]
    return rows


def main() -> None:
    parser = _bench.arguments(__doc__)
    parser.add_argument("--samples", type=int, default=10_000, help="how many samples a round reads")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of each side")
    args = parser.parse_args()
    if args.tiny:
        args.samples = 16
    torch.set_num_threads(args.threads)
    made = tokenizer()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus(folder, *((12, 8) if args.tiny else (2000, 1)))
        processor = Processor(Config(), made, lambda grid: [64] * len(grid))
        source = mixture(folder)
        rows = throughput(folder, source, processor, made, args) + going_on(source, processor, args)
        _bench.report("stream", rows, args)


if __name__ == "__main__":
    main()
