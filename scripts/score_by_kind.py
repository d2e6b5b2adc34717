"""Scores of a model on the held-out pictures of a recipe's sources, by kind of question, beside two baselines.

    python scripts/score_by_kind.py nano docs/models/nano.toml --pictures 120 --ocr --out docs/models/nano.json

Writes a JSON file with every question and answer, and prints the table as Markdown. Nothing of the `test` split was in
training. The most frequent answers are those of the first training pictures, as many. A source of pictures with
captions whose `kind` is `reading` is scored by the error rate. With --ocr an OCR engine reads the same pictures
(pip install rapidocr).
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import vlmlab
from vlmlab import component
from vlmlab.data.mixture import MixtureConfig
from vlmlab.data.sources import SourceConfig
from vlmlab.evaluate import by_kind
from vlmlab.evaluate.bootstrap import Estimate, ratio
from vlmlab.evaluate.by_kind import Answered, Asked, Score
from vlmlab.processor.decode import open_picture
from vlmlab.processor.formats import to_rgb
from vlmlab.train.log import Meter
from vlmlab.train.origin import Origin
from vlmlab.writing import write, write_text

TILE = 200
"""Pixels of a picture on the sheet."""


def held_out(config: SourceConfig, split: str) -> SourceConfig:
    """A source's config for another split, asked as a conversation."""
    chat = {"chat": True} if hasattr(config, "chat") else {}
    return dataclasses.replace(config, split=split, **chat)


def row(score: Score) -> str:
    """A line of the table."""
    percent = [f"{e.value:.1%} [{e.low:.1%}, {e.high:.1%}]" for e in (score.model, score.blind, score.frequent)]
    gain = f"{score.gain.value:+.1%} [{score.gain.low:+.1%}, {score.gain.high:+.1%}]"
    kind = f"{score.kind} (errors)" if score.kind in by_kind.READING else score.kind
    return f"| {score.source} | {kind} | {score.questions} | {' | '.join(percent)} | {gain} |"


def read_by_engine(asked: Sequence[Asked]) -> dict[str, Estimate]:
    """The character error rates of an OCR engine, by source."""
    from rapidocr import RapidOCR  # its models are in the package

    engine = RapidOCR(params={"Global.log_level": "error"})
    found: dict[str, Estimate] = {}
    for source in dict.fromkeys(one.source for one in asked):
        wrong, length = [], []
        for one in asked:
            if one.source != source:
                continue
            lines = engine(np.array(to_rgb(open_picture(one.picture)))[:, :, ::-1]).txts or ()
            reference = by_kind.plain(one.answer)
            wrong.append(float(by_kind.edits(by_kind.plain(" ".join(lines)), reference)))
            length.append(float(max(len(reference), 1)))
        found[source] = ratio(wrong, length)
    return found


def sheet(answered: Sequence[Answered], most: int = 3) -> Image.Image:
    """A few right answers and as many wrong ones of each kind of each source, under their pictures."""
    rows: list[list[Answered]] = []
    for key in dict.fromkeys((one.asked.source, one.asked.kind) for one in answered):
        some = [one for one in answered if (one.asked.source, one.asked.kind) == key]
        right = [one for one in some if by_kind.right(one)]
        wrong = [one for one in some if not by_kind.right(one)]
        rows.append(right[:most] + wrong[:most])
    made = Image.new("RGB", (2 * most * TILE, len(rows) * (TILE + 46)), "white")
    pen, font = ImageDraw.Draw(made), ImageFont.load_default(11)
    for down, row in enumerate(rows):
        for across, one in enumerate(row):
            x, y = across * TILE + 4, down * (TILE + 46) + 4
            picture = to_rgb(open_picture(one.asked.picture))
            picture.thumbnail((TILE - 8, TILE - 8))
            made.paste(picture, (x, y))
            colour = "darkgreen" if by_kind.right(one) else "firebrick"
            lines = [f"{one.asked.source}: {one.asked.text}", f"says {one.answer.strip()}", f"is {one.asked.answer}"]
            for number, line in enumerate(lines):
                pen.text((x, y + TILE - 6 + 14 * number), line[:36], colour if number == 1 else "black", font)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run's folder, a model's, or its name")
    parser.add_argument("recipe", type=Path, help="its table [data] is a mixture, whose sources are asked about")
    parser.add_argument("--pictures", type=int, default=200, help="of each source")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer at most")
    parser.add_argument("--ocr", action="store_true", help="let an OCR engine read what is to be read, too")
    parser.add_argument("--out", type=Path, help="where to write questions, answers and scores")
    parser.add_argument("--sheet", type=Path, help="where to draw some pictures with right and wrong answers")
    args = parser.parse_args()
    data = component.parse(SourceConfig, component.read_toml(args.recipe).get("data", {}), "data")
    if not isinstance(data, MixtureConfig):
        parser.error(f"{args.recipe} has one source, not a mixture")
    asked: list[Asked] = []
    learned: list[Asked] = []
    for name, each in data.sources.items():
        kind = each.kind if each.kind in by_kind.READING else by_kind.TITLE
        asked += by_kind.questions(name, held_out(each.data, "test").build(), args.pictures, kind)
        learned += by_kind.questions(name, held_out(each.data, "train").build(), args.pictures, kind)
    inside = Path(args.model) / "model"
    folder = inside if inside.is_dir() else args.model
    engine = vlmlab.Engine(*vlmlab.load(folder, dtype=torch.float32))

    def generate(samples) -> list[str]:
        said: list[str] = []
        with Meter("questions", len(samples)) as meter:
            for start in range(0, len(samples), 16):
                said += engine.generate(samples[start : start + 16], args.tokens)
                meter.advance(min(16, len(samples) - start))
        return said

    answered = by_kind.answer(asked, generate, by_kind.frequent(learned))
    scores = by_kind.scores(answered)
    yes = by_kind.yes_when_no(answered)
    print("| source | kind | questions | model | without the picture | most frequent answer | gain on the better |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(map(row, scores)))
    print(f"\nbeats both clearly on {sum(score.clear for score in scores)} of {len(scores)} kinds")
    if yes is not None:
        print(f"says yes where the truth is no: {yes}")
    engines = read_by_engine([one for one in asked if one.kind in by_kind.READING]) if args.ocr else {}
    for name, rate in engines.items():
        print(f"{name}, read by rapidocr: {rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}] of the letters wrong")
    if args.sheet:
        write(args.sheet, lambda partial: sheet(answered).save(partial, "PNG", optimize=True))
    if args.out:
        told = {
            "made_by": Origin.now(args.recipe.read_text(encoding="utf-8"), 0).plain(),
            "model": str(folder),
            "scores": [dataclasses.asdict(score) for score in scores],
            "rapidocr": {name: dataclasses.asdict(rate) for name, rate in engines.items()},
            "yes_when_no": None if yes is None else dataclasses.asdict(yes),
            "answers": [one.plain() for one in answered],
        }
        write_text(args.out, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
