"""Windows of the stream: packed by kind, resumed exactly, the same at any number of workers; nothing leaks in a row."""

import itertools
import json
import math
from fractions import Fraction

import pytest
import torch

from train import tiny
from train.test_loop import ORIGIN, same, weights
from vlmlab.batch import Message, Sample
from vlmlab.data.augment import Augment
from vlmlab.data.mixture import Ingredient, Mixture, Size
from vlmlab.data.reading import Read
from vlmlab.data.sources import mixture as plugin
from vlmlab.data.stream import Draw
from vlmlab.train import checkpoint
from vlmlab.train.feed import Window
from vlmlab.train.ledger import Ledger, Tally
from vlmlab.train.log import METRICS, TIMED, read_metrics
from vlmlab.train.loop import TrainingError, fit
from vlmlab.train.noise import Place, drawn, noised
from vlmlab.train.objectives import next_token
from vlmlab.train.optimizer import freeze
from vlmlab.train.prepare import join
from vlmlab.train.step import accumulate

PARTS = ("vision", "connector", "language")


def mixed(**changes) -> Mixture:
    """Squares for two thirds, and others, three a row, for one third."""
    sources = {
        "plain": Ingredient(tiny.Config(count=24), 2.0),
        "rows": Ingredient(tiny.Config(count=17), 1.0, tokens=21, **changes),
    }
    return Mixture(plugin.Config(sources=sources))


def run(folder, source=24, broken=0.0, resume=False, steps=6, workers=0, model=None, **changes):
    model = model or tiny.model()
    stage = tiny.stage(steps=steps, train=PARTS, **changes)
    feed = tiny.feed(model, source, frozen=False, tokens=stage.tokens, workers=workers)
    folder.mkdir(exist_ok=True)
    found = checkpoint.find(folder) if resume else checkpoint.NOTHING
    fit(model, feed, tiny.ledger(feed, broken), stage, 0, folder, ORIGIN, found=found)
    return model


def records(folder, kind):
    return [record for record in read_metrics(folder) if record["kind"] == kind]


def test_rows_hold_one_kind_and_keep_their_budget():
    feed = tiny.feed(tiny.model(), mixed(), tokens=42)
    pieces = tiny.pieces(feed, range(60))
    assert len(pieces) == 60 and {piece.kind for piece in pieces} == {"plain", "rows"}
    passes = feed.passes(pieces)
    assert sorted(id(piece) for some in passes for piece in some) == sorted(map(id, pieces))
    for some in passes:
        assert len({piece.kind for piece in some}) == 1
        # Seven tokens each: rows of six, or of three where `tokens` is 21; one of the longest to a pass.
        assert len(some) <= (6 if some[0].kind == "plain" else 3)
    # With room for two of the longest rows, a pass holds two of either kind.
    double = tiny.feed(tiny.model(), mixed(), tokens=84)
    double.budgets["plain"] = 42
    assert max(len(some) for some in double.passes(pieces) if some[0].kind == "rows") == 6


def test_a_small_step_is_one_pass_in_the_order_it_was_drawn():
    feed = tiny.feed(tiny.model(), 24, seed=3)
    pieces = tiny.pieces(feed, range(16))
    assert feed.passes(pieces) == [pieces]
    assert [piece.draw for piece in pieces] == [feed.order[place] for place in range(16)]
    batch, _ = join([feed.prepare(piece) for piece in pieces])
    assert batch.tokens.shape[0] == 1 and batch.segments.min() == 1


@pytest.mark.parametrize("window", [1, 2, 4])
def test_gradients_do_not_depend_on_the_window(window):
    model, objective = tiny.model(), next_token.Config().build()
    found = []
    for together in (8, window):
        stage = tiny.stage(batch=8, window=together, tokens=30, train=PARTS)
        freeze(model, stage)
        model.zero_grad()
        feed = tiny.feed(model, Uneven(24), frozen=False, tokens=30)
        parts = [tiny.pieces(feed, range(at, at + together)) for at in range(0, 8, together)]
        done = accumulate(model, feed, parts, stage, objective)
        found.append((done, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (whole, gradients), (cut, others) = found
    assert cut.learned == whole.learned and cut.samples == 8
    assert cut.mean == pytest.approx(whole.mean, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-6, rtol=1e-4)


class Uneven(tiny.Colours):
    """Answers of one to four words: windows learn unequal numbers of tokens."""

    def __getitem__(self, index):
        question, answer = super().__getitem__(index).messages
        return Sample((question, Message("assistant", answer.parts * (index % 4 + 1))))


def test_packed_is_one_by_one():
    """Loss and every gradient, to 1e-5: samples of a row cannot see each other."""
    model, objective = tiny.model(), next_token.Config().build()
    found = []
    for tokens in (10_000, 1):
        stage = tiny.stage(batch=12, tokens=tokens, train=PARTS)
        freeze(model, stage)
        model.zero_grad()
        feed = tiny.feed(model, Uneven(24), frozen=False, tokens=tokens)
        pieces = tiny.pieces(feed, range(12))
        assert len(feed.passes(pieces)) == (1 if tokens > 1 else 12)
        done = accumulate(model, feed, [pieces], stage, objective)
        found.append((done.mean, {name: p.grad.clone() for name, p in model.named_parameters()}))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-5, rtol=0)


def test_a_planted_secret_is_unreadable_from_its_neighbour():
    """B's logits do not move with A's secret, and B's loss has no gradient in what A says or shows."""
    model = tiny.model()
    feed = tiny.feed(model, frozen=False)
    pieces = tiny.pieces(feed, range(3))
    batch, _ = join([feed.prepare(piece) for piece in pieces])
    secret = batch.segments[0] == 2
    others = ~secret
    changed = batch.tokens.clone()
    changed[0, secret & (changed[0] > tiny.IMAGE)] = 99
    shown = batch.images.patches.clone()
    sizes = [rows * columns for rows, columns in batch.images.sizes()]
    shown[sizes[0] : sizes[0] + sizes[1]] = 0.5
    planted = type(batch)(
        changed, batch.segments, batch.positions, batch.targets, type(batch.images)(shown, batch.images.grid)
    )
    before, after = model(batch)[0], model(planted)[0]
    assert torch.equal(before[others], after[others]) and not torch.equal(before[secret], after[secret])

    embedded, seen = [], batch.images.patches.requires_grad_()
    handle = model.language.embedding.register_forward_hook(
        lambda module, inputs, output: embedded.append(output) or output.retain_grad()
    )
    loss = next_token.Config().build()(model, batch)
    loss.each[loss.segments == 3].sum().backward()
    handle.remove()
    text = embedded[0].grad
    assert torch.count_nonzero(text[others & (batch.segments[0] == 3)]) and not torch.count_nonzero(
        text[~(batch.segments[0] == 3)]
    )
    assert torch.count_nonzero(seen.grad[sum(sizes[:2]) :]) and not torch.count_nonzero(seen.grad[: sum(sizes[:2])])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_resumes_to_the_same_bits(tmp_path, workers):
    changes = {"batch": 6, "window": 2, "save_every": 2, "noise": 5.0, "tokens": 42}
    source = mixed(augment=Augment(upscale=0.5, turns=True))
    whole = run(tmp_path / "whole", source, **changes)
    run(tmp_path / "halves", source, steps=2, schedule="constant", **changes)  # the schedule's end is not the run's
    (tmp_path / "again").mkdir()
    first = run(tmp_path / "again", source, schedule="constant", **changes)
    resumed = run(tmp_path / "halves", source, resume=True, schedule="constant", workers=workers, **changes)
    assert same(weights(first), weights(resumed)) and not same(weights(whole), weights(resumed))
    told = [
        [{k: v for k, v in r.items() if k not in TIMED} for r in read_metrics(tmp_path / name) if r["kind"] != "run"]
        for name in ("again", "halves")
    ]
    assert told[0] == told[1]
    states = [checkpoint.latest(tmp_path / name).state() for name in ("again", "halves")]
    assert states[0]["stream"] == states[1]["stream"] and states[0]["given"] == states[1]["given"]


def test_resuming_on_other_samples_is_refused(tmp_path):
    run(tmp_path, 24, steps=2, save_every=2)
    with pytest.raises(
        ValueError, match=r"step-000002 cannot be gone on from: the source 'colours' changed, samples: 24"
    ):
        run(tmp_path, 23, resume=True)


class Broken(tiny.Colours):
    """Every sixth sample cannot be read."""

    def __getitem__(self, index):
        if index % 6 == 2:
            raise ValueError(f"shelf.tar, row {index}: not a picture")
        return super().__getitem__(index)


def test_what_is_broken_is_skipped_counted_and_named(tmp_path):
    run(tmp_path, Broken(24), broken=0.01, batch=6, save_every=2)
    skipped = records(tmp_path, "skipped")
    feed = tiny.feed(tiny.model(), Broken(24))
    expected = [(place // 6 + 1, feed.order[place].number) for place in range(36) if feed.order[place].number % 6 == 2]
    assert [(r["step"], r["sample"]) for r in skipped] == expected
    assert skipped[0]["why"] == f"shelf.tar, row {expected[0][1]}: not a picture" and skipped[0]["source"] == "colours"
    assert sum(r["samples"] for r in records(tmp_path, "step")) == 36 - len(expected)
    given = checkpoint.latest(tmp_path).state()["given"]["colours"]
    assert given["drawn"] == 36 and given["broken"] == len(expected)
    again = run(tmp_path / "halves", Broken(24), broken=0.01, batch=6, save_every=2, steps=2, schedule="constant")
    run(tmp_path / "halves", Broken(24), broken=0.01, batch=6, save_every=2, resume=True, model=again)
    assert records(tmp_path / "halves", "skipped") == skipped


def test_too_much_that_is_broken_stops_the_run(tmp_path):
    with pytest.raises(
        TrainingError, match=rf"more than stage\.broken = 0\.002 allows.*row \d+: not a picture.*{METRICS}"
    ):
        run(tmp_path, Broken(24), broken=0.002, steps=40)
    assert len(records(tmp_path, "skipped")) == 3
    with pytest.raises(TrainingError, match=r"1 of \d samples could not be read \(1 of colours\)"):
        run(tmp_path / "none", Broken(24), broken=0.0, steps=40)


def test_losses_are_parted_by_source_and_by_kind(tmp_path):
    run(tmp_path, mixed(kind="squares"), batch=6)
    steps = records(tmp_path, "step")
    for record in steps:
        assert record["loss_by_source"].keys() == {"plain", "rows"} and record["loss_by_kind"].keys() == {
            "plain",
            "squares",
        }
        assert min(record["loss_by_source"].values()) <= record["loss"] <= max(record["loss_by_source"].values())
        assert record["loss_by_source"]["rows"] == record["loss_by_kind"]["squares"]
    shares = records(tmp_path, "mixture")
    assert [record["step"] for record in shares] == [1, 2, 3, 4, 5, 6]
    assert shares[-1]["asked"] == {"plain": 0.666667, "rows": 0.333333} == shares[-1]["realised"]
    assert shares[-1]["drawn"] == {"plain": 24, "rows": 12}
    assert not records(tmp_path, "alarm")
    run(tmp_path / "one", 24, steps=1)
    assert "loss_by_source" not in records(tmp_path / "one", "step")[0] and not records(tmp_path / "one", "mixture")


def test_drift_raises_an_alarm_once():
    ledger = Ledger({"a": 0.5, "b": 0.5}, "answers", 0.05, 0.0)
    ledger.accounts["a"].given, ledger.accounts["b"].given = Size(answers=600.0), Size(answers=400.0)
    ledger.accounts["a"].drawn = 600
    assert [kind for kind, _ in ledger.report()] == ["mixture"]  # too few to say
    ledger.accounts["b"].drawn = 500
    events = ledger.report()
    assert [kind for kind, _ in events] == ["mixture", "alarm", "alarm"]
    assert events[1][1] == {"source": "a", "why": "a: 60.0% of all answers, 50.0% were asked for"}
    assert [kind for kind, _ in ledger.report()] == ["mixture"]
    ledger.accounts["b"].given = Size(answers=590.0)
    assert [kind for kind, _ in ledger.report()] == ["mixture"]
    ledger.accounts["b"].given = Size(answers=400.0)
    assert len(ledger.report()) == 3
    again = Ledger({"a": 0.5, "b": 0.5}, "answers", 0.05, 0.0)
    again.restore(json.loads(json.dumps(ledger.state())))
    assert again.state() == ledger.state() and again.realised() == {"a": 0.6, "b": 0.4}


def test_what_is_too_long_is_counted(tmp_path):
    ledger = Ledger({"a": 1.0}, "samples", 0.05, 0.0)
    draw = Draw("a", 4, 0)
    assert not ledger.add(Tally.of(Window([draw], [], [], [(draw, 2)]), {"a": 64}))
    assert ledger.accounts["a"].overlong == 2 and ledger.accounts["a"].given == Size()
    short = {"plain": Ingredient(tiny.Config()), "long": Ingredient(tiny.Config(), tokens=6)}
    run(tmp_path, Mixture(plugin.Config(sources=short)), batch=6)
    told = records(tmp_path, "mixture")[-1]
    assert told["drawn"] == {"plain": 18, "long": 18} and told["overlong"] == {"plain": 0, "long": 18}
    assert told["asked"] == {"plain": 0.5, "long": 0.5} and told["realised"] == {"plain": 1.0, "long": 0.0}


def test_a_loss_that_is_not_finite_names_its_samples(tmp_path):
    model = tiny.model()
    # Only pictures of colour 7 are read as not a number.
    feed = tiny.feed(model, frozen=False)
    stage = tiny.stage(batch=12, train=("connector",))
    freeze(model, stage)
    pieces = tiny.pieces(feed, range(12))
    bad = pieces[4]
    fine = feed.normalise

    def poisoned(patches):
        made = fine(patches)
        if patches[0].numpy().tobytes() == bad.read.patches[0].tobytes():
            made[:] = math.nan
        return made

    feed.normalise = poisoned
    done = accumulate(model, feed, [pieces], stage, next_token.Config().build())
    assert not math.isfinite(done.loss)
    assert done.odd == [
        str(piece.draw) for piece in pieces if piece.read.patches[0].tobytes() == bad.read.patches[0].tobytes()
    ]
    assert str(bad.draw) in done.odd and len(done.odd) < 12


def test_kept_features_spare_reading_again(monkeypatch):
    model = tiny.model()
    feed = tiny.feed(model, 6)
    read = []
    take = feed.ahead.take
    monkeypatch.setattr(feed.ahead, "take", lambda draw: read.append(draw.number) or take(draw))
    for places in (range(6), range(6, 12)):
        for piece in tiny.pieces(feed, places):
            made = feed.prepare(piece)
            assert made.features is not None and made.images.patches.shape[1] == 0
    assert sorted(read) == list(range(6))
    changing = tiny.feed(
        model, Mixture(plugin.Config(sources={"a": Ingredient(tiny.Config(count=3), augment=Augment(upscale=1.0))}))
    )
    changing.prepare(tiny.pieces(changing, range(1))[0])
    assert not changing.features.kept  # another picture the next time


def test_reading_ahead_stops_at_the_last_window():
    feed = tiny.feed(tiny.model(), 24, workers=2)
    feed.ahead.expect = lambda draws: seen.extend(draws)
    seen = []
    feed.expect([range(4, 8), range(8, 12), range(12, 16)])
    assert seen == [feed.order[place] for place in range(4, 12)]  # eight: four for each worker
    seen.clear()
    feed.expect([])
    assert not seen


def test_noise_is_each_samples_own_and_of_the_published_size():
    places = [Place(Draw("a", 1, 0), 0, 50), Place(Draw("a", 2, 0), 0, 200)]
    noise = drawn(places, 64, 5.0, 0)
    assert noise.shape == (250, 64)
    assert torch.equal(noise[50:], drawn(places[1:], 64, 5.0, 0))
    for part, length in ((noise[:50], 50), (noise[50:], 200)):
        bound = 5 / math.sqrt(length * 64)
        assert part.abs().max() <= bound and part.abs().max() > 0.99 * bound and part.mean().abs() < 0.05 * bound
    for other in (Draw("b", 1, 0), Draw("a", 3, 0), Draw("a", 1, 1)):
        assert not torch.equal(drawn([Place(other, 0, 50)], 64, 5.0, 0), noise[:50])
    assert not torch.equal(drawn([Place(Draw("a", 1, 0), 1, 50)], 64, 5.0, 0), noise[:50])
    assert not torch.equal(drawn(places[:1], 64, 5.0, 1), noise[:50])


def test_noise_is_on_the_text_while_training_and_gone_behind():
    model = tiny.model()
    batch = tiny.process(tiny.Colours()[0])
    seen = []
    layer = model.language.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    noise = torch.ones(batch.tokens.shape[1], 32)
    before = model(batch)
    with noised(model, noise):
        model(batch)
    with noised(model, None):
        assert torch.equal(model(batch), before)
    layer.remove()
    text = batch.tokens[0] != tiny.IMAGE
    torch.testing.assert_close(seen[1][text], seen[0][text] + 1)
    assert torch.equal(seen[1][~text], seen[0][~text]) and torch.equal(seen[2], seen[0])


def test_shares_of_the_stream_are_those_of_the_mixture():
    assert tiny.feed(tiny.model(), mixed()).order.shares == {"plain": Fraction(2, 3), "rows": Fraction(1, 3)}


def test_training_is_noisy_in_the_same_way_however_samples_are_packed():
    model, objective = tiny.model(), next_token.Config().build()
    found = {}
    for noise, tokens, seed in ((0.0, 1000, 0), (50.0, 1000, 0), (50.0, 1, 0), (50.0, 1000, 1)):
        feed = tiny.feed(model, Uneven(24), frozen=False, tokens=tokens)
        stage = tiny.stage(batch=8, tokens=tokens, noise=noise)
        found[noise, tokens, seed] = accumulate(model, feed, [tiny.pieces(feed, range(8))], stage, objective, seed).mean
    assert found[50.0, 1000, 0] == pytest.approx(found[50.0, 1, 0], rel=1e-6)
    assert len({round(value, 4) for value in found.values()}) == 3


def test_a_picture_behind_the_last_answer_is_kept():
    sample = tiny.Colours()[0]
    late = Sample((*sample.messages, Message("user", tuple(sample.pictures))))
    read = Read.of(tiny.encode(late), tiny.IMAGE)
    assert (read.tokens == tiny.IMAGE).sum() == 4 and len(read.grid) == 2
    cut = Read.of(tiny.encode(sample), tiny.IMAGE)
    assert cut.tokens.tolist() == [tiny.START, tiny.IMAGE, tiny.IMAGE, tiny.ASK, tiny.ASK + 1, 10, 20]
    assert cut.targets[-1] == tiny.END and cut.learned == 3


@pytest.mark.parametrize("patches", [1, 9, 20])
def test_large_pictures_are_computed_a_few_at_a_time(patches: int) -> None:
    of = tiny.feed(tiny.model(), 12)
    pieces = of.window(range(12)).pieces
    (whole,) = of.passes(pieces)
    of.patches = patches
    passes = of.passes(pieces)
    assert [piece for some in passes for piece in some] == whole
    for some, later in itertools.pairwise(passes):
        held = sum(piece.patches for piece in some)
        assert held <= patches or len(some) == 1
        assert held + later[0].patches > patches
