"""Reading and writing a checkpoint's files: every way in which they can be wrong, and that reading costs no memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmlab import writing
from vlmlab.hub import files
from vlmlab.hub.files import Weights


def tensors(count: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"layer.{at}.weight": torch.randn(8, 8 + at, generator=generator) for at in range(count)}


@pytest.mark.parametrize("shard", [10**9, 600, 1])
def test_what_is_written_is_read(shard: int, tmp_path: Path) -> None:
    made = tensors() | {"half": torch.randn(3, 3).bfloat16(), "view": torch.randn(4, 6).T}
    files.write_checkpoint(tmp_path, made, shard)
    weights = Weights(tmp_path)
    assert (tmp_path / files.INDEX).exists() == (shard < 10**9)
    assert list(weights) == list(made) or shard == 10**9
    for name, tensor in made.items():
        assert torch.equal(weights[name], tensor) and weights[name].dtype == tensor.dtype
        assert weights.shape(name) == list(tensor.shape)
    if shard < 10**9:
        files_held = [load_file(p) for p in tmp_path.glob("*.safetensors")]
        assert all(len(held) == 1 or sum(t.nbytes for t in held.values()) <= shard for held in files_held)


def test_new_weights_replace_old_ones_of_another_layout(tmp_path: Path) -> None:
    files.write_checkpoint(tmp_path, tensors(), 600)
    files.write_checkpoint(tmp_path, tensors(2), 10**9)
    assert [p.name for p in tmp_path.iterdir()] == [files.WEIGHTS]
    files.write_checkpoint(tmp_path, tensors(3), 600)
    assert not (tmp_path / files.WEIGHTS).exists() and len(Weights(tmp_path)) == 3


def test_an_interrupted_change_of_layout_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """Shards are written before the one file goes, and one file counts before shards: either is whole."""
    files.write_checkpoint(tmp_path, tensors(3), 600)
    held = {path: path.read_bytes() for path in tmp_path.iterdir()}
    files.write_checkpoint(tmp_path, tensors(2), 10**9)
    for path, data in held.items():
        path.write_bytes(data)
    assert len(Weights(tmp_path)) == 2


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        writing.write(path, fail)
    assert json.loads(path.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def broken(folder: Path, how: str) -> None:
    files.write_checkpoint(folder, tensors(), 600)
    shard = next(folder.glob("model-00002*"))
    index = json.loads((folder / files.INDEX).read_text())
    if how == "missing":
        shard.unlink()
    elif how == "cut":
        shard.write_bytes(shard.read_bytes()[:-40])
    elif how == "garbage":
        shard.write_bytes(b"not a safetensors file at all")
    elif how == "empty":
        shard.write_bytes(b"")
    elif how == "other":
        save_file({"else": torch.zeros(1)}, shard)
    elif how == "outside":
        index["weight_map"]["layer.0.weight"] = "../secret.safetensors"
    elif how == "pickle":
        index["weight_map"]["layer.0.weight"] = "model.bin"
    elif how == "map":
        index = {"weight_map": ["a"]}
    (folder / files.INDEX).write_text(json.dumps(index) if how != "json" else "{")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"lacks the shard model-00002-of-0000\d.safetensors of"),
        ("cut", "model-00002.* is not a whole safetensors file"),
        ("garbage", "model-00002.* is not a whole safetensors file"),
        ("empty", "model-00002.* is not a whole safetensors file"),
        ("other", r"model-00002.* lacks the tensor layer\.\d\.weight"),
        ("outside", r"names '\.\./secret.safetensors', which is no safetensors file of its folder"),
        ("pickle", "names 'model.bin', which is no safetensors file"),
        ("map", "has no `weight_map`"),
        ("json", "is not valid JSON"),
    ],
)
def test_damaged_weights_say_what_is_wrong(how: str, message: str, tmp_path: Path) -> None:
    broken(tmp_path, how)
    with pytest.raises(ValueError, match=message) as told:
        Weights(tmp_path)
    assert "\n" not in str(told.value)


def test_pickles_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(ValueError, match="pickles only, which can run code"):
        Weights(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no model.safetensors and no model.safetensors.index.json"):
        Weights(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("[1]", "should hold a JSON object"), ("\x00", "not valid JSON")])
def test_json_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        files.read_json(tmp_path / "config.json")


def test_changing_a_tensor_does_not_change_the_file(tmp_path: Path) -> None:
    files.write_checkpoint(tmp_path, tensors())
    Weights(tmp_path)["layer.0.weight"].zero_()
    assert torch.equal(Weights(tmp_path)["layer.0.weight"], tensors()["layer.0.weight"])


MEASURE = """
import re, sys, torch
from pathlib import Path
from vlmlab.hub.load import load_model

def resident(kind):
    return int(re.search(kind + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

torch.zeros(8, 8) @ torch.zeros(8, 8)
before = {kind: resident(kind) for kind in ("VmRSS", "VmHWM")}
model = load_model(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
after = {kind: resident(kind) for kind in ("VmRSS", "VmHWM")}
print(after["VmRSS"] - before["VmRSS"], after["VmHWM"] - before["VmRSS"])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loading_takes_no_memory_and_converting_one_shard_more(tmp_path: Path) -> None:
    """200 MB of weights in five shards: mapped as they are stored; as bfloat16, at most those and a shard at a time."""
    from vlmlab.component import parse
    from vlmlab.hub.save import save
    from vlmlab.model.vlm import VLM, VLMConfig

    tables = {
        "vision": {"name": "siglip", "width": 32, "layers": 1, "heads": 2, "inner": 32, "patch": 2, "side": 2},
        "connector": {"name": "perceiver", "latents": 2, "depth": 1, "heads": 2, "kv_heads": 1, "head_width": 8},
        "language": {"name": "mistral", "vocabulary": 20_000, "width": 512, "layers": 10, "heads": 8, "inner": 1024},
        "fusion": {"name": "interleave", "image_token": 3},
    }
    tables["connector"]["projection_inner"] = 64
    tables["language"] |= {"head_width": 64}
    model = VLM(parse(VLMConfig, tables))
    size = sum(p.nbytes for p in model.parameters()) / 2**20
    assert size > 190
    save(model, None, tmp_path, shard=45 << 20)
    del model

    def measure(dtype: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path), dtype], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [int(number) for number in done.stdout.split()]

    resident, peak = measure("float32")
    assert resident < 25 and peak < 25, (resident, peak)
    resident, peak = measure("bfloat16")
    assert peak < size / 2 + 45 + 25, (resident, peak)
