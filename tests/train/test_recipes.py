"""The recipes of the four stages, from files in the published layouts at the paths they name to a step of training."""

import json
import math

import pytest

from data import corpora
from data.test_pdf import written
from data.test_text import PUBLISHED
from house import tree
from train import tiny
from vlmlab import component
from vlmlab.data.sft_mixture import table
from vlmlab.model.meta import without_memory
from vlmlab.model.vlm import VLM
from vlmlab.train import recipe as recipes
from vlmlab.train import run
from vlmlab.train.log import read_metrics
from vlmlab.train.optimizer import adapt, freeze
from vlmlab.train.origin import Origin

FULL = tree.ROOT / "recipes" / "idefics2"
STAGES = ["1-pretrain", "2-high-resolution", "3-instruct", "4-chat"]
PICTURE = {"bytes": corpora.png(7, 24), "path": None}
PAGE = written([(50, 50, "A page"), (50, 70, "of text.")])


def pretraining(folder):
    documents = [
        {"images": [None, {"bytes": corpora.png(n, 16), "path": None}, None], "texts": [f"Text {n}.", None, "More."]}
        for n in range(6)
    ]
    for name in ("OBELICS/data", "PMD", "laion-coco", "idl-wds", "pdfa-eng-wds", "RenderedText"):
        (folder / name).mkdir(parents=True)
    corpora.parquet(folder / "OBELICS/data/train-00.parquet", documents)
    for name in ("PMD", "laion-coco"):
        told = json.dumps({"top_caption": "a grey square"}).encode()
        files = [("0.png", corpora.png(1, 12)), ("0.txt", b"Grey!"), ("0.json", told)]
        corpora.tar(folder / name / "00.tar", files)
    pages = json.dumps({"pages": [{"lines": {"text": ["A page", "of text."]}}]}).encode()
    corpora.tar(folder / "idl-wds/00.tar", [("0.pdf", PAGE), ("0.json", pages)])
    corpora.tar(folder / "pdfa-eng-wds/00.tar", [("0.pdf", PAGE), ("0.json", pages)])
    lines = {"ocr_annotation": {"text": ["Dear Joe,"], "bounding_boxes": [[[1, 2], [3, 2], [3, 4], [1, 4]]]}}
    corpora.tar(folder / "RenderedText/00.tar", [("0.png", corpora.png(2, 9)), ("0.json", json.dumps(lines).encode())])


def instruction(folder):
    turns = [{"user": f"Q {n}?", "assistant": f"A {n}.", "source": "x"} for n in range(3)]
    for entry in table():
        if entry.subset:
            rows = [{"images": [PICTURE], "texts": turns}]
            corpora.parquet(folder / "the_cauldron" / entry.subset / "train-0.parquet", rows)
    paths = component.read_toml(FULL / "3-instruct.toml")["data"]["text"]
    for name, path in paths.items():
        place, row = folder / path.replace("*", "0"), PUBLISHED[name][1]
        place.parent.mkdir(parents=True, exist_ok=True)
        write = {".json": corpora.as_json, ".jsonl": corpora.as_lines, ".parquet": corpora.parquet}[place.suffix]
        write(place, [row])


def dialogues(folder):
    said = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A grey square."}]
    for recipe in component.read_toml(FULL / "4-chat.toml")["data"]["sources"].values():
        path, pictures = (folder / recipe["data"][key] for key in ("path", "pictures"))
        pictures.mkdir(parents=True)
        (pictures / "7.png").write_bytes(corpora.png(7, 20))
        path.parent.mkdir(parents=True, exist_ok=True)
        corpora.as_json(path, [{"id": "7", "image": "7.png", "conversations": said}])


FILES = {STAGES[0]: pretraining, STAGES[1]: pretraining, STAGES[2]: instruction, STAGES[3]: dialogues}


def small(name, folder):
    """The recipe of a stage with a tiny model: data, adapters, what learns and how are as they are written."""
    plain, other = component.read_toml(FULL / f"{name}.toml"), component.read_toml(tiny.recipe(folder))
    images = plain["processor"]["images"]
    images |= {"side": 8} if images["name"] == "square" else {"longest": 16, "shortest": 8}
    plain |= {"start": other["start"], "model": other["model"]}
    plain["processor"] = {"patch": 4, "pad": "<pad>", "images": images}
    plain["stage"] |= {"steps": 1, "batch": 24, "window": 0, "workers": 0, "warmup": 0}
    path = folder / "small.toml"
    path.write_text(component.write_toml(plain), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_runs_on_the_layouts_it_names(name, tmp_path, monkeypatch):
    pytest.importorskip("pypdfium2")
    FILES[name](tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = recipes.load(small(name, tmp_path))
    run.begin(tmp_path / "run", recipe, resume=False)
    made = run.build(recipe)
    run.train(made, tmp_path / "run", Origin.now(recipe.text(), recipe.seed))
    records = read_metrics(tmp_path / "run")
    step = next(record for record in records if record["kind"] == "step")
    assert math.isfinite(step["loss"]) and step["samples"] == 24
    assert not [record for record in records if record["kind"] == "skipped"]
    told = next(record for record in records if record["kind"] == "mixture")
    count = {"1-pretrain": 3, "2-high-resolution": 6, "3-instruct": 59, "4-chat": 2}[name]
    assert len(told["asked"]) == count and sum(told["drawn"].values()) == 24


@pytest.mark.parametrize("name", ["1-pretrain", "3-instruct"])
def test_what_learns_at_full_size_is_what_the_training_code_trains(name):
    recipe, model = recipes.load(FULL / f"{name}.toml"), recipes.load(FULL / "1-pretrain.toml").model
    after = recipes.load(FULL / f"{STAGES[STAGES.index(name) + 1]}.toml")
    assert (after.stage.adapters, after.stage.train) == (recipe.stage.adapters, recipe.stage.train)
    with without_memory():
        made = VLM(model)
        adapt(made, recipe.stage)
    trained = freeze(made, recipe.stage)
    counts = dict.fromkeys(("vision", "connector", "language"), 0)
    for path, parameter in trained.items():
        counts[path.partition(".")[0]] += parameter.numel()
    assert counts["connector"] == 743_219_200  # A.6: projection and resampler, whole
    # By hand: rank 64 over 27 layers of the tower, with its embeddings and norms; over the decoder's and its head.
    wide, inner, layers, patches = 1152, 4304, 27, 4900
    tower = layers * 64 * (4 * 2 * wide + 2 * (wide + inner)) + wide * (3 * 14**2 + 1 + patches) + 2 * wide * 55
    decoder = 32 * 64 * (2 * 8192 + 2 * 5120 + 3 * 18432) + 64 * (4096 + 32003) + 4096 * 65
    if recipe.stage.adapters["vision"].kind == "dora":  # and the length of each row
        tower += layers * (5 * wide + inner)
        decoder += 32 * (2 * 4096 + 2 * 1024 + 2 * 14336 + 4096) + 32003
    assert (counts["vision"], counts["language"]) == (tower, decoder)


def test_the_pre_training_stages_have_the_shares_of_the_paper():
    for name, shares in {
        "1-pretrain": {"documents": (70, 2048), "pairs": (30, 1536)},
        "2-high-resolution": {"documents": (45, 2048), "pairs": (35, 1536), "pages": (20, 1024)},
    }.items():
        sources = recipes.load(FULL / f"{name}.toml").data.sources
        found = {}
        for key, each in sources.items():
            share, _ = found.get(each.kind or key, (0.0, 0))
            found[each.kind or key] = (share + 100 * each.weight, each.tokens)
        assert {kind: (round(share, 6), tokens) for kind, (share, tokens) in found.items()} == shares
