"""`vlmlab quantize` and `--quantize`: a folder that answers, the paths told, wrong words in one line."""

import json

import pytest
from PIL import Image

from generate import tiny
from vlmlab import cli
from vlmlab.hub.load import load, load_model
from vlmlab.hub.save import save
from vlmlab.model.packed import held, packed
from vlmlab.quantize import int8

WIDE = {"language.width": 64, "language.inner": 128, "language.head_width": 16, "language.kv_heads": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("quantize")
    model = tiny.build(changes=WIDE).float()
    save(model, tiny.processor(model), place / "model")
    Image.new("RGB", (20, 12), (200, 30, 30)).save(place / "red.png")
    line = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]}
    (place / "some.jsonl").write_text("\n".join([json.dumps(line)] * 3) + "\n")
    return place


@pytest.mark.parametrize(
    ("method", "more"),
    [("int8", []), ("nf4", []), ("int4", ["quantizer.group=64"]), ("awq", ["--samples", "some.jsonl", "--count", "2"])],
)
def test_a_quantized_folder_answers(folder, tmp_path, method, more, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    out = tmp_path / "out"
    assert cli.main(["quantize", "model", method, str(out), *more]) == 0
    told = capsys.readouterr().out
    assert f"{method if method != 'awq' else 'int4'}  " in told and "vision" in told and "1.000x" in told
    assert {path.name for path in out.iterdir()} == {"vlmlab.toml", "model.safetensors", "tokenizer.json"}
    assert "group = 64" in (out / "vlmlab.toml").read_text() or method != "int4"
    assert cli.main(["ask", "red.png", "What?", "--model", str(out), "--max-new-tokens", "3", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "vlmlab: int8: torch._weight_int8pack_mm in bfloat16" in said.err
    assert not list(tmp_path.glob(".out.*"))


def test_awq_looks_at_packaged_pictures_unless_told(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli.main(["quantize", "model", "awq", str(tmp_path / "out"), "--count", "2"]) == 0
    assert packed(load_model(tmp_path / "out"))


def test_a_model_is_quantized_as_it_is_loaded(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["complete", "Once", "--model", "model", "--max-new-tokens", "3", "--device", "cpu", "--quantize", "int8"]
    assert cli.main(words) == 0
    assert "vlmlab: int8: torch._weight_int8pack_mm" in capsys.readouterr().err
    plain, _ = load("model")
    small, _ = load("model", quantize=int8.Config().build())
    assert held(small.language) < 0.3 * held(plain.language) and not packed(plain)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model", "int5", "out"], "int5"),
        (["gone", "int8", "out"], "gone is no folder"),
        (["model", "int8", "."], "is there already; give a new folder"),
        (["model", "int8", "out", "quantizer.grp=3"], "unknown key 'quantizer.grp'"),
        (["model", "int4", "out", "quantizer.group=3"], "group = 3 is not one of 32, 64, 128, 256"),
        (["model", "int8", "out", "stage.group=3"], "'stage' is no key of quantizing"),
        (["model", "awq", "out", "--samples", "gone.jsonl"], "gone.jsonl"),
        (["model", "awq", "out", "--count", "0"], "--count must be 1 or more"),
    ],
)
def test_wrong_words_are_one_line_and_nothing_is_left(folder, words, told, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli.main(["quantize", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert told in lines[-1] and lines[-1].startswith("vlmlab: ")
    assert not (folder / "out").exists() and not list(folder.glob(".out.*"))


def test_a_quantized_folder_is_not_quantized_again(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli.main(["quantize", "model", "int8", str(tmp_path / "one")]) == 0
    assert cli.main(["quantize", str(tmp_path / "one"), "int8", str(tmp_path / "two")]) == 2
    assert "held in int8 already: quantize the model it was made from" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_the_method_is_not_an_override(tmp_path, capsys):
    assert cli.main(["quantize", "gone", "int8", str(tmp_path / "out"), "quantizer.name=awq"]) == 2
    assert "the method is the command's, int8" in capsys.readouterr().err
