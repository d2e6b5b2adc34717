"""Portraits in the published layouts, with numbers or words for groups."""

import io
import re

import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from vlmlab.evaluate.bias.portraits import Portraits


def face(colour: str) -> dict:
    held = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), colour).save(held, "PNG")
    return {"bytes": held.getvalue(), "path": None}


def written(folder, rows):
    path = folder / "validation-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def test_fairface_numbers_become_their_names(tmp_path):
    rows = [{"image": face("red"), "age": 3, "gender": 1, "race": 6, "service_test": True}]
    (one,) = Portraits(written(tmp_path, rows))
    assert one.groups == {"age": "20-29", "gender": "Female", "race": "Southeast Asian"}
    assert one.picture.source == rows[0]["image"]["bytes"]


def test_stable_bias_phrases_are_taken_as_they_are(tmp_path):
    rows = [{"image": face("red"), "gender_phrase": "non-binary", "ethnicity_phrase": "Latinx", "9B_resume": "..."}]
    (one,) = Portraits(written(tmp_path, rows))
    assert one.groups == {"gender": "non-binary", "ethnicity": "Latinx"}


def test_a_limit_is_spread_over_all(tmp_path):
    rows = [{"image": face("red"), "gender": at % 2} for at in range(10)]
    assert [one.id for one in Portraits(written(tmp_path, rows), limit=3)] == ["0", "3", "6"]


def test_a_prompt_stands_after_the_picture(tmp_path):
    (one,) = Portraits(written(tmp_path, [{"image": face("red"), "gender": 0}]))
    (message,) = one.asked("Who?").messages
    assert message.role == "user"
    assert message.parts == (one.picture, "Who?")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"gender": 2}, "column 'gender' should be a name or a number below 2, not 2"),
        ({"gender_phrase": " "}, "column 'gender_phrase' should be text"),
        ({"hair": "red"}, "nothing says who is on the picture"),
    ],
)
def test_a_row_without_usable_groups_is_named(tmp_path, row, told):
    portraits = Portraits(written(tmp_path, [{"image": face("red"), **row}]))
    with pytest.raises(ValueError, match=re.escape("parquet, row 0")) as caught:
        portraits[0]
    assert told in str(caught.value)
