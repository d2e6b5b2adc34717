"""The page on metrics tells the truth: every example in its tables is computed again."""

import re

import pytest

from house import tree
from vlmlab import component
from vlmlab.evaluate import metrics
from vlmlab.evaluate.metrics import MetricConfig, Reference

PAGE = (tree.ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))
CODE = re.compile(r"`([^`]*)`(?: × (\d+))?")


def texts(cell: str) -> tuple[str, ...]:
    return tuple(text for text, times in CODE.findall(cell) for _ in range(int(times or 1)))


def examples(name: str) -> list[dict[str, str]]:
    """The rows of a section's table, by column."""
    lines = [line.strip("|").split("|") for line in SECTIONS[name].splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def reference(row: dict[str, str], group: str) -> Reference:
    kind, _, precision = row.get("kind", "").partition(" ")
    places = (float(precision) if "." in precision else int(precision)) if precision else None
    return Reference(texts(row["answers"]), texts(row.get("choices", "")), kind, places, group)


@pytest.mark.parametrize("name", component.plugins(MetricConfig))
def test_the_examples_score_what_the_page_says(name):
    rows = examples(name)
    said = [texts(row["said"])[0] for row in rows]
    references = [reference(row, str(number)) for number, row in enumerate(rows)]
    shown = [variant for variant in metrics.get(name).variants if variant in rows[0]]
    assert len(rows) >= 3 and len(shown) >= 2
    for variant in shown:
        metric = metrics.get(name, variant)
        scale, places = (metric.published, 1) if name == "cider" else (1, 4)
        scores = [round(score.value * scale, places) for score in metric.score(said, references)]
        assert scores == [float(row[variant]) for row in rows], variant


def test_every_metric_has_its_section():
    assert set(component.plugins(MetricConfig)) == set(SECTIONS)
