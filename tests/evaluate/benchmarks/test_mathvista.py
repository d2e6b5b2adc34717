"""MathVista: types of questions, the paper's words and the published ones, what its authors' code reads."""

import pytest

from evaluate.benchmarks import layouts
from vlmlab import component
from vlmlab.evaluate.benchmarks import BenchmarkConfig


def made(path, **keys):
    return component.parse(BenchmarkConfig, {"name": "mathvista", "path": str(path), **keys}).build()


def official(folder, **changed):
    """As its authors publish it: an object of questions by id."""
    told = {
        str(at + 1): {
            **{"choices": None, "unit": None, "precision": None, **one},
            "image": f"images/{at + 1}.jpg",
            "question_type": "multi_choice" if "choices" in one else "free_form",
            "metadata": {"task": one["task"]},
            "query": f"Hint: Please answer.\nQuestion: {one['question']}",
            **changed,
        }
        for at, one in enumerate(layouts.MATHVISTA)
    }
    layouts.written(folder / "annot_testmini.json", told)
    for at in range(len(told)):
        layouts.picture(folder / "images" / f"{at + 1}.jpg", at)
    return folder


def words(benchmark):
    asked = [benchmark.ask(benchmark.question(at)).messages[0].parts for at in range(4)]
    return [parts[1] for parts in asked]


@pytest.mark.parametrize("layout", [layouts.mathvista, official])
def test_the_paper_s_words(tmp_path, layout):
    benchmark = made(layout(tmp_path))
    assert words(benchmark) == [
        "Question: Which?\nChoices:\nA. 3\nB. 145°\nAnswer with the letter.",
        "Question: How many? (Unit: years)\nGive a very brief answer.",
        "Question: How much?\nGive a very brief answer.",
        "Question: From when?\nGive a very brief answer.",
    ]
    questions = [benchmark.question(at) for at in range(4)]
    assert [one.id for one in questions] == ["1", "2", "3", "4"]
    assert [one.reference.kind for one in questions] == ["text", "integer", "float", "list"]
    assert [one.reference.precision for one in questions] == [None, None, 1.0, None]
    assert [one.kind for one in questions] == ["geometry", "figure", "figure", "figure"]


def test_the_published_words(tmp_path):
    benchmark = made(layouts.mathvista(tmp_path), words="published")
    assert words(benchmark)[1] == "Hint: Please answer.\nQuestion: How many?"
    assert benchmark.max_new_tokens > made(tmp_path).max_new_tokens


def test_a_letter_and_an_option_s_text_are_both_read(tmp_path):
    benchmark = made(layouts.mathvista(tmp_path))
    questions = [benchmark.question(at) for at in range(4)]
    for said in (["B", "7", "1.2", "[2012, 2013]"], ["145°", "7.", "1.21", "[2012,2013]"]):
        assert [score.value for score in benchmark.score(said, questions)] == [1.0] * 4
    assert (
        benchmark.score(["B"], questions[:1], "official")[0].value == 0
    )  # it waits for a judge, and takes the shortest


def test_the_official_pictures(tmp_path):
    source = made(official(tmp_path)).question(2).pictures[0].source
    assert source == tmp_path / "images" / "3.jpg"


def test_test_is_sent_to_its_authors(tmp_path):
    benchmark = made(layouts.mathvista(tmp_path), split="test")
    questions = [benchmark.question(at) for at in range(4)]
    with pytest.raises(ValueError, match=r"mathvista test: 4 of 4 .* the authors of MathVista"):
        benchmark.score([""] * 4, questions)
    told = benchmark.submission({one.id: f"said {one.id}" for one in questions})
    assert list(told) == ["1", "2", "3", "4"]
    assert told["3"]["response"] == "said 3" and told["3"]["precision"] == 1.0 and told["3"]["pid"] == "3"
    assert told["1"]["choices"] == ["3", "145°"] and "decoded_image" not in told["1"]
    with pytest.raises(ValueError, match="row 0: there is no answer to question 1"):
        benchmark.submission(dict.fromkeys("5234", ""))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"choices": ["x", "y"]}, "its answer '7' is none of its choices"),
        ({"answer_type": None}, "column 'answer_type'"),
        ({"question": ""}, "column 'question'"),
        ({"image": None}, "picture 0 should be"),
    ],
)
def test_a_damaged_entry_is_named(tmp_path, changed, told):
    with pytest.raises(ValueError, match=rf"annot_testmini\.json, row 1: {told}"):
        made(official(tmp_path, **changed)).question(1)


def test_a_file_that_is_no_object_is_named(tmp_path):
    layouts.written(tmp_path / "testmini.json", [])
    with pytest.raises(ValueError, match=r"testmini\.json: the file should hold a JSON object"):
        made(tmp_path)
