"""Adapters: fresh they change nothing, merged they are the same, taken out they leave the bits; PEFT's sums."""

import copy

import peft
import pytest
import torch
from torch import nn

from model import tiny
from vlmlab.model import adapters, nf4
from vlmlab.model.adapters import Config, LowRank
from vlmlab.model.nf4 import NF4
from vlmlab.model.products import Linear
from vlmlab.model.vlm import VLM

KINDS = [Config(kind=kind, rank=3, alpha=5.0, base=base) for kind in ("lora", "dora") for base in ("stored", "nf4")]
every_kind = pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind}-{c.base}")


def paths(model: nn.Module) -> list[str]:
    return [path for path, layer in model.named_modules() if isinstance(layer, nn.Linear) and path != "vision.patch"]


def held(config: Config, dtype: torch.dtype = torch.float32, **names: str) -> VLM:
    """A tiny model, its linear layers in four bits where the config asks for that."""
    model = tiny.build(dtype=dtype, **names).requires_grad_(False)
    if config.base == "nf4":
        adapters.replace(model, paths(model), NF4)
    return model


def where(model: nn.Module) -> list[str]:
    return [path for path, m in model.named_modules() if isinstance(m, Linear | NF4) and path != "vision.patch"]


def shake(model: nn.Module, name: str = "default", seed: int = 1) -> None:
    """Move an adapter's numbers away from where they begin."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in adapters.learned(model, name).values():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))


def adapted(config: Config, dtype: torch.dtype = torch.float32, **names: str) -> VLM:
    model = held(config, dtype, **names)
    adapters.add(model, where(model), config)
    shake(model)
    return model


def batch(model: VLM):
    return tiny.lay(model, [[[1, tiny.picture(3, 4), 5, 6], [7, 8, 9]], [[11, tiny.picture(2, 3), 12]]])[0]


def logits(model: VLM) -> torch.Tensor:
    with torch.no_grad():
        return model(batch(model))


@every_kind
@pytest.mark.parametrize("fusion", ["interleave", "cross_attention"])
def test_a_fresh_adapter_changes_no_bit(config: Config, fusion: str) -> None:
    """But for what a CPU rounds when it applies an activation within a product (single precision, without gradients):
    behind an adapter that is a step of its own.
    """
    for dtype in (torch.float32, torch.float64):
        model = held(config, dtype, fusion=fusion)
        before = logits(model)
        learning = model(batch(model))
        adapters.add(model, where(model), config)
        assert torch.equal(model(batch(model)), learning)
        assert torch.equal(logits(model), before) or (dtype == torch.float32 and tiny.far(logits(model), before) < 1e-5)
        adapters.use(model, None)
        assert torch.equal(logits(model), before)


@every_kind
def test_merged_is_unmerged_and_the_bits_come_back(config: Config) -> None:
    model = held(config, torch.float64)
    base = logits(model)
    adapters.add(model, where(model), config)
    shake(model)
    apart = logits(model)
    assert tiny.far(apart, base) > 1e-2
    adapters.merge(model)
    assert tiny.far(logits(model), apart) < 1e-9
    adapters.unmerge(model)
    assert torch.equal(logits(model), apart)
    adapters.remove(model)
    assert not adapters.layers(model) and torch.equal(logits(model), base)


@every_kind
def test_folded_it_is_a_plain_model(config: Config) -> None:
    model, plain = adapted(config, torch.float64), tiny.build(dtype=torch.float64)
    state = adapters.plain_state(model)
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state)
    assert tiny.far(logits(plain), logits(model)) < 1e-9
    apart = logits(model)
    adapters.fold(model)
    assert not adapters.layers(model) and tiny.far(logits(model), apart) < 1e-9


@every_kind
def test_every_number_of_an_adapter_gets_a_gradient_and_no_other(config: Config) -> None:
    model = adapted(config)
    model(batch(model)).pow(2).sum().backward()
    learned = adapters.learned(model)
    assert len(learned) == (3 if config.kind == "dora" else 2) * len(where_adapted(model))
    for name, parameter in model.named_parameters():
        if name in learned:
            silent = ".attention.k." in name and name.startswith("vision") and parameter.ndim == 1
            assert parameter.grad is not None and (silent or parameter.grad.abs().max() > 1e-9), name
        else:
            assert parameter.grad is None, name


def where_adapted(model: VLM) -> list[str]:
    return list(adapters.layers(model))


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_layer_is_pefts(kind: str, bias: bool, rslora: bool) -> None:
    """The same numbers in, the same sums and gradients out as PEFT's."""

    class Net(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    torch.manual_seed(0)
    linear = Linear(12, 20, bias)
    ours, config = Net(copy.deepcopy(linear)).requires_grad_(False), Config(kind, rank=4, alpha=6.0, rslora=rslora)
    theirs = peft.get_peft_model(
        Net(nn.Linear(12, 20, bias)),
        peft.LoraConfig(r=4, lora_alpha=6, use_dora=kind == "dora", use_rslora=rslora, target_modules=["layer"]),
    )
    inner = theirs.base_model.model.layer
    inner.base_layer.load_state_dict(linear.state_dict())
    adapters.add(ours, ["layer"], config)
    shake(ours)
    adapter = ours.layer.acting
    with torch.no_grad():
        inner.lora_A["default"].weight.copy_(adapter.a)
        inner.lora_B["default"].weight.copy_(adapter.b)
        if kind == "dora":
            inner.lora_magnitude_vector["default"].weight.copy_(adapter.magnitude)
    x = torch.randn(5, 7, 12)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = ours(one), theirs(other)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.pow(2).sum().backward()
    expected.pow(2).sum().backward()
    pairs = [(one, other), (adapter.a, inner.lora_A["default"].weight), (adapter.b, inner.lora_B["default"].weight)]
    if kind == "dora":
        pairs.append((adapter.magnitude, inner.lora_magnitude_vector["default"].weight))
    for mine, yours in pairs:
        torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-5, atol=1e-5)
    merged = theirs.merge_and_unload().layer.weight
    torch.testing.assert_close(ours.layer.weight, merged, rtol=1e-5, atol=1e-6)


def test_adapters_are_switched_by_name() -> None:
    model = held(Config())
    base, found, everywhere = logits(model), {}, paths(model)
    for name, kind in (("one", "lora"), ("two", "dora")):
        adapters.add(model, [p for p in everywhere if name == "one" or "language" in p], Config(kind, 2), name)
        shake(model, name, seed=len(name + kind))
        found[name] = logits(model)
    assert adapters.names(model) == ["one", "two"]
    for name in ("one", "two", None, "two"):
        adapters.use(model, name)
        assert torch.equal(logits(model), found.get(name, base))
    adapters.remove(model, "one")
    assert torch.equal(logits(model), found["two"])
    adapters.use(model, "two")
    adapters.remove(model, "two")
    assert torch.equal(logits(model), base)


def test_a_kept_scale_follows_what_it_is_made_of() -> None:
    """DoRA's scale is kept between passes without gradients; it must not outlive the numbers it was made of."""
    model = adapted(Config("dora", 2))
    first = logits(model)
    assert torch.equal(logits(model), first)
    shake(model, seed=5)
    moved = logits(model)
    assert not torch.equal(moved, first)
    fresh = copy.deepcopy(model)
    for layer in adapters.layers(fresh).values():
        layer.acting._known = None
    assert torch.equal(logits(fresh), moved)
    layer = model.get_submodule("language.layers.0.mlp.up").base
    layer.weight.data = layer.weight.data * 2
    before = copy.deepcopy(model)
    for some in adapters.layers(before).values():
        some.acting._known = None
    assert torch.equal(logits(model), logits(before))


def test_dropout_is_of_training_alone_and_of_torchs_generator() -> None:
    model = held(Config())
    adapters.add(model, where(model), Config(rank=2, dropout=0.5))
    shake(model)
    still = logits(model)
    assert torch.equal(logits(model), still)
    model.train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model(batch(model)).detach())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], still)


def test_four_bits_are_packed_as_bitsandbytes_does() -> None:
    torch.manual_seed(0)
    codes, scales = nf4.pack(torch.randn(2, 35))
    known = "2265ba6092998dc621aba15eb468dec3475898a97b67af114bc86559dfef266ba20728"
    assert bytes(codes[:35].tolist()).hex() == known
    assert len(scales) == 2 and len(codes) == 64
    zero = nf4.unpack(*nf4.pack(torch.zeros(3, 5)), (3, 5), torch.float32)
    assert torch.equal(zero, torch.zeros(3, 5))


def test_four_bits_are_a_small_error_and_an_eighth_of_the_memory() -> None:
    torch.manual_seed(0)
    layer = Linear(96, 80)
    held = NF4(layer)
    error = (held.weight - layer.weight).detach()
    assert error.norm() / layer.weight.norm() < 0.1
    assert held.codes.nbytes + held.scales.nbytes == 96 * 80 // 2 + 96 * 80 // 64 * 4
    x = torch.randn(3, 96, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        out = held(x)
    assert sum(kept) == 0
    out.sum().backward()
    torch.testing.assert_close(x.grad, held.weight.sum(0).expand(3, -1))
    assert torch.equal(out, x @ held.weight.T + layer.bias) or tiny.far(out, x @ held.weight.T + layer.bias) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    for kind in ("lora", "dora"):
        model = tiny.build(dtype=dtype).requires_grad_(False)
        before = logits(model)
        adapters.add(model, paths(model), Config(kind, 2))
        assert torch.equal(logits(model), before)
        shake(model)
        apart = logits(model)
        assert apart.dtype == dtype
        adapters.merge(model)
        assert tiny.far(logits(model), apart) < (0.3 if dtype == torch.bfloat16 else 1e-9)


def test_what_cannot_be_is_refused() -> None:
    model = held(Config())
    with pytest.raises(ValueError, match=r"language\.norm is no linear layer, but RMSNorm"):
        adapters.add(model, ["language.norm"], Config())
    adapters.add(model, ["language.layers.0.mlp.up"], Config())
    with pytest.raises(ValueError, match="has an adapter called 'default' already"):
        adapters.add(model, ["language.layers.0.mlp.up"], Config())
    with pytest.raises(ValueError, match=r"no adapter called 'defalt'; its adapters: default"):
        adapters.use(model, "defalt")
    for name in ("a.b", "keys"):
        with pytest.raises(ValueError, match="an adapter cannot be called"):
            adapters.add(model, ["language.layers.0.mlp.up"], Config(), name)
    adapters.merge(model)
    for act in (adapters.merge, adapters.remove, lambda m: adapters.use(m, None)):
        with pytest.raises(ValueError, match="unmerge it first"):
            act(model)
    fresh = held(Config())
    with pytest.raises(ValueError, match=r"is \[48, 32\], but its adapter is for \[3, 4\]"):
        adapters.attach(fresh, {"language.layers.1.mlp.up": LowRank(torch.zeros(2, 4), torch.zeros(3, 2), 1.0)})
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Config(**wrong)
