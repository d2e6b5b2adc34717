"""From a folder or a hub id to a model and its processor: what works, and what is told when it does not."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

import vlmlab
from hub import tiny
from model import tiny as models
from vlmlab.hub import load as loading
from vlmlab.hub.export import export
from vlmlab.hub.save import save
from vlmlab.processor.processor import Config, Processor


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Idefics2 folder: the hub's layout, processor and all."""
    folder = tmp_path_factory.mktemp("hub")
    model = loading.load_model(tiny.save(tiny.build(), folder / "theirs"))
    return export((model, Processor(Config(), tiny.tokenizer(), model.placeholders, 64)), folder / "whole", 20_000)


def copy(source: Path, folder: Path) -> Path:
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("fusion", ["interleave", "cross_attention"])
@pytest.mark.parametrize("connector", ["perceiver", "linear", "mapping"])
def test_our_own_folder_holds_any_model(connector: str, fusion: str, tmp_path: Path) -> None:
    model = models.build(connector=connector, fusion=fusion, dtype=torch.float32)
    save(model, None, tmp_path, {"origin": {"seed": 3}})
    back = vlmlab.load_model(tmp_path)
    assert back.config == model.config and same(back, model) and not back.training
    assert "seed = 3" in (tmp_path / "vlmlab.toml").read_text()


def test_a_processor_comes_back(exported: Path, tmp_path: Path) -> None:
    model, processor = vlmlab.load(exported)
    odd = Config(mean=(0.1, 0.2, 0.3), frame=None, bos=None, pad=None, ends=("w7",), max_pixels=99)
    save(model, Processor(odd, processor.tokenizer, model.placeholders, 64), tmp_path)
    again, back = vlmlab.load(tmp_path)
    assert back.config == odd and same(again, model) and back.ends == [7]
    assert back.tokenizer.to_str() == processor.tokenizer.to_str()
    assert back.placeholders(torch.tensor([[2, 2]])) == [3] and back.vocabulary == 64


def test_saving_again_is_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    model, processor = vlmlab.load(exported)
    save(model, processor, tmp_path / "a")
    save(*vlmlab.load(tmp_path / "a"), tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_extra_tables_may_not_hide_the_models(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="extra may not hold 'model'"):
        save(vlmlab.load_model(exported), None, tmp_path, {"model": {}})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype(dtype: torch.dtype, exported: Path) -> None:
    model, stored = vlmlab.load_model(exported, dtype=dtype), vlmlab.load_model(exported)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert {p.dtype for p in stored.parameters()} == {torch.float32}
    assert torch.equal(model.language.norm.weight, stored.language.norm.weight.to(dtype))
    assert all(p.requires_grad for p in model.parameters())


def test_meta_is_a_device_too(exported: Path) -> None:
    assert vlmlab.load_model(exported, device="meta").device.type == "meta"


@pytest.mark.parametrize(("device", "message"), [("nonsense", "is no device"), ("cuda", "no CUDA device")])
def test_devices_that_are_not_there(device: str, message: str, exported: Path) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ValueError, match=message):
        vlmlab.load(exported, device=device)


def test_bare_numbers_of_the_released_processor(exported: Path, tmp_path: Path) -> None:
    """The hub's settings: splitting on, bos added by the tokenizer, two tokens that end an answer."""
    copy(exported, tmp_path)
    change(tmp_path / "preprocessor_config.json", do_image_splitting=True)
    change(tmp_path / "generation_config.json", eos_token_id=[2, 61])
    _, processor = vlmlab.load(tmp_path)
    assert processor.config.images.name == "split" and processor.config.bos == "<s>"
    assert processor.ends == [2, 61] and processor.never_written == [60, 59] and processor.pad_id == 0
    change(tmp_path / "generation_config.json", eos_token_id=2)
    assert vlmlab.load(tmp_path)[1].ends == [2]


def test_settings_where_transformers_5_keeps_them(exported: Path, tmp_path: Path) -> None:
    copy(exported, tmp_path)
    pictures = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    change(tmp_path / "processor_config.json", image_processor=pictures | {"image_mean": [0.1, 0.2, 0.3]})
    assert vlmlab.load(tmp_path)[1].config.mean == (0.1, 0.2, 0.3)


def test_tokens_that_only_the_settings_add(exported: Path, tmp_path: Path) -> None:
    copy(exported, tmp_path)
    added = {str(64): {"content": "<late>", "special": True}}
    change(tmp_path / "tokenizer_config.json", added_tokens_decoder=added)
    size = tiny.tokenizer().get_vocab_size()
    change(tmp_path / "tokenizer_config.json", added_tokens_decoder={str(size): {"content": "<late>"}})
    assert vlmlab.load(tmp_path)[1].tokenizer.token_to_id("<late>") == size


def test_the_base_model_knows_no_chat(tmp_path: Path) -> None:
    """Its embedding has a row less than its tokenizer: `<end_of_utterance>` is refused, plain text works."""
    model = loading.load_model(tiny.save(tiny.build({"text": {"vocab_size": 61}}), tmp_path / "theirs"))
    assert model.config.language.vocabulary == 61
    export((model, Processor(Config(), tiny.tokenizer(), model.placeholders, 61)), tmp_path / "base")
    _, processor = vlmlab.load(tmp_path / "base")
    assert processor.ends == [2]
    assert processor([vlmlab.Sample.from_text("w4 w5")]).tokens.tolist() == [[1, 4, 5]]
    with pytest.raises(ValueError, match="this is a base model, which knows no chat"):
        processor([vlmlab.Sample.from_messages([{"role": "user", "content": "w4"}])])


def edit(folder: Path, edits: dict[str, Any]) -> None:
    """Change the tensors of a single-file checkpoint; None removes one."""
    held = load_file(folder / "model.safetensors")
    for name, value in edits.items():
        if value is None:
            del held[name]
        else:
            held[name] = value
    save_file(held, folder / "model.safetensors")


NORM = "model.text_model.norm.weight"


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({NORM: torch.zeros(25)}, r"model.text_model.norm.weight is \[25\], but language.norm.weight .* is \[24\]"),
        ({NORM: None}, "has no tensor for language.norm.weight"),
        ({"lm_head.weight": None, NORM: None}, "language.norm.weight and 1 more tensors"),
        ({"lm_head.bias": torch.zeros(64)}, "holds lm_head.bias, which this model has no place for"),
        ({NORM: torch.zeros(24, dtype=torch.int8)}, "norm.weight holds torch.int8 numbers; quantised"),
        (
            {"model.vision_model.embeddings.patch_embedding.weight": torch.zeros(32, 3, 7, 7)},
            r"patch_embedding.weight is \[32, 147\], but vision.patch.weight of this config is \[32, 588\]",
        ),
    ],
)
def test_weights_that_do_not_fit(edits: dict[str, Any], message: str, tmp_path: Path) -> None:
    edit(tiny.save(tiny.build(), tmp_path), edits)
    with pytest.raises(ValueError, match=message):
        vlmlab.load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava"}, "model type 'llava' is not known as a whole model; known: idefics2$"),
        ({"model_type": None}, "model type None"),
        ({"model_type": "siglip"}, "known: idefics2; as a backbone it goes into start.vision"),
        ({"quantization_config": {"bits": 4}}, "weights quantized with quant_method = None cannot be read"),
        ({"perceiver_config": {"qk_layer_norms": True}}, "perceiver_config.qk_layer_norms"),
        ({"perceiver_config": {"hidden_act": "gelu"}}, "hidden_act 'gelu' is not supported"),
        ({"vision_config": {"hidden_act": "relu"}}, "hidden_act 'relu' is not supported; known: gelu_pytorch_tanh"),
        ({"text_config": {"rope_scaling": {"type": "linear"}}}, "rotary positions of type 'linear'"),
        ({"text_config": {"attention_bias": True}}, "attention_bias"),
        ({"text_config": {"vocab_size": "many"}}, "model.language.vocabulary should be a whole number"),
    ],
)
def test_configs_that_cannot_be(changes: dict[str, Any], message: str, exported: Path, tmp_path: Path) -> None:
    change(copy(exported, tmp_path) / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as told:
        vlmlab.load_model(tmp_path)
    assert "config.json" in str(told.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 3}, "resample = 3 is not supported; 2 is"),
        ({"do_resize": False}, "do_resize = False is not supported"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"size": {"height": 3, "width": 4}}, "size = "),
        ({"size": {"longest_edge": 3, "shortest_edge": 4}}, "need 1 <= shortest <= longest"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str, exported: Path, tmp_path: Path) -> None:
    change(copy(exported, tmp_path) / "preprocessor_config.json", **changes)
    with pytest.raises(ValueError, match=message):
        vlmlab.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tokenizer.json", "has no tokenizer.json .load_model reads"),
        ("preprocessor_config.json", "has no preprocessor_config.json"),
        ("config.json", "is no checkpoint: it has neither vlmlab.toml nor config.json"),
    ],
)
def test_files_that_are_missing(name: str, message: str, exported: Path, tmp_path: Path) -> None:
    (copy(exported, tmp_path) / name).unlink()
    with pytest.raises(ValueError, match=message):
        vlmlab.load(tmp_path)


def test_a_damaged_tokenizer(exported: Path, tmp_path: Path) -> None:
    (copy(exported, tmp_path) / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json cannot be read by tokenizers"):
        vlmlab.load(tmp_path)


def test_a_downloaded_recipe_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "vlmlab.toml").write_text('[model.vision]\nname = "antigravity"\n')
    with pytest.raises(ValueError, match="no vision plug-in called 'antigravity'"):
        vlmlab.load_model(tmp_path)
    (tmp_path / "vlmlab.toml").write_text('[model.vision]\nname = "evil.module"\n')
    with pytest.raises(ValueError, match=r"import evil.module yourself"):
        vlmlab.load_model(tmp_path)


@pytest.mark.parametrize("place", ["nope", "/nowhere/at/all", "a/b/c", "x y/z"])
def test_neither_a_folder_nor_a_hub_id(place: str) -> None:
    with pytest.raises(ValueError, match="is no folder, no hub id such as HuggingFaceM4/idefics2-8b, and not nano"):
        vlmlab.load(place)


def test_a_file_is_no_folder(exported: Path) -> None:
    with pytest.raises(ValueError, match="is a file; give the folder that holds it"):
        vlmlab.load(exported / "config.json")


def refusal(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    """What the hub's library raises, made without an exchange over the network."""
    return kind.__new__(kind, "refused")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.LocalEntryNotFoundError("no network"), "cannot fetch a/b from the hub .no network.: .* local folder"),
        (OSError("name not known"), "cannot fetch a/b from the hub .name not known.*give a local folder"),
        (refusal(errors.RevisionNotFoundError), "has no revision 'v9'"),
        (refusal(errors.RepositoryNotFoundError), "there is no a/b here as a folder, nor on"),
        (refusal(errors.GatedRepoError), "asks you to accept its terms"),
    ],
)
def test_the_hub_cannot_give_it(error: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=message) as told:
        vlmlab.load("a/b", revision="v9")
    assert "\n" not in str(told.value)


def test_a_hub_id_is_fetched_and_read(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(exported)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model, processor = vlmlab.load("HuggingFaceM4/idefics2-8b", revision="main")
    assert asked.pop("allow_patterns") == ["*.safetensors", "*.json", "*.toml"]
    assert asked == {"name": "HuggingFaceM4/idefics2-8b", "revision": "main", "repo_type": "model"}
    assert same(model, vlmlab.load_model(exported)) and processor.vocabulary == 64


def test_pictures_by_url_need_leave(exported: Path) -> None:
    sample = vlmlab.Sample.from_text("<image>", ["https://example.org/a.png"])
    with pytest.raises(ValueError, match="not fetched from URLs here"):
        vlmlab.load(exported)[1]([sample])

    def fetch(url: str) -> bytes:
        raise ValueError(f"asked for {url}")

    with pytest.raises(ValueError, match=r"asked for https://example.org/a.png"):
        vlmlab.load(exported, fetch=fetch)[1]([sample])
