"""ChartQA: three layouts, two kinds."""

import pyarrow as pa
import pytest

from evaluate.benchmarks import layouts
from vlmlab import component
from vlmlab.evaluate.benchmarks import BenchmarkConfig


def made(path, **keys):
    return component.parse(BenchmarkConfig, {"name": "chartqa", "path": str(path), **keys}).build()


def official(folder, split="test", **changed):
    """As vis-nlp/ChartQA publishes it."""
    for kind, first in (("human", 0), ("augmented", 3)):
        entries = [
            {"imgname": f"{first + at}.png", "query": f"How many in {first + at}?", "label": str(first + at), **changed}
            for at in range(3)
        ]
        layouts.written(folder / split / f"{split}_{kind}.json", entries)
    for at in range(6):
        layouts.picture(folder / split / "png" / f"{at}.png", at)
    return folder


def test_the_hub_s_labels_are_numbers_of_classes(tmp_path):
    benchmark = made(layouts.chartqa(tmp_path))
    questions = [benchmark.question(at) for at in range(6)]
    assert [one.kind for one in questions] == ["human", "augmented"] * 3
    assert (questions[5].id, questions[5].text, questions[5].reference.answers) == (
        "test-5",
        "How many in 155?",
        ("6",),
    )
    assert questions[5].pictures[0].source == layouts.png(20)
    assert made(tmp_path, split="validation").question(0).id == "validation-0"


def test_the_other_layout_of_the_hub(tmp_path):
    columns = {"type": pa.string(), "question": pa.string(), "answer": pa.string(), "image": layouts.IMAGE}
    rows = [
        {"type": f"{kind}_test", "question": "How many?", "answer": "3", "image": layouts.image(1)}
        for kind in ("human", "augmented")
    ]
    layouts.parquet(tmp_path / "data" / "test-00000-of-00001.parquet", columns, rows)
    assert [made(tmp_path).question(at).kind for at in (0, 1)] == ["human", "augmented"]


def test_the_official_files(tmp_path):
    benchmark = made(official(tmp_path))
    questions = [benchmark.question(at) for at in range(6)]
    assert [one.kind for one in questions] == ["human"] * 3 + ["augmented"] * 3
    assert [one.reference.answers for one in questions] == [(str(at),) for at in range(6)]
    assert questions[4].pictures[0].source == tmp_path / "test" / "png" / "4.png"
    assert len({one.id for one in questions}) == 6


def test_within_five_percent_is_right(tmp_path):
    benchmark = made(official(tmp_path, label="100"))
    questions = [benchmark.question(at) for at in range(3)]
    assert [score.value for score in benchmark.score(["105", "106", "100"], questions)] == [1.0, 0.0, 1.0]


def test_half_a_split_is_told(tmp_path):
    (official(tmp_path) / "test" / "test_human.json").unlink()
    with pytest.raises(ValueError, match=r"test_augmented\.json needs test_human\.json beside it"):
        made(tmp_path)


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"imgname": None}, "imgname should be the name"), ({"label": [2]}, "column 'label'"), ({"query": 7}, "'query'")],
)
def test_a_damaged_entry_is_named(tmp_path, changed, told):
    with pytest.raises(ValueError, match=rf"test_augmented\.json, row 1: .*{told}"):
        made(official(tmp_path, **changed)).question(4)
