"""Every quantizer: logits and memory within bounds, vision left alone, saved and loaded the same, no model twice."""

import copy

import pytest
import torch

from model.tiny import IMAGE, build, picture
from vlmlab.batch import Batch
from vlmlab.component import find, parse, plain, plugins
from vlmlab.hub.load import load_model
from vlmlab.hub.save import save
from vlmlab.model import adapters, int4, packed
from vlmlab.model.int4 import Groups4
from vlmlab.model.packed import Packed, Rows8, Table8, held
from vlmlab.model.products import Linear
from vlmlab.quantize import QuantizerConfig, int8, matrices, speed_up, told
from vlmlab.quantize import int4 as int4_method

NAMES = plugins(QuantizerConfig)
BOUNDS = {"int8": (0.03, 0.28), "int4": (0.3, 0.20), "nf4": (0.35, 0.20), "awq": (0.3, 0.20)}
"""How far logits may be, as a share of their size, and how much memory of that in float32 the language model takes."""

WIDE = {"language.width": 64, "language.inner": 128, "language.head_width": 16, "language.kv_heads": 4}


def model(dtype=torch.float32, changes=None, **names):
    made = build(changes=WIDE | (changes or {}), dtype=dtype, **names)
    for part in (made.language, made.vision, made.fusion):  # as drawn, every rounding grows layer by layer
        for parameter in part.parameters():
            if parameter.ndim == 2:
                parameter.data *= 0.2
    return made


def batch(seed=0, seats=3, width=13):
    tokens = torch.randint(3, 90, (2, width), generator=torch.Generator().manual_seed(seed))
    tokens[0, 2 : 2 + seats] = IMAGE
    return Batch(tokens, torch.ones_like(tokens), torch.arange(width).repeat(2, 1), images=picture(4, 3))


def made(name, seats=3, **keys):
    config = parse(QuantizerConfig, {"name": name, **keys})
    return config.build([batch(at, seats) for at in range(1, 4)])


@torch.no_grad()
def logits(of, seats=3):
    return of(batch(seats=seats))


def far(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_logits_and_memory_are_within_bounds(name, tied):
    before = model(changes={"language.tied": tied})
    after = made(name)(copy.deepcopy(before))
    error, memory = BOUNDS[name]
    distance = far(logits(after), logits(before))
    assert 1e-4 < distance < error
    assert held(after.language) < memory * held(before.language)
    speed_up(after)
    assert far(logits(after), logits(before)) < error
    assert name in ("awq", *told(after)) and all(told(after).values())


@pytest.mark.parametrize("name", NAMES)
def test_embedding_and_head_are_in_eight_bits(name):
    after = made(name)(model())
    assert type(after.language.embedding) is Table8 and type(after.language.output) is Rows8
    tied = made(name)(model(changes={"language.tied": True}))
    x = torch.randn(3, 64)
    assert far(tied.language.head(x), x @ tied.language.embedding.weight.T) < 0.01
    ids = torch.tensor([[4, 7]])
    assert torch.equal(tied.language.embedding(ids), tied.language.embedding.weight[ids])


@pytest.mark.parametrize("name", NAMES)
def test_vision_and_connector_are_left_alone(name):
    before = model()
    own = dict(before.named_parameters())
    after = made(name)(before)
    left = {path for path in own if path.startswith(("vision", "connector"))}
    assert left and all(after.get_parameter(path) is own[path] for path in left)


@pytest.mark.parametrize("name", NAMES)
def test_parts_that_are_named_are_taken(name):
    before = model()
    after = made(name, parts=["vision"])(copy.deepcopy(before))
    taken = set(packed.packed(after))
    assert taken == {path for path, _ in matrices(before, ["vision"])} and len(taken) == 12
    assert isinstance(after.vision.patch, Linear)
    assert 0 < far(logits(after), logits(before)) < BOUNDS[name][0]


@pytest.mark.parametrize("name", NAMES)
def test_cross_attention_is_taken_with_the_decoder(name):
    before = model(fusion="cross_attention", connector="perceiver")
    after = made(name, seats=1)(copy.deepcopy(before))
    assert {path.partition(".")[0] for path in packed.packed(after)} == {"language", "fusion"}
    assert far(logits(after, 1), logits(before, 1)) < BOUNDS[name][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_is_the_same_again(name, dtype, tmp_path):
    after = made(name)(model(dtype))
    said = logits(after)
    method = plain(find(QuantizerConfig, name)())
    for turn in range(2):  # first from codes in the kernel's order, then from the file's
        folder = save(after, None, tmp_path / str(turn), quantized=method)
        again = load_model(folder)
        assert again.dtype == dtype
        mine, theirs = after.state_dict(), again.state_dict()
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
        assert far(logits(again), said) < (1e-5 if dtype == torch.float32 else 0.02)
        kinds = {path: layer.kind for path, layer in packed.packed(again).items()}
        assert kinds == {path: layer.kind for path, layer in packed.packed(after).items()}
        assert all(layer.dtype == dtype for layer in packed.packed(again).values())
        after = again
    text = (folder / "vlmlab.toml").read_text()
    assert f'[quantized.method]\nname = "{name}"' in text and "language.layers.*.mlp.down" in text
    files = [path.stat().st_size for path in (tmp_path / "0").glob("*.safetensors")]
    assert sum(files) < held(after) * 1.1


def test_a_file_that_says_something_else_is_refused(tmp_path):
    folder = save(made("int8")(model()), None, tmp_path / "held", quantized={"name": "int8"})
    recipe = folder / "vlmlab.toml"
    text = recipe.read_text()
    for old, new, message in [
        ("int8 = [", "int3 = [", "weights in 'int3' cannot be read; known: int8, int4, nf4"),
        ("language.embedding", "language.embeding", "names language.embeding, but this model has no such layer"),
        ("int8 = [", "int4 = [", "has no tensor for|holds|is \\[|which this model"),
        ("group = 32", "group = 7", ""),
    ]:
        recipe.write_text(text.replace(old, new))
        if message:
            with pytest.raises(ValueError, match=message):
                load_model(folder)
    recipe.write_text(text)
    assert load_model(folder) is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_quantized_model_is_not_quantized_again(name):
    after = made(name)(model())
    with pytest.raises(ValueError, match=r"held in int.* already: quantize the model it was made from"):
        made("int8")(after)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_acts_of_adapters_is_in_the_weights(name, merged):
    adapted = model()
    paths = [path for path, _ in matrices(adapted, ["language"]) if "layers" in path]
    torch.manual_seed(1)
    adapters.add(adapted, paths, adapters.Config(kind="dora", rank=3))
    for parameter in adapters.learned(adapted).values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    plain_one = copy.deepcopy(adapted)
    adapters.fold(plain_one)
    if merged:
        adapters.merge(adapted)
    assert torch.equal(logits(made(name)(adapted)), logits(made(name)(plain_one)))
    assert not adapters.layers(adapted)


def test_an_adapter_can_act_on_a_quantized_model():
    after = made("int8")(model())
    before = logits(after)
    adapters.add(after, ["language.layers.0.attention.q"], adapters.Config(rank=2))
    assert far(logits(after), before) < 1e-6
    with pytest.raises(ValueError, match=r"language\.embedding is no linear layer"):
        adapters.add(after, ["language.embedding"], adapters.Config(rank=2), "other")


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_in_has_a_gradient(name):
    after = made(name)(model())
    layer = after.language.layers[0].mlp.gate
    x = torch.randn(5, 64, requires_grad=True)
    out = layer(x, "silu")
    out.sum().backward()
    other = x.detach().clone().requires_grad_()
    torch.nn.functional.silu(other @ layer.weight.T).sum().backward()
    assert far(x.grad, other.grad) < 1e-3


@pytest.mark.parametrize("rows", [1, packed.FEW, packed.FEW + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_a_product_is_the_unpacked_weights(name, dtype, rows):
    after = made(name)(model())
    x = torch.randn(2, rows, 64, generator=torch.Generator().manual_seed(rows)).to(dtype)[:, :rows]
    for layer in (after.language.layers[0].attention.q, after.language.layers[1].mlp.up, after.language.output):
        out = layer(x)
        assert out.dtype == dtype and out.shape == (2, rows, layer.out_features)
        assert far(out, x.double() @ layer.unpacked(torch.float64).T) < 0.01


def test_a_layer_in_eight_bits_is_scaled_by_row():
    layer = Linear(40, 3, bias=True)
    layer.weight.data[0] *= 1000
    layer.weight.data[1] = 0
    own = Rows8(layer)
    assert (own.weight - layer.weight).abs().amax(1).le(layer.weight.abs().amax(1) / 250).all()
    x = torch.randn(2, 40)
    assert far(own(x), x @ own.weight.T + layer.bias) < 0.01


@pytest.mark.parametrize(("out", "inputs"), [(103, 64), (2, 64), (64, 40), (7, 24)])
def test_codes_may_stand_anywhere_in_any_number(out, inputs):
    own = Rows8(Linear(inputs, out, bias=False))
    room = torch.zeros(out * inputs + 128, dtype=torch.int8)
    start = -room.data_ptr() % 64 + 8  # as in a mapped file
    own.codes = room[start : start + out * inputs].view(out, inputs).copy_(own.codes)
    x = torch.randn(1, inputs)
    assert far(own(x), x @ own.weight.T) < 0.01


@pytest.mark.parametrize("out", [3, 16, 64, 70, 128])
def test_codes_come_back_from_the_kernels_order(out):
    own = Groups4(Linear(96, out, bias=False), 32)
    codes = own.codes.clone()
    weight = own.weight.clone()
    said = own(torch.randn(2, 96))
    assert said.shape == (2, out) and own._laid
    assert torch.equal(own.weight, weight)
    own.rest()
    assert torch.equal(own.codes, codes)


def test_levels_of_a_group_go_from_its_smallest_to_its_largest():
    weight = torch.randn(6, 64)
    steps, middles = int4.levels(weight, 32)
    codes = int4.encode(weight, steps, middles)
    assert codes.view(6, 2, 32).amin(2).max() <= 1 and codes.view(6, 2, 32).amax(2).min() >= 14
    wrong = (int4.decode(codes, steps, middles) - weight).abs().view(6, 2, 32).amax(2)
    assert (wrong <= 1.1 * steps.float()).all()
    assert torch.equal(int4.unpair(int4.pair(codes)), codes)


def test_a_matrix_that_no_group_divides_is_in_eight_bits():
    after = int4_method.Config(group=64).build()(model(changes={"language.inner": 96}))
    assert type(after.language.layers[0].mlp.down) is Rows8
    assert type(after.language.layers[0].mlp.up) is Groups4
    with pytest.raises(ValueError, match="group = 48 is not one of 32, 64, 128, 256"):
        int4_method.Config(group=48)
    with pytest.raises(ValueError, match="eyes is no part of a model"):
        int8.Config(parts=("eyes",))


def test_awq_wants_samples():
    with pytest.raises(ValueError, match="give it batches"):
        parse(QuantizerConfig, {"name": "awq"}).build()(model())


def loud(seed=0):
    """A model in which a few channels carry most of what layers read."""
    made_ = model(changes={"language.layers": 2})
    for layer in made_.language.layers:
        for norm in (layer.attention_norm, layer.mlp_norm):
            norm.weight.data[[3, 40]] *= 30
    return made_


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_awq_moves_sizes_without_changing_the_model(kv_heads):
    before = model(torch.float64, {"language.kv_heads": kv_heads})
    after = copy.deepcopy(before)
    quantizer = made("awq")
    quantizer.prepare(after)
    assert far(logits(after), logits(before)) < 1e-6
    moved = [name for name, p in after.named_parameters() if not torch.equal(p, before.get_parameter(name))]
    assert any(name.endswith("attention_norm.weight") for name in moved)
    assert any(name.endswith("attention.v.weight") for name in moved)
    assert any(name.endswith("attention.o.weight") for name in moved) == (kv_heads == 4)
    assert not after.language.layers[0].mlp.up._forward_pre_hooks


def test_awq_is_nearer_than_rounding_where_few_channels_are_loud():
    before = loud()
    said = logits(before)
    plain_error = far(logits(made("int4")(copy.deepcopy(before))), said)
    error = far(logits(made("awq")(copy.deepcopy(before))), said)
    assert error < 0.8 * plain_error


def test_every_kind_is_a_packed_layer():
    assert {layer.kind for name in NAMES for layer in packed.packed(made(name)(model())).values()} == {
        "int8",
        "int4",
        "nf4",
    }
    assert all(issubclass(kind, Packed) for kind in (Rows8, Groups4))
