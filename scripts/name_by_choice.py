"""Which of ten titles belongs to a picture of an emoji, by a model that answers questions: see vlmlab.evaluate.ten_way.

    python scripts/name_by_choice.py nano --out docs/models/nano-names.json

On the held-out titles of the hands that nano learned from (Noto, Fluent), and of one that it did not see (Twemoji).
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from rich.console import Console

import vlmlab
from vlmlab.batch import Batch, Sample
from vlmlab.data.sources import emoji
from vlmlab.evaluate.ten_way import TenWay, table, ten_way
from vlmlab.train.log import Meter
from vlmlab.train.prepare import Preparer
from vlmlab.train.recipe import Score
from vlmlab.writing import write_text

HANDS: dict[str, tuple[emoji.Licence, ...]] = {"seen hands": ("Apache-2.0", "MIT"), "another hand": ("CC-BY-4.0",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model's folder, or its name")
    parser.add_argument("--pictures", type=int, default=0, help="of each (0: all)")
    parser.add_argument("--out", type=Path, help="where to write the scores")
    args = parser.parse_args()
    model, processor = vlmlab.load(args.model, dtype=torch.float32)

    def process(sample: Sample) -> Batch:
        return processor([sample], learn="answers")

    others = Preparer(model, process, emoji.Config(licences=HANDS["seen hands"]).build(), True)
    found: dict[str, TenWay] = {}
    for name, licences in HANDS.items():
        source = emoji.Config(split="test", licences=licences).build()
        with Meter(name, min(args.pictures or len(source), len(source))) as meter:
            held = Preparer(model, process, source, True)
            found[name] = ten_way(model, process, source, Score(pictures=args.pictures), 0, held, others, meter.advance)
    Console().print(table(found))
    if args.out:
        told = {name: {**dataclasses.asdict(score), "choices": None} for name, score in found.items()}
        write_text(args.out, json.dumps({"model": args.model, **told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
