"""MMBench: tables with pictures in base64, rotations that count together, the server's table."""

import csv
import io

import pyarrow as pa
import pytest

from evaluate.benchmarks import layouts
from vlmlab import component
from vlmlab.evaluate.benchmarks import BenchmarkConfig


def made(path, **keys):
    return component.parse(BenchmarkConfig, {"name": "mmbench", "path": str(path), "split": "dev", **keys}).build()


def all_of(benchmark):
    return [benchmark.question(at) for at in range(len(benchmark))]


def test_rotations_of_a_question_are_a_group_and_share_its_picture(tmp_path):
    questions = all_of(made(layouts.mmbench(tmp_path)))
    assert [one.id for one in questions] == ["11", "1000011", "12", "1000012", "2000012", "13", "1000013"]
    assert [one.reference.group for one in questions] == ["11", "11", "12", "12", "12", "13", "13"]
    assert questions[4].pictures[0].source == questions[2].pictures[0].source == layouts.png(12)
    assert questions[1].reference.choices == ("dog", "cat") and questions[1].reference.answers == ("A",)
    assert questions[2].kind == "counting"


def test_a_question_is_right_where_all_of_its_rotations_are(tmp_path):
    benchmark = made(layouts.mmbench(tmp_path))
    questions = all_of(benchmark)
    said = [one.reference.answers[0] for one in questions]
    said[3] = "C" if said[3] != "C" else "A"
    assert [score.value for score in benchmark.score(said, questions)] == [1, 1, 0, 0, 0, 1, 1]
    assert [score.value for score in benchmark.score(said, questions, "vanilla")] == [1, 1, 1, 0, 1, 1, 1]


def test_plain_asks_each_question_once(tmp_path):
    benchmark = made(layouts.mmbench(tmp_path), circular=False)
    assert [one.id for one in all_of(benchmark)] == ["11", "12", "13"]
    assert [score.value for score in benchmark.score(["B", "A", "B"], all_of(benchmark))] == [1, 0, 1]


def test_a_limit_keeps_rotations_together(tmp_path):
    assert [one.id for one in all_of(made(layouts.mmbench(tmp_path), limit=2))] == [
        "11",
        "1000011",
        "12",
        "1000012",
        "2000012",
    ]


def test_a_hint_stands_before_the_question(tmp_path):
    benchmark = made(layouts.mmbench(tmp_path))
    words = benchmark.ask(benchmark.question(0)).messages[0].parts[1]
    assert words == ("Question: Look at the tail.\nWhat is in 11?\nChoices:\nA. cat\nB. dog\nAnswer with the letter.")


def test_the_table_is_chosen_by_split_and_language_or_given(tmp_path):
    layouts.mmbench(tmp_path)
    assert len(made(tmp_path, language="cn")) == 1
    assert len(made(tmp_path / "MMBench_DEV_EN_V11.tsv")) == 7
    layouts.table(tmp_path / "mmbench_dev_20230712.tsv", layouts.mmbench_rows("dev"))
    with pytest.raises(ValueError, match=r"several tables .* MMBench_DEV_EN_V11\.tsv, mmbench_dev_20230712\.tsv"):
        made(tmp_path)


def test_a_question_s_rotations_are_not_among_its_examples(tmp_path):
    benchmark = made(layouts.mmbench(tmp_path), shots=2)
    for question in all_of(benchmark):
        examples = benchmark.examples(question)
        assert len({one.reference.group for one in examples} - {question.reference.group}) == 2


def test_pictures_longer_than_a_csv_cell_may_be(tmp_path):
    rows = layouts.mmbench_rows("dev")
    rows[0]["image"] = layouts.base64.b64encode(bytes(300_000)).decode()
    layouts.table(tmp_path / "MMBench_DEV_EN.tsv", rows)
    assert made(tmp_path).question(1).pictures[0].source == bytes(300_000)


def test_the_hub_s_files_have_nan_for_nothing(tmp_path):
    rows = [
        {**row, "index": int(row["index"]), "hint": "nan", "image": layouts.image(3)}
        | {letter: row[letter] or "nan" for letter in "ABCD"}
        for row in layouts.mmbench_rows("dev")
    ]
    columns = {key: pa.string() for key in rows[0]} | {"index": pa.int64(), "image": layouts.IMAGE}
    layouts.parquet(tmp_path / "en" / "dev-00000-of-00001.parquet", columns, rows)
    layouts.parquet(tmp_path / "cn" / "dev-00000-of-00001.parquet", columns, rows[:1])
    question = made(tmp_path).question(0)
    assert question.text == "What is in 11?" and question.reference.choices == ("cat", "dog")
    assert len(made(tmp_path)) == 7


def test_test_is_submitted_as_a_table(tmp_path):
    benchmark = made(layouts.mmbench(tmp_path), split="test")
    questions = all_of(benchmark)
    with pytest.raises(ValueError, match=r"mmbench test: 7 of 7 .* OpenCompass"):
        benchmark.score([""] * 7, questions)
    text = benchmark.submission_text({one.id: f"A\t{one.id}\n" for one in questions})
    rows = list(csv.DictReader(io.StringIO(text), dialect="excel-tab"))
    assert list(rows[0]) == ["index", "question", "A", "B", "C", "D", "prediction"]
    assert rows[6] == {
        **{"index": "1000013", "question": "What is in 13?", "A": "down", "B": "up", "C": "", "D": ""},
        "prediction": "A\t1000013",
    }
    assert benchmark.submission_ending == ".tsv"
    with pytest.raises(ValueError, match="each of the 7 rotations, there are 1"):
        benchmark.submission({"11": "A"})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"index": "one"}, "row 1: column 'index' should be a whole number"),
        ({"image": "99"}, "row 1: its picture should stand in the row of index 99"),
        ({"image": "1000011"}, "row 1: .*row 1: column 'image' should be the picture that another row names"),
        ({"image": "cat.jpg"}, "row 1: column 'image' should be a picture in base64 or a row's index"),
        ({"image": "!" * 80}, "row 1: column 'image' should be a picture in base64"),
        ({"B": ""}, "row 1: columns A, B, ... should hold two choices"),
        ({"B": "", "C": "x"}, "row 1: columns A, B, ... should hold two choices"),
        ({"answer": "C"}, "row 1: its answer 'C' is none of A, B"),
    ],
)
def test_a_damaged_row_is_named(tmp_path, changed, told):
    rows = layouts.mmbench_rows("dev")
    rows[1].update(changed)
    layouts.table(tmp_path / "MMBench_DEV_EN.tsv", rows)
    with pytest.raises(ValueError, match=rf"MMBench_DEV_EN\.tsv, {told}"):
        made(tmp_path).question(1)
