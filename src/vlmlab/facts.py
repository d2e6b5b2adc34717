"""`vlmlab info`: what a model is made of, what a picture becomes in it, and what a batch costs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from vlmlab.hub.load import locate, read_config, read_model, read_processor
from vlmlab.model.count import Report, count, measure
from vlmlab.model.meta import without_memory
from vlmlab.model.vlm import VLM, VLMConfig
from vlmlab.processor.processor import Config as ProcessorConfig
from vlmlab.train import recipe as recipes

SETTINGS = ("*.json", "*.toml")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What to predict for: `batch` documents of `text` tokens with `images` pictures of `size` (width, height) each."""

    size: tuple[int, int]
    images: int = 1
    text: int = 64
    batch: int = 1
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"

    @property
    def numbers(self) -> torch.dtype:
        """The dtype by its name."""
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.dtype]


def tell(what: str, overrides: Sequence[str], asked: Asked, measured: bool, device: str = "cpu") -> None:
    """Print the facts of a recipe, a model's folder, or a model on the hub (of which only settings are fetched).

    Raises ValueError when it is none of these.
    """
    model, processor, folder = describe(what, overrides)
    with without_memory():
        built = VLM(model).to(asked.numbers)
    pieces = processor.images.build().plan(*asked.size)
    grids = [(height // processor.patch, width // processor.patch) for _, (width, height) in pieces] * asked.images
    report = count(built, grids, asked.text, asked.batch)
    if measured:
        real = VLM(model) if folder is None else read_model(folder)
        report = measure(real.to(device, asked.numbers), report)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{what}[/]: {' + '.join(_name(model, part.name) for part in report.parts)}\n")
    console.print(parts_table(report))
    console.print()
    for line in lines(report, asked):
        console.print(line)


def describe(what: str, overrides: Sequence[str]) -> tuple[VLMConfig, ProcessorConfig, Path | None]:
    """The configs of a model, and the folder of its weights where it has one here."""
    path = Path(what).expanduser()
    if path.is_file():
        recipe = recipes.load(path, overrides)
        if recipe.start.model is None:
            assert recipe.model is not None and recipe.processor is not None
            return recipe.model, recipe.processor, None
        model, processor, folder = describe(recipe.start.model, ())
        return model, recipe.processor or processor, folder
    if overrides:
        raise ValueError(f"{what} is a model, not a recipe: its keys cannot be changed ({overrides[0]})")
    folder = locate(path) if path.is_dir() else _settings(what)
    model = read_config(folder)
    with without_memory():
        empty = VLM(model)
    return model, read_processor(folder, empty).config, folder


def _settings(name: str) -> Path:
    """The settings of a model on the hub, without its weights. Raises ValueError when there is no such model."""
    import huggingface_hub
    from huggingface_hub import errors

    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ValueError(f"{name} is no recipe, no folder, and no hub id such as HuggingFaceM4/idefics2-8b")
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(SETTINGS)))
    except (OSError, errors.HfHubHTTPError, errors.HFValidationError) as error:
        told = str(error).splitlines()[0][:200]
        raise ValueError(f"{name} is no recipe and no folder here, and the hub did not give it ({told})") from None


def parts_table(report: Report) -> Table:
    """The parts, a row each, and their sum."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("part")
    for name in ("parameters", "tensors", "share", "reading", "one token"):
        table.add_column(name, justify="right")
    rows = [(p.name, p.parameters, p.tensors, p.prefill, p.step) for p in report.parts if p.parameters or p.prefill]
    rows.append(("all", report.parameters, report.tensors, report.prefill, report.step))
    for name, parameters, tensors, prefill, step in rows:
        share = f"{100 * parameters / report.parameters:.1f} %"
        table.add_row(name, f"{parameters:,}", str(tensors), share, _flops(prefill), _flops(step))
    return table


def lines(report: Report, asked: Asked) -> list[str]:
    """What a picture becomes, and what the batch costs: predicted, and measured where it was."""
    width, height = asked.size
    each = len(report.grids) // max(asked.images, 1)
    grids = ", ".join(f"{columns} x {rows}" for rows, columns in report.grids[:each])
    pictures = f"{asked.images} picture{'s' * (asked.images != 1)}"
    told = [
        f"a picture of {width} x {height}: {grids} patches, {sum(report.visual[:each])} visual tokens",
        f"a batch: {report.batch} x {report.tokens} tokens (each {pictures} and {report.text} of text)",
        f"memory, {report.dtype}: weights {_bytes(report.weights)}, cache {_bytes(report.cache)}, "
        f"activations {_bytes(report.activations)} at most",
        f"new parameters, trained from nothing: {report.new:,} ({100 * report.new / report.parameters:.1f} %)",
    ]
    found = report.measured
    if found is not None:
        told += [
            f"measured on {found.device}: reading {found.prefill_seconds:.3f} s "
            f"({_flops(round(found.prefill / found.prefill_seconds))}/s), one token {1000 * found.step_seconds:.1f} ms",
            f"  counted while it ran: reading {_flops(found.prefill)}, one token {_flops(found.step)}, "
            f"activations {_bytes(found.activations)}",
        ]
    return told


def _name(model: VLMConfig, part: str) -> str:
    return {
        "vision": model.vision.name,
        "connector": model.connector.name,
        "language": model.language.name,
        "fusion": model.fusion.name,
    }[part]


def _flops(count: int) -> str:
    if count >= 1e11:
        return f"{count / 1e12:.2f} TFLOP"
    return f"{count / 1e9:.2f} GFLOP" if count >= 1e8 else f"{count / 1e6:.2f} MFLOP"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
