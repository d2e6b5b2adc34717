"""Plans: the batch of the paper from what is published, what a run then measured, what cannot be counted."""

import re

import pytest
import torch

from house import tree
from train import tiny
from vlmlab import cli
from vlmlab.data.published import published
from vlmlab.data.sources import text
from vlmlab.model.meta import without_memory
from vlmlab.model.vlm import VLM
from vlmlab.processor.processor import Config as ProcessorConfig
from vlmlab.train import means as measuring
from vlmlab.train import plan as planning
from vlmlab.train import recipe as recipes
from vlmlab.train.recipe import Stage

FULL = tree.ROOT / "recipes" / "idefics2"


def means(name):
    recipe, first = recipes.load(FULL / f"{name}.toml"), recipes.load(FULL / "1-pretrain.toml")
    with without_memory():
        model = VLM(first.model)
    return recipe, measuring.means(recipe, model, recipe.processor or ProcessorConfig(), None, 1)


def test_the_first_stage_has_the_batch_of_the_paper():
    recipe, found = means("1-pretrain")
    flows = planning.flows(recipe, found)
    images, tokens, rows = (sum(getattr(flow, key) for flow in flows) for key in ("images", "text", "rows"))
    # 17,000 pictures and 2.5 million text tokens in 2,048 rows (4.1); ours are packed without a gap.
    assert (images, tokens, rows) == pytest.approx((17_000, 2.5e6, 2048), rel=0.12)
    by_kind = {"documents": 0.0, "pairs": 0.0}
    for flow in flows:
        by_kind[flow.kind] += flow.rows / rows
    assert by_kind == pytest.approx({"documents": 0.7, "pairs": 0.3})


def test_the_second_stage_has_pages_and_about_as_many_rows():
    recipe, found = means("2-high-resolution")
    flows = planning.flows(recipe, found)
    rows = sum(flow.rows for flow in flows)
    assert rows == pytest.approx(2048, rel=0.05)
    assert sum(flow.rows for flow in flows if flow.kind == "pages") == pytest.approx(0.2 * rows)
    assert found["pdfa"].grid == (70, 70 * 757 // 980) and found["documents"].again


def test_the_instruction_mixture_is_counted_from_the_table():
    recipe, found = means("3-instruct")
    flows = {flow.name: flow for flow in planning.flows(recipe, found)}
    learned = sum(flow.learned for flow in flows.values())
    assert len(flows) == 59 and flows["vqav2"].learned / learned == pytest.approx(0.0572, rel=1e-3)
    assert flows["ai2d"].epochs / flows["chartqa"].epochs == pytest.approx((0.8 / 38_832) / (1.9 / 185_835))
    assert 15 < flows["vqarad"].epochs * 2 < 25 and flows["websight"].epochs < 0.01
    # Half of the samples with pictures are read in five pieces.
    assert found["vqav2"].images == 3 and not found["goat"].images


def test_what_nobody_has_published_has_to_be_here():
    with pytest.raises(ValueError, match="llava_conv: nothing is published to count with"):
        means("4-chat")
    assert published(text.Config(path="x", columns=text.Columns(user=("q",), assistant="a"))) is None


@pytest.fixture
def run(tmp_path, capsys):
    path = tiny.recipe(tmp_path, stage={"steps": 3, "adapters": {"language": {"rank": 2}}})
    assert cli.main(["train", str(path), "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    return tmp_path / "run"


def test_a_run_is_compared_with_its_plan(run, capsys):
    assert cli.main(["plan", str(run), "--peak", "0.01", "--probe", "24"]) == 0
    told = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in told[told.index("of 3 steps") :].splitlines()[1:] if line.strip()}
    assert rows.keys() == {"samples", "images", "tokens", "learned tokens", "memory", "seconds"}
    error = {name: float(re.search(r"([+-][\d.]+)%", row)[1]) for name, row in rows.items()}
    # Every sample was measured: only which of them three steps drew is left to chance.
    assert error["samples"] == error["images"] == 0 and abs(error["tokens"]) < 10 and abs(error["learned tokens"]) < 10
    assert "measured on 24 of 24" in told and "on a device of 0.01 TFLOP/s, 40% of it reached" in told


def stage_parts(devices=1, **changes):
    costs = planning._Costs(tiny.model().config)
    mean = planning.Mean(100, 1.0, (2, 4), 10.0, 5.0, 12.0, "")
    flow = planning.Flow("a", "a", 4.0, 1.0, 4.0, 40.0, 20.0, 48.0, 1.0, mean)
    found, once = planning.parts(Stage(steps=10, batch=4, **changes), tiny.model().config, (flow,), costs, devices)
    return {part.name: part for part in found}, once


def test_memory_is_that_of_what_learns():
    sizes = {name: sum(p.numel() for p in ps) for name, ps in tiny.model().parts().items()}
    found, once = stage_parts(train=("connector",))
    assert found["connector"].gradients == 4 * sizes["connector"] and found["vision"].optimizer == 0
    assert found["connector"].optimizer == 8 * sizes["connector"]
    assert found["language"].weights == 4 * sizes["language"]
    # A frozen tower looks at each of 40 pictures once, and keeps nothing for gradients.
    assert found["vision"].work == 0 and once > 0 and found["vision"].activations == 0
    seen, none = stage_parts(train=("vision", "connector"))
    assert none == 0 and seen["vision"].activations > 0
    assert seen["vision"].work == pytest.approx(3 * once / 10)
    lowered, _ = stage_parts(train=("connector",), precision="bfloat16")
    assert sizes["language"] * 2 < lowered["language"].weights < found["language"].weights


def test_a_bound_on_patches_bounds_what_is_kept():
    """Documents have eight patches each: by tokens a pass holds ten, by patches three."""
    learn = {"train": ("vision", "connector", "language"), "tokens": 120}
    whole, _ = stage_parts(**learn)
    bounded, _ = stage_parts(**learn, patches=24)
    assert bounded["vision"].activations == pytest.approx(0.3 * whole["vision"].activations)
    assert bounded["language"].activations < 0.5 * whole["language"].activations
    assert bounded["vision"].work == whole["vision"].work and bounded["vision"].weights == whole["vision"].weights
    assert stage_parts(**learn, patches=1000)[0] == whole
    alone, _ = stage_parts(**{**learn, "tokens": 12})
    assert stage_parts(**learn, patches=1)[0] == alone


def test_devices_that_share_weights_hold_less():
    """A share of everything each; what is no layer is gathered whole, and of layers two at a time."""
    learn = {"train": ("connector", "language"), "shard": True}
    model = tiny.model()
    alone, _ = stage_parts(**learn)
    assert stage_parts(**{**learn, "shard": False}, devices=8)[0] == alone
    spread, _ = stage_parts(**learn, devices=8)
    assert spread["vision"] == alone["vision"]  # frozen, it is whole everywhere
    layer = {name: 4 * sum(p.numel() for p in getattr(model, name).layers[0].parameters()) for name in learn["train"]}
    assert layer["connector"] > layer["language"]  # the largest of the model stands for all
    for name in learn["train"]:
        rest = alone[name].weights - len(getattr(model, name).layers) * layer[name]
        large = layer[name] if name == "connector" else 0
        assert spread[name].weights == alone[name].weights / 8 + rest + 2 * large
        assert spread[name].gradients == alone[name].gradients / 8 + rest + large
    for name in ("connector", "language"):
        assert spread[name].optimizer == alone[name].optimizer / 8
        assert spread[name].activations == alone[name].activations and spread[name].work == alone[name].work
    seen, _ = stage_parts(**{**learn, "train": ("vision", "connector", "language")}, devices=8)
    assert seen["vision"].optimizer < alone["language"].optimizer and seen["vision"].weights < spread["vision"].weights
    small, _ = stage_parts(train=("connector",), shard=True, precision="bfloat16", devices=8)
    assert small["language"].weights < spread["language"].weights and not small["language"].gradients


def test_work_is_that_of_forward_and_back():
    frozen, _ = stage_parts(train=("connector",))
    whole, _ = stage_parts(train=("connector", "language"))
    again, _ = stage_parts(train=("connector",), checkpointing=True)
    assert whole["language"].work == pytest.approx(1.5 * frozen["language"].work)
    assert frozen["language"].work < again["language"].work < 1.5 * frozen["language"].work
    assert again["language"].activations < frozen["language"].activations


def test_what_is_kept_is_what_autograd_keeps():
    model, held = tiny.model().train(), {}
    weights = {p.untyped_storage()._cdata for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            held[storage._cdata] = tensor
        return tensor

    from vlmlab.model.count import example

    documents = example(model, [(2, 4)], 10, 1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(documents, rows=torch.tensor([documents.tokens.shape[1] - 1]))
    real = sum(tensor.untyped_storage().nbytes() for tensor in held.values())
    with without_memory():
        empty = VLM(model.config)
    assert sum(planning.saved(empty, [(2, 4)], 10).values()) == pytest.approx(real, rel=0.35)


def test_devices_and_their_names(run, capsys):
    words = ["plan", str(run), "--peak", "1", "stage.shard=true", "--devices", "4"]
    assert cli.main(words) == 0
    assert "memory of each of 4 devices that share it: " in capsys.readouterr().out
    assert cli.main(["plan", str(run), "--on", "h10"]) == 2
    assert "no peak is known of 'h10'; did you mean h100?" in capsys.readouterr().err
    assert cli.main(["plan", str(run), "--probe", "0"]) == 2
