"""The stored certificate is what transformers says, and a server that differs from it says so."""

import json

import pytest
import torch
from einops import rearrange

from parity import idefics2
from serve import server
from vlmlab.processor.processor import Options
from vlmlab.serve import certificate


@pytest.fixture(scope="module")
def stored():
    return json.loads(certificate.FIXTURE.read_text(encoding="utf-8"))


def test_the_fixture_is_what_this_machine_finds(stored):
    torch.manual_seed(1)
    found = certificate.measure()
    for key in ("tokens", "patches", "positions", "written"):
        assert found[key] == stored[key]
    assert torch.allclose(torch.tensor(found["logits"]), torch.tensor(stored["logits"]), atol=certificate.CLOSE)


def theirs():
    """transformers' model with the weights of the certificate's."""
    tables = certificate.TABLES
    shape = idefics2.Shape(
        {key: value for key, value in tables["vision"].items() if key != "name"},
        {key: value for key, value in tables["connector"].items() if key not in ("name", "projection_inner")},
        {key: value for key, value in tables["language"].items() if key not in ("name", "vocabulary")},
    )
    assert tables["connector"]["projection_inner"] == shape.language["inner"]
    made = idefics2.oracle(shape)
    state = made.state_dict()
    ours = certificate.tiny().state_dict()
    for name, our in idefics2.names(list(state)).items():
        state[name].copy_(ours[our].reshape(state[name].shape))
    return made.eval()


def test_the_stored_logits_and_tokens_are_those_of_transformers(stored):
    made, model = theirs(), certificate.tiny()
    processor = certificate.tiny_processor(model)
    for at, sample in enumerate(certificate.samples()):
        batch = processor([sample], add_generation_prompt=True, options=Options(split=at == 0))
        inputs = {"input_ids": batch.tokens, "attention_mask": batch.segments}
        if batch.images is not None:
            inputs |= padded(batch.images)
        with torch.no_grad():
            logits = made(**inputs).logits[0, -1]
        assert torch.allclose(logits[::8], torch.tensor(stored["logits"][at]), atol=certificate.CLOSE)
        written = made.generate(
            **inputs,
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=processor.ends,
            pad_token_id=0,
            bad_words_ids=[[token] for token in processor.never_written],
        )
        assert written[0, batch.tokens.shape[1] :].tolist() == stored["written"][at]


def padded(images):
    sizes = images.sizes()
    height, width = (14 * max(size[axis] for size in sizes) for axis in (0, 1))
    pixels, mask = torch.zeros(1, len(sizes), 3, height, width), torch.zeros(1, len(sizes), height, width)
    pieces = images.patches.split([rows * columns for rows, columns in sizes])
    for at, (piece, (rows, columns)) in enumerate(zip(pieces, sizes, strict=True)):
        pixel = rearrange(piece, "(h w) (c a b) -> c (h a) (w b)", h=rows, a=14, b=14)
        pixels[0, at, :, : rows * 14, : columns * 14] = pixel
        mask[0, at, : rows * 14, : columns * 14] = 1
    return {"pixel_values": pixels, "pixel_attention_mask": mask.long()}


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (lambda m: m.setattr(certificate.siglip, "buckets", lambda n, side: (0,) * n), "positions"),
        (
            lambda m: m.setattr(certificate, "picture", lambda w, h: certificate.PIL.Image.new("RGB", (w, h))),
            "processor",
        ),
        (lambda m: m.setitem(certificate.TABLES["language"], "window", 2), "logits"),
        (lambda m: m.setattr(certificate, "spread", lambda n, seed: torch.arange(n) % 7), "first_tokens"),
    ],
)
def test_a_difference_is_found(monkeypatch, broken, check):
    broken(monkeypatch)
    with server.engine() as engine:
        made = certificate.certify(engine)
    assert not made.checks[check] and not made.holds


def test_a_model_whose_texts_differ_in_company_is_found(monkeypatch):
    with server.engine() as engine:
        assert certificate.company(engine) is None
        submit, calls = engine.submit, []

        def disturbed(sample, settings):
            calls.append(sample)
            return submit(calls[0] if len(calls) == 5 else sample, settings)

        monkeypatch.setattr(engine, "submit", disturbed)
        assert certificate.company(engine) > certificate.CLOSE
