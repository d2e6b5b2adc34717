"""The page on benchmarks tells the truth: its table, its prompts, and the benchmark that it shows whole."""

import re

import pytest

from evaluate.benchmarks import layouts
from house import tree
from house.test_readme import blocks
from vlmlab import component
from vlmlab.evaluate import benchmarks
from vlmlab.evaluate.benchmarks import BenchmarkConfig

PAGE = (tree.ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def rows(section: str) -> dict[str, list[str]]:
    """The rows of a section's table by the name in their first column."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in SECTIONS[section].splitlines() if "|" in line
    ]
    return {one[0].strip("`"): one[1:] for one in cells[2:]}


@pytest.mark.parametrize("section", ["Which there are", "Layouts"])
def test_every_benchmark_has_its_row(section):
    assert set(rows(section)) == set(component.plugins(BenchmarkConfig))


@pytest.mark.parametrize("name", sorted(set(layouts.LAYOUTS) - {"own"}))
def test_the_row_of_a_benchmark_is_true(name, tmp_path):
    split, metric, _, asked, hidden = rows("Which there are")[name]
    make, known = layouts.LAYOUTS[name]
    benchmark = component.parse(BenchmarkConfig, {"name": name, "path": str(make(tmp_path)), "split": known}).build()
    assert split == benchmark.default_split
    assert metric == benchmark.metric + (f", `{benchmark.variant}`" if benchmark.variant != "official" else "")
    assert hidden.partition(":")[0] == ", ".join(benchmark.servers)
    assert all(hidden.partition(": ")[2].removeprefix("its ") in server for server in benchmark.servers.values())
    forms = {"letter" if one.reference.choices else "brief" for one in map(benchmark.question, range(len(benchmark)))}
    if name == "coco":
        assert benchmark.prompt(benchmark.question(0))[-1] == asked.strip("`")
    else:
        assert set(asked.split(", or ")) == forms


def test_the_prompts_are_those_that_are_used():
    brief, letter, document = (block.rstrip("\n") for block in blocks(PAGE, {"text"}))
    assert brief == benchmarks.BRIEF
    choices = "A. {the first}\nB. {the second}"
    assert letter == benchmarks.LETTER.replace("{choices}", choices)
    item = benchmarks.OPEN_ITEM.replace("{pictures}", benchmarks.LEAD + "<image>")
    assert document == f"{benchmarks.OPENING}{item} {{answer}}\n{item}"


def test_the_benchmark_of_the_page_works(tmp_path, monkeypatch):
    code = next(block for block in blocks(PAGE, {"python"}) if "PLUGIN" in block)
    (tmp_path / "package_of_this_page").mkdir()
    (tmp_path / "package_of_this_page" / "counting.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("apples-3.png", "boats-12.png"):
        layouts.picture(tmp_path / "pictures" / name, 1)
    config = component.parse(
        BenchmarkConfig, {"name": "package_of_this_page.counting", "path": str(tmp_path / "pictures")}
    )
    benchmark = config.build()
    questions = [benchmark.question(at) for at in range(len(benchmark))]
    assert [one.kind for one in questions] == ["apples", "boats"]
    assert [score.value for score in benchmark.score(["3", "13"], questions)] == [1.0, 0.0]
    assert benchmark.prompt(questions[1])[1] == "Question: How many boats are there?\nGive a very brief answer."
