"""The contrastive objective: it finds a picture's own answer, learns, and refuses what it cannot compare."""

import pytest
import torch

from model import tiny
from vlmlab.batch import IGNORE, Batch
from vlmlab.train.objectives.align import Align, Config


def batch(model, answers: list[list[int]]) -> Batch:
    """One document for each answer: a picture, a word, the answer, two ends."""
    documents = [[tiny.picture(2, 3 + n % 2, seed=n), 7, *answer, 98, 99] for n, answer in enumerate(answers)]
    made, places = tiny.lay(model, [documents])
    targets = torch.full_like(made.tokens, IGNORE)
    for place, answer in zip(places, answers, strict=True):
        start = place.end - len(answer) - 3
        targets[0, start : place.end - 1] = made.tokens[0, start + 1 : place.end]
    return Batch(made.tokens, made.segments, made.positions, targets, made.images)


ANSWERS = [[11, 12], [13], [14, 15, 16], [17], [18, 19], [13]]


def test_training_it_finds_every_picture_its_answer():
    model = tiny.build(dtype=torch.float32)
    objective, made = Align(Config(depth=2, keep=1.0)), batch(model, ANSWERS)
    for part, parameters in model.parts().items():
        for parameter in parameters:
            parameter.requires_grad_(part == "connector")
    adam = torch.optim.Adam(model.connector.parameters(), lr=3e-3)
    first = None
    for _ in range(60):
        loss, parts = objective(model, made)
        first = first or float(loss.detach())
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert objective.weight(made) == 6
    # Two answers are the same: their pictures cannot be told apart by them, and need not be.
    assert float(loss) < 0.6 * first and parts["found"] == 6


def test_the_same_batch_gives_the_same_loss_though_patches_are_dropped():
    model = tiny.build(dtype=torch.float32)
    objective, made = Align(Config(depth=1, keep=0.5)), batch(model, ANSWERS)
    assert torch.equal(objective(model, made)[0], objective(model, made)[0])
    features = model.vision(made.images)
    torch.testing.assert_close(objective(model, made)[0], objective(model, made, features)[0])


def test_what_it_cannot_compare():
    model = tiny.build(dtype=torch.float32)
    made = batch(model, ANSWERS)
    with pytest.raises(ValueError, match="picture and an answer"):
        Align(Config())(model, Batch(made.tokens, made.segments, made.positions))
    two, _ = tiny.lay(model, [[[tiny.picture(2, 2), tiny.picture(2, 2, seed=1), 5, 98, 99]]])
    targets = torch.full_like(two.tokens, IGNORE)
    targets[0, -4:-1] = two.tokens[0, -3:]
    with pytest.raises(ValueError, match="one picture and one answer"):
        Align(Config())(model, Batch(two.tokens, two.segments, two.positions, targets, two.images))
    with pytest.raises(ValueError, match="temperature"):
        Config(temperature=0.0)
