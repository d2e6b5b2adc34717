"""A connector's quick start: each learned word should be what one of its own pictures' tokens says."""

import math

import pytest
import torch
from torch.nn import functional as F

from train import tiny
from vlmlab.batch import IGNORE
from vlmlab.train.objectives import words
from vlmlab.train.prepare import join


def batch_of(model, *indices):
    return join(tiny.preparer(model, frozen=False).get(indices))[0]


def test_the_loss_is_that_of_its_definition():
    model = tiny.model()
    batch = batch_of(model, 0, 1, 2)
    loss = words.Config(temperature=0.1, others=1).build()(model, batch)
    table = model.language.embedding.weight
    mean = table.mean(0)
    visual = model.see(batch.images)
    wanted = [int(t) for t in batch.targets.flatten() if t != IGNORE]
    owners = [int(s) for t, s in zip(batch.targets.flatten(), batch.segments.flatten(), strict=True) if t != IGNORE]
    for each, token, owner in zip(loss.each.tolist(), wanted, owners, strict=True):
        mine = visual[2 * (owner - 1) : 2 * owner]  # two tokens a picture
        cosines = F.cosine_similarity(mine[:, None] - mean, table[None] - mean, dim=2)
        chance = (cosines / 0.1).softmax(1)[:, token].mean()
        assert each == pytest.approx(-math.log(float(chance)), abs=1e-4)
    assert loss.segments.tolist() == owners


def test_it_does_not_depend_on_company_where_all_words_are_there_to_choose():
    model, objective = tiny.model(), words.Config(others=1).build()
    together = objective(model, batch_of(model, 0, 1, 2)).each
    alone = torch.cat([objective(model, batch_of(model, index)).each for index in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert objective.weight(batch_of(model, 0, 1, 2)) == len(together)


def test_a_connector_learns_to_say_words_and_nothing_else_learns():
    model, objective = tiny.model(), words.Config().build()
    model.requires_grad_(False)
    model.connector.requires_grad_(True)
    batch = batch_of(model, *range(6))
    optimizer = torch.optim.AdamW(model.connector.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = objective(model, batch).each.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert model.language.embedding.weight.grad is None


def test_a_text_without_a_picture_is_refused():
    model = tiny.model()
    batch = batch_of(model, 0)
    alone = type(batch)(
        torch.where(batch.tokens == tiny.IMAGE, tiny.ASK, batch.tokens), batch.segments, batch.positions, batch.targets
    )
    with pytest.raises(ValueError, match="needs a picture in every sample"):
        words.Config().build()(model, alone)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="temperature above 0"):
        words.Config(temperature=0.0)
