"""`vlmlab eval`, `compare`, `pareto` and `prefer`: measuring a model. Whatever is heavy is imported inside them."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from vlmlab.commands import Device, Number, Stopped, Words, adapter_folder, best_device, model_folder, torch_dtype

if TYPE_CHECKING:
    from vlmlab.evaluate.answering import Answerer

EVALUATIONS = Path("runs/eval")
ADDRESS = ("http://", "https://")

Model = Annotated[Positional[str], arg(metavar="MODEL")]
Benchmarks = Annotated[Words, arg(metavar="BENCHMARK... [KEY=VALUE...]", help_behavior_hint="")]
Out = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: runs/eval/ and the model's name)")]
Own = Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the benchmark's, or the model's, own)")]

Sides = Annotated[
    tuple[int, ...], arg(metavar="PIXELS...", help_behavior_hint="(default: the model's own, a half, a quarter)")
]


@dataclasses.dataclass(frozen=True)
class Measuring:
    """What every command that measures models has in common."""

    adapter: Annotated[str, arg(metavar="FOLDER|HUB-ID", help_behavior_hint="(default: none)")] = ""
    """An adapter to let act in the model, in PEFT's files."""
    key_variable: Annotated[str, arg(metavar="VARIABLE", help_behavior_hint="(default: no key is sent)")] = ""
    """Of a model at an address: the environment variable that holds the key."""
    parallel: int = 8
    """Of a model at an address: how many questions it is asked at once."""
    rows: int = 16
    """Of a model here: how many answers are written at once. It changes the speed, and no answer."""
    device: Device = ""
    """Of a model here: where to compute."""
    dtype: Number = "auto"
    """Of a model here: the kind of numbers to compute with; auto is as stored."""


Measured = Annotated[Measuring, arg(name="", prefix_name=False)]


def evaluate(
    model: Model,
    benchmarks: Benchmarks,
    measuring: Measured,
    out: Out = None,
    split: Literal["auto", "on", "off"] = "auto",
    longest: Own = None,
    max_new_tokens: Own = None,
    draws: int = 1,
    variant: Annotated[str, arg(metavar="NAME", help_behavior_hint="(default: the benchmark's own)")] = "",
    variants: bool = False,
    against: Annotated[str, arg(metavar="RECIPE|SOURCE", help_behavior_hint="(default: not looked for)")] = "",
    shown: int = 300,
) -> None:
    """Measure a model on benchmarks: scores with intervals, a card, and a page to look through the answers.

    MODEL is a folder, a run's, a name on the hub, nano, or ADDRESS#NAME of a server that speaks as OpenAI's does.
    A benchmark is LABEL=PATH, with more keys as LABEL.KEY=VALUE, or a TOML file of [benchmark.LABEL] tables.
    Answers are kept as they come: what was stopped, or is said again, asks only for those that are not known.

    Examples:
      vlmlab eval nano own=questions.jsonl
      vlmlab eval runs/demo docvqa=datasets/DocVQA textvqa=datasets/TextVQA textvqa.shots=4
      vlmlab eval HuggingFaceM4/idefics2-8b suite.toml --split on --variants --against recipe.toml
      vlmlab eval http://127.0.0.1:8000/v1#idefics2-8b own=questions.jsonl

    Args:
        model: Whom to measure.
        benchmarks: What to ask.
        out: The folder to write.
        split: Read each picture in four parts and as a whole (auto: as the model does).
        longest: The most pixels along a picture's longer side.
        max_new_tokens: The most tokens of an answer.
        draws: With worked examples: how many draws of them to measure.
        variant: The variant of the metric that scores.
        variants: Score by every variant, side by side.
        against: A training corpus to look for the questions in; the score without those it holds stands beside.
        shown: How many questions the page shows, most of them wrong ones.
    """
    from vlmlab.evaluate import suite
    from vlmlab.evaluate.session import Manner, Session

    _check_page(shown)
    asked = suite.parse(benchmarks)
    for label, config in asked.items():
        suite.draws(label, config, draws)
    splits = {"auto": None, "on": True, "off": False}[split]
    manner = Manner(max_new_tokens, splits, longest, variant, variants, shown, against)
    session = Session(answerer(model, measuring), out or EVALUATIONS / suite.folder_name(model))
    with kept(session.out):
        for label, config in asked.items():
            session.measure(label, config, draws, manner)


def compare(
    first: Annotated[Positional[Path], arg(metavar="A")],
    second: Annotated[Positional[Path], arg(metavar="B")],
    tell: float = 0.5,
    out: Path = Path("compare.html"),
    shown: int = 300,
) -> None:
    """Compare two evaluations of the same questions, in pairs: by how much B is better, and whether that is chance.

    A and B are folders that vlmlab eval wrote: of a benchmark, or of a model, whose benchmarks in common are compared.

    Examples:
      vlmlab compare runs/eval/nano/docvqa runs/eval/demo/docvqa
      vlmlab compare runs/eval/nano runs/eval/demo --tell 1 --out nano-demo.html

    Args:
        first: An evaluation.
        second: Another, of the same questions.
        tell: A difference of interest: how many questions would be needed to tell it from nothing.
        out: The page to write, with the questions on which the two differ most; its figures stand beside it as JSON.
        shown: How many questions the page shows.
    """
    import json

    from vlmlab import media
    from vlmlab.evaluate import compare as pairs
    from vlmlab.evaluate import evaluation
    from vlmlab.evaluate.report import Shower, compared
    from vlmlab.train.origin import Origin
    from vlmlab.writing import write_text

    _check_page(shown, tell)
    for label, (one, other) in _common(first, second).items():
        found = pairs.compare(evaluation.read(one), evaluation.read(other), tell)
        place = out.with_name(f"{out.stem}-{label}{out.suffix}") if label else out
        made_by = Origin.now(json.dumps([str(one), str(other)]), 0)
        benchmark = evaluation.reopened(found.first)
        write_text(place, compared(found, Shower(benchmark, media.fetch), shown, made_by.line()))
        figures = {"made_by": made_by.plain(), **found.plain()}
        write_text(place.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")
        print(f"{label}: " * bool(label) + f"{found.line()}\n{place} shows where they differ")


def pareto(
    model: Model,
    benchmark: Benchmarks,
    measuring: Measured,
    longest: Sides = (),
    out: Out = None,
    tell: float = 0.5,
    shown: int = 300,
) -> None:
    """Score a benchmark against visual tokens: at several resolutions, with and without splitting.

    Writes a picture and a table of the scores, and a page of the questions on which splitting makes a difference.

    Examples:
      vlmlab pareto nano docvqa=datasets/DocVQA docvqa.limit=500
      vlmlab pareto HuggingFaceM4/idefics2-8b docvqa=datasets/DocVQA --longest 378 686 980

    Args:
        model: Whom to measure.
        benchmark: What to ask: one benchmark, LABEL=PATH, with more keys as LABEL.KEY=VALUE.
        longest: The most pixels along a picture's longer side.
        out: The folder to write.
        tell: A difference of interest: how many questions would be needed to tell it from nothing.
        shown: How many questions the page shows.
    """
    from vlmlab.evaluate import suite
    from vlmlab.evaluate.session import Session

    _check_page(shown, tell)
    asked = suite.parse(benchmark)
    if len(asked) != 1:
        raise ValueError(f"one benchmark at a time, not {', '.join(asked)}")
    session = Session(answerer(model, measuring), out or EVALUATIONS / suite.folder_name(model))
    with kept(session.out):
        for label, config in asked.items():
            session.pareto(label, config, longest, tell, shown)


def prefer(
    first: Annotated[Positional[str], arg(metavar="A")],
    second: Annotated[Positional[str], arg(metavar="B")],
    prompts: Annotated[Positional[str], arg(metavar="PROMPTS")],
    measuring: Measured,
    max_new_tokens: int = 256,
    judge: str = "judge",
    out: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: runs/prefer/A-B)")] = None,
    seed: int = 0,
    port: int = 0,
    only_result: bool = False,
    second_key_variable: Annotated[str, arg(metavar="VARIABLE", help_behavior_hint="(default: no key is sent)")] = "",
) -> None:
    """Let a person say which of two models answers better, without knowing which is which.

    Both answer the prompts; a page, served to this machine alone, shows the pairs shuffled and takes the votes. Stop it
    and say the same again to go on. At the end: how often B wins, and whether longer answers win.
    A line of PROMPTS is a JSON object with `question`, and `image` or `images` where there are any.

    Examples:
      vlmlab prefer nano runs/demo prompts.jsonl
      vlmlab prefer HuggingFaceM4/idefics2-8b HuggingFaceM4/idefics2-8b-chatty prompts.jsonl --judge anna
      vlmlab prefer nano runs/demo prompts.jsonl --only-result

    Args:
        first: A model: a folder, a run's, a name on the hub, nano, or ADDRESS#NAME.
        second: Another.
        prompts: What both are asked.
        max_new_tokens: The most tokens of an answer.
        judge: Who judges; several may, one after the other.
        out: The folder that keeps answers and votes.
        seed: Of the order in which pairs and sides come.
        port: Where the page is served (0: a free port).
        only_result: Say what the votes come to, and ask for none.
        second_key_variable: Of B at an address: the environment variable that holds the key.
    """
    from vlmlab.evaluate import suite
    from vlmlab.evaluate.preferring import Preferring

    folder = out or Path("runs/prefer") / f"{suite.folder_name(first)}-{suite.folder_name(second)}"
    other = dataclasses.replace(measuring, key_variable=second_key_variable)
    with kept(folder):
        sides = Preferring(prompts, folder, max_new_tokens, seed)
        found = sides.pairs(lambda: answerer(first, measuring), lambda: answerer(second, other))
        if not only_result:
            sides.judge(found, judge, port)
        sides.tell(found)


EVALUATING: dict[str, Callable[..., None]] = {
    "eval": evaluate,
    "compare": compare,
    "pareto": pareto,
    "prefer": prefer,
}


def _check_page(shown: int, tell: float = 0.5) -> None:
    """Raise ValueError, before anything is asked, for what a page cannot show or a comparison cannot tell."""
    if shown < 0:
        raise ValueError(f"--shown must be 0 or more, not {shown}")
    if not 0 < tell < math.inf:
        raise ValueError(f"--tell must be above 0, not {tell}")


def _common(first: Path, second: Path) -> dict[str, tuple[Path, Path]]:
    """Two evaluations, or those of the same label in two folders of them."""
    from vlmlab.evaluate.evaluation import CARD

    if (first / CARD).is_file() or (second / CARD).is_file():
        return {"": (first, second)}
    labels = sorted(
        place.parent.name for place in first.glob(f"*/{CARD}") if (second / place.parent.name / CARD).is_file()
    )
    if not labels:
        raise ValueError(f"{first} and {second} hold no evaluations of the same label; make them with vlmlab eval")
    return {label: (first / label, second / label) for label in labels}


@contextlib.contextmanager
def kept(out: Path) -> Iterator[None]:
    """Says, of answering that is interrupted, how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(130, f"interrupted; {out} keeps the answers: say the same again to go on") from None


def answerer(model: str, measuring: Measuring) -> "Answerer":
    """Whom a command names: a model here, or one at an address. Raises ValueError for what does not go together."""
    if measuring.rows < 1 or measuring.parallel < 1:
        raise ValueError("--rows and --parallel must be 1 or more")
    if model.startswith(ADDRESS):
        if measuring.adapter:
            raise ValueError("--adapter belongs to a model here, not to one at an address")
        from vlmlab.evaluate.served import Served

        address, _, served = model.partition("#")
        return Served(address, served, _secret(measuring.key_variable), measuring.parallel)
    if measuring.key_variable:
        raise ValueError(f"--key-variable belongs to an address; {model} is none")
    from vlmlab.evaluate.local import Local

    where = measuring.device or best_device()
    name, adapter = model_folder(model), adapter_folder(measuring.adapter)
    return Local(name, where, torch_dtype(measuring.dtype), adapter, measuring.rows)


def _secret(variable: str) -> str:
    if variable and not os.environ.get(variable):
        raise ValueError(f"--key-variable {variable}: the environment has no such variable")
    return os.environ[variable] if variable else ""
