"""The model card's table of optimizations, row by row, on full-size random weights: ours and transformers' in one run.

    python benchmarks/card.py          # needs a GPU with 60 GB; --only ours or peer, --like nf4 for parts
    python benchmarks/card.py --tiny   # a tiny model, on the CPU where there is no GPU: shows that it runs

Each row of the card (attention, splitting, kind of numbers, four bits) has its figures (in GB and seconds for 20
generations, on an A100) beside ours and those of transformers. Then the same at `longest_edge` 448, and in float32.
"No" under flash is transformers' eager attention and our dense one; "yes" is flash_attention_2 where it is installed
(else torch's fused one, and the row says so) and our varlen kernel.

Four bits of ours: NF4 of the entire model; int4 in AWQ's layout of the language model, whose weights are unpacked for
each product (the card's AWQ) or read by torchao's kernel (its AWQ with fusing). What calibration finds changes answers,
not speed, so these random weights go without. Transformers: bitsandbytes with double quantization where it is
installed; AWQ is not repeated with it, as the package that it asked for, autoawq, is no longer maintained.
"""

import argparse
import dataclasses
import gc
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _bench
import gpu
import torch
from _models import config
from transformers import BitsAndBytesConfig, Idefics2Config, Idefics2ForConditionalGeneration

from vlmlab.component import parse
from vlmlab.hub.load import load_model
from vlmlab.model import attention
from vlmlab.quantize import QuantizerConfig, speed_up

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FULL, SMALL = [(46, 70), (70, 52)], [(21, 32), (32, 24)]
"""Patches of two photographs with a longest edge of 980 and of 448."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the card's table, with what the card says; None where the row is ours alone."""

    flash: bool
    splitting: bool
    dtype: str
    bits: str = ""
    gigabytes: float | None = None
    seconds: float | None = None
    longest: int = 980


CARD = (
    Row(False, True, "bf16", "", 41.3, 34.3),
    Row(False, True, "fp16", "", 36.7, 33.3),
    Row(True, True, "fp16", "", 21.0, 13.3),
    Row(True, True, "fp16", "nf4", 8.9, 19.9),
    Row(False, True, "fp16", "nf4", 24.7, 40.4),
    Row(False, True, "fp16", "awq", 26.4, 37.1),
    Row(True, True, "fp16", "awq", 10.7, 16.3),
    Row(False, True, "fp16", "awq fused", 26.0, 38.4),
    Row(False, False, "bf16", "", 22.2, 14.4),
    Row(False, False, "fp16", "", 21.3, 13.9),
    Row(True, False, "fp16", "", 18.1, 10.4),
    Row(True, False, "fp16", "nf4", 6.0, 17.3),
    Row(False, False, "fp16", "nf4", 9.2, 20.9),
    Row(False, False, "fp16", "awq", 10.9, 15.9),
    Row(True, False, "fp16", "awq", 7.8, 12.3),
    Row(False, False, "fp16", "awq fused", 10.5, 19.5),
)
MORE = (
    Row(True, True, "bf16"),
    Row(True, False, "bf16"),
    Row(True, True, "bf16", "nf4"),
    Row(True, True, "bf16", "awq fused"),
    Row(False, True, "fp32"),
    Row(False, False, "fp32"),
    Row(True, True, "bf16", longest=448),
    Row(True, False, "bf16", longest=448),
)


def main() -> None:
    parser = _bench.arguments(__doc__)
    parser.add_argument("--only", choices=("ours", "peer"), help="one side alone")
    parser.add_argument("--like", help="only rows with these four bits (none, nf4, awq, 'awq fused')")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not args.tiny:
        raise SystemExit("no GPU: run with --tiny, or on a machine with one")
    wanted = [row for row in (*CARD, *MORE) if args.like in (None, row.bits or "none")]
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), args.tiny, device)
        found: dict[tuple[str, Row], dict[str, Any]] = {}
        for name, load in (("ours", ours), ("peer", peer)):
            if args.only in (None, name):
                found |= {(name, row): figures for row, figures in side(load, wanted, Path(folder), device, args)}
    _bench.report("card", [line(row, found) for row in wanted], args)


def save(folder: Path, tiny: bool, device: torch.device) -> None:
    """Random weights of Idefics2's shape, in bfloat16."""
    shape = config(tiny=True, latents=4) if tiny else Idefics2Config()
    shape.text_config.vocab_size = shape.text_config.vocab_size if tiny else 32003
    with torch.device(device):
        model = Idefics2ForConditionalGeneration(shape).to(torch.float32 if tiny else torch.bfloat16)
    model.save_pretrained(folder)


def side(
    load: Callable[..., tuple[Any, str]], rows: list[Row], folder: Path, device: torch.device, args: argparse.Namespace
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """The figures of each row. Rows of one model follow one another, so that it is loaded once."""
    model, way, made = None, "", None
    for row in sorted(rows, key=lambda row: (row.dtype, row.bits, row.flash)):
        key = (row.dtype, row.bits, row.flash)
        if key != made:
            model = None
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            model, way = load(row, folder, device)
            made = key
        if model is None:
            yield row, {"way": way}
            continue
        grids = [(10, 14), (14, 10)] if args.tiny else FULL if row.longest == 980 else SMALL
        attention.varlen.cache_clear()
        kept = attention.varlen
        if not row.flash:
            attention.varlen = lambda: None
        try:
            figures = gpu.measure(way, model, grids, row.splitting, device, args)
        finally:
            attention.varlen = kept
        yield row, {"way": way, "gb": figures["peak_gb"], "s": figures["seconds"]}


def ours(row: Row, folder: Path, device: torch.device) -> tuple[Any, str]:
    """Our model as a row has it, and how its products and its attention are computed."""
    model = load_model(folder, device, DTYPES[row.dtype])
    way = "varlen" if row.flash and device.type == "cuda" and attention.varlen() is not None else "dense"
    if row.bits:
        nf4 = row.bits == "nf4"
        told = {"name": "nf4", "parts": ["vision", "connector", "language"]} if nf4 else {"name": "int4"}
        model = parse(QuantizerConfig, told).build()(model)
    return (model if row.bits in ("", "awq") else speed_up(model)), way


def peer(row: Row, folder: Path, device: torch.device) -> tuple[Any, str]:
    """transformers' model as a row has it, or None and why there is none."""
    way = "eager"
    if row.flash:
        way = "flash_attention_2" if importlib.util.find_spec("flash_attn") and device.type == "cuda" else "sdpa"
    settings: dict[str, Any] = {"attn_implementation": way, "dtype": DTYPES[row.dtype]}
    if row.bits == "nf4":
        if importlib.util.find_spec("bitsandbytes") is None or device.type != "cuda":
            return None, "bitsandbytes is not here"
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=DTYPES[row.dtype],
        )
        settings["device_map"] = {"": device}
    elif row.bits:
        return None, "not repeated"
    model = Idefics2ForConditionalGeneration.from_pretrained(folder, **settings)
    return (model if row.bits else model.to(device)).eval(), way


def line(row: Row, found: dict[tuple[str, Row], dict[str, Any]]) -> dict[str, object]:
    """A row as it is printed."""
    told: dict[str, object] = {
        "flash": row.flash,
        "splitting": row.splitting,
        "dtype": row.dtype,
        "bits": row.bits or "none",
        "longest": row.longest,
        "card_gb": row.gigabytes if row.gigabytes is not None else "",
        "card_s": row.seconds if row.seconds is not None else "",
    }
    for name in ("peer", "ours"):
        figures = found.get((name, row), {})
        told |= {f"{name}_{key}": figures.get(key, "") for key in ("way", "gb", "s")}
    return told


if __name__ == "__main__":
    main()
