"""Official code, loaded from checkouts: only the definitions that are needed, so that none of its packages is.

Where the checkouts lie is told by `--sources FOLDER`, which holds:

    VQA/          github.com/GT-Vision-Lab/VQA           at a013f0043c1e2cdc995922dfe257f7149aa9af06
    Qwen-VL/      github.com/QwenLM/Qwen-VL              at aa00ed04091eea5fcdd32985e7915f1c53e7d599
    pix2struct/   github.com/google-research/pix2struct  at 945f27e936c9464d9d7c133f1bd1f4f383be9e99
    MMMU/         github.com/MMMU-Benchmark/MMMU         at bb0b95a945998d91dfef37e969e07d49d1139438
    MathVista/    github.com/lupantech/MathVista         at 53d525874bdde205128e6b160b7357a88277d479
    smollm/       github.com/huggingface/smollm          at a041759883ec7152d18fb985ea49be641a0bceef
    vlmeval/      the unpacked wheel ms-vlmeval==0.0.20, a release of VLMEvalKit
    lmms_eval/    that folder of the unpacked wheel lmms-eval==0.7.3
"""

import argparse
import ast
import json
import logging
import math
import random
import re
import statistics
import string
import sys
import types
import typing
from collections.abc import Iterable
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "evaluate" / "golden"
ORACLES = {
    "VQA": "GT-Vision-Lab/VQA a013f0043c1e2cdc995922dfe257f7149aa9af06",
    "Qwen-VL": "QwenLM/Qwen-VL aa00ed04091eea5fcdd32985e7915f1c53e7d599 (the script of rrc.cvc.uab.es)",
    "pix2struct": "google-research/pix2struct 945f27e936c9464d9d7c133f1bd1f4f383be9e99",
    "MMMU": "MMMU-Benchmark/MMMU bb0b95a945998d91dfef37e969e07d49d1139438",
    "MathVista": "lupantech/MathVista 53d525874bdde205128e6b160b7357a88277d479",
    "m4": "huggingface/smollm a041759883ec7152d18fb985ea49be641a0bceef, vision/m4",
    "lmms-eval": "lmms-eval 0.7.3",
    "vlmevalkit": "ms-vlmeval 0.0.20 (VLMEvalKit)",
    "pycocoevalcap": "pycocoevalcap 1.2",
}


def arguments(description: str) -> argparse.Namespace:
    """The flags of every script here."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True, help="the folder with the checkouts; see _oracles.py")
    parser.add_argument("--out", type=Path, default=GOLDEN, help="where the golden files go")
    return parser.parse_args()


def pick(path: Path, *names: str, **given: object) -> dict[str, typing.Any]:
    """The named definitions of a file, and what is `given` to them, as they see each other."""
    text = re.sub(r'^(\s*)print "(.*)"\s*$', r'\1print("\2")', path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    seen: dict[str, typing.Any] = {
        **vars(typing),
        **{module.__name__: module for module in (re, math, random, string, statistics, logging, sys)},
        **given,
    }
    missing = set(names)
    for node in ast.parse(text).body:
        targets = [t.id for t in node.targets if isinstance(t, ast.Name)] if isinstance(node, ast.Assign) else []
        own = {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set(targets)
        if own & set(names):
            missing -= own
            exec(compile(ast.Module([node], []), str(path), "exec"), seen)
    if missing:
        raise SystemExit(f"{path} has no {', '.join(sorted(missing))}: is it the right version?")
    return seen


def plain(**values: object) -> types.SimpleNamespace:
    """An object with these attributes, in place of one that official code is handed."""
    return types.SimpleNamespace(**values)


def write(path: Path, about: str, oracles: Iterable[str], columns: list[str], rows: list[list[object]]) -> None:
    """A golden file: a header, then a row a line. Raises SystemExit above 400 kB."""
    header = {
        "about": about,
        "oracles": [ORACLES[name] for name in oracles],
        "command": f"python scripts/goldens/{Path(sys.argv[0]).name} --sources FOLDER",
        "python": ".".join(map(str, sys.version_info[:3])),
        "columns": columns,
        "rows": len(rows),
    }
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in [header, *rows]]
    data = ("\n".join(lines) + "\n").encode()
    if len(data) > 400_000:
        raise SystemExit(f"{path.name} would have {len(data)} bytes")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    print(f"{path.name}: {len(rows)} rows, {len(data)} bytes")
