"""`vlmlab eval` and `compare`: measuring a model. Whatever is heavy is imported inside them."""

import dataclasses
import os
from collections.abc import Callable
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


@dataclasses.dataclass(frozen=True)
class Measuring:
    """What every command that measures models has in common."""

    adapter: Annotated[str, arg(metavar="FOLDER|HUB-ID", help_behavior_hint="(default: none)")] = ""
    """An adapter to let act in the model, in PEFT's files."""
    served: Annotated[str, arg(metavar="NAME", help_behavior_hint="(needed for an address)")] = ""
    """Of a model at an address: its name there."""
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
    variant: str = "official",
    variants: bool = False,
    shown: int = 300,
) -> None:
    """Measure a model on benchmarks: scores with intervals, a card, and a page to look through the answers.

    MODEL is a folder, a run's, a name on the hub, nano, or the address of a server that speaks as OpenAI's does.
    A benchmark is LABEL=PATH, with more keys as LABEL.KEY=VALUE, or a TOML file of [benchmark.LABEL] tables.
    Answers are kept as they come: what was stopped, or is said again, asks only for those that are not known.

    Examples:
      vlmlab eval nano own=questions.jsonl
      vlmlab eval runs/demo docvqa=datasets/DocVQA textvqa=datasets/TextVQA textvqa.shots=4
      vlmlab eval HuggingFaceM4/idefics2-8b suite.toml --split on --variants
      vlmlab eval http://127.0.0.1:8000/v1 own=questions.jsonl --served idefics2-8b

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
        shown: How many questions the page shows, most of them wrong ones.
    """
    from vlmlab.evaluate import suite
    from vlmlab.evaluate.session import Manner, Session

    asked = suite.parse(benchmarks)
    for label, config in asked.items():
        suite.draws(label, config, draws)
    splits = {"auto": None, "on": True, "off": False}[split]
    manner = Manner(max_new_tokens, splits, longest, variant, variants, shown)
    session = Session(answerer(model, measuring), out or EVALUATIONS / suite.folder_name(measuring.served or model))
    try:
        for label, config in asked.items():
            session.measure(label, config, draws, manner)
    except KeyboardInterrupt:
        raise Stopped(130, f"interrupted; {session.out} keeps the answers: say the same again to go on") from None


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

    for label, (one, other) in _common(first, second).items():
        found = pairs.compare(evaluation.read(one), evaluation.read(other), tell)
        place = out.with_name(f"{out.stem}-{label}{out.suffix}") if label else out
        made_by = Origin.now(json.dumps([str(one), str(other)]), 0)
        benchmark = evaluation.reopened(found.first)
        write_text(place, compared(found, Shower(benchmark, media.fetch), shown, made_by.line()))
        figures = {"made_by": made_by.plain(), **found.plain()}
        write_text(place.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")
        print(f"{label}: " * bool(label) + f"{found.line()}\n{place} shows where they differ")


EVALUATING: dict[str, Callable[..., None]] = {"eval": evaluate, "compare": compare}


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


def answerer(model: str, measuring: Measuring) -> "Answerer":
    """Whom a command names: a model here, or one at an address. Raises ValueError for what does not go together."""
    if measuring.rows < 1 or measuring.parallel < 1:
        raise ValueError("--rows and --parallel must be 1 or more")
    if model.startswith(ADDRESS):
        if measuring.adapter:
            raise ValueError("--adapter belongs to a model here, not to one at an address")
        from vlmlab.evaluate.served import Served

        return Served(model, measuring.served, _secret(measuring.key_variable), measuring.parallel)
    if measuring.served or measuring.key_variable:
        raise ValueError(f"--served and --key-variable belong to an address; {model} is none")
    from vlmlab.evaluate.local import Local

    where = measuring.device or best_device()
    name, adapter = model_folder(model), adapter_folder(measuring.adapter)
    return Local(name, where, torch_dtype(measuring.dtype), adapter, measuring.rows)


def _secret(variable: str) -> str:
    if variable and not os.environ.get(variable):
        raise ValueError(f"--key-variable {variable}: the environment has no such variable")
    return os.environ[variable] if variable else ""
