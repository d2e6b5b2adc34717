"""The certificate: right when answers are the card's, honest when they are not."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import vlmlab
from hub import tiny
from vlmlab.hub.export import export
from vlmlab.hub.load import load_model
from vlmlab.hub.verify import card, compare, verify
from vlmlab.processor.images import native
from vlmlab.processor.processor import Config, Processor


def folder(place: Path, vocabulary: int) -> Path:
    model = load_model(tiny.save(tiny.build({"text": {"vocab_size": vocabulary}}), place / "theirs"))
    config = Config(images=native.Config(56, 28))
    return export((model, Processor(config, tiny.tokenizer(), model.placeholders, vocabulary)), place / "whole")


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    held = io.BytesIO()
    PIL.Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def album(place: Path) -> Path:
    place.mkdir()
    for seed, name in enumerate(card()["pictures"]):
        (place / name).write_bytes(photo(seed))
    return place


def engine(model: vlmlab.VLM, processor: Processor, sample: vlmlab.Sample, tokens: int) -> str:
    return vlmlab.Engine(model, processor).generate([sample], max_new_tokens=min(tokens, 6))[0]


def test_the_card() -> None:
    given = card()
    assert [len(given[kind]) for kind in ("pictures", "base", "instruct")] == [3, 2, 1]
    assert given["base"][0]["expected"].startswith("we can see the city of Chicago, and more specifically the sky")
    assert given["base"][1]["expected"].endswith("the Golden Gate, the one-mile-wide") is False
    assert len(given["base"][1]["expected"]) > 2000 and given["base"][1]["expected"].count("\n\n") == 3
    assert given["instruct"][0]["expected"] == "In this image we can see buildings, trees, lights, water and sky."


@pytest.mark.parametrize(("vocabulary", "kind"), [(64, "instruct"), (61, "base")])
def test_a_model_runs_the_prompts_of_its_kind(vocabulary: int, kind: str, tmp_path: Path) -> None:
    place, pictures = folder(tmp_path, vocabulary), album(tmp_path / "album")
    told = verify(place, engine, pictures, out=tmp_path / "certificate.json")
    assert told["kind"] == kind and told["verified"] is False
    assert [r["expected"] for r in told["results"]] == [e["expected"] for e in card()[kind]]
    assert all(r["equal"] is False and isinstance(r["got"], str) for r in told["results"])
    # The same model, held against what it said itself, is verified.
    again = card()
    for example, result in zip(again[kind], told["results"], strict=True):
        example["expected"] = " " + result["got"]
    good = verify(place, engine, pictures, examples=again)
    assert good["verified"] is True and all(r["equal"] for r in good["results"])
    assert json.loads((tmp_path / "certificate.json").read_text()) == told


def test_what_a_certificate_says(tmp_path: Path) -> None:
    place, pictures = folder(tmp_path, 64), album(tmp_path / "album")
    asked: list[Any] = []

    def generate(model: vlmlab.VLM, processor: Processor, sample: vlmlab.Sample, tokens: int) -> str:
        asked.append((sample, tokens, model.dtype))
        return "In this image we can see nothing"

    import torch

    told = verify(place, generate, pictures, dtype=torch.bfloat16)
    sample, tokens, dtype = asked[0]
    assert tokens == 500 and dtype == torch.bfloat16 and told["dtype"] == "bfloat16"
    assert [m.role for m in sample.messages] == ["user", "assistant", "user"] and len(sample.pictures) == 2
    assert sample.messages[2].parts[1] == "And how about this image?"
    assert told["results"][0]["equal_characters"] == len("In this image we can see ")
    names = list(card()["pictures"])
    assert told["pictures"][names[0]] == hashlib.sha256(photo(0)).hexdigest()
    weights = (place / "model.safetensors").read_bytes()
    assert told["files"]["model.safetensors"] == hashlib.sha256(weights).hexdigest()
    assert {"tokenizer.json", "config.json"} <= set(told["files"])
    assert told["versions"]["torch"] == torch.__version__ and told["device"].startswith("cpu")


def test_pictures_are_fetched_only_with_leave(tmp_path: Path) -> None:
    place, pictures = folder(tmp_path, 64), album(tmp_path / "album")
    with pytest.raises(ValueError, match=r"needed: name a folder that holds Statue.*https://cdn"):
        verify(place, engine)
    missing = pictures / "Skyline-Chicago.jpg"
    missing.unlink()
    with pytest.raises(ValueError, match=r"has no Skyline-Chicago.jpg: save the picture of https://"):
        verify(place, engine, pictures)
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return photo(1)

    assert "results" in verify(place, engine, pictures, fetch)
    assert asked == [card()["pictures"]["Skyline-Chicago.jpg"]]


@pytest.mark.parametrize(
    ("got", "equal", "characters"),
    [("a cat", True, 5), (" a cat\n", True, 5), ("a car", False, 4), ("", False, 0), ("a cat sat", False, 5)],
)
def test_compare(got: str, equal: bool, characters: int) -> None:
    told = compare("a cat", got)
    assert (told["equal"], told["equal_characters"]) == (equal, characters)
