"""One's own benchmark, and what every benchmark does with its questions: prompts, examples, a limit."""

import json

import pytest

from vlmlab import component
from vlmlab.evaluate.benchmarks import BenchmarkConfig


def made(tmp_path, rows, **keys):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return component.parse(BenchmarkConfig, {"name": "own", "path": str(path), **keys}).build()


ROWS = [{"question": f"What is {n}?", "answers": [f"number {n}"], "image": f"{n}.png"} for n in range(12)]


def test_an_open_question_is_asked_as_in_the_paper(tmp_path):
    benchmark = made(tmp_path, ROWS)
    picture, words = benchmark.ask(benchmark.question(3)).messages[0].parts
    assert words == "Question: What is 3?\nGive a very brief answer."
    assert str(picture.source).endswith("3.png")


def test_choices_are_lettered_in_order(tmp_path):
    benchmark = made(tmp_path, [{"question": "Which?", "answers": "B", "choices": ["one", "two"]}])
    (words,) = benchmark.ask(benchmark.question(0)).messages[0].parts
    assert words == "Question: Which?\nChoices:\nA. one\nB. two\nAnswer with the letter."


def test_examples_bring_their_pictures_and_answers_and_never_the_question_itself(tmp_path):
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({**row, "id": f"{n}"}) + "\n" for n, row in enumerate(ROWS)))
    benchmark = made(tmp_path, ROWS, shots=4, pool=str(pool))
    for number in range(12):
        question = benchmark.question(number)
        shown = benchmark.examples(question)
        assert len({one.id for one in shown} - {question.id}) == 4
        sample = benchmark.ask(question)
        assert len(sample.pictures) == 5
        assert [m.parts[0] for m in sample.messages if m.role == "assistant"] == [o.reference.answers[0] for o in shown]


def test_a_draw_is_the_same_whatever_else_is_asked_and_another_draw_is_another(tmp_path):
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({**row, "id": f"p{n}"}) + "\n" for n, row in enumerate(ROWS)))
    first, again = (made(tmp_path, ROWS, shots=2, pool=str(pool)) for _ in range(2))
    other = made(tmp_path, ROWS, shots=2, draw=1, pool=str(pool))
    asked = [first.ask(first.question(n)) for n in range(12)]
    assert asked == [again.ask(again.question(n)) for n in reversed(range(12))][::-1]
    assert asked != [other.ask(other.question(n)) for n in range(12)]


def test_a_pool_that_is_too_small_is_an_error(tmp_path):
    benchmark = made(tmp_path, ROWS, shots=4)
    with pytest.raises(ValueError, match="its pool has 0"):
        benchmark.ask(benchmark.question(0))


def test_a_limit_is_spread_over_the_split(tmp_path):
    benchmark = made(tmp_path, ROWS, limit=3)
    assert [benchmark.question(n).id for n in range(len(benchmark))] == ["0", "4", "8"]
    with pytest.raises(IndexError):
        benchmark.question(3)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"answers": ["a"]}, "no column 'question'"),
        ({"question": "?", "answers": 3}, "should be a text or a list of texts"),
        ({"question": "?", "answers": []}, "column 'answers' is empty"),
        ({"question": "?", "answers": "a", "images": 3}, "column 'images' should be a list"),
        ({"question": "?", "answers": "Z", "choices": ["x", "y"]}, "its answer 'Z' is none of A, B"),
    ],
)
def test_a_row_that_is_not_a_question_is_named(tmp_path, row, told):
    benchmark = made(tmp_path, [ROWS[0], row])
    with pytest.raises(ValueError, match=f"questions.jsonl, row 1.*{told}"):
        benchmark.question(1)
