"""Adapters by name: what one needs to be let in, requests under several at once, and coming and going meanwhile."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch

from generate import adapting, tiny
from generate.law import ask
from vlmlab.generate.answers import NoAdapter, Settings
from vlmlab.generate.engine import Engine
from vlmlab.hub import adapters as files
from vlmlab.hub import named
from vlmlab.model import adapters
from vlmlab.model.adapters import Config

PATIENCE = 60.0


def build(**sizes) -> Engine:
    changes = {"language.layers": 2, "language.window": None, "vision.layers": 1}
    model = tiny.build(dtype=torch.float32, changes=changes)
    return Engine(model, tiny.processor(model), **{"rows": 3, "capacity": 300, "chunk": 20} | sizes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("adapters")
    return {kind: adapting.write(build().model, kind, place / kind) for kind in adapting.KINDS}


@pytest.fixture(scope="module")
def right(folders):
    """What each adapter writes when it is the only one, to a question about a picture."""
    found = {"": build().answers([question()], 8)[0].tokens}
    for kind, folder in folders.items():
        engine = build()
        files.read(engine.model, folder)
        found[kind] = engine.answers([question()], 8)[0].tokens
    assert len({tuple(tokens) for tokens in found.values()}) == len(found)
    return found


def question():
    return ask("What is it?", tiny.picture(20, 14, 1), before="Look at what you are shown.")


def loaded(folders, **sizes) -> Engine:
    engine = build(**sizes)
    for kind, folder in folders.items():
        engine.load_adapter(kind, folder)
    return engine


def test_each_request_is_written_under_its_own_adapter(folders, right):
    with loaded(folders) as engine:
        names = ["", *folders] * 3
        handles = [engine.submit(question(), Settings(8, adapter=name)) for name in names]
        assert [handle.result(PATIENCE).tokens for handle in handles] == [right[name] for name in names]
    assert loaded(folders).generate([question()], 8, adapter="full") == [build().processor.decode(right["full"])]
    assert "".join(loaded(folders).stream(question(), 8, adapter="eyes")) == build().processor.decode(right["eyes"])


def test_what_adapters_have_in_common_is_computed_once(folders):
    engine = loaded(folders)
    [first] = engine.answers([question()], 4)
    assert first.cost.reused_tokens == first.cost.image_hits == 0
    [rows] = engine.answers([question()], 4, adapter="rows")
    assert rows.cost.reused_tokens == 0 and rows.cost.image_hits == 1  # it reads the picture's tokens its own way
    [eyes] = engine.answers([question()], 4, adapter="eyes")
    assert eyes.cost.reused_tokens == eyes.cost.image_hits == 0
    [again] = engine.answers([question()], 4, adapter="eyes")
    assert again.cost.reused_tokens > 10


def test_a_look_is_taken_under_the_adapter(folders):
    engine, alone = loaded(folders), build()
    files.read(alone.model, folders["full"])
    under = engine.look(question(), [5, 6, 7], adapter="full").result()
    torch.testing.assert_close(under.maps, alone.look(question(), [5, 6, 7]).result().maps)
    plain = build().look(question(), [5, 6, 7]).result()
    assert not torch.allclose(plain.maps[0], under.maps[0], atol=1e-3)
    torch.testing.assert_close(engine.look(question(), [5, 6, 7]).result().maps, plain.maps)
    with pytest.raises(NoAdapter, match="'other'"):
        engine.look(question(), [5], adapter="other")


def test_rows_under_different_adapters_share_a_step(folders, right):
    engine, names, under = loaded(folders, chunk=300), ("", "text", "rows", "full"), []
    scheduler = engine._build(4, 300, None)
    step, some = scheduler.session.step, scheduler.session.step_some
    scheduler.session.step = lambda tokens, key: (under.append((len(tokens), key)), step(tokens, key))[1]
    scheduler.session.step_some = lambda rows, tokens: (under.append((len(tokens), "some")), some(rows, tokens))[1]
    jobs = [engine._jobs([question()], Settings(8, adapter=name), 0)[0] for name in names]
    for job in jobs:
        scheduler.add(job)
    while scheduler.tick():
        pass
    assert [job.handle.result(0.0).tokens for job in jobs] == [right[name] for name in names]
    # Three in one pass, and one that brings norms of its own; later fewer. Rows that differ are not recorded.
    assert (3, "some") in under and (1, "some") in under
    assert all(key is None for count, key in under if count > 1 and key != "some")
    assert engine.bank._now == ()


def test_steps_recorded_under_an_adapter_go_with_it(folders):
    engine = loaded({"text": folders["text"]})
    engine.answers([question()], 2, adapter="text")
    steps = engine._scheduler.session.steps
    key = engine.adapters()[0].key
    steps.recorded = {(1, 256, key): None, (1, 256, ""): None}
    engine.unload_adapter("text")
    assert list(steps.recorded) == [(1, 256, "")]


def test_the_model_is_as_it_was_when_the_last_is_gone(folders):
    engine = loaded(folders)
    before = build().model
    [answer] = engine.answers([question()], 3, adapter="full")
    assert answer.tokens
    for kind in folders:
        engine.unload_adapter(kind)
    state = engine.model.state_dict()
    assert state.keys() == before.state_dict().keys() and engine.bank.held == 0
    assert all(torch.equal(state[key], value) for key, value in before.state_dict().items())


def test_an_adapter_that_is_used_goes_when_its_last_request_has_ended(folders, right):
    with build() as engine:
        engine.load_adapter("mine", folders["eyes"])
        size = engine.gauges().adapter_bytes
        handle = engine.submit(question(), Settings(200, adapter="mine"))
        next(iter(handle))
        engine.unload_adapter("mine")
        assert not handle.done and engine.gauges().adapters == 0 and engine.gauges().adapter_bytes == size
        with pytest.raises(NoAdapter, match="'mine'; loaded: none"):
            engine.submit(question(), Settings(8, adapter="mine"))
        engine.load_adapter("mine", folders["rows"])  # the name is free, and means the new one
        assert engine.submit(question(), Settings(8, adapter="mine")).result(PATIENCE).tokens == right["rows"]
        assert handle.result(PATIENCE).tokens[:8] == right["eyes"]
        engine.unload_adapter("mine")
        assert engine.gauges().adapter_bytes == 0 and not adapters.layers(engine.model)
        with pytest.raises(NoAdapter, match="mine"):
            engine.unload_adapter("mine")


def test_a_request_that_was_prepared_too_early_is_refused(folders):
    with build() as engine:
        engine.load_adapter("mine", folders["text"])
        [job] = engine._jobs([question()], Settings(4, adapter="mine"), 0)
        engine.unload_adapter("mine")
        with pytest.raises(NoAdapter, match="unloaded before"):
            engine._worker.submit(job)


def test_adapters_come_and_go_under_load(folders, right):
    with build(queue=200) as engine:
        engine.load_adapter("eyes", folders["eyes"])
        over = threading.Event()

        def come_and_go():
            count = 0
            while not over.is_set() or count < 4:
                kind = ("full", "rows", "text")[count % 3]
                engine.load_adapter("other", folders[kind])
                handle = engine.submit(question(), Settings(8, adapter="other"))
                engine.unload_adapter("other")
                assert handle.result(PATIENCE).tokens == right[kind]
                count += 1

        with ThreadPoolExecutor(1) as threads:
            going = threads.submit(come_and_go)
            names = ["", "eyes"] * 10
            handles = [engine.submit(question(), Settings(8, adapter=name)) for name in names]
            assert [handle.result(PATIENCE).tokens for handle in handles] == [right[name] for name in names]
            over.set()
            going.result(PATIENCE)
        assert engine.gauges().failed == 0 and engine.gauges().adapters == 1


def test_the_files_may_change_once_they_are_loaded(folders, right, tmp_path):
    place = shutil.copytree(folders["eyes"], tmp_path / "mine")
    engine = build()
    engine.load_adapter("mine", place)
    with (place / files.WEIGHTS).open("r+b") as file:
        file.write(bytes((place / files.WEIGHTS).stat().st_size))
    assert engine.answers([question()], 8, adapter="mine")[0].tokens == right["eyes"]


def test_a_closed_engine_says_so(folders):
    engine = build().start()
    worker = engine._worker
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        worker.aside(lambda: None, most=None)
    engine.load_adapter("text", folders["text"])  # by itself again


def changed(place, config=None, tensors=None, **values):
    """An adapter's folder with other settings or tensors."""
    data = json.loads((place / files.CONFIG).read_text())
    (place / files.CONFIG).write_text(json.dumps(data | (config or {}) | values))
    held = safetensors.torch.load_file(place / files.WEIGHTS)
    held = held if tensors is None else tensors(held)
    safetensors.torch.save_file(held, place / files.WEIGHTS)


def first(held, value):
    key = sorted(held)[0]
    return held | {key: torch.full_like(held[key], value)}


REFUSED = {
    "no layer": (
        lambda p: changed(p, tensors=lambda t: {f"{k}x".replace("lora", "x.lora"): v for k, v in t.items()}),
        "no",
    ),
    "no tensors": (lambda p: changed(p, tensors=lambda t: {}), "act on nothing"),
    "zeros": (
        lambda p: changed(p, tensors=lambda t: {k: v * ("lora_B" not in k) for k, v in t.items()}),
        "acts on nothing",
    ),
    "other sizes": (
        lambda p: changed(
            p, tensors=lambda t: {k: v[:, :5].contiguous() if "lora_A" in k else v for k, v in t.items()}
        ),
        "but its adapter is for",
    ),
    "not finite": (lambda p: changed(p, tensors=lambda t: first(t, torch.nan)), "not finite"),
    "cut off": (lambda p: (p / files.WEIGHTS).write_bytes((p / files.WEIGHTS).read_bytes()[:-8]), "not a whole"),
    "no JSON": (lambda p: (p / files.CONFIG).write_text("{"), "not valid JSON"),
    "no config": (lambda p: (p / files.CONFIG).unlink(), "it has no adapter_config.json"),
    "no weights": (lambda p: (p / files.WEIGHTS).unlink(), "has no adapter_model.safetensors"),
    "rank 0": (lambda p: changed(p, r=0), "r = 0 cannot be"),
    "rank null": (lambda p: changed(p, r=None), "r = null cannot be"),
    "alpha": (lambda p: changed(p, lora_alpha="much"), "lora_alpha"),
    "endless alpha": (lambda p: changed(p, lora_alpha=float("inf")), "lora_alpha"),
    "pattern": (lambda p: changed(p, rank_pattern=[1]), "rank_pattern"),
    "dropout": (lambda p: changed(p, lora_dropout=None), "lora_dropout"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_the_reason(case, folders, tmp_path):
    spoil, says = REFUSED[case]
    place = shutil.copytree(folders["text"], tmp_path / "mine")
    spoil(place)
    engine = build()
    with pytest.raises(ValueError, match=says):
        engine.load_adapter("mine", place)
    assert not engine.adapters() and not adapters.layers(engine.model) and engine.bank.held == 0


def test_a_magnitude_of_another_length_is_refused(folders, tmp_path):
    place = shutil.copytree(folders["rows"], tmp_path / "mine")
    changed(place, tensors=lambda t: {k: v[:1].clone() if "magnitude" in k else v for k, v in t.items()})
    with pytest.raises(ValueError, match=r"lora_magnitude_vector of .* is \[1\]"):
        build().load_adapter("mine", place)


def test_a_fresh_dora_acts_on_nothing(tmp_path):
    model = build().model
    adapters.add(model, named.resolve(model, "language", ("q_proj",)), Config(kind="dora", rank=2))
    files.save(model, tmp_path / "fresh")
    with pytest.raises(ValueError, match="acts on nothing"):
        build().load_adapter("fresh", tmp_path / "fresh")


def test_names_and_memory(folders):
    engine = build()
    size = engine.load_adapter("one", folders["text"]).nbytes
    assert size == engine.gauges().adapter_bytes or engine.bank.held == size
    with pytest.raises(ValueError, match="'one' is loaded already"):
        engine.load_adapter("one", folders["rows"])
    for name in ("", "a b", "../x", "x" * 101, "-x"):
        with pytest.raises(ValueError, match="cannot be called"):
            engine.load_adapter(name, folders["rows"])
    engine.bank.memory = size + 100
    with pytest.raises(ValueError, match=rf"{size:,} of the {size + 100:,} for adapters are taken"):
        engine.load_adapter("two", folders["rows"])
    assert [one.name for one in engine.adapters()] == ["one"]


def test_a_model_with_an_adapter_for_all_has_none_by_name(folders):
    engine = build()
    files.read(engine.model, folders["text"])
    with pytest.raises(ValueError, match="acts for all"):
        engine.load_adapter("rows", folders["rows"])


def test_dora_says_all_of_its_bytes(folders):
    engine = build()
    one = engine.load_adapter("rows", folders["rows"])
    numbers = sum(value.nbytes for value in adapters.learned(engine.model, one.key).values())
    kept = sum(low._known[1].nbytes for low in one.low.values())
    assert one.nbytes == numbers + kept
