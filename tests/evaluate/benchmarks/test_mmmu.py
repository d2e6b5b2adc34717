"""MMMU: pictures where the question and its choices name them, subjects, open questions, the server's form."""

import pytest

from evaluate.benchmarks import layouts
from vlmlab import component
from vlmlab.batch import Picture
from vlmlab.evaluate.benchmarks import BenchmarkConfig


def made(path, **keys):
    return component.parse(BenchmarkConfig, {"name": "mmmu", "path": str(path), **keys}).build()


def asked(benchmark, number):
    """The prompt, a picture as the number its shade was made of."""
    (message,) = benchmark.ask(benchmark.question(number)).messages
    shades = {layouts.png(shade): shade for shade in range(60)}
    return [shades[part.source] if isinstance(part, Picture) else part for part in message.parts]


def test_pictures_stand_where_they_are_named(tmp_path):
    benchmark = made(layouts.mmmu(tmp_path))
    assert asked(benchmark, 0) == [
        1,
        "Question: What is the cost?\nChoices:\nA. $6\nB. $7\nAnswer with the letter.",
    ]
    assert asked(benchmark, 1) == [
        *("Question: Compare ", 11, " and ", 12),
        ".\nChoices:\nA. same\nB. not the same\nAnswer with the letter.",
    ]
    assert asked(benchmark, 2) == [
        *("Question: Which one is older?\nChoices:\nA. ", 1, "\nB. the one in ", 2),
        "\nAnswer with the letter.",
    ]
    assert asked(benchmark, 3) == ["Question: Name it.", 11, "\nGive a very brief answer."]


def test_a_document_names_pictures_in_place_too(tmp_path):
    benchmark = made(layouts.mmmu(tmp_path), form="document")
    assert asked(benchmark, 0)[-2:] == [1, "Question: What is the cost?\nChoices:\nA. $6\nB. $7\nAnswer:"]
    assert asked(benchmark, 3)[-2:] == [11, " Answer:"]


def test_kinds_are_subjects_and_some_can_be_chosen(tmp_path):
    benchmark = made(layouts.mmmu(tmp_path))
    assert [benchmark.question(at).kind for at in range(5)] == ["Accounting"] * 2 + ["Art_Theory"] * 3
    art = made(tmp_path, subjects=["Art_Theory"], limit=2)
    assert [art.question(at).id for at in range(len(art))] == ["validation_Art_Theory_1", "validation_Art_Theory_2"]
    with pytest.raises(ValueError, match="mmmu has no subject 'Art'; it has Accounting, Art_Theory"):
        made(tmp_path, subjects=["Art"])


def test_open_questions_may_have_several_answers(tmp_path):
    benchmark = made(layouts.mmmu(tmp_path))
    questions = [benchmark.question(at) for at in (3, 4)]
    assert [one.reference.answers for one in questions] == [("fresco",), ("2", "two")]
    assert [score.value for score in benchmark.score(["a fresco", "two"], questions)] == [1.0, 1.0]


def test_merged_files_are_read_too(tmp_path):
    layouts.mmmu(tmp_path / "subjects")
    (tmp_path / "merged" / "data").mkdir(parents=True)
    for at, file in enumerate(sorted((tmp_path / "subjects").rglob("validation-*"))):
        file.rename(tmp_path / "merged" / "data" / f"validation-0000{at}-of-00002.parquet")
    assert [made(tmp_path / "merged").question(at).kind for at in (0, 4)] == ["Accounting", "Art_Theory"]


def test_a_picture_that_no_text_names_is_shown_first(tmp_path):
    one = {"question": "What is it?", "options": "[]", "answer": "a", "question_type": "open", "id": "validation_A_1"}
    columns = {**dict.fromkeys(one, layouts.pa.string()), "image_1": layouts.IMAGE}
    layouts.parquet(tmp_path / "validation.parquet", columns, [{**one, "image_1": layouts.image(9)}])
    assert asked(made(tmp_path), 0) == [9, "Question: What is it?\nGive a very brief answer."]


def test_test_is_submitted_as_letters_and_texts(tmp_path):
    benchmark = made(layouts.mmmu(tmp_path), split="test")
    questions = [benchmark.question(at) for at in range(5)]
    with pytest.raises(ValueError, match=r"mmmu test: 5 of 5 .* EvalAI"):
        benchmark.score([""] * 5, questions)
    said = dict(zip([one.id for one in questions], ["(B)", "Answer: A", "no idea", "the B side ", "2"], strict=True))
    assert list(benchmark.submission(said).values()) == ["B", "A", "no idea", "the B side", "2"]
    with pytest.raises(ValueError, match="mmmu test has no question 'other'"):
        benchmark.submission({**dict(list(said.items())[1:]), "other": "A"})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"question": "Compare <image 3>."}, "it names <image 3>, but column 'image_3' is empty"),
        ({"options": "['a', 'b'"}, "column 'options' should be a list"),
        ({"options": "['a', 'b']", "answer": "C"}, "its answer 'C' is none of A, B"),
        ({"id": "17"}, "column 'id' should be like validation_Accounting_1"),
        ({"answer": None}, "column 'answer' should be text"),
    ],
)
def test_a_damaged_row_is_named(tmp_path, changed, told):
    one = {"question": "?", "options": "['a', 'b']", "answer": "A", "id": "validation_A_1"}
    columns = {**dict.fromkeys(one, layouts.pa.string()), "image_1": layouts.IMAGE}
    layouts.parquet(tmp_path / "A" / "validation.parquet", columns, [one, {**one, **changed}])
    with pytest.raises(ValueError, match=rf"A/validation\.parquet, row 1: {told}"):
        made(tmp_path).question(1)
