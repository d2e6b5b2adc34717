"""The step that a GPU records does, on any device, what a plain step does."""

import pytest
import torch

from generate import tiny
from vlmlab.generate.graphs import GRAIN, Step
from vlmlab.generate.session import Session


def session(model, grain: int, samples) -> tuple[Session, torch.Tensor]:
    batch = tiny.processor(model)(samples)
    made = Session(model, len(samples), 200)
    made.cache = made.steps.cache = model.language.cache(len(samples), 200, grain)
    with torch.no_grad():
        visual = None if batch.images is None else model.see(batch.images)
    counts = [] if batch.images is None else model.count(batch.images.grid)
    return made, made.prefill(batch, visual, counts, range(len(samples)))


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("rows", [1, 4])
def test_steps_over_padded_keys_equal_plain_steps(window, rows):
    model = tiny.build(dtype=torch.float32, changes={"language.window": window})
    plain, first = session(model, 1, tiny.samples()[:rows])
    padded, second = session(model, 32, tiny.samples()[:rows])
    for number in range(40):
        torch.testing.assert_close(first, second, atol=2e-5, rtol=2e-5)
        tokens = first.argmax(-1).tolist()
        first, second = plain.step(tokens), padded.step(tokens)
        assert padded.cache.extent(rows) % 32 == 0 and plain.cache.lengths == padded.cache.lengths, number


def test_a_recorded_step_can_run_twice_before_it_counts():
    """As recording does: warm-up runs write the same keys again and leave the lengths alone."""
    model = tiny.build(dtype=torch.float32)
    made, logits = session(model, GRAIN, tiny.samples()[:2])
    other, _ = session(model, GRAIN, tiny.samples()[:2])
    tokens = logits.argmax(-1).tolist()
    step = Step(model, made.cache, 2)
    held = list(made.cache.lengths)
    with torch.inference_mode():
        step.load(tokens)
        step.run()
        again = step.run()
    assert made.cache.lengths == held
    torch.testing.assert_close(again, other.step(tokens))


@pytest.mark.parametrize("window", [None, 7])
def test_a_step_of_more_rows_than_are_in_progress_changes_nothing(window):
    """Those behind hold what another document may go on with, and may hold more than any row."""
    model = tiny.build(dtype=torch.float32, changes={"language.window": window})
    samples = [tiny.samples()[at] for at in (1, 3, 2, 4)]
    wide, logits = session(model, 32, samples)
    plain, same = session(model, 32, samples)
    for _ in range(20):
        tokens = logits.argmax(-1).tolist()
        step, before = Step(model, wide.cache, 4), list(wide.cache.lengths)
        with torch.inference_mode():
            step.load(tokens[:2])
            few = step.run()[:2]
        assert wide.cache.lengths == before
        wide.cache.advance(range(2), [1, 1])
        plain.rows = 2
        more = plain.step(tokens[:2])
        torch.testing.assert_close(few, more, atol=2e-5, rtol=2e-5)
        logits, same = torch.cat([few, logits[2:]]), torch.cat([more, same[2:]])
    for made in (wide, plain):
        made.rows = 4
    tokens = same.argmax(-1).tolist()
    torch.testing.assert_close(wide.step(tokens), plain.step(tokens), atol=2e-5, rtol=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replayed_steps_equal_plain_steps_on_a_gpu():
    model = tiny.build(dtype=torch.float32).to("cuda")
    samples = tiny.samples()[1:2]
    batch = tiny.processor(model)(samples).to("cuda")
    recorded, plain = Session(model, 1, 600), Session(model, 1, 600)
    first = recorded.prefill(batch, None, [], [0])
    second = plain.prefill(batch, None, [], [0])
    for _ in range(300):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
        tokens = first.argmax(-1).tolist()
        first = recorded.step(tokens)
        step = Step(model, plain.cache, 1)
        with torch.inference_mode():
            step.load(tokens)
            second = step.run()
        plain.cache.advance([0], [1])
    assert len(recorded.steps.recorded) == 2
