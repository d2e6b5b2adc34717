"""Every recipe and study loads, and begins by saying what it is, how to run it and what to expect."""

import re
from pathlib import Path

import pytest

from house import tree

RECIPES = sorted([*(tree.ROOT / "recipes").rglob("*.toml"), *(tree.ROOT / "studies").rglob("*.toml")])


def opening(text: str) -> str:
    """The comment that a file begins with."""
    comment = re.match(r"(?:#[^\n]*\n)*", text)
    return comment.group() if comment else ""


def untold(text: str, name: str) -> list[str]:
    """What the opening comment of the recipe `name` fails to say."""
    said = [line.lstrip("#").strip() for line in opening(text).splitlines()]
    missing = [] if said and len(said[0].split()) >= 3 and ":" not in said[0].split()[0] else ["what it is, first"]
    missing += [key for key in ("Run:", "Expect:") if not any(re.match(rf"{key} *\S", line) for line in said)]
    run = next((line for line in said if line.startswith("Run:")), "")
    return missing if name in run or "Run:" in missing else [*missing, f"its own name, {name}, in Run:"]


def test_there_are_recipes():
    assert {path.parent.name for path in RECIPES} >= {"nano", "idefics2"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(tree.ROOT)))
def test_a_recipe_introduces_itself_and_loads(path: Path):
    from vlmlab.study import plan
    from vlmlab.train import recipe

    name = str(path.relative_to(tree.ROOT))
    assert untold(path.read_text(encoding="utf-8"), name) == []
    (plan if "studies" in path.parts else recipe).load(path)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("# A stage of training.\n# Run: vlmlab train recipes/x.toml\n# Expect: ten minutes\n", 0),
        ("# A stage of training.\n# Run: vlmlab train recipes/y.toml\n# Expect: ten minutes\n", 1),
        ("# Run: vlmlab train recipes/x.toml\n# Expect:\n", 2),
        ("[stage]\n# A stage of training.\n", 3),
    ],
)
def test_a_silent_recipe_is_found(text, missing):
    assert len(untold(text, "recipes/x.toml")) == missing
