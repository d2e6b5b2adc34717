"""`vlmlab bias` and `redteam`: what a model says of people, and what it can be led to. Heavy imports stand inside."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from vlmlab.commands import Words
from vlmlab.eval_command import Measured, Out, answerer, kept

if TYPE_CHECKING:
    from vlmlab.batch import Picture, Sample
    from vlmlab.evaluate.bias.report import Said
    from vlmlab.evaluate.redteam.cases import Attempt
    from vlmlab.evaluate.redteam.outcomes import Tried

Folder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: none)")]

HEAT = 0.7
"""The temperature of attempts that are repeated."""


def bias(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    portraits: Annotated[Positional[str], arg(metavar="PORTRAITS")],
    measuring: Measured,
    out: Out = None,
    split: str = "",
    limit: int = 0,
    max_new_tokens: int = 256,
    toxicity: Folder = None,
    label: str = "",
) -> None:
    """Compare what a model says of groups of people, as Idefics2's card does; words are held against chance.

    PORTRAITS is a file, folder or pattern in FairFace's or Stable Bias's layout. Each is shown with three prompts.
    Answers are kept as they come: what was stopped goes on. See docs/bias.md.

    Examples:
      vlmlab bias nano 'datasets/FairFace/0.25/validation-*.parquet' --limit 2000
      vlmlab bias HuggingFaceM4/idefics2-8b 'stable-bias/*.parquet' --toxicity toxic-bert

    Args:
        model: Whom to ask.
        portraits: Pictures of people, with the groups they were ascribed to.
        out: The folder to write.
        split: What {split} in PORTRAITS stands for.
        limit: How many portraits, spread evenly (0: all).
        max_new_tokens: The most tokens of an answer.
        toxicity: A text classifier in ONNX.
        label: What its class of toxic texts is called, where it is not called toxic.
    """
    from vlmlab.evaluate import suite
    from vlmlab.evaluate.answering import Writing
    from vlmlab.evaluate.bias import PROMPTS, run
    from vlmlab.evaluate.bias.portraits import Portraits
    from vlmlab.evaluate.bias.toxicity import Toxicity
    from vlmlab.evaluate.known import Known
    from vlmlab.train.log import Meter

    people = Portraits(portraits, split, limit)
    judge = None if toxicity is None else Toxicity(toxicity, label)
    folder = out or Path("runs/bias") / suite.folder_name(model)
    with kept(folder), Known(folder / "known.jsonl") as known, Meter("answers", len(people) * len(PROMPTS)) as meter:
        said = run.ask(people, answerer(model, measuring), Writing(max_new_tokens), known, meter.advance)
    if judge is not None:
        said = run.judged(said, judge)
    asked = f"{len(people)} portraits, three prompts each, up to {max_new_tokens} tokens, greedily."
    _tell(said, f"# What {model} says of people\n\n{asked}\n", [model, portraits, split, limit], folder)


def _tell(said: Sequence["Said"], head: str, asked: list[str | int], folder: Path) -> None:
    """Write the page and every answer; print a line for each comparison."""
    import dataclasses
    import json

    from vlmlab.evaluate.bias.report import findings, markdown, plain
    from vlmlab.train.origin import Origin
    from vlmlab.writing import write_text

    found = findings(said)
    made_by = Origin.now(json.dumps(asked), 0)
    write_text(folder / "bias.md", f"{head}\n{markdown(found, said)}\n{made_by.line()}\n")
    told = {"made_by": made_by.plain(), "findings": plain(found), "answers": [dataclasses.asdict(one) for one in said]}
    write_text(folder / "bias.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    for one in found:
        print(f"{one.prompt}, by {one.kind}: {len(one.beyond_chance)} of {len(one.terms)} words beyond chance")
    print(f"{folder / 'bias.md'} tells them; {folder / 'bias.json'} holds every answer")


def redteam(
    model: Annotated[Words, arg(metavar="[MODEL]", help_behavior_hint="")],
    measuring: Measured,
    out: Out = None,
    pictures: Folder = None,
    cases: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: those that are shipped)")] = None,
    max_new_tokens: int = 256,
    score: Annotated[Path | None, arg(metavar="SHEET", help_behavior_hint="(default: ask the model)")] = None,
) -> None:
    """Try to lead a model to what it should not do: behaviours that Idefics2's card names. A person judges the answers.

    Leaves a sheet, outcomes.csv, whose column `outcome` a reviewer fills; with --score it is summed up.

    Examples:
      vlmlab redteam nano --pictures portraits --out runs/redteam
      vlmlab redteam --score runs/redteam/outcomes.csv

    Args:
        model: Whom to ask.
        out: The folder to write.
        pictures: A folder with subfolders named after the kinds of pictures that cases ask for, such as portrait.
        cases: A file of cases.
        max_new_tokens: The most tokens of an answer.
        score: A sheet that a reviewer has filled.
    """
    from vlmlab.evaluate.redteam import cases as sets
    from vlmlab.evaluate.redteam import run

    chosen = sets.read(cases or sets.SHIPPED)
    if score is not None:
        _sum_up(score)
        return
    if len(model) != 1:
        raise ValueError("name one model to ask, or a sheet: vlmlab redteam nano, or --score outcomes.csv")
    shown = run.made() | (run.given(pictures) if pictures is not None else {})
    missing = sorted({case.picture for case in chosen.case} - shown.keys())
    if missing:
        print(f"left out, for want of pictures: cases with a {', a '.join(missing)} (see --pictures)")
    attempts = sets.attempts(chosen.case, {kind: len(some) for kind, some in shown.items()})
    if not attempts:
        raise ValueError("no case is left to try: give --pictures a folder of them")
    _try(model[0], attempts, shown, measuring, out, max_new_tokens)


def _try(
    model: str,
    attempts: Sequence["Attempt"],
    shown: Mapping[str, Sequence["Picture"]],
    measuring: Measured,
    out: Path | None,
    max_new_tokens: int,
) -> None:
    from vlmlab.evaluate import suite
    from vlmlab.evaluate.answering import Job, Writing, key, sample_plain
    from vlmlab.evaluate.known import Known
    from vlmlab.evaluate.redteam import outcomes, run
    from vlmlab.train.log import Meter
    from vlmlab.writing import write_text

    folder = out or Path("runs/redteam") / suite.folder_name(model)
    sheet = folder / "outcomes.csv"
    if sheet.exists() and _filled(sheet):
        raise ValueError(
            f"{sheet} has outcomes that a reviewer wrote: sum them up with --score, or choose another --out"
        )
    whom = answerer(model, measuring)
    with kept(folder), Known(folder / "known.jsonl") as known, Meter("attempts", len(attempts)) as meter:

        def answer(sample: "Sample", draw: int) -> str:
            writing = Writing(max_new_tokens, temperature=HEAT if draw else None, seed=draw or None)
            place = key(whom.identity(), writing, sample_plain(sample))
            if place not in known.replies:
                for _, reply in whom.answers([Job(0, "of an attempt", sample)], writing):
                    known.add(place, reply)
            reply = known.replies[place]
            if reply.error:
                raise ValueError(f"{whom.name}: {reply.error}")
            return reply.text

        tried: list[Tried] = []
        for one in run.try_all(attempts, shown, answer):
            tried.append(one)
            meter.advance(1)
    write_text(sheet, outcomes.to_csv(tried))
    print(f"{sheet} has {len(tried)} attempts: fill its column `outcome`, then vlmlab redteam --score {sheet}")


def _filled(sheet: Path) -> bool:
    """Whether a reviewer has written into a sheet. Raises ValueError naming one that cannot be read."""
    from vlmlab.data.files import naming
    from vlmlab.evaluate.redteam import outcomes

    text = outcomes.read(sheet)
    with naming(str(sheet)):
        return bool(outcomes.read_outcomes(text))


def _sum_up(sheet: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from vlmlab.data.files import naming
    from vlmlab.evaluate.redteam import outcomes

    text = outcomes.read(sheet)
    with naming(str(sheet)):
        rows = outcomes.table_of(text)
    if not rows:
        raise ValueError(f"{sheet}: no outcome is filled in; write one of {', '.join(outcomes.OUTCOMES)}")
    table = Table("behaviour", "form", "decided", *outcomes.OUTCOMES, title="Outcomes, with 95 % intervals")
    for row in rows:
        shares = (f"{e.value:.0%} [{e.low:.0%}, {e.high:.0%}]" for e in row.shares.values())
        table.add_row(row.behaviour, row.form, f"{row.decided} of {row.attempts}", *shares)
    Console().print(table)


SAFETY: dict[str, Callable[..., None]] = {"bias": bias, "redteam": redteam}
