"""The command line: light help with examples, wrong input in one line, and the whole way from recipe to answer."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from train import tiny
from vlmlab import cli, terminal
from vlmlab.batch import Message, Picture
from vlmlab.train import checkpoint
from vlmlab.writing import alone

TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run of the tiny recipe, made by the command itself."""
    folder = tmp_path_factory.mktemp("cli")
    recipe = tiny.recipe(folder)
    assert cli.main(["train", str(recipe), "--out", str(folder / "run"), "--device", "cpu"]) == 0
    Image.new("RGB", (20, 12), (200, 30, 30)).save(folder / "red.png")
    return folder / "run"


@pytest.fixture
def picture(run):
    return str(run.parent / "red.png")


def last_line(capsys):
    told = capsys.readouterr().err.strip().splitlines()
    return told[-1] if told else ""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        *([name, "--help"] for name in [*cli.ALL, "data"]),
        *(["data", name, "--help"] for name in cli.DATA),
    ],
)
def test_help_has_examples_and_needs_no_torch(words):
    code = f"import sys; from vlmlab import cli; s = cli.main({words!r}); sys.exit('torch' in sys.modules or s)"
    told = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=told)
    assert done.returncode == (0 if words else 2), done.stderr
    assert done.stdout.startswith("usage: vlmlab")
    assert re.search(r"Examples:\n +vlmlab ", done.stdout)
    assert "Args:" not in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["aks", "x"], "no command 'aks'; did you mean 'ask'?"),
        (["nonsense"], "no command 'nonsense'; commands: ask"),
        (["data", "lst"], "no command 'lst'; did you mean 'list'?"),
        (["ask"], "nothing to ask"),
        (["ask", "gone.jpg", "What is this?"], "gone.jpg: no such picture"),
        (["ask", "What is this?", "--model", "gone"], "gone is no folder, no hub id"),
        (["ask", "x", "--temprature", "1"], "--temprature"),
        (["ask", "x", "--seed", "one"], "--seed"),
        (["ask", "x", "--dtype", "int4"], "int4"),
        (["complete"], "TEXT"),
        (["complete", "<image>This", "--model", "gone"], "1 <image> marks but 0 images"),
        (["train"], "RECIPE"),
        (["train", "gone.toml"], "no such file: gone.toml"),
        (["look", "gone.toml"], "no such file: gone.toml"),
        (["export", "gone", "out"], "gone is no folder"),
        (["get", "mini"], "nano"),
        (["info", "gone", "--image", "big"], "write it as WIDTHxHEIGHT"),
    ],
)
def test_wrong_input_is_one_line_and_two(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1 and told in lines[0] and lines[0].startswith("vlmlab: ")


def test_a_wrong_recipe_is_one_line(tmp_path, capsys):
    recipe = tiny.recipe(tmp_path)
    assert cli.main(["train", str(recipe), "stage.stps=3"]) == 2
    assert "unknown key 'stage.stps'; did you mean 'steps'?" in last_line(capsys)
    assert cli.main(["train", str(recipe), "stage.steps"]) == 2
    assert "write key=value" in last_line(capsys)


def test_traceback_shows_where(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        cli.main(["train", str(tmp_path / "gone.toml"), "--traceback"])


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"vlmlab \d+\.\d+\S*\n", capsys.readouterr().out)


def test_a_run_holds_what_it_says(run):
    assert {path.name for path in run.iterdir()} >= {
        "recipe.toml",
        "metrics.jsonl",
        "loss.svg",
        "samples.html",
        "scores.json",
        "checkpoints",
        "model",
    }
    scores = json.loads((run / "scores.json").read_text())
    assert scores["after"]["pictures"] == 24 and scores["made_by"]["seed"] == 3
    version = scores["made_by"]["version"]
    for name in ("recipe.toml", "loss.svg", "samples.html"):
        assert f"vlmlab {version}, recipe {scores['made_by']['recipe']}, seed 3" in (run / name).read_text()
    assert "made_by" in (run / "model" / "vlmlab.toml").read_text()


def test_asking_the_run(run, picture, capsys):
    asked = ["--model", str(run), "--max-new-tokens", "5", "--device", "cpu"]
    assert cli.main(["ask", picture, "which?", *asked]) == 0
    first = capsys.readouterr().out
    assert first.endswith("\n")
    assert cli.main(["ask", picture, "which?", *asked]) == 0
    assert capsys.readouterr().out == first
    assert cli.main(["complete", "<image>This is", picture, *asked, "--temperature", "1", "--seed", "4"]) == 0
    assert cli.main(["ask", picture, "which?", *asked, "--split"]) == 0


def test_a_question_that_is_a_picture(run, picture, capsys):
    assert cli.main(["ask", picture, "--model", str(run)]) == 2
    assert "the question is missing" in last_line(capsys)


def test_a_broken_picture_is_named(run, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    assert cli.main(["ask", str(tmp_path / "bad.png"), "what?", "--model", str(run), "--device", "cpu"]) == 2
    assert "bad.png" in last_line(capsys)


def test_the_demo_run_is_asked_by_default(run, picture, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ask", picture, "which?", "--max-new-tokens", "3"]) == 0


def test_a_run_is_not_overwritten_but_resumed(run, capsys):
    recipe = str(run / "recipe.toml")
    assert cli.main(["train", recipe, "--out", str(run)]) == 2
    assert "holds a run at step 4: add --resume" in last_line(capsys)
    assert cli.main(["train", recipe, "stage.lr=0.5", "--out", str(run), "--resume"]) == 2
    assert "made by another recipe ([stage] 'lr = 0.001' there, 'lr = 0.5' here)" in last_line(capsys)
    assert cli.main(["train", recipe, "--out", str(run / "new"), "--resume"]) == 2
    assert "no checkpoint to resume from" in last_line(capsys)


def test_a_folder_in_which_another_process_trains_is_left_alone(run, tmp_path, capsys):
    recipe = str(run / "recipe.toml")
    with alone(tmp_path / "run"):
        assert cli.main(["train", recipe, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
        assert "another process is at work there" in last_line(capsys)
        assert cli.main(["demo", "--out", str(tmp_path / "run")]) == 2
        assert "another process is at work there" in last_line(capsys)
    assert list((tmp_path / "run").iterdir()) == []


def test_look_writes_a_page(run, tmp_path, capsys):
    page = tmp_path / "pages" / "samples.html"
    assert cli.main(["look", str(run / "recipe.toml"), "--count", "3", "--out", str(page)]) == 0
    assert capsys.readouterr().out.strip() == f"{page} shows 3 samples"
    assert page.read_text().count('<section class="card">') == 3


def test_export_is_what_transformers_reads(run, tmp_path, capsys):
    assert cli.main(["export", str(run), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "idefics2"
    assert cli.main(["export", str(run), str(tmp_path / "out")]) == 2
    assert "give a new folder" in last_line(capsys)


def test_a_run_with_adapters_is_asked_and_exported(run, picture, tmp_path, capsys):
    recipe = tmp_path / "mine.toml"
    mine = tmp_path / "mine"
    rest = [
        'data.name="train.tiny"',
        "stage.steps=2",
        "stage.batch=4",
        "stage.train=[]",
        "stage.lr=1.0",
        "stage.warmup=0",
    ]
    recipe.write_text(
        f'[start]\nmodel = "{run / "model"}"\n[stage.adapters.language]\ntargets = ["q_proj", "down_proj"]\n'
    )
    assert cli.main(["train", str(recipe), *rest, "--out", str(mine), "--device", "cpu"]) == 0
    assert "language" in capsys.readouterr().out
    asked = ["complete", "<image>Which", picture, "--max-new-tokens", "6", "--device", "cpu"]
    said = []
    for words in (
        ["--model", str(mine)],
        ["--model", str(run), "--adapter", str(mine)],
        ["--adapter", str(mine / "adapter")],
        ["--model", str(run)],
    ):
        assert cli.main([*asked, *words]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] != said[3]
    assert cli.main(["export", str(run), str(tmp_path / "out"), "--adapter", str(mine)]) == 0
    assert cli.main(["export", str(mine), str(tmp_path / "same")]) == 0
    ours, same = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "same"))
    assert all((ours[name] - same[name]).abs().max() < 1e-5 for name in ours)
    assert cli.main([*asked, "--model", str(run), "--adapter", str(run / "model")]) == 2
    assert "is no adapter of PEFT's" in last_line(capsys)


def test_info_of_a_recipe_and_of_its_run(run, capsys):
    assert cli.main(["info", str(run / "recipe.toml"), "model.connector.latents=5", "--image", "16x12"]) == 0
    told = capsys.readouterr().out
    assert "siglip + perceiver + mistral + interleave" in told
    assert "a picture of 16 x 12: 4 x 3 patches, 5 visual tokens" in told and "new parameters" in told
    words = ["info", str(run), "--image", "16x12", "--images", "2", "--batch", "3", "--dtype", "float32", "--measure"]
    assert cli.main([*words, "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "a batch: 3 x 68 tokens (each 2 pictures and 64 of text)" in told and "measured on cpu" in told
    parameters = sum(p.numel() for p in tiny.model().parameters())
    assert re.search(rf"^all +{parameters + 32 * (tiny.tokenizer().get_vocab_size() - 128) * 2:,} ", told, re.MULTILINE)


def test_info_of_what_is_not_there(run, capsys):
    assert cli.main(["info", "gone"]) == 2
    assert "no recipe, no folder, and no hub id" in last_line(capsys)
    assert cli.main(["info", str(run), "stage.steps=3"]) == 2
    assert "is a model, not a recipe" in last_line(capsys)
    assert cli.main(["info", str(run), "--batch", "0"]) == 2


def start(run, *words):
    told = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "vlmlab.cli", *words],
        env=told,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    recipe, out = tiny.recipe(tmp_path, stage={"steps": 3000, "save_every": 3000}), tmp_path / "run"
    process = start(tmp_path, "train", str(recipe), "--out", str(out), "--device", "cpu")
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count('"step", ') > 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    step = checkpoint.latest(out).step
    line = said.strip().splitlines()[-1]
    assert line.startswith(f"vlmlab: stopped after step {step} of 3000; saved in {out}")
    words = line.partition("Go on with: vlmlab ")[2].split()
    assert words == ["train", f"{out}/recipe.toml", "--out", str(out), "--resume"]
    again = start(tmp_path, *words, "--device", "cpu")
    deadline = time.monotonic() + 60
    while again.poll() is None and time.monotonic() < deadline and f'"step": {step + 2},' not in metrics.read_text():
        time.sleep(0.05)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    assert again.returncode == 130 and checkpoint.latest(out).step > step


def test_interrupting_anything_else_is_130(monkeypatch, capsys):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["ask", "x"]) == 130
    assert last_line(capsys) == "vlmlab: interrupted"


def test_pictures_in_a_line_of_chat(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("my cat.png")
    Image.new("RGB", (4, 4)).save("dog.JPG")
    line = terminal.message("Compare 'my cat.png' with dog.JPG and https://example.org/x, not gone.png \"as said\"")
    assert [p.source if isinstance(p, Picture) else p for p in line.parts] == [
        "Compare",
        "my cat.png",
        "with",
        "dog.JPG",
        "and",
        "https://example.org/x,",
        'not gone.png "as said"',
    ]


def test_a_conversation(monkeypatch, tmp_path):
    heard = []

    def answer(sample):
        heard.append([m.role for m in sample.messages])
        if len(heard) == 3:
            raise ValueError("the picture is damaged")
        yield " an"
        yield " answer"
        if len(heard) == 2:
            raise KeyboardInterrupt

    lines = iter(["hello", "", "/help", "and then?", "broken", "/reset", "again", "/quit", "never"])
    console = Console(record=True, width=100)
    monkeypatch.setattr(console, "input", lambda prompt: next(lines))
    terminal.converse(answer, console)
    said = console.export_text()
    assert heard == [["user"], ["user", "assistant", "user"], ["user", "assistant"] * 2 + ["user"], ["user"]]
    assert (
        said.count("an answer") == 3
        and "the picture is damaged" in said
        and "(stopped)" in said
        and "forgotten" in said
    )


def test_a_message_keeps_its_words():
    assert terminal.message("just words, no pictures") == Message("user", ("just words, no pictures",))


def test_wrong_words_are_one_line_where_no_boxes_can_be_drawn():
    command = [sys.executable, "-m", "vlmlab.cli", "compare", "a", "b", "--tell", "x"]
    told = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=told)
    assert (
        done.stderr
        == "vlmlab: Error parsing --tell: could not convert string to float: 'x'; see vlmlab compare --help\n"
    )


def test_commands_keep_fewer_kernels_unless_the_environment_says_how_many(monkeypatch, capsys):
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # put back at the end
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    assert cli.main(["--version"]) == 0
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "256"
