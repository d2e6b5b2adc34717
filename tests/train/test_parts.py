"""The learning rate's course, parameter groups, the picture of the loss."""

import itertools
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train import tiny
from vlmlab.batch import Message, Sample
from vlmlab.train.optimizer import course, optimizer, set_rate
from vlmlab.train.plot import Line, chart
from vlmlab.train.prepare import Preparer


def test_the_rate_rises_and_falls():
    stage = tiny.stage(steps=100, lr=2.0, warmup=10, final=0.1)
    rates = [course(step, stage) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == 2.0 and max(rates) == 2.0
    assert rates[-1] == pytest.approx(0.2) and rates[54] == pytest.approx(1.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    linear = tiny.stage(steps=100, lr=2.0, warmup=0, schedule="linear")
    assert course(49, linear) == pytest.approx(1.0) and course(99, linear) == 0
    assert course(99, tiny.stage(steps=100, lr=2.0, warmup=0, schedule="constant")) == 2.0


def test_groups_follow_parts_and_vectors_do_not_decay():
    model = tiny.model()
    stage = tiny.stage(
        train=("connector", "language"),
        lr_factors={"language": 0.5},
        decay_factors={"connector": 0.0},
        weight_decay=0.2,
    )
    adam = optimizer(model, stage)
    set_rate(adam, 1.0)
    held = {id(p): group for group in adam.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if name.startswith("vision"):
            assert id(parameter) not in held and not parameter.requires_grad
            continue
        group = held[id(parameter)]
        assert group["lr"] == (0.5 if name.startswith("language") else 1.0)
        assert group["weight_decay"] == (0.2 if name.startswith("language") and parameter.ndim > 1 else 0.0)
    with pytest.raises(ValueError, match="has no parameters there"):
        optimizer(model, tiny.stage(train=("fusion",)))


def test_features_are_computed_once_and_do_not_depend_on_company(monkeypatch):
    model, calls = tiny.model(), []
    vision = model.vision.forward

    def counted(images):
        calls.append(len(images.grid))
        return vision(images)

    monkeypatch.setattr(model.vision, "forward", counted)
    samples = tiny.preparer(model)
    first = samples.get([0, 1, 2])
    again = samples.get([2, 0])
    assert calls == [1, 1, 1] and again[1].features is first[0].features
    assert first[0].features.dtype == torch.float16 and first[0].images.patches.shape == (4, 0)
    little = Preparer(model, tiny.process, tiny.Colours(), frozen=True, memory=first[0].features.nbytes)
    little.get([0, 1])
    little.get([0, 1])
    assert calls == [1] * 6  # the second did not fit, and is computed again
    assert torch.equal(little.get([1])[0].features, first[1].features)


def test_what_comes_after_the_last_learned_position_is_cut():
    samples = tiny.preparer(tiny.model(), frozen=False)
    sample = samples.get([0])[0]
    assert sample.tokens.tolist() == [tiny.START, tiny.IMAGE, tiny.IMAGE, tiny.ASK, tiny.ASK + 1, 10, 20]
    assert sample.targets[-1] == tiny.END and sample.answer() == 5 and sample.learned == 3

    def behind(sample):  # a picture behind the answer
        batch = tiny.process(Sample((*sample.messages, Message("user", tuple(sample.pictures)))))
        return batch

    late = Preparer(tiny.model(), behind, tiny.Colours(), frozen=False).get([0])[0]
    assert late.tokens.tolist().count(tiny.IMAGE) == 4


def test_a_sample_that_cannot_be_read_is_named():
    def broken(sample):
        raise ValueError("drawing 7.png: not a picture")

    with pytest.raises(ValueError, match=r"sample 5: drawing 7\.png: not a picture"):
        Preparer(tiny.model(), broken, tiny.Colours(), frozen=False).get([5])


@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e3, 1e3)), max_size=60),
    st.lists(st.tuples(st.floats(0, 1e4), st.floats(1e-3, 10)), max_size=5),
)
def test_any_chart_is_well_formed(raw, few):
    text = chart("Loss <&>", 'made by "x"', "step", [Line("a<b", raw, smooth=True), Line("few", few)])
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg") and "NaN" not in text.upper()


def test_a_chart_shows_where_points_are():
    root = ElementTree.fromstring(chart("t", "n", "step", [Line("few", [(0.0, 1.0), (5.0, 2.0), (10.0, 3.0)])]))
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert dots[0][0] == 64 and dots[2][0] == 856 and dots[1][0] == 460
    assert dots[0][1] > dots[1][1] > dots[2][1]
