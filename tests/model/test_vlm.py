"""The model as a whole: how it begins, what its parts are, and that it compiles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from model.tiny import build, lay, picture, tables, text
from vlmlab.batch import Images
from vlmlab.component import parse
from vlmlab.model.layers import RMSNorm
from vlmlab.model.vlm import PARTS, VLM, VLMConfig

IDEFICS2 = {
    slot: {"name": name} for slot, name in zip(PARTS, ("siglip", "perceiver", "mistral", "interleave"), strict=True)
}


def on_meta(data: dict) -> VLM:
    with torch.device("meta"):
        return VLM(parse(VLMConfig, data))


def test_the_default_numbers_are_idefics2s() -> None:
    model = on_meta(IDEFICS2)
    parameters = list(model.parameters())
    assert len(parameters) == len(model.state_dict()) == 763
    assert sum(p.numel() for p in parameters) == 8_402_768_112
    assert {name: sum(p.numel() for p in part) for name, part in model.parts().items()} == {
        "vision": 417_792_240,
        "connector": 91_750_400 + 651_468_800,
        "language": 2 * 131_084_288 + 6_979_588_096,
        "fusion": 0,
    }


def test_parts_hold_every_parameter_once() -> None:
    model = build(fusion="cross_attention")
    named = [id(p) for part in model.parts().values() for p in part]
    assert len(named) == len(set(named)) and set(named) == {id(p) for p in model.parameters()}


def close(weight: torch.Tensor, std: float) -> bool:
    """Whether a matrix looks drawn from a distribution of mean 0 and this deviation: within five standard errors."""
    n = weight.numel()
    return abs(float(weight.std()) / std - 1) < 5 / (2 * n) ** 0.5 and abs(float(weight.mean())) < 5 * std / n**0.5


def test_new_parts_begin_as_the_reference_does() -> None:
    """Variance 0.4 over the language width; latents 1 over it; smaller for what is added back (M4's training code)."""
    data = tables() | {
        "connector": {"name": "perceiver", "latents": 64, "depth": 3, "heads": 4, "head_width": 24, "kv_heads": 2}
        | {"projection_inner": 160}
    }
    data["language"] |= {"width": 96}
    torch.manual_seed(1)
    model = VLM(parse(VLMConfig, data))
    assert close(model.connector.latents.detach(), 96**-0.5)
    linears = {name: m for name, m in model.connector.named_modules() if isinstance(m, nn.Linear)}
    assert len(linears) == 3 + 3 * 7
    for name, linear in linears.items():
        factor = 6 if name.endswith("attention.o") else 2 if name == "projection.down" else 1
        assert close(linear.weight.detach(), (0.4 / (96 * factor)) ** 0.5), name
        assert linear.bias is None
    for module in model.modules():
        if isinstance(module, RMSNorm | nn.LayerNorm):
            assert (module.weight == 1).all()
    for part in (model.vision, model.language):
        for name, module in part.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                assert close(module.weight.detach(), 0.02), name
            if isinstance(module, nn.Linear) and module.bias is not None:
                assert (module.bias == 0).all()


def test_cross_attention_begins_as_idefics1_does() -> None:
    data = tables(fusion="cross_attention")
    data["fusion"] |= {"inner": 200}
    torch.manual_seed(1)
    model = VLM(parse(VLMConfig, data))
    for name, module in model.fusion.named_modules():
        if isinstance(module, nn.Linear):
            factor = 2 * 4 if name.endswith("down") else 1
            assert close(module.weight.detach(), (0.4 / (module.in_features * factor)) ** 0.5), name


def test_mapping_begins_as_mapl_does() -> None:
    torch.manual_seed(1)
    data = tables(connector="mapping")
    data["connector"] |= {"inner": 64, "queries": 32}
    connector = VLM(parse(VLMConfig, data)).connector
    assert close(connector.queries.detach(), 1)
    for layer in connector.layers:
        for projection in (layer.attention.q, layer.attention.k, layer.attention.v):
            assert close(projection.weight.detach(), (2 / (4 * 64)) ** 0.5)
            assert float(projection.weight.detach().abs().max()) <= (6 / (4 * 64)) ** 0.5
            assert (projection.bias == 0).all()
        assert (layer.attention.o.bias == 0).all()


def test_linear_connectors_keep_the_variance_of_0_4() -> None:
    torch.manual_seed(1)
    for name in ("linear", "per_patch"):
        data = tables(connector=name)
        data["vision"] |= {"width": 96}
        for module in VLM(parse(VLMConfig, data)).connector.modules():
            if isinstance(module, nn.Linear):
                assert close(module.weight.detach(), (0.4 / module.in_features) ** 0.5), name


@pytest.mark.parametrize("names", [{}, {"vision": "dinov2", "connector": "mapping", "fusion": "cross_attention"}])
def test_it_is_deterministic(names: dict[str, str]) -> None:
    model = build(dtype=torch.float32, **names)
    batch, _ = lay(model, [[[*text(3), picture(3, 4), 5], text(4)], [[picture(2, 2), 6]]])
    with torch.no_grad():
        assert torch.equal(model(batch), model(batch))


def test_an_interleaved_model_needs_equal_widths() -> None:
    with pytest.raises(
        ValueError, match="visual tokens are 24 wide, the language model 32: interleave needs them equal"
    ):
        build(changes={"connector.projection": "none"})


COMPILED = """
import sys, torch
sys.path.insert(0, {tests!r})
from model.tiny import build, far, lay, picture, text
torch.set_num_threads(1)
model = build(fusion={fusion!r}, changes={{"language.layers": 1, "vision.layers": 1, "connector.depth": 1}})
compiled = torch.compile(model, backend={backend!r})
batch = lay(model, [[[1, picture(3, 4), 2, 3], [4, 5]], [[picture(2, 5), 6, *text(4)]]])[0]
with torch.no_grad():
    assert far(compiled(batch), model(batch)) < {bound}
    from torch._dynamo.utils import counters
    # The compiler stops at the plans (vlmlab.model.eager): where they are disabled, and where they are called.
    known = ("torch.compiler.disable", "module: torch.compiler, qualname: disable")
    breaks = [reason for reason in counters["graph_break"] if not any(some in reason for some in known)]
    assert not breaks, breaks
if {train}:
    gradients = []
    for module in (model, compiled):
        model.zero_grad()
        module(batch).pow(3).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert max(far(a, b) for a, b in zip(*gradients, strict=True) if b.abs().max() > 1e-6) < 1e-9
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "fusion", "train", "bound"),
    [
        ("aot_eager", "interleave", True, 1e-9),
        ("aot_eager", "cross_attention", False, 1e-9),
        ("inductor", "interleave", False, 1e-4),  # its functions are approximations of their own
    ],
)
def test_compiled_is_eager(backend: str, fusion: str, train: bool, bound: float) -> None:
    """The graph breaks only where a batch's layout is read. In a process without the type checker's import hook."""
    tests = str(Path(__file__).parents[1])
    script = COMPILED.format(tests=tests, backend=backend, fusion=fusion, train=train, bound=bound)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and done.stdout.strip().endswith("equal"), done.stderr[-3000:]


LIGHT = """
import sys, torch
from vlmlab.generate.session import Session
from vlmlab.hub.load import load_model
from vlmlab.model.meta import without_memory
from vlmlab.model.connectors import perceiver
with without_memory():
    made = perceiver.Perceiver(perceiver.Config(latents=4), 32, 64)
assert all(parameter.is_meta for parameter in made.parameters())
drawn = perceiver.Perceiver(perceiver.Config(latents=4, projection_inner=8), 32, 64)
assert drawn.latents.std() > 0.01
assert "torch._dynamo" not in sys.modules, "the compiler was imported, which takes a second"
print("light")
"""


def test_loading_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "light", done.stderr[-2000:]


@pytest.mark.parametrize("patches", [1, 7, 8, 20, 1000])
def test_images_a_few_at_a_time_are_the_same_images(patches):
    images = Images(torch.randn(4 + 3 + 16 + 6 + 1, 5), torch.tensor([[2, 2], [1, 3], [4, 4], [3, 2], [1, 1]]))
    pieces = images.pieces(patches)
    joined = Images.join(pieces)
    assert torch.equal(joined.patches, images.patches) and torch.equal(joined.grid, images.grid)
    for piece, after in zip(pieces, [*pieces[1:], None], strict=True):
        assert len(piece.grid) == 1 or len(piece.patches) <= patches
        assert after is None or len(piece.patches) + int(after.grid[0].prod()) > patches  # as many as fit
