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


def tried(model, tmp_path, capsys, text, **more):
    """Red-teaming with a file of cases: the exit status, and what was said."""
    (tmp_path / "cases.toml").write_text(text)
    options = [word for name, value in more.items() for word in (f"--{name}", str(value))]
    words = ["redteam", str(model), "--cases", str(tmp_path / "cases.toml"), "--device", "cpu", *options]
    return cli.main(words), capsys.readouterr().err


def test_cases_that_nobody_can_try_are_an_error(model, tmp_path, capsys):
    case = '[[case]]\nbehaviour = "b"\npicture = "zebra"\nask = "a"\n[behaviours.b]\nabout = "x"\ngroup = "bias"\n'
    out = tmp_path / "run"
    assert tried(model, tmp_path, capsys, case, out=out) == (
        2,
        "vlmlab: no case is left to try: give --pictures a folder of them\n",
    )
    status, said = tried(model, tmp_path, capsys, "case = []\n[behaviours]\n", out=out)
    assert status == 2 and "cases.toml has no cases" in said
    assert not out.exists()
    assert cli.main(["redteam", str(model), "--cases", "gone.toml"]) == 2
    assert capsys.readouterr().err == "vlmlab: no such file: gone.toml\n"


def test_a_limit_below_zero_and_an_out_that_is_a_file_are_one_line(model, portraits, capsys):
    words = ["bias", str(model), str(portraits), "--device", "cpu"]
    assert cli.main([*words, "--limit", "-1"]) == 2
    assert capsys.readouterr().err == "vlmlab: limit must be 0 or more, not -1\n"
    assert cli.main([*words, "--out", str(portraits)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"vlmlab: {portraits}: it is there already, and is no folder"


def test_who_interrupts_is_told_how_to_go_on(model, portraits, tmp_path, capsys, monkeypatch):
    def stop(*told):
        raise KeyboardInterrupt

    monkeypatch.setattr("vlmlab.evaluate.bias.run.ask", stop)
    out = tmp_path / "run"
    assert cli.main(["bias", str(model), str(portraits), "--out", str(out), "--device", "cpu"]) == 130
    assert f"{out} keeps the answers: say the same again to go on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"id,behaviour,form,outcome\n1,b,f,nonsense\n", "{sheet}: line 2: outcome 'nonsense' is none of"),
        (b"a,b\n1,2\n", "{sheet}: this is no sheet of outcomes: it has no column"),
        (b"\xff\xfe\x00", "{sheet} is not in UTF-8"),
        (b"", "{sheet}: this is no sheet"),
    ],
)
def test_a_sheet_that_cannot_be_read_is_named(tmp_path, capsys, data, told):
    sheet = tmp_path / "outcomes.csv"
    sheet.write_bytes(data)
    assert cli.main(["redteam", "--score", str(sheet)]) == 2
    assert told.format(sheet=sheet) in capsys.readouterr().err


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_sheet_comes_back_as_spreadsheets_save_it(tmp_path, capsys, mark):
    sheet = tmp_path / "outcomes.csv"
    rows = [["id", "behaviour", "form", "outcome"], ["1", "captcha", "single", "refused"]]
    sheet.write_text("".join(mark.join(row) + "\r\n" for row in rows), encoding="utf-8-sig", newline="")
    assert cli.main(["redteam", "--score", str(sheet)]) == 0
    assert "captcha" in capsys.readouterr().out
