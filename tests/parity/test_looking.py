"""Where an answer looked, against the weights that transformers' eager attention gives."""

import pytest
import torch
from torch import nn

from model.tiny import far, text
from parity.idefics2 import SHAPES
from parity.test_model_idefics2 import Pair
from vlmlab.generate import looking

ANSWER = 40
"""More rows than are computed at a time."""


@pytest.fixture(scope="module", params=SHAPES, ids=list(SHAPES))
def pair(request: pytest.FixtureRequest) -> Pair:
    made = Pair(SHAPES[request.param])
    made.theirs.set_attn_implementation("eager")
    return made


def test_decoder_weights_on_image_tokens(pair: Pair) -> None:
    document = [*text(3, 1), pair.picture(10, 7), *text(5, 2), pair.picture(3, 5), *text(ANSWER, 3)]
    batch, theirs = pair.inputs([document])
    with torch.no_grad():
        expected = pair.theirs(**theirs, output_attentions=True).attentions
        visual = [pair.ours.see(image) for image in batch.images.pieces(1)]
        seen = looking.watched(pair.ours, batch, visual, ANSWER)
    assert len(expected) == pair.shape.language["layers"]
    mean = torch.stack([layer[0].mean(0) for layer in expected]).mean(0)[-ANSWER:]
    assert far(mean.sum(1), torch.ones(ANSWER)) < 1e-5
    assert far(seen, mean[:, batch.tokens[0] == pair.ours.fusion.image_token]) < 1e-5


def perceiver_weights(pair: Pair, images: looking.Images) -> list[torch.Tensor]:
    """The mean over heads of each layer's weights in transformers, latents by patches and latents."""
    found: list[torch.Tensor] = []

    def note(module: nn.Module, given: tuple, gave: tuple) -> None:
        found.append(gave[1][0].mean(0))

    layers = pair.theirs.model.connector.perceiver_resampler.layers
    watching = [layer.self_attn.register_forward_hook(note) for layer in layers]
    features = pair.ours.vision(images)
    pair.theirs.model.connector(features[None], attention_mask=torch.ones(1, len(features), dtype=torch.bool))
    for one in watching:
        one.remove()
    return found


def test_latents_on_patches(pair: Pair) -> None:
    image = pair.picture(10, 7)
    with torch.no_grad():
        carried = looking.latents_to_patches(pair.ours.connector, pair.ours.vision(image))
        layers = perceiver_weights(pair, image)
    patches, latents = 70, pair.shape.connector["latents"]
    # Rollout as its authors write it: products of whole matrices, over patches and latents together.
    whole = torch.eye(patches + latents)
    for taken in layers:
        assert far(taken.sum(1), torch.ones(latents)) < 1e-5
        step = torch.eye(patches + latents)
        step[patches:] = (step[patches:] + taken) / 2
        whole = step @ whole
    expected = whole[patches:, :patches]
    assert far(carried, expected / expected.sum(1, keepdim=True)) < 1e-5
    assert far(carried.sum(1), torch.ones(latents)) < 1e-6
