"""`vlmlab eval` and `compare`: from words to scores, cards and pages; what is wrong is one line."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from evaluate import questions
from vlmlab import cli
from vlmlab.evaluate import suite

CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a file of questions, and one of examples."""
    folder = tmp_path_factory.mktemp("eval")
    questions.model(folder / "model")
    questions.file(folder, 12)
    questions.file(folder, 12, "pool.jsonl")
    return folder


def words(place, out, *more):
    asked = f"own={place / 'questions.jsonl'}"
    return ["eval", str(place / "model"), asked, "own.max_new_tokens=4", "--out", str(out), "--device", "cpu", *more]


def test_an_evaluation_leaves_its_log_card_and_page(place, tmp_path, capsys):
    assert cli.main(words(place, tmp_path / "run", "--variants")) == 0
    said = capsys.readouterr().out
    assert "model on own: 0.0 [0.0, " in said and "even" in said and "by lmms-eval" in said
    folder = tmp_path / "run" / "own"
    assert {path.name for path in folder.iterdir()} == {"questions.jsonl", "card.json", "card.md", "report.html"}
    card = json.loads((folder / "card.json").read_text())
    assert card["questions"] == 12 and card["made_by"]["command"] and set(card["kinds"]) == {"even", "odd"}
    assert card["writing"] == {"max_new_tokens": 4, "stop": ["Question", "User"]}
    assert card["model"]["dtype"] == "F32" and card["model"]["images"]["longest"] == 40
    assert card["shares"]["cut"] == 1.0 and card["prompt"].startswith("User: <image>Question: What is 0?")
    assert "| splitting | as the model's own |" in (folder / "card.md").read_text()
    before = {path.name: path.read_text() for path in (tmp_path / "run" / "answers").iterdir()}
    assert cli.main(words(place, tmp_path / "run")) == 0
    assert before == {path.name: path.read_text() for path in (tmp_path / "run" / "answers").iterdir()}


def test_draws_of_examples_are_told_apart(place, tmp_path, capsys):
    more = ["own.shots=2", f"own.pool={place / 'pool.jsonl'}", "--draws", "3"]
    assert cli.main(words(place, tmp_path / "run", *more)) == 0
    assert "own, 3 draws: 0.0 [0.0, 0.0]" in " ".join(capsys.readouterr().out.split())
    told = json.loads((tmp_path / "run" / "own-draws.json").read_text())
    assert told["each"] == [0.0, 0.0, 0.0]
    prompts = [json.loads((tmp_path / "run" / f"own-draw{n}" / "card.json").read_text())["prompt"] for n in range(3)]
    assert len(set(prompts)) == 3 and all(prompt.count("<image>") == 3 for prompt in prompts)


def test_two_evaluations_are_compared_in_pairs(place, tmp_path, capsys):
    assert cli.main(words(place, tmp_path / "a")) == 0
    assert cli.main(words(place, tmp_path / "b", "--longest", "20")) == 0
    capsys.readouterr()
    out = tmp_path / "page.html"
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    assert "own: B - A = 0.0 [0.0, 0.0]; wins 0, losses 0, ties 12; to tell 0.5" in capsys.readouterr().out
    assert "data:image/jpeg" in (tmp_path / "page-own.html").read_text()
    assert json.loads((tmp_path / "page-own.json").read_text())["difference"]["ties"] == 12
    assert cli.main(["compare", str(tmp_path / "a" / "own"), str(tmp_path / "b" / "own"), "--out", str(out)]) == 0
    assert out.is_file()


def test_a_run_that_was_killed_goes_on(place, tmp_path):
    """SIGKILL while it answers, and the same again: no answer that was kept is asked for twice."""
    code = (
        "import sys, time; from vlmlab import cli; from vlmlab.evaluate import known\n"
        "add = known.Known.add\n"
        "def slow(self, key, reply): add(self, key, reply); print('kept', flush=True); time.sleep(0.2)\n"
        "known.Known.add = slow\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *words(place, tmp_path / "run")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    for _ in range(3):
        assert running.stdout.readline() == "kept\n"
    running.send_signal(signal.SIGKILL)
    running.wait()
    (kept,) = (tmp_path / "run" / "answers").iterdir()
    first = kept.read_text().splitlines()
    assert 3 <= len(first) < 12
    assert not (tmp_path / "run" / "own").exists()
    assert cli.main(words(place, tmp_path / "run")) == 0
    lines = kept.read_text().splitlines()
    assert lines[: len(first)] == first and len({json.loads(line)["key"] for line in lines}) == len(lines) == 12


def test_scores_stand_against_visual_tokens(place, tmp_path, capsys):
    asked = f"own={place / 'questions.jsonl'}"
    words = ["pareto", str(place / "model"), asked, "own.max_new_tokens=3", "own.limit=4"]
    assert cli.main([*words, "--device", "cpu", "--out", str(tmp_path), "--longest", "20", "36"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "20 3.0 0.0 [0.0, " in said and "36 split 15.0 0.0 [" in said and "best of each 3.0" in said
    assert "36 pixels, split - whole = 0.0 [0.0, 0.0]; wins 0, losses 0, ties 4" in said
    told = json.loads((tmp_path / "own-pareto.json").read_text())
    assert [(p["longest"], p["split"], p["visual_tokens"]) for p in told["points"]] == [
        (20, False, 3.0),
        (20, True, 15.0),
        (36, False, 3.0),
        (36, True, 15.0),
    ]
    assert told["need_splitting"] == [] and told["made_by"]["command"]
    assert "20 px" in (tmp_path / "own-pareto.svg").read_text() and (tmp_path / "own-split.html").is_file()
    assert cli.main([*words, "two=x", "two.name=own"]) == 2
    assert "one benchmark at a time" in capsys.readouterr().err


def test_the_variant_that_scores_is_the_benchmarks_unless_another_is_named(place, tmp_path):
    named = words(place, tmp_path / "run", "own.metric.name=exact", "own.metric.variant=lmms-eval")
    assert cli.main(named) == 0
    assert json.loads((tmp_path / "run" / "own" / "card.json").read_text())["metric"]["variant"] == "lmms-eval"
    assert cli.main([*named, "--variant", "vlmevalkit"]) == 0
    assert json.loads((tmp_path / "run" / "own" / "card.json").read_text())["metric"]["variant"] == "vlmevalkit"


def test_a_broken_row_is_named(place, tmp_path, capsys):
    path = questions.file(tmp_path, 4)
    path.write_text(path.read_text() + '{"question": "What')
    assert cli.main(["eval", str(place / "model"), f"own={path}", "--out", str(tmp_path / "run")]) == 2
    assert "questions.jsonl, row 4: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "no benchmark is named"),
        (["questions.jsonl"], "cannot read 'questions.jsonl': write NAME=PATH"),
        (["ownn=x"], "no benchmarks plug-in called 'ownn'; did you mean 'own'?"),
        (["own=gone.jsonl"], "no such file: gone.jsonl"),
        (["own=q.jsonl", "own.shtos=3"], "unknown key 'own.shtos'; did you mean 'shots'?"),
        (["own=q.jsonl", "vqa.shots=3"], "there is no benchmark 'vqa'"),
        (["own=q.jsonl", "--draws", "3"], "own shows no examples"),
        (["own=q.jsonl", "--variant", "lmms"], "has no variant 'lmms'; it has official"),
        (["gone.toml"], "no such file: gone.toml"),
        (["own=q.jsonl", "--key-variable", "x"], "belongs to an address"),
        (["own="], "cannot read 'own='"),
        (
            ["own=q.jsonl", "own.shots=2"],
            "own: 2 examples are asked for, its pool has 0: name a larger one with `pool`",
        ),
        (["own=q.jsonl", "--max-new-tokens", "0"], "max_new_tokens must be 1 or more, not 0"),
        (["own=q.jsonl", "--longest", "-5"], "longest must be 1 or more, not -5"),
        (["own=q.jsonl", "--shown", "-1"], "--shown must be 0 or more, not -1"),
    ],
)
def test_what_is_wrong_is_one_line(place, more, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    questions.file(tmp_path, 2, "q.jsonl")
    assert cli.main(["eval", str(place / "model"), *more, "--device", "cpu"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and told in lines[0]
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("card.json"))


@pytest.mark.parametrize(
    ("file", "data", "told"),
    [
        ("vlmlab.toml", b"[model", "vlmlab: {folder}/vlmlab.toml is not valid TOML"),
        ("model.safetensors", b"\0" * 10, "vlmlab: {folder}/model.safetensors is not a whole safetensors file"),
        ("tokenizer.json", b"{", "vlmlab: {folder}/tokenizer.json cannot be read"),
    ],
)
def test_a_model_that_cannot_be_read_is_no_questions_fault(place, tmp_path, capsys, file, data, told):
    folder = tmp_path / "model"
    shutil.copytree(place / "model", folder)
    (folder / file).write_bytes(data)
    assert cli.main(["eval", str(folder), f"own={place / 'questions.jsonl'}", "--out", str(tmp_path), *CPU]) == 2
    assert told.format(folder=folder) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["", "own=q.jsonl", *CPU], "no model is named"),
        (["{model}", "own=q.jsonl", "--device", "gpu"], "'gpu' is no device"),
        (["{model}", "own=q.jsonl", *CPU, "--out", "q.jsonl"], "q.jsonl"),
    ],
)
def test_no_model_no_device_no_folder(place, words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    questions.file(tmp_path, 2, "q.jsonl")
    assert cli.main(["eval", *(word.format(model=place / "model") for word in words)]) == 2
    assert told in capsys.readouterr().err


def test_what_cannot_be_told_is_said_before_anything_is_asked(place, tmp_path, capsys):
    words = ["pareto", str(place / "model"), f"own={place / 'questions.jsonl'}", "--out", str(tmp_path / "out"), *CPU]
    for value in ("0", "nan", "inf"):
        assert cli.main([*words, "--tell", value]) == 2
        assert "--tell must be above 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def damaged(card, key, value):
    """A card with another value at `a.b`, or without what stands there."""
    *path, last = key.split(".")
    held = card
    for name in path:
        held = held[name]
    if value is None:
        del held[last]
    else:
        held[last] = value
    return json.dumps(card)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metric.name", None),
        ("metric.name", 3),
        ("model.name", None),
        ("made_by", None),
        ("shares", None),
        ("questions", 0),
    ],
)
def test_a_card_that_lacks_something_is_named(place, tmp_path, capsys, key, value):
    assert cli.main(words(place, tmp_path, "own.limit=2")) == 0
    path = tmp_path / "own" / "card.json"
    path.write_text(damaged(json.loads(path.read_text()), key, value))
    assert cli.main(["compare", str(tmp_path / "own"), str(tmp_path / "own"), "--out", str(tmp_path / "c.html")]) == 2
    assert f"{path} is " in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "c.html").exists()


def test_a_score_that_is_no_number_and_a_page_that_is_a_folder_are_named(place, tmp_path, capsys):
    assert cli.main(words(place, tmp_path, "own.limit=2")) == 0
    one = str(tmp_path / "own")
    assert cli.main(["compare", one, one, "--out", one]) == 2
    assert f"{one}: Is a directory" in capsys.readouterr().err
    path = tmp_path / "own" / "questions.jsonl"
    path.write_text(path.read_text().replace('"score": 0.0', '"score": NaN'))
    assert cli.main(["compare", one, one, "--out", str(tmp_path / "c.html")]) == 2
    assert f"{path}, line 1: cannot be read: its score is nan" in capsys.readouterr().err


def test_runs_of_other_questions_are_not_compared(tmp_path, capsys):
    assert cli.main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "hold no evaluations of the same label" in capsys.readouterr().err


def test_a_file_names_benchmarks(tmp_path):
    (tmp_path / "s.toml").write_text(
        '[benchmark.own]\npath = "a.jsonl"\n[benchmark.few]\nname = "own"\npath = "b.jsonl"\nshots = 4\n'
    )
    found = suite.parse([str(tmp_path / "s.toml"), "few.shots=2", "more=c.jsonl", "more.name=own", "more.limit=5"])
    assert {label: (each.name, each.path, each.shots, each.limit) for label, each in found.items()} == {
        "own": ("own", "a.jsonl", 0, 0),
        "few": ("own", "b.jsonl", 2, 0),
        "more": ("own", "c.jsonl", 0, 5),
    }
    for text in ("[data]\n", "[benchmark]\nown = 3\n", '[benchmark."a/b"]\npath = "x"\n'):
        (tmp_path / "s.toml").write_text(text)
        with pytest.raises(ValueError, match=r"s.toml"):
            suite.parse([str(tmp_path / "s.toml")])


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("runs/demo/model", "demo"),
        ("nano", "nano"),
        ("HuggingFaceM4/idefics2-8b", "idefics2-8b"),
        ("..", "model"),
        ("http://h:1/v1#a/b", "b"),
    ],
)
def test_a_folder_is_named_after_the_model(model, name):
    assert suite.folder_name(model) == name
