"""The nine text-only sets, each in its own columns."""

import json

import pytest

from data import corpora
from vlmlab.data.sources import text

# A row of each set, as it is published; how its files end; and what is asked and answered in it.
PUBLISHED = {
    "openhermes": (
        ".json",
        {
            "system_prompt": None,
            "source": "airoboros2.2",
            "conversations": [
                {"from": "human", "value": "Q 1", "weight": None},
                {"from": "gpt", "value": "A 1", "weight": None},
                {"from": "human", "value": "Q 2"},
                {"from": "gpt", "value": "A 2"},
            ],
        },
        [("user", "Q 1"), ("assistant", "A 1"), ("user", "Q 2"), ("assistant", "A 2")],
    ),
    "lima": (
        ".jsonl",
        {"conversations": ["Q 1", "A 1", "Q 2", "A 2"], "source": "multi_turn"},
        [("user", "Q 1"), ("assistant", "A 1"), ("user", "Q 2"), ("assistant", "A 2")],
    ),
    "dolly": (
        ".jsonl",
        {"instruction": "Who?", "context": "Long ago.", "response": "She.", "category": "closed_qa"},
        [("user", "Who?\n\nLong ago."), ("assistant", "She.")],
    ),
    "metamathqa": (
        ".json",
        {"type": "GSM_Rephrased", "query": "2+2?", "original_question": "?", "response": "The answer is: 4"},
        [("user", "2+2?"), ("assistant", "The answer is: 4")],
    ),
    "mathinstruct": (
        ".json",
        {"source": "data/CoT/aqua_rat.json", "instruction": "2+2?", "output": "4"},
        [("user", "2+2?"), ("assistant", "4")],
    ),
    "orcamath": (".parquet", {"question": "2+2?", "answer": "4"}, [("user", "2+2?"), ("assistant", "4")]),
    "camelaimath": (
        ".json",
        {"role_1": "Mathematician", "topic;": "Algebra", "sub_topic": "Roots", "message_1": "2+2?", "message_2": "4"},
        [("user", "2+2?"), ("assistant", "4")],
    ),
    "atlasmathsets": (
        ".jsonl",
        {"instruction": "Sum up 2 + 2", "input": "2 + 2", "output": "2 + 2 = 4", "answer": "4"},
        [("user", "Sum up 2 + 2"), ("assistant", "2 + 2 = 4")],
    ),
    "goat": (
        ".json",
        {"instruction": "What is 2+2?", "input": "2 + 2", "output": "2 + 2 = 4", "answer": "4"},
        [("user", "What is 2+2?"), ("assistant", "2 + 2 = 4")],
    ),
}
WRITERS = {".json": corpora.as_json, ".jsonl": corpora.as_lines, ".parquet": corpora.parquet}


def said(sample):
    return [(message.role, *message.parts) for message in sample.messages]


def test_all_nine_are_tried_here():
    assert PUBLISHED.keys() == text.sets().keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_set_in_its_published_columns(tmp_path, name):
    ending, row, wanted = PUBLISHED[name]
    path = WRITERS[ending](tmp_path / f"data{ending}", [row, row])
    found = corpora.source("text", path=path, set=name)
    assert len(found) == 2 and said(found[1]) == wanted


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_without_an_answer_is_named(tmp_path, name):
    ending, row, _ = PUBLISHED[name]
    columns = text.sets()[name]
    broken = {**row, columns.turns: row[columns.turns][:1]} if columns.turns else {**row, columns.assistant: " "}
    path = WRITERS[ending](tmp_path / f"data{ending}", [row, broken])
    with pytest.raises(ValueError, match=rf"data\{ending}, row 1: "):
        corpora.source("text", path=path, set=name)[1]


def test_one_file_for_each_conversation(tmp_path):
    for at in range(3):
        (tmp_path / f"00{at}.json").write_text(json.dumps({"message_1": f"Q {at}", "message_2": "A"}))
    found = corpora.source("text", path=tmp_path / "*.json", set="camelaimath")
    assert [said(found[at])[0] for at in range(len(found))] == [("user", f"Q {at}") for at in range(3)]


def test_dolly_without_a_context(tmp_path):
    row = {**PUBLISHED["dolly"][1], "context": ""}
    assert said(corpora.source("text", path=corpora.as_lines(tmp_path / "a.jsonl", [row]), set="dolly")[0])[0] == (
        "user",
        "Who?",
    )


def test_a_system_prompt_stands_first_and_once(tmp_path):
    _, row, wanted = PUBLISHED["openhermes"]
    twice = [{"from": "system", "value": "Be brief."}, *row["conversations"]]
    rows = [{**row, "system_prompt": "Be brief."}, {**row, "system_prompt": "Be brief.", "conversations": twice}]
    found = corpora.source("text", path=corpora.as_json(tmp_path / "a.json", rows), set="openhermes")
    assert said(found[0]) == said(found[1]) == [("system", "Be brief."), *wanted]


def test_columns_of_another_set(tmp_path):
    path = corpora.as_lines(tmp_path / "a.jsonl", [{"q": "2+2?", "a": "4"}])
    found = corpora.source("text", path=path, columns={"user": ["q"], "assistant": "a"})
    assert said(found[0]) == [("user", "2+2?"), ("assistant", "4")]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "either which `set` it is, or which `columns`"),
        ({"set": "goat", "columns": {"turns": "t"}}, "either which `set` it is, or which `columns`"),
        ({"set": "open_hermes"}, "did you mean 'openhermes'"),
        ({"set": "zzzz"}, "for others, give `columns`"),
        ({"columns": {"user": ["a"]}}, "either `user` and `assistant`, or `turns`"),
        ({"columns": {"user": ["a"], "assistant": "b", "turns": "c"}}, "either `user` and `assistant`, or `turns`"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path, keys, told):
    with pytest.raises(ValueError) as error:
        corpora.source("text", path=tmp_path, **keys)
    assert told in str(error.value)
