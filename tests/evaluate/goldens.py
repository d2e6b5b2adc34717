"""Golden files: what official code gave, made by scripts/goldens; a header, then a row a line."""

import json
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def rows(name: str) -> list[dict]:
    """The rows of a golden file, by column. Raises AssertionError where the file is not whole."""
    header, *lines = map(json.loads, (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
    assert len(lines) == header["rows"] and header["oracles"] and header["command"]
    return [dict(zip(header["columns"], line, strict=True)) for line in lines]
