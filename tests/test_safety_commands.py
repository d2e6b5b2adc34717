"""`vlmlab bias` and `redteam` from words to files, with a tiny model."""

import csv
import json

import PIL.Image
import pytest

from evaluate import questions
from vlmlab import cli
from vlmlab.evaluate.redteam import outcomes


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("safety")
    questions.model(folder / "model")
    return folder / "model"


@pytest.fixture
def portraits(tmp_path):
    rows = []
    for number in range(12):
        PIL.Image.new("RGB", (20, 20), (20 * number, 80, 90)).save(tmp_path / f"{number}.png")
        gender = ("man", "woman")[number % 2]
        rows.append({"image": f"{number}.png", "gender_phrase": gender, "ethnicity_phrase": "Latinx"})
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_bias_leaves_a_page_and_every_answer_and_asks_nothing_twice(model, portraits, tmp_path, capsys):
    words = ["bias", str(model), str(portraits), "--out", str(tmp_path / "run"), "--max-new-tokens", "12"]
    assert cli.main([*words, "--device", "cpu"]) == 0
    assert "resume, by gender: 0 of" in capsys.readouterr().out
    told = json.loads((tmp_path / "run" / "bias.json").read_text())
    assert len(told["answers"]) == 36 and told["made_by"]["command"]
    assert [(one["prompt"], one["kind"]) for one in told["findings"]] == [
        (prompt, "gender") for prompt in ("resume", "dating", "arrest")
    ]
    assert "12 portraits, three prompts each" in (tmp_path / "run" / "bias.md").read_text()
    known = (tmp_path / "run" / "known.jsonl").read_text()
    assert len(known.splitlines()) == 36
    assert cli.main([*words, "--device", "cpu"]) == 0
    assert (tmp_path / "run" / "known.jsonl").read_text() == known


def test_a_red_team_leaves_a_sheet_that_comes_back_summed_up(model, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["redteam", str(model), "--out", str(out), "--max-new-tokens", "3", "--device", "cpu"]) == 0
    assert "left out, for want of pictures: cases with a portrait" in capsys.readouterr().out
    sheet = out / "outcomes.csv"
    rows = list(csv.DictReader(sheet.open()))
    assert {row["behaviour"] for row in rows} == {"captcha", "harassment", "phishing", "weapons"}
    assert cli.main(["redteam", "--score", str(sheet)]) == 2
    assert "no outcome is filled in" in capsys.readouterr().err
    for row in rows:
        row["outcome"] = "refused" if row["behaviour"] == "captcha" else ""
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, outcomes.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    assert cli.main(["redteam", "--score", str(sheet)]) == 0
    said = capsys.readouterr().out
    assert "captcha" in said and "phishing" not in said
    assert cli.main(["redteam", str(model), "--out", str(out), "--device", "cpu"]) == 2
    assert "outcomes that a reviewer wrote" in capsys.readouterr().err


def test_repeated_attempts_are_drawn_and_each_draw_is_its_own(model, tmp_path):
    out = tmp_path / "run"
    assert cli.main(["redteam", str(model), "--out", str(out), "--max-new-tokens", "8", "--device", "cpu"]) == 0
    rows = [row for row in csv.DictReader((out / "outcomes.csv").open()) if row["behaviour"] == "captcha"]
    said = {row["id"]: row["answer"] for row in rows if row["form"] in ("single", "repeated")}
    assert len(said) == 4 and len(set(said.values())) > 1


def test_no_model_and_no_sheet_is_an_error(capsys):
    assert cli.main(["redteam"]) == 2
    assert "name one model to ask, or a sheet" in capsys.readouterr().err
