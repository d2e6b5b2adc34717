"""Scores of a model on the held-out pictures of a recipe's sources, by kind of question, beside two baselines.

    python scripts/score_by_kind.py runs/nano/4-chat recipes/nano/3-instruct.toml --out docs/models/nano.json

Writes a JSON file with every question and answer, and prints the table as Markdown. Nothing of the `test` split was in
training. The most frequent answers are those of the first training pictures, as many.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch

import vlmlab
from vlmlab.data.mixture import MixtureConfig
from vlmlab.data.sources import SourceConfig
from vlmlab.evaluate import by_kind
from vlmlab.evaluate.by_kind import Asked, Score
from vlmlab.train import recipe as recipes
from vlmlab.train.log import Meter, write_text
from vlmlab.train.origin import Origin


def held_out(config: SourceConfig, split: str) -> SourceConfig:
    """A source's config for another split, asked as a conversation."""
    return dataclasses.replace(config, split=split, chat=True)


def row(score: Score) -> str:
    """A line of the table."""
    percent = [f"{e.value:.1%} [{e.low:.1%}, {e.high:.1%}]" for e in (score.model, score.blind, score.frequent)]
    gain = f"{score.gain.value:+.1%} [{score.gain.low:+.1%}, {score.gain.high:+.1%}]"
    kind = f"{score.kind} (errors)" if score.kind in by_kind.READING else score.kind
    return f"| {score.source} | {kind} | {score.questions} | {' | '.join(percent)} | {gain} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder, or a model's")
    parser.add_argument("recipe", type=Path, help="whose sources are asked about")
    parser.add_argument("--pictures", type=int, default=200, help="of each source")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer at most")
    parser.add_argument("--out", type=Path, help="where to write questions, answers and scores")
    args = parser.parse_args()
    data = recipes.load(args.recipe).data
    if not isinstance(data, MixtureConfig):
        parser.error(f"{args.recipe} has one source, not a mixture")
    asked: list[Asked] = []
    learned: list[Asked] = []
    for name, each in data.sources.items():
        asked += by_kind.questions(name, held_out(each.data, "test").build(), args.pictures)
        learned += by_kind.questions(name, held_out(each.data, "train").build(), args.pictures)
    folder = args.run / "model" if (args.run / "model").is_dir() else args.run
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
    if args.out:
        told = {
            "made_by": Origin.now(args.recipe.read_text(encoding="utf-8"), 0).plain(),
            "model": str(folder),
            "scores": [dataclasses.asdict(score) for score in scores],
            "yes_when_no": None if yes is None else dataclasses.asdict(yes),
            "answers": [one.plain() for one in answered],
        }
        write_text(args.out, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
