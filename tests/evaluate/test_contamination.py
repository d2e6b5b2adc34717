"""Questions that stand in a training corpus: found by picture or passage, and the score without them."""

import json

import PIL.Image
import pytest

from evaluate import questions
from evaluate.questions import record
from vlmlab import cli
from vlmlab.data.filters.decontaminate import Held
from vlmlab.evaluate import contamination
from vlmlab.evaluate.contamination import Found

WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


@pytest.fixture
def place(tmp_path):
    """Twelve questions, two a picture; a corpus with picture 2 darkened, a passage of question 9, and a broken row."""
    path = questions.file(tmp_path, 12)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[9]["question"] = f"What comes after {WORDS}?"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    PIL.Image.open(tmp_path / "2.png").point(lambda value: value // 2).save(tmp_path / "dark.png")
    questions.tiny.picture(18, 20, 99).save(tmp_path / "other.png")
    corpus = [
        {"text": "a thing <image>", "images": ["other.png"]},
        {"text": "a leak <image>", "images": ["dark.png"]},
        {"text": f"they say that {WORDS.upper()} come before it"},
        {"text": "gone <image>", "images": ["gone.png"]},
    ]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (tmp_path / "r.toml").write_text(f'[data]\nname = "jsonl"\npath = "{tmp_path / "corpus.jsonl"}"\n')
    return tmp_path


def test_leaks_are_found_with_every_question_of_the_picture(place):
    benchmark = questions.config(place / "questions.jsonl").build()
    done = []
    found = contamination.search(
        Held(contamination.samples(benchmark)), contamination.corpus(str(place / "r.toml")), done.append
    )
    assert sorted(found.why) == [4, 5, 9] and (found.samples, found.unreadable, len(done)) == (4, 1, 4)
    assert found.why[4].startswith("picture: ") and "dark.png" in found.why[4]
    assert found.why[9] == "text: " + " ".join(WORDS.split()[:13])


def test_the_score_is_told_with_and_without():
    records = [record(n, float(n < 4)) for n in range(10)]
    told = contamination.told(Found({0: "x", 1: "y"}, 50, 1), "r.toml", records, ("exact", "official"))
    assert told["flagged"] == 2 and told["questions"] == {"0": "x", "1": "y"}
    assert told["without"]["value"] == 25.0 and told["only"]["value"] == 100.0
    assert "without" not in contamination.told(Found({}, 50, 0), "r.toml", records, ("exact", "official"))


def test_the_card_says_it(place, capsys):
    questions.model(place / "model")
    words = ["eval", str(place / "model"), f"own={place / 'questions.jsonl'}", "own.max_new_tokens=2"]
    out = place / "run"
    assert cli.main([*words, "--device", "cpu", "--out", str(out), "--against", str(place / "r.toml")]) == 0
    assert "3 of 12 questions are in the training corpus" in capsys.readouterr().out
    card = (out / "own" / "card.md").read_text()
    assert "| contamination | 3 of 12 questions are in" in card and "| score without these | 0.0 [0.0, " in card
    assert cli.main([*words, "--against", "jsnl"]) == 2
    assert "no sources plug-in called 'jsnl'" in capsys.readouterr().err
