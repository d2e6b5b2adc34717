"""Your own questions and answers in a table."""

import pytest

from data import corpora


def test_rows_of_a_csv_are_questions_with_and_without_a_picture(tmp_path):
    (tmp_path / "kite.png").write_bytes(corpora.png(4))
    (tmp_path / "mine.csv").write_text('picture,question,answer\nkite.png,"What, then?",A kite.\n,Two and two?,Four.\n')
    found = corpora.source("table", path=tmp_path / "mine.csv")
    picture, question = found[0].messages[0].parts
    assert (corpora.shade(picture), question, found[0].messages[1].parts) == (4, "What, then?", ("A kite.",))
    assert [message.parts for message in found[1].messages] == [("Two and two?",), ("Four.",)]


def test_columns_have_the_names_that_the_recipe_gives(tmp_path):
    rows = [{"img": corpora.png(3), "q": "a", "a": "b", "other": 1}]
    path = corpora.parquet(tmp_path / "t.parquet", rows)
    found = corpora.source("table", path=path, picture="img", question="q", answer="a")
    assert corpora.shade(found[0].pictures[0]) == 3
    without = corpora.source("table", path=path, picture="", question="q", answer="a")
    assert without[0].pictures == [] and without[0].messages[0].parts == ("a",)


def test_a_broken_row_is_named(tmp_path):
    (tmp_path / "mine.csv").write_text("picture,question,answer\n,a,b\n,a,\n,a\n")
    found = corpora.source("table", path=tmp_path / "mine.csv")
    for at, told in [(1, "'answer' should be text"), (2, "2 values, the header names 3")]:
        with pytest.raises(ValueError) as error:
            found[at]
        assert f"mine.csv, row {at}: " in str(error.value) and told in str(error.value)
    with pytest.raises(ValueError, match="no column 'reply'; there are 'picture', 'question', 'answer'"):
        corpora.source("table", path=tmp_path / "mine.csv", answer="reply")[0]
