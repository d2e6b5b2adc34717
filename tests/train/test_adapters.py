"""What trains is said in the recipe: adapters learn beside frozen weights, resume to the bit, leave PEFT's files."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open

import vlmlab
from train import tiny
from train.test_loop import ORIGIN, same, weights
from vlmlab.component import parse
from vlmlab.hub.save import save
from vlmlab.model import adapters
from vlmlab.model.nf4 import NF4
from vlmlab.train import checkpoint, run
from vlmlab.train import recipe as recipes
from vlmlab.train.log import read_metrics
from vlmlab.train.loop import fit
from vlmlab.train.optimizer import adapt, freeze, optimizer
from vlmlab.train.recipe import Stage
from vlmlab.train.recompute import recomputed
from vlmlab.train.step import accumulate

DORA = {"kind": "dora", "rank": 2, "alpha": 4.0, "dropout": 0.3}


def stage(train=("connector",), precision="float32", **parts) -> Stage:
    values = {"steps": 6, "batch": 4, "lr": 1e-2, "warmup": 2, "save_every": 3, "train": list(train)}
    return parse(Stage, {**values, "precision": precision, "adapters": parts})


def model(of: Stage):
    made = tiny.model()
    torch.manual_seed(1)
    adapt(made, of)
    return made


def train(folder, of: Stage, resume=False, watch=None, watch_every=0):
    folder.mkdir(exist_ok=True)
    made = model(of)
    feed = tiny.feed(made, frozen=not of.learns("vision"))
    found = checkpoint.find(folder) if resume else checkpoint.NOTHING
    fit(made, feed, tiny.ledger(feed), of, 0, folder, ORIGIN, watch, watch_every, found)
    return made


def losses(folder):
    return [r["loss"] for r in read_metrics(folder) if r["kind"] == "step"]


def test_only_what_the_recipe_says_moves(tmp_path):
    how = stage(language={**DORA, "full": ["norm"]}, vision={**DORA, "targets": ["fc1"]})
    before, after = weights(model(how)), weights(train(tmp_path, how))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in moved if ".adapters.default." in name} == adapters.learned(model(how)).keys()
    rest = {name for name in moved if ".adapters." not in name}
    assert {name.split(".")[0] for name in rest} == {"connector", "language"}
    assert {name for name in rest if name.startswith("language")} == {"language.norm.weight"}
    held = checkpoint.latest(tmp_path).folder / checkpoint.WEIGHTS
    with safe_open(held, "pt") as file:
        assert set(file.keys()) == freeze(model(how), how).keys()
        assert sum(file.get_tensor(name).numel() for name in file.keys()) < 0.6 * sum(  # noqa: SIM118
            p.numel() for p in tiny.model().parameters()
        )


@pytest.mark.parametrize("base", ["stored", "nf4"])
def test_dropout_too_resumes_to_the_bit(tmp_path, base):
    how = stage(language={**DORA, "base": base}, vision=DORA)
    whole = train(tmp_path / "whole", how)

    class Stop(Exception):
        pass

    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 2:
            raise Stop
        return {}

    with pytest.raises(Stop):
        train(tmp_path / "halves", how, watch=stop, watch_every=3)
    torch.rand(100)  # whatever else was drawn in between
    resumed = train(tmp_path / "halves", how, resume=True)
    assert same(weights(whole), weights(resumed))
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")


def test_a_part_has_its_own_rate():
    values = {"steps": 1, "lr": 1e-3, "lr_factors": {"language": 0.1}, "adapters": {"language": DORA}}
    made = parse(Stage, values)
    adam = optimizer(model(made), made)
    factors = {group["factor"] for group in adam.param_groups if any(p.shape[0] == 2 for p in group["params"])}
    assert 0.1 in factors and len(adam.param_groups) == 4


def test_four_bits_hold_what_is_frozen():
    made = model(stage(language={**DORA, "base": "nf4", "targets": ["q_proj"], "full": ["up_proj"]}))
    held = {path for path, module in made.named_modules() if isinstance(module, NF4)}
    assert len(held) == 2 * 6 and all(path.startswith("language.layers.") for path in held)
    assert not any(".mlp.up" in path for path in held)


def test_bfloat16_bases_keep_adapters_single(tmp_path):
    made = train(tmp_path, stage(train=(), precision="bfloat16", language={**DORA, "full": ["lm_head"]}))
    assert all(p.dtype == torch.float32 for p in made.parameters())
    assert not torch.equal(made.language.output.weight, tiny.model().language.output.weight)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


def gradients(how: Stage, again: bool):
    made = model(how)
    made.train()
    freeze(made, how)
    with torch.no_grad():
        for at, value in enumerate(adapters.learned(made).values()):
            value.add_(0.01 * torch.randn(value.shape, generator=torch.Generator().manual_seed(at)))
    feed = tiny.feed(made, frozen=not how.learns("vision"))
    kept: list[int] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t)
    with hooks, recomputed(made, dataclasses.replace(how, checkpointing=again)):
        done = accumulate(made, feed, [tiny.pieces(feed, range(4))], how, how.objective.build(), 7)
    feed.close()
    return done.loss, {n: p.grad for n, p in made.named_parameters() if p.grad is not None}, sum(kept)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_keeps_less_and_gives_the_same_bits(dropout):
    how = stage(train=("connector",), language={**DORA, "dropout": dropout}, vision={**DORA, "dropout": dropout})
    loss, found, memory = gradients(how, again=False)
    again, same_, less = gradients(how, again=True)
    assert loss == again and found.keys() == same_.keys()
    assert all(torch.equal(found[name], same_[name]) for name in found)
    assert less < 0.5 * memory


def test_the_layers_are_left_as_they_were():
    made = tiny.model()
    with recomputed(made, stage()):
        pass
    with recomputed(made, dataclasses.replace(stage(), checkpointing=True)):
        assert "forward" in made.language.layers[0].__dict__
    assert "forward" not in made.language.layers[0].__dict__


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stage.adapters.eyes.rank=2", "adapters names 'eyes', which is no part of a model"),
        ("stage.adapters.connector.rank=2", "train names the connector, which adapters.connector leaves as it is"),
        ("stage.adapters.language.ran=2", "unknown key 'stage.adapters.language.ran'; did you mean 'rank'"),
        ("stage.adapters.language.kind=lorra", "stage.adapters.language.kind = 'lorra' is not one of 'lora', 'dora'"),
        ("stage.adapters.language.rank=0", "rank must be 1 or more"),
    ],
)
def test_a_wrong_adapter_names_the_key(tmp_path, override, told):
    with pytest.raises(ValueError) as error:
        recipes.load(tiny.recipe(tmp_path), [override])
    assert told in str(error.value)


def test_adapters_of_several_parts_agree_on_what_pefts_files_hold_once(tmp_path):
    wrong = ["stage.adapters.language.kind=dora", "stage.adapters.vision.kind=lora"]
    with pytest.raises(ValueError, match="hold one kind for all parts, not language dora, vision lora"):
        recipes.load(tiny.recipe(tmp_path), wrong)


def test_targets_that_fit_nothing_name_the_key(tmp_path):
    resolved = recipes.load(tiny.recipe(tmp_path), ['stage.adapters.language.targets=["qproj"]'])
    with pytest.raises(
        ValueError, match=r"stage\.adapters\.language: no linear layer .*'qproj'; the nearest: .*q_proj"
    ):
        run.build(resolved)
    both = 'stage.adapters.language={targets=["lm_head"], full=["lm_head"]}'
    with pytest.raises(ValueError, match=r"full and targets both name language\.output"):
        run.build(recipes.load(tiny.recipe(tmp_path), [both]))


@pytest.mark.parametrize("base", ["stored", "nf4"])
def test_a_run_leaves_a_model_and_an_adapter(tmp_path, base):
    """`model/` has what was learned in its weights; `adapter/` beside the start gives the same (four bits: near it)."""
    start = run.build(recipes.load(tiny.recipe(tmp_path)))
    save(start.model, start.processor, tmp_path / "start")
    path = tmp_path / "mine.toml"
    path.write_text(
        f'[start]\nmodel = "{tmp_path / "start"}"\n[data]\nname = "train.tiny"\n'
        "[stage]\nsteps = 4\nbatch = 4\nlr = 1e-2\nwarmup = 0\n"
        f'[stage.adapters.language]\nrank = 3\nfull = ["embed_tokens"]\nbase = "{base}"\n'
    )
    made = run.build(recipes.load(path))
    run.begin(tmp_path / "run", made.recipe, resume=False)
    run.train(made, tmp_path / "run", ORIGIN)
    (batch,) = (made.process(tiny.Colours()[0]),)
    with torch.no_grad():
        expected = made.model.eval()(batch)
        merged, _ = vlmlab.load(tmp_path / "run" / "model")
        beside, _ = vlmlab.load(tmp_path / "start", adapter=tmp_path / "run" / "adapter")
        torch.testing.assert_close(merged(batch), expected, atol=1e-5, rtol=1e-5)
        bound = 1e-5 if base == "stored" else 0.05
        torch.testing.assert_close(beside(batch), expected, atol=bound, rtol=bound)
        assert not torch.allclose(start.model.eval()(batch), expected, atol=1e-3)
    assert not adapters.layers(merged) and adapters.names(beside) == ["default"]
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "start") and config["r"] == 3
    assert config["modules_to_save"] == ["model.connector", "model.text_model.embed_tokens"]
