"""`vlmlab plan`: what a recipe will take, before it runs; and after a run, by how much that was wrong."""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from vlmlab.commands import Device, Overrides

if TYPE_CHECKING:
    from rich.table import Table

    from vlmlab.model.vlm import VLM
    from vlmlab.processor.processor import Config, Processor
    from vlmlab.train.plan import Plan
    from vlmlab.train.recipe import Recipe

PEAKS = {
    "h200": 989.0,
    "h100": 989.0,
    "a100": 312.0,
    "l40s": 362.0,
    "rtx4090": 165.0,
    "a10": 125.0,
    "v100": 125.0,
    "t4": 65.0,
}
"""TFLOP a second of dense products in 16 bits, as their makers' data sheets give them (without sparsity)."""

REACHED = 0.4
"""The share of a data sheet's peak that a training step is taken to reach."""


def plan(
    what: Annotated[Positional[str], arg(metavar="RECIPE|RUN")],
    overrides: Overrides,
    on: Annotated[str, arg(metavar="DEVICE", help_behavior_hint="(default: measured here)")] = "",
    peak: float = 0.0,
    share: float = 0.0,
    devices: int = 1,
    probe: int = 16,
    device: Device = "",
) -> None:
    """Predict what training a recipe takes: memory and speed of each part, what a step reads, steps, epochs, time.

    Corpora whose files are not here are counted by what is published of them. For a run's folder, the prediction stands
    beside what was measured.

    Examples:
      vlmlab plan recipes/idefics2/1-pretrain.toml --on h100 --devices 64
      vlmlab plan recipes/nano/1-pretrain.toml
      vlmlab plan runs/nano/1-pretrain

    Args:
        what: A recipe, or a run's folder.
        overrides: Keys of the recipe to change, by their path.
        on: A device with a known peak: a10, a100, h100, h200, l40s, rtx4090, t4, v100.
        peak: TFLOP a second of another device.
        share: How much of the peak a step reaches (0: 0.4, or all of what is measured here).
        devices: How many of them; with stage.shard, they share the weights.
        probe: How many samples of each source to read.
        device: Where to measure, when no other is named.
    """
    from rich.console import Console

    from vlmlab.train import means as measuring
    from vlmlab.train import plan as planning
    from vlmlab.train import recipe as recipes

    if probe < 1 or devices < 1 or min(peak, share) < 0:
        raise ValueError("--probe and --devices must be 1 or more, --peak and --share not negative")
    run = Path(what) if (Path(what) / "recipe.toml").is_file() else None
    path = Path(what) / "recipe.toml" if run else Path(what)
    recipe = recipes.load(path, overrides)
    model, config, processor, whose = _model(path, recipe)
    speed, told = _speed(on, peak, share, device, devices)
    found = planning.plan(recipe, model.config, measuring.means(recipe, model, config, processor, probe), devices)
    console = Console(highlight=False, soft_wrap=True, width=120)
    if whose:
        console.print(f"The model is that of {whose}.\n")
    console.print(_sources(found))
    console.print()
    console.print(_parts(found, speed))
    console.print()
    for line in (*_said(recipe, found, speed, devices), told):
        console.print(line)
    if run is not None:
        console.print()
        console.print(_compared(run, found, speed))


def _model(path: Path, recipe: "Recipe") -> "tuple[VLM, Config, Processor | None, str]":
    """The model without memory, how pictures are read, and the processor where its tokenizer is here.

    Where the stage before has not run yet, its recipe stands for it: the file of that name beside this one.
    """
    from vlmlab import facts
    from vlmlab.hub.settings import read_tokenizer
    from vlmlab.model.meta import without_memory
    from vlmlab.model.vlm import VLM
    from vlmlab.processor.processor import Processor
    from vlmlab.train import recipe as recipes

    start, whose, before = recipe.start, "", recipe
    while start.model is not None and not Path(start.model).is_dir():
        beside = path.parent / f"{Path(start.model).parent.name}.toml"
        if not beside.is_file():
            break
        whose, before = str(beside), recipes.load(beside)
        start = before.start
    if before.model is not None and before.processor is not None:
        config, told, folder = before.model, before.processor, _tokens_of(before)
    else:
        assert start.model is not None
        config, told, folder = facts.describe(start.model, ())
    with without_memory():
        model = VLM(config)
    picked = recipe.processor or told
    if folder is None:
        return model, picked, None, whose
    from vlmlab.hub.assemble import special_tokenizer

    tokenizer = read_tokenizer(folder) if before.model is None else special_tokenizer(folder)
    return model, picked, Processor(picked, tokenizer, model.placeholders, config.language.vocabulary), whose


def _tokens_of(recipe: "Recipe") -> Path | None:
    """The folder with the tokenizer of a recipe that starts from backbones, where it is here."""
    from vlmlab.hub.backbones import get_nano
    from vlmlab.train.run import NANO

    language = recipe.start.language
    if language == NANO:
        return get_nano().language
    if language is not None and Path(language).is_dir():
        return Path(language)
    tokens = recipe.start.tokenizer
    return Path(tokens).parent if tokens is not None and Path(tokens).name == "tokenizer.json" else None


def _speed(on: str, peak: float, share: float, device: str, devices: int) -> tuple[float, str]:
    """FLOPs a second, and what is said of them."""
    import difflib

    import torch

    from vlmlab.train import plan as planning
    from vlmlab.train import run

    many = f"{devices} x " if devices > 1 else ""
    if on or peak:
        if on and on.lower() not in PEAKS:
            near = difflib.get_close_matches(on.lower(), PEAKS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(PEAKS)}"
            raise ValueError(f"no peak is known of {on!r}; {hint} Or give --peak, in TFLOP/s")
        most, part = peak or PEAKS[on.lower()], share or REACHED
        return (
            most * 1e12 * part * devices,
            f"on {many}{on or 'a device'} of {most:g} TFLOP/s, {part:.0%} of it reached",
        )
    where = torch.device(device or run.device())
    most = planning.reached(where)
    part = share or 1.0
    return most * part * devices, f"on {many}{where}: {most / 1e12:.3f} TFLOP/s measured here, {part:.0%} of it reached"


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _sources(found: "Plan") -> "Table":
    """What a step takes from each source."""
    table = _table("a step", "samples", "rows", "pictures", "text tokens", "learned", "epochs")
    rows: list[tuple[str, Any]] = [(flow.name, flow) for flow in found.flows]
    for name, flow in rows:
        values = (flow.samples, flow.rows, flow.images, flow.text, flow.learned)
        table.add_row(
            name, *(f"{value:,.0f}" if value >= 10 else f"{value:.2f}" for value in values), f"{flow.epochs:.2f}"
        )
    sums = (found.of(key) for key in ("samples", "rows", "images", "text", "learned"))
    table.add_row("all", *(f"{value:,.0f}" for value in sums), "")
    return table


def _parts(found: "Plan", speed: float) -> "Table":
    """Memory and speed of each part."""
    table = _table("a part", "weights", "gradients", "optimizer", "activations", "work a step", "reads alone")
    for part in found.parts:
        if not part.memory and not part.work:
            continue
        memory = (part.weights, part.gradients, part.optimizer, part.activations)
        unit = "tokens" if part.name in ("language", "fusion") else "patches"
        rate = f"{part.units * speed / part.work:,.0f} {unit}/s" if part.work else "seen once"
        table.add_row(part.name, *map(_gigabytes, memory), _work(part.work), rate)
    sums = [sum(getattr(part, key) for part in found.parts) for key in ("weights", "gradients", "optimizer")]
    kept = sum(part.activations for part in found.parts)
    table.add_row("all", *map(_gigabytes, (*sums, kept)), _work(found.work), "")
    return table


def _said(recipe: "Recipe", found: "Plan", speed: float, devices: int) -> list[str]:
    """The sums, in words."""
    steps, seconds = recipe.stage.steps, found.seconds(speed)
    total = found.work * steps + found.once
    rows = found.of("rows")
    lines = list(dict.fromkeys(f"  {flow.name}: {flow.mean.told}" for flow in found.flows))
    lines = lines if len(lines) <= 12 else [*lines[:3], f"  ... {len(lines)} sources"]
    memory = sum(part.memory for part in found.parts)
    spread = recipe.stage.shard and devices > 1
    holds = f"each of {devices} devices that share it" if spread else "a device that holds all of it"
    return [
        f"a step: {found.of('images'):,.0f} pictures, {found.of('text'):,.0f} text tokens, {rows:,.0f} rows "
        f"(for 2,048 rows: stage.batch = {recipe.stage.batch * 2048 / rows:,.0f})",
        *lines,
        f"all {steps:,} steps: {found.of('samples') * steps:,.0f} samples, {found.of('images') * steps:,.0f} pictures, "
        f"{found.of('text') * steps:,.0f} text tokens, {_work(total)}",
        f"memory of {holds}: {_gigabytes(memory)}",
        f"time: {seconds:.2f} s a step, {found.of('tokens') / seconds:,.0f} tokens/s, {_long(seconds * steps)} in all",
    ]


def _compared(run: Path, found: "Plan", speed: float) -> "Table":
    """What was predicted of a run's steps beside what its metrics say."""
    from vlmlab.train.log import METRICS, read_metrics

    steps = [record for record in read_metrics(run) if record["kind"] == "step"]
    if not steps:
        raise ValueError(f"{run / METRICS} has no steps yet: nothing was measured")
    table = _table(f"of {len(steps)} steps", "predicted", "measured", "error")
    memory = sum(part.memory for part in found.parts)
    wanted = {
        "samples": found.of("samples"),
        "tokens": found.of("tokens"),
        "learned_tokens": found.of("learned"),
        "images": found.of("images"),
        "memory": memory,
        "seconds": found.seconds(speed),
    }
    for key, value in wanted.items():
        told = [float(record[key]) for record in steps if key in record]
        if told:
            # A step now and then reads what others need later, or saves: the middle one is like most.
            real = statistics.median(told) if key == "seconds" else statistics.fmean(told)
            shown = [f"{number:,.0f}" if number >= 100 else f"{number:.2f}" for number in (value, real)]
            table.add_row(key.replace("_", " "), *shown, f"{(value - real) / real:+.1%}")
    return table


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


def _work(count: float) -> str:
    for size, name in ((1e21, "ZFLOP"), (1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP")):
        if count >= size:
            return f"{count / size:.2f} {name}"
    return f"{count / 1e9:.2f} GFLOP"


def _long(seconds: float) -> str:
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"
