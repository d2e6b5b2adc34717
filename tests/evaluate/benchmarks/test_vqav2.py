"""VQAv2: the hub's files and the official ones say the same; what is scored elsewhere says so and is submitted."""

import json

import pytest

from evaluate.benchmarks import layouts
from vlmlab import component
from vlmlab.evaluate.benchmarks import BenchmarkConfig


def made(path, **keys):
    return component.parse(BenchmarkConfig, {"name": "vqav2", "path": str(path), **keys}).build()


def test_the_hub_s_files_in_order(tmp_path):
    benchmark = made(layouts.vqav2(tmp_path), split="validation")
    assert [benchmark.question(at).id for at in range(len(benchmark))] == ["200", "201", "202", "203", "204", "205"]
    question = benchmark.question(5)
    assert question.text == "What colour is thing 205?"
    assert question.reference.answers == ("white",) * 10
    assert question.kind == "other"
    assert question.pictures[0].source == layouts.png(25)


@pytest.mark.parametrize("deeper", ["", "vqa/"])
def test_the_official_files(tmp_path, deeper):
    layouts.vqa_official(tmp_path / deeper)
    benchmark = made(tmp_path, split="validation")
    question = benchmark.question(4)
    assert (question.id, question.kind, question.reference.answers) == ("40", "other", ("black",) * 10)
    assert question.pictures[0].source == tmp_path / deeper / "val2014" / "COCO_val2014_000000000004.jpg"


def test_the_paper_scores_testdev_whose_answers_are_not_public(tmp_path):
    for folder in (
        layouts.vqav2(tmp_path / "hub"),
        layouts.vqa_official(tmp_path / "o", name="test-dev2015", images="test2015"),
    ):
        benchmark = made(folder)
        questions = [benchmark.question(at) for at in range(len(benchmark))]
        assert benchmark.split == "testdev" and len(questions) == 6
        with pytest.raises(ValueError, match=r"vqav2 testdev: 6 of 6 questions have no public answers; .*EvalAI"):
            benchmark.score(["red"] * 6, questions)
        sent = benchmark.submission({one.id: "red" for one in questions})
        assert sent[1] == {"question_id": int(questions[1].id), "answer": "red"} and len(sent) == 6
        assert json.loads(benchmark.submission_text({one.id: "é" for one in questions}))[0]["answer"] == "é"


def test_a_submission_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(ValueError, match="each of the split's 6 questions, there are 1"):
        made(layouts.vqav2(tmp_path)).submission({"300": "red"})


def test_examples_are_asked_as_the_reference_code_asks_a_base_model(tmp_path):
    benchmark = made(layouts.vqav2(tmp_path), split="validation", shots=4, form="document")
    (message,) = benchmark.ask(benchmark.question(2)).messages
    words = [part for part in message.parts if isinstance(part, str)]
    assert words[0] == "Instruction: provide an answer to the question. Use the image to answer.\nImage:"
    assert len(words) == 6 and message.role == "text"
    assert words[-1] == "Question: What colour is thing 202? Answer:"
    shown = benchmark.examples(benchmark.question(2))[0]
    assert words[1] == f"Question: {shown.text} Answer: {shown.reference.answers[0]}\nImage:"
    assert benchmark.stop == ("\n", "Question", "User", "Image")
    assert made(tmp_path).stop == ("Question", "User")


def test_examples_can_come_from_elsewhere(tmp_path):
    layouts.vqav2(tmp_path / "with")
    hub = layouts.vqav2(tmp_path / "without")
    for file in (hub / "data").glob("train-*"):
        file.unlink()
    with pytest.raises(
        ValueError, match=r"no files of the split 'train'.*its parquet files are of testdev, validation"
    ):
        made(hub, shots=2)
    benchmark = made(hub, shots=2, pool=str(tmp_path / "with"))
    assert [one.id[0] for one in benchmark.examples(benchmark.question(0))] == ["1", "1"]


def test_an_example_shows_what_most_people_said(tmp_path):
    layouts.vqa_official(tmp_path)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    told = json.loads(path.read_text())
    for one in told["annotations"]:
        one["answers"][0]["answer"] = "odd"
    path.write_text(json.dumps(told))
    benchmark = made(tmp_path, split="validation")
    assert benchmark.question(0).reference.answers[0] == "odd"
    assert benchmark.shown_answer(benchmark.question(0)) == "red"


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(ValueError, match="no split 'val'; it has train, validation, testdev, test"):
        made(layouts.vqav2(tmp_path), split="val")


QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        (QUESTIONS, lambda text: text[:-40], r"questions\.json: Unterminated string"),
        (
            QUESTIONS,
            lambda text: text.replace('"questions"', '"asked"'),
            r"questions\.json: .*with the key 'questions'",
        ),
        (
            QUESTIONS,
            lambda text: text.replace("What colour is thing 3?", " "),
            r"questions\.json, row 3: column 'question'",
        ),
        (
            QUESTIONS,
            lambda text: text.replace('"image_id": 3', '"image_id": "3"'),
            r"row 3: image_id should be a whole",
        ),
        (
            QUESTIONS,
            lambda text: text.replace('"question_id": 30', '"question_id": 31'),
            "row 3: question 31 has no annota",
        ),
        (
            ANNOTATIONS,
            lambda text: text.replace('"question_id": 30', '"id": 30'),
            r"annotations\.json, row 2: an annotation",
        ),
        (ANNOTATIONS, lambda text: text.replace('"grey"', "7"), r"questions\.json, row 3: column 'answers' should be"),
        (ANNOTATIONS, None, "needs its annotations beside it"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, change, told):
    path = layouts.vqa_official(tmp_path) / file
    if change:
        changed = change(path.read_text())
        assert changed != path.read_text()
        path.write_text(changed)
    else:
        path.unlink()
    with pytest.raises(ValueError, match=told):
        made(tmp_path, split="validation").question(3)


def test_a_damaged_parquet_file_is_named(tmp_path):
    layouts.vqav2(tmp_path)
    path = tmp_path / "data" / "validation-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"validation-00001-of-00002\.parquet"):
        made(tmp_path, split="validation")


def test_a_column_that_is_missing_is_named(tmp_path):
    import pyarrow as pa

    layouts.parquet(
        tmp_path / "testdev.parquet", {"question_id": pa.int64(), "question": pa.string()}, [{"question": "?"}]
    )
    with pytest.raises(ValueError, match=r"testdev\.parquet, row 0: there is no column 'image'"):
        made(tmp_path).question(0)


@pytest.mark.parametrize(("people", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_people_who_agree_are_worth_what_the_authors_say(tmp_path, people, score):
    """visualqa.org/evaluation: one human of ten 30 %, two 60 %, three 90 %, four and more all."""
    layouts.vqa_official(tmp_path)
    path = tmp_path / ANNOTATIONS
    told = json.loads(path.read_text())
    for one in told["annotations"]:
        for at, answer in enumerate(one["answers"]):
            answer["answer"] = "2" if at < people else f"other {at}"
    path.write_text(json.dumps(told))
    benchmark = made(tmp_path, split="validation")
    assert benchmark.score(["two"], [benchmark.question(0)])[0].value == pytest.approx(score if people < 10 else 0.0)
    assert benchmark.score(["2"], [benchmark.question(0)])[0].value == pytest.approx(score)
