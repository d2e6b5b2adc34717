"""TextVQA: the hub's files and the official ones; the answers of test are empty texts there."""

import pytest

from evaluate.benchmarks import layouts
from vlmlab import component
from vlmlab.evaluate.benchmarks import BenchmarkConfig


def made(path, **keys):
    return component.parse(BenchmarkConfig, {"name": "textvqa", "path": str(path), **keys}).build()


def official(folder, **changed):
    """As textvqa.org publishes it."""
    entries = [
        {
            "question": f"what does sign {at} say?",
            "image_id": f"00ab{at}",
            "question_id": 34600 + at,
            "answers": [layouts.COLOURS[at]] * 10,
            "set_name": "val",
            **changed,
        }
        for at in range(3)
    ]
    layouts.written(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": entries})
    for at in range(3):
        layouts.picture(folder / "train_images" / f"00ab{at}.jpg", at)
    return folder


def test_the_paper_scores_validation(tmp_path):
    benchmark = made(layouts.textvqa(tmp_path))
    question = benchmark.question(1)
    assert (question.id, question.text) == ("201", "what does sign 201 say?")
    assert question.reference.answers == ("blue",) * 10
    assert question.pictures[0].source == layouts.png(21)


def test_the_official_file(tmp_path):
    question = made(official(tmp_path)).question(2)
    assert (question.id, question.reference.answers) == ("34602", ("green",) * 10)
    assert question.pictures[0].source == tmp_path / "train_images" / "00ab2.jpg"


def test_test_is_scored_elsewhere(tmp_path):
    benchmark = made(layouts.textvqa(tmp_path), split="test")
    questions = [benchmark.question(at) for at in range(6)]
    with pytest.raises(ValueError, match=r"textvqa test: 6 of 6 .* scored at EvalAI"):
        benchmark.score([""] * 6, questions)
    assert benchmark.submission({one.id: "x" for one in questions})[0] == {"question_id": 300, "answer": "x"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"image_id": 7}, "row 1: image_id should be a text"),
        ({"question": None}, "row 1: column 'question'"),
        ({"answers": 3}, "row 1: column 'answers' should be"),
        ({"question_id": None}, "row 1: column 'question_id' should be"),
    ],
)
def test_a_damaged_entry_is_named(tmp_path, changed, told):
    with pytest.raises(ValueError, match=rf"TextVQA_0\.5\.1_val\.json, {told}"):
        made(official(tmp_path, **changed)).question(1)
