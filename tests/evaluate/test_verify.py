"""The certificate: what agrees, what does not, and why; on a tiny model, with cases of its own."""

import dataclasses
import json

import pytest
from PIL import Image

from train import tiny
from vlmlab.evaluate import verify
from vlmlab.hub.save import save
from vlmlab.train import recipe, run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    made = run.build(recipe.load(tiny.recipe(folder)))
    save(made.model, made.processor, folder / "model")
    for place in (verify.LIBERTY, verify.CHICAGO, verify.BRIDGE):
        Image.new("RGB", (12, 12), (len(place), 90, 30)).save(folder / place.rpartition("/")[2])
    return folder


def test_a_model_of_other_weights_differs(weights, tmp_path):
    out = tmp_path / "certificate.json"
    assert verify.verify(str(weights / "model"), out, pictures=weights) is False
    told = json.loads(out.read_text())
    assert told["agrees"] is False and told["weights"]["files"]["model.safetensors"] > 0
    assert [case["name"] for case in told["cases"]] == ["idefics2-8b, the conversation"]
    assert set(told["cases"][0]["pictures"]) == {verify.LIBERTY, verify.CHICAGO}


def test_what_it_writes_agrees_with_itself(weights, tmp_path):
    out = tmp_path / "certificate.json"
    cases = [dataclasses.replace(case, limit=8) for case in (*verify.BASE, *verify.INSTRUCT)]
    verify.verify(str(weights / "model"), out, pictures=weights, cases=cases)
    written = [case["written"] for case in json.loads(out.read_text())["cases"]]
    assert len(written) == 3 and all(written)
    # The card may have more than was written here, or less.
    known = [dataclasses.replace(case, card=text + " and on") for case, text in zip(cases, written, strict=True)]
    assert verify.verify(str(weights / "model"), out, pictures=weights, cases=known)
    wrong = [dataclasses.replace(known[0], card="?" + written[0]), *known[1:]]
    assert not verify.verify(str(weights / "model"), out, pictures=weights, cases=wrong)
    assert [case["agrees"] for case in json.loads(out.read_text())["cases"]] == [False, True, True]


def test_pictures_are_fetched_or_named(weights, tmp_path):
    asked = []

    def fetch(place):
        asked.append(place)
        return (weights / place.rpartition("/")[2]).read_bytes()

    verify.verify(str(weights / "model"), tmp_path / "c.json", fetch)
    assert asked == [verify.LIBERTY, verify.CHICAGO]
    with pytest.raises(ValueError, match=r"lacks Statue-of-Liberty.*\.jpg"):
        verify.verify(str(weights / "model"), tmp_path / "c.json", pictures=tmp_path)
    with pytest.raises(ValueError, match="is not fetched here"):
        verify.verify(str(weights / "model"), tmp_path / "c.json")


def test_the_examples_are_the_cards():
    sample = verify.BASE[0].sample([tiny.Colours().pair(0).picture] * 2)
    parts = sample.messages[0].parts
    assert parts[1] == verify.NEW_YORK and parts[3] == "In this image,"
    chat = verify.INSTRUCT[0].sample([tiny.Colours().pair(0).picture] * 2)
    assert [m.role for m in chat.messages] == ["user", "assistant", "user"] and len(chat.pictures) == 2
