"""Nothing heavy is imported before it is needed. Seconds are measured in benchmarks/, not here."""

import os
import re
import subprocess
import sys

from house import tree

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "PIL",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "matplotlib",
    "einops",
)
PUBLIC = ("load", "load_model", "VLM", "Processor", "Sample", "Batch", "Images", "Engine")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tree.ROOT,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )


def imported(trace: str) -> set[str]:
    """The top-level packages in what `-X importtime` wrote."""
    return {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in trace.splitlines() if "import time:" in line}


def commands() -> list[str]:
    """The subcommands that `vlmlab --help` lists."""
    shown = python("-m", "vlmlab.cli", "--help").stdout
    listed = re.search(r"\{([\w,\s-]+)\}", shown)
    return [name.strip() for name in listed.group(1).split(",")] if listed else []


def test_import_is_light():
    done = python("-X", "importtime", "-c", "import vlmlab; dir(vlmlab)")
    assert done.returncode == 0, done.stderr
    assert "vlmlab" in imported(done.stderr)
    assert not imported(done.stderr) & set(HEAVY)


def test_public_names_are_there():
    done = python("-c", f"import vlmlab; print([name for name in {PUBLIC} if not hasattr(vlmlab, name)])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    listed = python("-c", f"import vlmlab; print(set({PUBLIC}) - set(dir(vlmlab)))")
    assert listed.stdout.strip() == "set()", listed.stdout + listed.stderr


def test_help_is_light_and_has_examples():
    listed = commands()
    assert {"ask", "chat", "complete", "train", "look", "info", "export", "get", "verify"} <= set(listed)
    for command in ["", *listed]:
        done = python("-X", "importtime", "-m", "vlmlab.cli", *command.split(), "--help")
        assert done.returncode == 0, f"vlmlab {command} --help: {done.stderr}"
        assert re.search(rf"^\W*vlmlab {command}", done.stdout, re.MULTILINE), f"vlmlab {command} --help has no example"
        assert not imported(done.stderr) & set(HEAVY), f"vlmlab {command} --help"
