"""Answers scored per second, one thread: each metric on made answers, beside its oracle where that is installed.

python benchmarks/metrics.py

The oracle of captions is pycocoevalcap 1.2 with its Java tokeniser, that of the others lmms-eval 0.7.3: neither is a
requirement of anything else, so a side that is not installed is left out. Scores of the two sides must be equal.
"""

import importlib.util
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import _bench
import numpy as np

from vlmlab.evaluate import metrics
from vlmlab.evaluate.metrics import Reference

AIM = 10_000
_THINGS = "man woman dog cat bike bus street train pizza kite frisbee boy girl horse surfboard clock giraffe table"
_DOES = "rides holds sits on stands near flies eats looks at plays with throws jumps over waits for"
_KINDS = "red blue large small old wooden young two three several"
THINGS, DOES, KINDS = _THINGS.split(), _DOES.split(), _KINDS.split()


def phrase(random_: random.Random, words: int) -> str:
    return " ".join(random_.choice(KINDS + THINGS) for _ in range(words))


def caption(random_: random.Random) -> str:
    """As long as a caption of COCO, which has ten words and a half; one in ten has a word that is not plain."""
    parts = [random_.choice(("A", "The", "Two"))]
    for _ in range(3):
        parts += [random_.choice(KINDS), random_.choice(THINGS), random_.choice(DOES)]
    odd = random_.choice(("'s", "-like", " in a T-shirt", " (left)", " at 5:30")) if random_.random() < 0.1 else ""
    return " ".join(parts[:-1]) + odd + "."


def questions(name: str, count: int) -> tuple[list[str], list[Reference]]:
    """Made answers and references of the shape that the metric's benchmark has."""
    random_ = random.Random(0)
    said, references = [], []
    for number in range(count):
        if name == "cider":
            answers, options = tuple(caption(random_) for _ in range(5)), ()
            text = caption(random_)
        elif name == "vqa":
            kinds = [phrase(random_, random_.choice((1, 1, 2))) for _ in range(3)]
            answers, options = tuple(random_.choice(kinds) for _ in range(10)), ()
            text = random_.choice(kinds) + random_.choice(("", "."))
        elif name in ("mmmu", "mmbench", "mathvista"):
            options = tuple(random_.sample([phrase(random_, 2) + f" {at}" for at in range(8)], 4))
            right = random_.randrange(4)
            answers = (options[right],) if name == "mathvista" else ("ABCD"[right],)
            text = random_.choice((f"({'ABCD'[right]})", "ABCD"[right], f"The answer is {options[right]}."))
        else:
            number_ = str(random_.randint(1, 5000))
            answers, options = (random_.choice((number_, phrase(random_, 4))),), ()
            text = answers[0] + random_.choice(("", ".", "0"))
        said.append(text)
        references.append(Reference(answers, options, group=str(number // 4) if name == "mmbench" else ""))
    return said, references


def captions_oracle(said: list[str], references: list[Reference]) -> Callable[[], list[float]]:
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    people = {at: [{"caption": text} for text in one.answers] for at, one in enumerate(references)}
    captions = {at: [{"caption": text}] for at, text in enumerate(said)}

    def run() -> list[float]:
        tokens = PTBTokenizer()
        return [score / 10 for score in Cider().compute_score(tokens.tokenize(people), tokens.tokenize(captions))[1]]

    return run


def lmms_oracle(name: str, said: list[str], references: list[Reference]) -> Callable[[], list[float]]:
    """Its scoring functions alone, as scripts/goldens takes them: importing all of it takes longer than the rounds."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "goldens"))
    from _oracles import pick

    home = Path(next(iter(importlib.util.find_spec("lmms_eval").submodule_search_locations)))
    tasks = home / "tasks"
    if name == "vqa":
        processor = pick(tasks / "_task_utils/vqa_eval_metric.py", "EvalAIAnswerProcessor")["EvalAIAnswerProcessor"]
        score = pick(tasks / "vqav2/utils.py", "vqav2_process_results", EvalAIAnswerProcessor=processor)

        def one(text: str, reference: Reference) -> float:
            people = [{"answer": answer, "answer_id": at} for at, answer in enumerate(reference.answers)]
            return score["vqav2_process_results"]({"answers": people, "question_id": 0}, [text])["exact_match"]
    elif name == "anls":
        plain = {"register_metric": lambda **settings: lambda function: function}
        anls = pick(home / "api/metrics.py", "levenshtein_distance", "anls", **plain)["anls"]

        def one(text: str, reference: Reference) -> float:
            return anls(list(reference.answers), [text])["anls"]
    elif name == "relaxed":
        close = pick(tasks / "chartqa/utils.py", "relaxed_correctness")["relaxed_correctness"]

        def one(text: str, reference: Reference) -> float:
            return float(close(text, reference.answers[0]))
    else:
        read = pick(tasks / "_task_utils/mmmu_mcq_utils.py", "parse_mmmu_multi_choice_response", np=np)
        read = read["parse_mmmu_multi_choice_response"]

        def one(text: str, reference: Reference) -> float:
            return float(read(text, reference.letters, reference.options) == reference.answers[0])

    return lambda: [one(text, reference) for text, reference in zip(said, references, strict=True)]


def sides(name: str, said: list[str], references: list[Reference]) -> dict[str, Callable[[], list[float]]]:
    """Ours and, where it is installed, the oracle."""
    variant = "official" if name == "cider" or name not in ("vqa", "anls", "relaxed", "mmmu") else "lmms-eval"
    metric = metrics.get(name, variant)
    found = {"vlmlab": lambda: [score.value for score in metric.score(said, references)]}
    if name == "cider" and importlib.util.find_spec("pycocoevalcap") and shutil.which("java"):
        found["pycocoevalcap"] = captions_oracle(said, references)
    elif variant == "lmms-eval" and importlib.util.find_spec("lmms_eval"):
        found["lmms-eval"] = lmms_oracle(name, said, references)
    return found


def main() -> None:
    args = _bench.arguments(__doc__).parse_args()
    rows = []
    for name in ("vqa", "anls", "exact", "relaxed", "mmmu", "mathvista", "mmbench", "cider"):
        count = 40 if args.tiny else 5_000
        said, references = questions(name, count)
        running = sides(name, said, references)
        values = [run() for run in running.values()]
        for other in values[1:]:
            apart = max(abs(a - b) for a, b in zip(values[0], other, strict=True))
            if apart > 1e-9:
                raise SystemExit(f"{name}: the two sides differ by {apart}")
        times = _bench.rounds(running, args.rounds)
        for side in running:
            seconds = _bench.summary(times[side])
            row = {"metric": name, "side": side, "answers": count, **seconds}
            row["answers_per_second"] = int(count / max(seconds["median_s"], 1e-9))
            row["times_ours"] = round(_bench.ratio(times, "vlmlab", side), 2)
            rows.append(row)
        if not args.tiny and rows[-len(running)]["answers_per_second"] < AIM:
            print(f"{name} is below the aim of {AIM:,} answers per second")
    _bench.report("metrics", rows, args)


if __name__ == "__main__":
    main()
