"""Dialogues in LLaVA's layout: LLaVA-Conv and ShareGPT4V."""

import pytest

from data import corpora
from vlmlab.batch import Picture


def dialogue(*texts, **more):
    speakers = ("human", "gpt")
    turns = [{"from": speakers[at % 2], "value": text} for at, text in enumerate(texts)]
    return {"id": "000000033471", "conversations": turns, **more}


def dialogues(folder, *rows, **keys):
    return corpora.source("dialogues", path=corpora.as_json(folder / "conv.json", rows), **keys)


def shape(sample):
    return [
        (message.role, *("*" if isinstance(part, Picture) else part for part in message.parts))
        for message in sample.messages
    ]


def test_the_picture_stands_where_it_is_marked(tmp_path):
    found = dialogues(
        tmp_path,
        dialogue("<image>\nWhat is it?", "A bus.", "What colour?", "Red.\n", image="1.png"),
        dialogue("What is it?\n<image>", "A bus.", image="1.png"),
        dialogue("Two and two?", "Four."),
        dialogue("From <image> to <image>?", "Lighter.", image=["1.png", "2.png"]),
    )
    assert shape(found[0]) == [
        ("user", "*", "What is it?"),
        ("assistant", "A bus."),
        ("user", "What colour?"),
        ("assistant", "Red."),
    ]
    assert shape(found[1])[0] == ("user", "What is it?", "*")
    assert shape(found[2]) == [("user", "Two and two?"), ("assistant", "Four.")]
    assert shape(found[3])[0] == ("user", "From", "*", "to", "*", "?")


def test_pictures_are_found_in_the_folder_that_the_recipe_names(tmp_path):
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    (tmp_path / "coco" / "train2017" / "9.png").write_bytes(corpora.png(9))
    row = dialogue("<image>\nDescribe it.", "Grey.", image="coco/train2017/9.png")
    (tmp_path / "text").mkdir()
    found = dialogues(tmp_path / "text", row, pictures=tmp_path)
    assert corpora.shade(found[0].pictures[0]) == 9
    missing = dialogues(tmp_path / "text", row)
    with pytest.raises(ValueError, match=r"conv\.json, row 0, picture 0 .*9\.png\): no such picture"):
        corpora.shade(missing[0].pictures[0])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (dialogue("What?", "A bus.", image="1.png"), "1 pictures, and 0 <image> marks"),
        (dialogue("<image><image>", "A bus.", image="1.png"), "1 pictures, and 2 <image> marks"),
        (dialogue("<image>", "A bus."), "0 pictures, and 1 <image> marks"),
        (dialogue("What?"), "needs a question and an answer"),
        (dialogue(), "needs a question and an answer"),
        (dialogue("What?", " "), "turn 1 should have text"),
        (dialogue("What?", "A bus.", image=7), "picture 0 should be"),
        ({"id": "1"}, "no column 'conversations'; there are 'id'"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "turn 0 is by 'robot'"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "turn 0 is by ['human']"),
        ({"conversations": ["x"]}, "turn 0 should be an object with 'from' and 'value'"),
        ({"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]}, "needs a question and"),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, told):
    found = dialogues(tmp_path, dialogue("What?", "That."), row)
    with pytest.raises(ValueError) as error:
        found[1]
    assert "conv.json, row 1: " in str(error.value) and told in str(error.value)
