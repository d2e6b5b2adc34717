"""Who may import whom: only downward, and never from one plug-in to its neighbour."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from house import tree


def lint(source: Path) -> tuple[int, str]:
    """import-linter's verdict, by this repository's contracts, on the package in `source`."""
    command = (
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    )
    told = {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", command], cwd=tree.ROOT, env=told, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_tree_keeps_its_contracts():
    status, report = lint(tree.ROOT / "src")
    assert status == 0, report


def test_every_slot_has_its_independence_contract():
    contracts = tree.pyproject()["tool"]["importlinter"]["contracts"]
    kept = {module for contract in contracts if contract["type"] == "independence" for module in contract["modules"]}
    assert kept == {f"{home}.*" for home in tree.slots()}


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("batch.py", "import vlmlab.train.loop", "vlmlab.batch -> vlmlab.train"),
        ("model/layers.py", "import vlmlab.processor", "vlmlab.model.layers -> vlmlab.processor"),
        ("model/connectors/linear.py", "import vlmlab.model.connectors.perceiver", "linear -> vlmlab.model.connectors"),
        ("hub/load.py", "def later():\n    import transformers", "vlmlab.hub.load -> transformers"),
        ("attic.py", "", "attic"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, line, told):
    copy = shutil.copytree(tree.SOURCE, tmp_path / "vlmlab", ignore=shutil.ignore_patterns("__pycache__", "*.tar"))
    with (copy / file).open("a", encoding="utf-8") as out:
        out.write(f"\n\n{line}\n")
    status, report = lint(tmp_path)
    assert status != 0
    assert told in report
