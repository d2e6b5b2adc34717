"""Counting: against formulas written by hand, against torch's own counter on a real model, against the paper."""

import functools
from collections.abc import Sequence

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from house.tree import ROOT
from model.tiny import CONNECTOR, FUSION, GRID, VISION, lay, picture, tables
from vlmlab.component import parse, read_toml
from vlmlab.model.count import Report, count, describe, measure, peak
from vlmlab.model.vlm import PARTS, VLM, VLMConfig

IDEFICS2 = {
    slot: {"name": name} for slot, name in zip(PARTS, ("siglip", "perceiver", "mistral", "interleave"), strict=True)
}
SQUARE_384 = (27, 27)


FULL = parse(VLMConfig, IDEFICS2)
CROSS = parse(VLMConfig, read_toml(ROOT / "recipes/idefics2/cross-attention.toml")["model"])


@functools.cache
def built(config: VLMConfig) -> VLM:
    """A full-size model without memory, built once."""
    with torch.device("meta"):
        return VLM(config).to(torch.bfloat16)


def costs(config: VLMConfig, grids: Sequence[tuple[int, int]] = (), text: int = 1, batch: int = 1) -> Report:
    return count(built(config), grids, text, batch)


def by_part(report: Report, what: str) -> dict[str, int]:
    return {part.name: getattr(part, what) for part in report.parts}


def test_idefics2_in_numbers() -> None:
    report = describe(FULL, [SQUARE_384], text=100)
    assert (report.parameters, report.tensors, report.new) == (8_402_768_112, 763, 743_219_200)
    assert (report.visual, report.tokens) == ((64,), 164)
    assert report.weights == 2 * 8_402_768_112
    assert report.cache == 2 * 32 * 8 * 128 * 164 * 2
    assert report.dtype == "bfloat16" and report.measured is None


def test_idefics2s_operations_by_hand() -> None:
    """Twice the weights of each matrix for each row it meets, four times queries x keys x width for attention."""
    p, z, t = 27 * 27, 64, 164  # patches, latents, tokens
    vision = 27 * (p * (4 * 1152**2 + 2 * 1152 * 4304) * 2 + 4 * p * p * 1152) + 2 * p * 588 * 1152
    projection = 2 * p * (2 * 1152 * 14336 + 14336 * 4096)
    layer = 2 * z * (2 * 4096 * 1536 + 3 * 4096 * 16384) + 2 * (p + z) * 2 * 4096 * 384 + 4 * z * (p + z) * 1536
    matrices = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    head = 2 * 4096 * 32003
    report = costs(FULL, [SQUARE_384], text=100)
    assert by_part(report, "prefill") == {
        "vision": vision,
        "connector": projection + 3 * layer,
        "language": 32 * (2 * t * matrices + 4 * t * t * 4096) + head,
        "fusion": 0,
    }
    assert by_part(report, "step") == {
        "vision": 0,
        "connector": 0,
        "language": 32 * (2 * matrices + 4 * (t + 1) * 4096) + head,
        "fusion": 0,
    }


def test_a_batch_costs_its_documents() -> None:
    one, three = (costs(FULL, [SQUARE_384, (10, 40)], text=50, batch=n) for n in (1, 3))
    assert three.prefill == 3 * one.prefill and three.step == 3 * one.step and three.cache == 3 * one.cache
    assert three.tokens == one.tokens == 50 + 2 * 64 and one.visual == (64, 64)


def test_text_alone_costs_no_vision() -> None:
    report = costs(FULL, text=10)
    assert by_part(report, "prefill")["vision"] == by_part(report, "prefill")["connector"] == 0
    assert report.visual == () and report.tokens == 10


# The paper's section 3.2. What it prints and what follows from its own numbers are told apart in docs/info.md.


def test_cross_attention_has_two_billion_new_parameters() -> None:
    assert costs(CROSS).new == 2_015_743_248
    assert round(costs(CROSS).new / 1e9, 1) == 2.0
    assert round((costs(CROSS).new - costs(FULL).new) / 1e9, 1) == 1.3


def test_shares_that_are_trained() -> None:
    """The paper says approximately 25 % and 15 %; two billion of these models are 21 %, and 0.74 billion 9 %."""
    cross, autoregressive = costs(CROSS), costs(FULL)
    assert round(100 * cross.new / cross.parameters, 1) == 20.8
    assert round(100 * autoregressive.new / autoregressive.parameters, 1) == 8.8


def test_ten_percent_more_operations() -> None:
    """For pictures of 384 pixels, at about 560 tokens of text a picture; a token that follows costs 26 % more."""

    def more(text: int) -> float:
        return costs(CROSS, [SQUARE_384], text).prefill / costs(FULL, [SQUARE_384], text).prefill

    assert more(558) < 1.10 < more(559)
    assert more(100) < 0.8 and more(2000) < 1.2
    assert round(costs(CROSS, [SQUARE_384], 100).step / costs(FULL, [SQUARE_384], 100).step, 2) == 1.26


def test_an_image_is_one_token_and_its_keys_are_kept() -> None:
    report = costs(CROSS, [SQUARE_384, SQUARE_384], text=7)
    assert (report.tokens, report.visual) == (9, (64, 64))
    assert report.cache == 2 * 32 * 8 * 128 * 9 * 2 + 8 * 2 * (2 * 64) * 4096 * 2


# Against what runs.


def names() -> list[dict[str, str]]:
    chosen = [{"vision": name} for name in VISION]
    chosen += [{"connector": name, "fusion": fusion} for name in CONNECTOR for fusion in FUSION]
    return chosen


@pytest.mark.parametrize("chosen", names(), ids=lambda chosen: "-".join(chosen.values()))
def test_predicted_is_measured(chosen: dict[str, str]) -> None:
    config = parse(VLMConfig, tables(**chosen))
    report = describe(config, [GRID, GRID], text=5, batch=2, dtype=torch.float32)
    torch.manual_seed(0)
    measured = measure(VLM(config).eval(), report).measured
    assert measured is not None and measured.device == "cpu"
    assert (measured.prefill, measured.step) == (report.prefill, report.step)
    assert measured.prefill_seconds > 0 and measured.step_seconds > 0 and measured.activations >= 0


def test_torchs_counter_agrees() -> None:
    """On a model whose attention is spelled out as matrices, torch's own counter sees all that there is."""
    config = parse(VLMConfig, tables())
    report = describe(config, [GRID], text=6, dtype=torch.float32)
    model = VLM(config).eval()
    batch, _ = lay(model, [[[picture(*GRID), 1, 2, 3, 4, 5, 6]]])
    backend = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with backend, FlopCounterMode(display=False) as counter:
        model(batch, torch.tensor([8]))
    assert counter.get_total_flops() == report.prefill


def test_predicted_memory_is_near_what_a_process_takes() -> None:
    """Attention's own workspace, and memory that the allocator keeps, are over what is predicted."""
    wide = tables()
    wide["vision"] |= {"width": 256, "heads": 4, "inner": 1024, "side": 70}
    config = parse(VLMConfig, wide)
    report = describe(config, [(70, 70)], text=20, dtype=torch.float32)
    measured = measure(VLM(config).eval(), report).measured
    assert measured is not None and 4900 * 1024 * 4 < report.activations < 4900 * 1024 * 4 * 4
    assert 0.5 < measured.activations / report.activations < 2.5


def test_nothing_is_built() -> None:
    """Eight billion parameters are counted in little memory: no tensor of the model has any."""
    with peak(torch.device("cpu")) as taken:
        describe(FULL, [SQUARE_384], text=10)
    assert taken[0] < 500e6


@pytest.mark.parametrize(("text", "batch"), [(0, 1), (1, 0)])
def test_an_empty_batch_is_refused(text: int, batch: int) -> None:
    with pytest.raises(ValueError, match="at least one document with one token of text"):
        describe(parse(VLMConfig, tables()), text=text, batch=batch)


def test_a_grid_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ValueError, match="4 x 3 patches"):
        describe(parse(VLMConfig, tables(connector="linear")), [(4, 3)])
