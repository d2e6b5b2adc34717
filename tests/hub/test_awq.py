"""Checkpoints in the layout of AutoAWQ, made here number by number: their decoder in four bits, the rest plain."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hub import tiny
from vlmlab.hub import awq
from vlmlab.hub.load import load_model
from vlmlab.model.int4 import Groups4
from vlmlab.model.packed import packed

GROUP = 32
WIDE = {
    "text": {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16},
    "perceiver": {"hidden_size": 64},
}
CONFIG = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}
PLACES = {0: 0, 1: 4, 2: 1, 3: 5, 4: 2, 5: 6, 6: 3, 7: 7}
"""Where each column of eight stands in its int32, in fours of bits from the lowest."""


def put_together(numbers):
    """[r, c] numbers below 16 as [r, c / 8] int32."""
    rows, columns = numbers.shape
    out = np.zeros((rows, columns // 8), dtype=np.uint32)
    for column in range(columns):
        out[:, column // 8] |= numbers[:, column].astype(np.uint32) << np.uint32(4 * PLACES[column % 8])
    return torch.from_numpy(out.view(np.int32))


def shrink(folder, **changes):
    """Turn a folder of transformers into one of AWQ; the weights that its numbers stand for, by their name."""
    tensors = load_file(folder / "model.safetensors")
    generator = np.random.default_rng(0)
    stands_for = {}
    for name in [n for n in tensors if n.startswith("model.text_model.layers") and n.endswith("_proj.weight")]:
        out, inputs = tensors.pop(name).shape
        owner = name.removesuffix(".weight")
        codes = generator.integers(0, 16, (inputs, out))
        zeros = generator.integers(0, 16, (inputs // GROUP, out))
        scales = (generator.random((inputs // GROUP, out)) * 0.05 + 0.01).astype(np.float16)
        tensors[f"{owner}.qweight"], tensors[f"{owner}.qzeros"] = put_together(codes), put_together(zeros)
        tensors[f"{owner}.scales"] = torch.from_numpy(scales)
        whole = (codes - zeros.repeat(GROUP, 0)) * scales.repeat(GROUP, 0).astype(np.float64)
        stands_for[name] = torch.from_numpy(whole.T.copy())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": CONFIG | changes}
    path.write_text(json.dumps(config))
    return stands_for


@pytest.fixture
def peer(tmp_path):
    made = tiny.build(WIDE)
    tiny.save(made, tmp_path)
    return made


def test_the_weights_are_those_that_the_file_stands_for(peer, tmp_path):
    stands_for = shrink(tmp_path)
    model = load_model(tmp_path)
    layers = packed(model)
    assert len(layers) == len(stands_for) == 14
    assert all(type(layer) is Groups4 and layer.scales.dtype == torch.float16 for layer in layers.values())
    assert all(path.startswith("language.layers") for path in layers)
    for name, weight in stands_for.items():
        path = name.replace("model.text_model", "language").replace("self_attn", "attention")
        own = layers[path.replace("_proj.weight", "")].unpacked(torch.float64)
        assert torch.allclose(own, weight, atol=2e-3), name  # a middle is a product of two, in 16 bits


def test_it_computes_what_its_numbers_stand_for(peer, tmp_path):
    stands_for = shrink(tmp_path)
    peer.load_state_dict({name: weight.float() for name, weight in stands_for.items()}, strict=False)
    model = load_model(tmp_path)
    for tokens, pixels in tiny.documents(14, 3):
        with torch.no_grad():
            own = model(tiny.for_us(tokens, pixels, 14))
        assert tiny.far(own, tiny.logits(peer, tokens, pixels)) < 0.05


def test_eight_numbers_of_an_int32():
    numbers = np.arange(16).reshape(1, 16)
    assert torch.equal(awq.unpack(put_together(numbers)), torch.arange(16, dtype=torch.uint8)[None])
    assert put_together(numbers)[0, 0].item() & 0xFFFFFFFF == 0x75316420


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"quant_method": "gptq"}, "quant_method = 'gptq' cannot be read"),
        ({"bits": 8}, "bits = 8 cannot be read"),
        ({"version": "gemv"}, "version = 'gemv' cannot be read, only 'gemm'"),
        ({"group_size": None}, "group_size is None"),
        ({"group_size": 48}, "mlp.down: groups of 48 do not fit 96 inputs"),
    ],
)
def test_other_kinds_are_refused(peer, tmp_path, changes, told):
    shrink(tmp_path, **changes)
    with pytest.raises(ValueError, match=told):
        load_model(tmp_path)


def test_a_layer_that_lacks_one_of_its_three_is_named(peer, tmp_path):
    shrink(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = "model.text_model.layers.1.mlp.up_proj.qzeros"
    del tensors[gone]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"has no tensor {gone}"):
        load_model(tmp_path)
