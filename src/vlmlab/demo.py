"""What `vlmlab demo`, `train` and `look` do, step by step, told as it goes.

A demo leaves in its folder, beside what every run leaves (see `vlmlab.train.run`):

    scores.json                  the ten-way score before and after    samples.html   what the model was shown
    answers.html, answers.json   what it says of held-out pictures
"""

import contextlib
import dataclasses
import io
import json
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape as quoted
from rich.padding import Padding

from vlmlab import component
from vlmlab.batch import Sample
from vlmlab.data.look import Reader, spell
from vlmlab.data.look import look as look_page
from vlmlab.data.mixture import Mixture
from vlmlab.evaluate import answers, ten_way
from vlmlab.evaluate.held_out import HeldOut, held_out, score, watch
from vlmlab.generate.engine import Engine
from vlmlab.model.nf4 import NF4
from vlmlab.processor.processor import Learn
from vlmlab.train import checkpoint, run
from vlmlab.train import recipe as recipes
from vlmlab.train.log import METRICS, PICTURE
from vlmlab.train.optimizer import freeze
from vlmlab.train.origin import Origin
from vlmlab.train.parallel import joined
from vlmlab.train.recipe import RESOLVED, Recipe
from vlmlab.train.run import ADAPTER, MODEL, Run
from vlmlab.writing import alone, write_text

RECIPE = Path(__file__).parents[2] / "recipes" / "nano" / "demo.toml"
SAMPLES, SCORES, ANSWERS, PAGE = "samples.html", "scores.json", "answers.json", "answers.html"
ASKED, LONGEST = 12, 24


class Steps:
    """Headings with a count, and how long each step took."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.total, self.done = total, 0
        self.started = time.monotonic()

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """One step: its heading before, its time after."""
        self.done += 1
        began = time.monotonic()
        self.console.print(f"\n[bold]{self.done}/{self.total}  {quoted(what)}[/]")
        yield
        self.console.print(f"[dim]     {time.monotonic() - began:.0f} s[/]")

    def say(self, text: str) -> None:
        """A line of a step, as it stands."""
        self.console.print(f"     {quoted(text)}")


def train(recipe: Recipe, folder: Path, resume: bool, device: str) -> None:
    """Train a recipe into a run's folder, with the score of its held-out pictures where it asks for one.

    Under torchrun, every process does; the first writes and speaks. Raises what `run.build` and `fit` raise.
    """
    with joined(device) as team, contextlib.ExitStack() as ends:
        team.led(lambda: ends.enter_context(alone(folder)))
        steps = Steps(3 if recipe.score is None else 4, None if team.leads else Console(quiet=True, file=io.StringIO()))
        team.led(lambda: run.begin(folder, recipe, resume))
        origin = Origin.now(recipe.text(), recipe.seed)
        with steps.step("Get the model"):
            spreads = recipe.stage.shard and not team.alone
            made = run.build(recipe, "cpu" if spreads else device or (run.device() if team.alone else str(team.device)))
            _tell_parts(made, steps)
        held = held_out(made)
        with steps.step("Show what it will read"):
            if team.leads:
                write_samples(made, folder / SAMPLES, 8, origin)
            steps.say(f"{folder / SAMPLES}")
        with steps.step(f"Train: {_aim(recipe)}"):
            made = run.train(made, folder, origin, resume, watch(made), team)
            steps.say(f"{folder / MODEL}  {folder / PICTURE}")
        held = held_out(made) if spreads else held
        if held and team.leads:
            with steps.step("Score it on held-out pictures"):
                _write_json(folder / SCORES, origin, {"after": _scored(made, held, steps)})


def look(recipe: Recipe, count: int, out: Path) -> int:
    """Write the page of `count` samples spread over a recipe's source. Returns how many it shows."""
    return write_samples(run.build(recipe), out, count, Origin.now(recipe.text(), recipe.seed))


def demo(folder: Path, overrides: Sequence[str] = (), fresh: bool = False) -> None:
    """Train the demo's model and show what it learned; see the module. One that was stopped goes on.

    Raises what `run.build` and `fit` raise.
    """
    if not RECIPE.is_file():
        raise ValueError(f"{RECIPE} is missing: run the demo from a clone of the repository (make demo)")
    recipe = recipes.load(RECIPE, overrides)
    with alone(folder):
        _demo(recipe, folder, fresh)


def _demo(recipe: Recipe, folder: Path, fresh: bool) -> None:
    origin = Origin.now(recipe.text(), recipe.seed)
    steps = Steps(6)
    steps.console.print(f"[bold]vlmlab demo[/]: a model learns to see. Everything lands in {quoted(str(folder))}")
    resume = _ready(folder, recipe, fresh, steps)
    with steps.step("Get two pretrained backbones and join them"):
        made = run.build(recipe, run.device())
        _tell_parts(made, steps)
    if len(found := held_out(made)) != 1:
        raise ValueError("the demo is of one source of titled pictures, with a [score]: vlmlab train takes any recipe")
    (held,) = found.values()
    with steps.step("Show what it will read"):
        write_samples(made, folder / SAMPLES, 8, origin)
        steps.say(
            f"{len(made.source)} pictures with titles to learn from, {len(held.samples)} held out: {folder / SAMPLES}"
        )
    with steps.step("Score it untrained"):
        before = _score_before(folder) or dataclasses.replace(score(made, held), choices=())
        _write_json(folder / SCORES, origin, {"before": component.plain(before)})
        steps.say(
            f"{before.accuracy.value:.1%} right among {before.candidates} titles (chance: {1 / before.candidates:.0%})"
        )
    with steps.step(f"Train: {_aim(recipe)}"):
        run.train(made, folder, origin, resume, watch(made))
        steps.say(f"{folder / MODEL}  {folder / PICTURE}")
    with steps.step("Score it again"):
        after = score(made, held)
        both = {"before": before, "after": after}
        steps.console.print(Padding(ten_way.table(both), (0, 0, 0, 5)))
        _write_json(folder / SCORES, origin, {name: component.plain(result) for name, result in both.items()})
    with steps.step("Ask it about pictures it has never seen"):
        shown = ask(made, held, after, recipe.seed)
        for item in shown:
            steps.say(f"{item.title:36.36} -> {item.answer:.60}")
        _write_json(folder / ANSWERS, origin, {"answers": [item.plain() for item in shown]})
        write_text(folder / PAGE, answers.page(shown, before, after, origin.line()))
    _tell_end(folder, steps)


def write_samples(made: Run, out: Path, count: int, origin: Origin) -> int:
    """Write the page of `count` samples spread evenly over a run's sources. Returns how many it shows."""
    if count < 1:
        raise ValueError(f"the count of samples must be 1 or more, not {count}")
    processor = made.processor
    chosen = _spread(made, count)
    learns = {id(sample): learn for _, sample, learn in chosen}
    reader = Reader(
        process=lambda sample: made.process(sample, learns[id(sample)]),
        spell=lambda number: spell(processor.tokenizer, number),
        placeholders=made.model.placeholders,
        image_token=processor.image_id,
        mean=processor.config.mean,
        std=processor.config.std,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    samples = [(name, sample) for name, sample, _ in chosen]
    write_text(out, look_page(samples, reader, f"Samples of {made.recipe.data.name}", origin.line()))
    return len(chosen)


def _spread(made: Run, count: int) -> list[tuple[str, Sample, Learn]]:
    """Samples with their names, spread evenly over a source, or over each of a mixture; and what is learned of them."""
    stock = made.stock()
    found: list[tuple[str, Sample, Learn]] = []
    for number, (name, shelf) in enumerate(stock.items()):
        own = count * (number + 1) // len(stock) - count * number // len(stock)
        source = shelf.source
        places = sorted({at * len(source) // own for at in range(min(own, len(source)))})
        before = f"{name}, " if len(stock) > 1 else ""
        found += [(f"{before}sample {index}", source[index], shelf.learn) for index in places]
    return found


def ask(made: Run, held: HeldOut, result: ten_way.TenWay, seed: int) -> list[answers.Shown]:
    """What the model says of a few held-out pictures, with the choice it made among their ten titles."""
    chosen = sorted(random.Random(seed).sample(result.choices, min(ASKED, len(result.choices))), key=lambda c: c.index)
    asked = [question(held.pictures[choice.index]) for choice in chosen]
    said = Engine(made.model, made.processor).generate(asked, max_new_tokens=LONGEST)
    return [
        answers.Shown(held.pictures.pair(choice.index).picture, choice, text.strip())
        for choice, text in zip(chosen, said, strict=True)
    ]


def question(sample: Sample) -> Sample:
    """A sample without its last answer."""
    return Sample(
        sample.messages[:-1] if sample.messages[-1].role in ("assistant", "continuation") else sample.messages
    )


def _ready(folder: Path, recipe: Recipe, fresh: bool, steps: Steps) -> bool:
    """Make the folder ready: for going on with a demo that was stopped (True), or for a new one."""
    before = checkpoint.latest(folder)
    stopped = before is not None and before.step < recipe.stage.steps
    if stopped and not fresh:
        try:
            run.begin(folder, recipe, resume=True)
            assert before is not None
            steps.console.print(f"One was stopped there after step {before.step}: it goes on. (--fresh starts over.)")
            return True
        except ValueError:
            steps.console.print("One was stopped there, of another recipe: starting over.")
    elif before is not None:
        steps.console.print("There was one before: starting over.")
    for name in (RESOLVED, METRICS, PICTURE, SAMPLES, SCORES, ANSWERS, PAGE):
        (folder / name).unlink(missing_ok=True)
    for name in (MODEL, ADAPTER, checkpoint.home(folder).name):
        shutil.rmtree(folder / name, ignore_errors=True)
    run.begin(folder, recipe, resume=False)
    return False


def _score_before(folder: Path) -> ten_way.TenWay | None:
    """The score that a demo which was stopped had already found."""
    path = folder / SCORES
    if not path.is_file():
        return None
    return component.parse(ten_way.TenWay, json.loads(path.read_text(encoding="utf-8"))["before"])


def _scored(made: Run, held: Mapping[str, HeldOut], steps: Steps) -> dict[str, Any]:
    """The score, written out; of a mixture, that of each of its sources by its name."""
    found = {name: score(made, each) for name, each in held.items()}
    several = isinstance(made.source, Mixture)
    for name, each in found.items():
        steps.console.print(ten_way.table({name if several else "after": each}))
    plain = {name: component.plain(each) for name, each in found.items()}
    return plain if several else dict(next(iter(plain.values())))


def _tell_parts(made: Run, steps: Steps) -> None:
    stage = made.recipe.stage
    freeze(made.model, stage)
    for name, parameters in made.model.parts().items():
        learns = sum(p.numel() for p in parameters if p.requires_grad)
        packed = sum(m.codes.numel() * 2 for m in made.model.get_submodule(name).modules() if isinstance(m, NF4))
        count = sum(p.numel() for p in parameters) + packed
        if count:
            state = "learns" if name in stage.train else "stays as it is"
            if name in stage.adapters:
                config = stage.adapters[name]
                how = {"lora": "LoRA", "dora": "DoRA"}[config.kind]
                state = f"learns {learns / 1e6:.1f} M of them, {how} of rank {config.rank}"
            shown = f"{count / 1e6:6.1f} M" if count >= 1e5 else f"{count:8,}"
            steps.say(f"{name:10} {shown} parameters, {state}")


def _aim(recipe: Recipe) -> str:
    parts = ", ".join([*recipe.stage.train, *recipe.stage.adapters])
    return f"{parts}, {recipe.stage.steps} steps of {recipe.stage.batch} samples (Ctrl-C saves and stops)"


def _write_json(path: Path, origin: Origin, values: dict[str, Any]) -> None:
    write_text(path, json.dumps({"made_by": origin.plain(), **values}, indent=1, ensure_ascii=False) + "\n")


def _tell_end(folder: Path, steps: Steps) -> None:
    took = time.monotonic() - steps.started
    steps.console.print(f"\n[bold]Done in {took // 60:.0f} min {took % 60:.0f} s.[/] Open these in a browser:")
    for name, what in ((PAGE, "what it answers"), (SAMPLES, "what it was shown"), (PICTURE, "how the loss fell")):
        steps.console.print(f"  {quoted(str(folder / name)):28} {what}")
    steps.console.print('Then: vlmlab complete "<image>" PICTURE, vlmlab export ' + quoted(f"{folder} OUT"))
