"""Which benchmarks are asked, from the words of a command line: `LABEL=PATH`, `LABEL.KEY=VALUE`, or a TOML file.

    [benchmark.docvqa]               docvqa=datasets/DocVQA
    path = "datasets/DocVQA"

    [benchmark.vqa-4]                vqa-4=datasets/VQAv2 vqa-4.name=vqav2 vqa-4.shots=4
    name = "vqav2"
    path = "datasets/VQAv2"
    shots = 4

A label names the folder of what comes out, and the benchmark, where no `name` does.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmlab import component
from vlmlab.evaluate.benchmarks import BenchmarkConfig

TABLE = "benchmark"

_LABEL = re.compile(r"\w[\w-]*")


def parse(words: Sequence[str]) -> dict[str, BenchmarkConfig]:
    """The benchmarks by their label, in order. Raises ValueError naming the word, the key, and what is right."""
    tables: dict[str, Any] = {}
    changes = []
    for word in words:
        label, found, path = word.partition("=")
        if not found and word.endswith(".toml"):
            tables |= _file(word)
        elif found and _LABEL.fullmatch(label) and path:
            tables[label] = {"path": path}
        elif found and "." in label:
            changes.append(word)
        else:
            raise ValueError(f"cannot read {word!r}: write NAME=PATH, for example docvqa=datasets/DocVQA, or FILE.toml")
    for change in changes:
        label = change.partition(".")[0]
        if label not in tables:
            raise ValueError(f"{change}: there is no benchmark {label!r}; write {label}=PATH too")
    tables = component.override(tables, changes)
    if not tables:
        raise ValueError("no benchmark is named: write NAME=PATH, for example docvqa=datasets/DocVQA, or FILE.toml")
    return {label: _config(label, table) for label, table in tables.items()}


def _file(word: str) -> dict[str, Any]:
    plain = component.read_toml(word)
    unknown = sorted(set(plain) - {TABLE})
    tables = plain.get(TABLE)
    if unknown or not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError(f"{word} should hold tables [{TABLE}.LABEL] and nothing else")
    for label in tables:
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{word}: the label {label!r} should be letters, digits, - and _")
    return tables


def _config(label: str, table: dict[str, Any]) -> BenchmarkConfig:
    named = {"name": label, **table}
    config: BenchmarkConfig = component.parse(BenchmarkConfig, named, label)
    return config


def draws(label: str, config: BenchmarkConfig, count: int) -> dict[str, BenchmarkConfig]:
    """The same benchmark with so many draws of examples, each with a label of its own.

    Raises ValueError where there are no examples to draw.
    """
    if count < 1:
        raise ValueError(f"--draws must be 1 or more, not {count}")
    if count == 1:
        return {label: config}
    if not config.shots:
        raise ValueError(f"{label} shows no examples, so draws do not differ: add {label}.shots=4")
    return {f"{label}-draw{n}": dataclasses.replace(config, draw=config.draw + n) for n in range(count)}


def folder_name(model: str) -> str:
    """A model's name as that of a folder: the last part of it."""
    model = model.rpartition("#")[2]
    last = next((part for part in reversed(Path(model).parts) if part not in ("model", "..", ".", "/")), "model")
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "model"
