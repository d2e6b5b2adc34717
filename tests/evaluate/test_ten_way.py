"""The ten-way score: what it computes, and that it tells a model that sees from one that does not."""

import io
import math
import random

import numpy as np
import pytest
import torch
from rich.console import Console

from train import tiny
from train.test_loop import train
from vlmlab.batch import IGNORE, Batch
from vlmlab.data.sources import Pair
from vlmlab.evaluate.bootstrap import ratio
from vlmlab.evaluate.likelihood import Reply, cut, likelihoods
from vlmlab.evaluate.ten_way import Choice, first_is_best, losses, questions, table, ten_way
from vlmlab.train.prepare import Prepared
from vlmlab.train.recipe import Score

SCORE = Score(candidates=10, resamples=500)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    return train(run, steps=150, batch=12, lr=3e-3, train=("connector", "language"), save_every=1000)


def blinded(model):
    model.connector.norm.weight.data.zero_()
    return model


def test_a_model_that_sees_scores_one(seeing):
    result = ten_way(seeing, tiny.process, tiny.Colours(120), SCORE, others=tiny.preparer(seeing))
    assert result.accuracy.value == result.accuracy.low == result.likeliest.value == 1.0
    assert result.text_only.value < 0.3
    assert result.gain.low > 0.5
    assert result.gap.low > 0.3 and result.right < 0.2 < result.shuffled
    assert result.pictures == len(result.choices) == 120 and result.left_out == 0
    choice = result.choices[5]
    assert choice.titles[0] == "colour 5" and len(set(choice.titles)) == 10
    assert sum(choice.probabilities) == pytest.approx(1) and choice.right
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(table({"before": result, "after": result}))
    shown = console.export_text()
    assert "right title" in shown and "100.0% [100.0, 100.0]" in shown and "120 held-out pictures, 10 titles" in shown
    assert max(map(len, shown.splitlines())) <= 80 and len(shown.splitlines()) == 8


def test_the_title_chosen_is_the_one_that_the_picture_raises():
    choice = Choice(0, ("a rare thing", "a dog"), seen=(-9.0, -4.0), expected=(-12.0, -4.5), blind=(-11.0, -3.0))
    assert choice.raised == (3.0, 0.5) and choice.right and not first_is_best(choice.seen)
    assert choice.probabilities[0] == pytest.approx(1 / (1 + math.exp(-2.5)))


def test_expected_likelihoods_are_means_over_other_pictures(seeing):
    others = tiny.preparer(seeing)
    result = ten_way(seeing, tiny.process, tiny.Colours(24), Score(resamples=10, pictures=4, others=3), others=others)
    drawn = [cut(sample)[0] for sample in others.get(random.Random(0).sample(range(len(others)), 3))]
    choice = result.choices[0]
    reply = cut(tiny.preparer(seeing, frozen=False).get([choice.index])[0])[1]
    alone = [likelihoods(seeing, [prompt], [[reply]])[0][0] for prompt in drawn]
    assert choice.expected[0] == pytest.approx(sum(alone) / 3, abs=1e-4)
    without = ten_way(seeing, tiny.process, tiny.Colours(24), Score(resamples=10, pictures=4))
    assert without.accuracy == without.likeliest and set(without.choices[0].expected) == {0.0}


def test_a_blind_model_is_near_chance():
    result = ten_way(blinded(tiny.model()), tiny.process, tiny.Colours(240), SCORE)
    assert result.accuracy.low <= 0.1 <= result.accuracy.high
    assert result.gap.low <= 0.0 <= result.gap.high
    assert abs(result.gap.value) < 1e-5


def test_the_same_seed_asks_the_same():
    asked = questions(tiny.Colours(), 10, 8, 3)
    assert asked == questions(tiny.Colours(), 10, 8, 3) != questions(tiny.Colours(), 10, 8, 4)
    for question in asked[0]:
        titles = [tiny.Colours().pair(i).title for i in question.candidates]
        assert len(set(titles)) == 10 and question.candidates[0] == question.index
        assert tiny.Colours().pair(question.other).title != titles[0]


def test_small_categories_are_left_out():
    class Uneven(tiny.Colours):
        def pair(self, index):
            pair = super().pair(index)
            return Pair(pair.picture, pair.title, "rare" if index % 12 > 9 else "common")

    asked, left_out = questions(Uneven(), 10, 0, 0)
    assert left_out == 4 and len(asked) == 20
    with pytest.raises(ValueError, match="no category of the source has 13 different titles"):
        questions(tiny.Colours(), 13, 0, 0)


def test_likelihoods_are_those_of_whole_documents():
    model = tiny.model()
    prepared = tiny.preparer(model, frozen=False).get(range(5))
    parts = [cut(sample) for sample in prepared]
    replies = [[reply for _, reply in parts[: 1 + at]] for at in range(5)]
    found = likelihoods(model, [prompt for prompt, _ in parts], replies, together=3)
    for at, (prompt, _) in enumerate(parts):
        for number, reply in enumerate(replies[at]):
            tokens = torch.cat([prompt.tokens, reply.tokens])[None]
            batch = Batch(tokens, torch.ones_like(tokens), torch.arange(tokens.shape[1])[None], None, prompt.images)
            with torch.no_grad():
                logs = model(batch)[0, len(prompt.tokens) - 1 : -1].log_softmax(-1)
            whole = logs.gather(1, reply.tokens[:, None])[reply.counts].sum()
            assert found[at][number] == pytest.approx(float(whole), abs=1e-4)


def test_an_answer_right_behind_its_picture():
    """A document's picture may stand right before what is learned: the prompt then ends in image tokens."""
    model = tiny.model()
    tokens = torch.tensor([tiny.START, tiny.IMAGE, tiny.IMAGE, 10])
    targets = torch.tensor([IGNORE, IGNORE, 10, 21])
    images = tiny.process(tiny.Colours()[0]).images
    prompt, reply = cut(Prepared(tokens, targets, images))
    assert prompt.tokens.tolist() == tokens[:3].tolist() and reply.tokens.tolist() == [10, 21] and reply.learned == 2
    short = Reply(torch.tensor([30]), torch.tensor([True]))
    found = likelihoods(model, [prompt], [[reply, short]])[0]
    whole = torch.tensor([[*prompt.tokens.tolist(), 10]])
    batch = Batch(whole, torch.ones_like(whole), torch.arange(4)[None], None, images)
    with torch.no_grad():
        logs = model(batch)[0, 2:].log_softmax(-1)
    assert found[0] == pytest.approx(float(logs[0, 10] + logs[1, 21]), abs=1e-4)
    assert found[1] == pytest.approx(float(logs[0, 30]), abs=1e-4)
    with pytest.raises(ValueError, match="no answer"):
        cut(Prepared(tokens, torch.full((4,), IGNORE)))


def test_losses_of_a_few(seeing):
    few = losses(seeing, tiny.preparer(seeing), 12, 0)
    assert few["right"] < 0.2 and few["shuffled"] - few["right"] > 0.3


def test_an_interval_holds_what_it_should():
    generator = np.random.default_rng(0)
    held = 0
    for round_ in range(200):
        estimate = ratio(generator.normal(1.0, 1.0, 60).tolist(), None, 400, round_)
        held += estimate.low <= 1.0 <= estimate.high
    assert 180 <= held <= 200
    assert ratio([1.0, 3.0], [2.0, 2.0], 10).value == 1.0
    with pytest.raises(ValueError, match="at least one"):
        ratio([])
