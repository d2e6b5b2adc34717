"""DocVQA: the hub's folder, not its neighbour's; the official files; the competition's form."""

import pytest

from evaluate.benchmarks import layouts
from vlmlab import component
from vlmlab.evaluate.benchmarks import BenchmarkConfig


def made(path, **keys):
    return component.parse(BenchmarkConfig, {"name": "docvqa", "path": str(path), **keys}).build()


def official(folder, pages="documents", **changed):
    """As rrc.cvc.uab.es publishes it."""
    entries = [
        {
            "questionId": 49153 + at,
            "question": "What is the date?",
            "question_types": ["layout"],
            "image": f"documents/xnbl{at}_1.png",
            "docId": at,
            "answers": [f"March {at}", "3"],
            "data_split": "val",
            **changed,
        }
        for at in range(3)
    ]
    layouts.written(folder / "val_v1.0_withQT.json", {"dataset_name": "SP-DocVQA", "data": entries})
    for at in range(3):
        layouts.picture(folder / pages / f"xnbl{at}_1.png", at)
    return folder


def test_the_hub_s_validation(tmp_path):
    question = made(layouts.docvqa(tmp_path), split="validation").question(2)
    assert (question.id, question.kind) == ("202", "form, handwritten")
    assert question.reference.answers == ("March 2", "3/2")
    assert question.pictures[0].source == layouts.png(22)


def test_a_dataset_without_that_folder(tmp_path):
    (layouts.docvqa(tmp_path) / "DocVQA").rename(tmp_path / "data")
    assert made(tmp_path, split="validation").question(0).id == "200"


@pytest.mark.parametrize("pages", ["documents", "spdocvqa_images", "pages/spdocvqa_images"])
def test_the_official_file(tmp_path, pages):
    question = made(official(tmp_path, pages), split="validation").question(2)
    assert (question.id, question.reference.answers, question.kind) == ("49155", ("March 2", "3"), "layout")
    assert question.pictures[0].source == tmp_path / pages / "xnbl2_1.png"


def test_test_is_scored_by_the_competition(tmp_path):
    benchmark = made(layouts.docvqa(tmp_path))
    questions = [benchmark.question(at) for at in range(6)]
    assert benchmark.split == "test"
    with pytest.raises(ValueError, match=r"docvqa test: 6 of 6 .* Robust Reading Competition"):
        benchmark.score([""] * 6, questions)
    assert benchmark.submission({one.id: "x" for one in questions})[5] == {"questionId": 305, "answer": "x"}


def test_the_nearest_spelling_counts(tmp_path):
    benchmark = made(official(tmp_path), split="validation")
    questions = [benchmark.question(at) for at in range(3)]
    scores = benchmark.score(["march 0", "March 1.", "no"], questions)
    assert [score.value for score in scores] == [1.0, 0.875, 0.0]
    assert benchmark.score(["march 0", "March 1.", "no"], questions, "m4")[1].value == 1.0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"image": None}, "row 1: image should be a path"),
        ({"answers": [1]}, "row 1: column 'answers'"),
        ({"question_types": "x", "question": ""}, "row 1: column 'question' should be text"),
    ],
)
def test_a_damaged_entry_is_named(tmp_path, changed, told):
    with pytest.raises(ValueError, match=rf"val_v1\.0_withQT\.json, {told}"):
        made(official(tmp_path, **changed), split="validation").question(1)
