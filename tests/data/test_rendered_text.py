"""RenderedText's layout, from tars and from a folder."""

import json
import re

import pytest

from data import corpora

BOXES = [[[145.0, 370.0], [788.0, 353.0], [827.0, 633.0], [182.0, 669.0]], [[1, 2], [3, 2], [3, 4], [1, 4]]]


def told(**changes):
    known = {"text": ["Dear Joe,", "come soon. "], "bounding_boxes": BOXES, "char": ["D", "e"], "font_color": [1, 2, 3]}
    return json.dumps({"ocr_annotation": {**known, **changes}, "width": 1024, "height": 1024}).encode()


def tars(folder, count=3, **changes):
    for shard in range(2):
        files = [
            (f"{at:05}.{kind}", data)
            for at in range(count)
            for kind, data in (("png", corpora.png(10 * shard + at)), ("json", told(**changes)))
        ]
        corpora.tar(folder / f"{shard}.tar", files)
    return folder / "*.tar"


def test_rows_become_conversations(tmp_path):
    source = corpora.source("rendered_text", path=tars(tmp_path))
    assert len(source) == 6
    sample = source[4]
    assert corpora.shade(sample.pictures[0]) == 11
    assert [m.role for m in sample.messages] == ["user", "assistant"]
    assert sample.messages[0].parts[1] == "What does it say?"
    assert sample.messages[1].parts == ("Dear Joe,\ncome soon.",)
    truth = source.truth(4)
    assert [line.text for line in truth] == ["Dear Joe,", "come soon."]
    assert truth[0].corners[2] == (827.0, 633.0) and truth[1].corners[0] == (1.0, 2.0)
    with pytest.raises(IndexError):
        source[6]


def test_a_folder_and_documents(tmp_path):
    (tmp_path / "a.png").write_bytes(corpora.png(7))
    (tmp_path / "a.json").write_bytes(told())
    (sample,) = [corpora.source("rendered_text", path=tmp_path, question="")[0]]
    assert corpora.shade(sample.pictures[0]) == 7
    assert sample.messages[0].role == "text" and sample.messages[0].parts[1] == "Dear Joe,\ncome soon."


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"text": []}, "a list of lines under `text`"),
        ({"text": "Dear"}, "a list of lines under `text`"),
        ({"text": ["one"]}, "1 lines; it should have as many `bounding_boxes`"),
        ({"bounding_boxes": [[1, 2], [3, 4]]}, "a list of corners, each of two numbers"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, changes, wrong):
    source = corpora.source("rendered_text", path=tars(tmp_path, **changes))
    with pytest.raises(ValueError, match=re.escape(wrong)) as error:
        source[1]
    assert "0.tar, row 1" in str(error.value)
