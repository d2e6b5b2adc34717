"""The repository as the house rules see it: files, syntax trees, and places a reader can click."""

import ast
import functools
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "vlmlab"
SKIPPED = {".git", ".venv", "runs", "build", "dist", "__pycache__"}


def sources(folder: str = "") -> list[Path]:
    """Every Python file of the package, or of one folder in it."""
    return sorted((SOURCE / folder).rglob("*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path, node: ast.AST | int) -> str:
    """`src/vlmlab/batch.py:12`."""
    line = node if isinstance(node, int) else getattr(node, "lineno", 1)
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{line}"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file under version control (every file, where there is no git), with what it says."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        paths = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    else:
        paths = [p for p in ROOT.rglob("*") if not SKIPPED & set(p.relative_to(ROOT).parts)]
    for path in paths:
        if path.is_file():
            data = path.read_bytes()
            if b"\0" not in data:
                yield path, data.decode("utf-8", errors="replace")


def none_of(broken: list[str]) -> None:
    """Fails with one broken place a line."""
    assert not broken, "\n" + "\n".join(broken)


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def slots() -> dict[str, Path]:
    """The packages in which plug-ins live, as the slots' base classes say (`home = "vlmlab.model.vision"`)."""
    said = re.compile(r'^    home(?:: [^=\n]+)? = "(vlmlab\.[\w.]+)"', re.MULTILINE)
    homes = [home for path in sources() for home in said.findall(path.read_text(encoding="utf-8"))]
    return {home: SOURCE.joinpath(*home.split(".")[1:]) for home in homes}
