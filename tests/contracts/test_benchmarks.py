"""What every benchmark keeps: reference answers score 1, empty ones 0, ids are unique, every question can be asked."""

from pathlib import Path

import pytest

from evaluate.benchmarks.layouts import LAYOUTS
from generate.tiny import build, processor
from vlmlab import component
from vlmlab.evaluate.benchmarks import Benchmark, BenchmarkConfig
from vlmlab.processor.decode import open_picture

EVERY = component.plugins(BenchmarkConfig)
every_benchmark = pytest.mark.parametrize("name", EVERY)
SHARED = frozenset(["mmmu"])
"""Metrics that give an unread answer the mean of a guess."""


def built(name: str, folder: Path, **keys: object) -> Benchmark:
    assert name in LAYOUTS, f"give the new benchmark {name} a small folder in tests/evaluate/benchmarks/layouts.py"
    make, split = LAYOUTS[name]
    made: Benchmark = component.parse(
        BenchmarkConfig, {"name": name, "path": str(make(folder)), "split": split, **keys}
    ).build()
    return made


@every_benchmark
def test_the_reference_answer_scores_one_and_an_empty_one_zero(name: str, tmp_path: Path) -> None:
    benchmark = built(name, tmp_path)
    questions = [benchmark.question(at) for at in range(len(benchmark))]
    assert len(questions) >= 4
    shown = benchmark.score([benchmark.shown_answer(one) for one in questions], questions)
    assert [round(score.value, 9) for score in shown] == [1.0] * len(questions)
    nothing = benchmark.score([""] * len(questions), questions)
    for score, question in zip(nothing, questions, strict=True):
        options = len(question.reference.choices)
        assert score.value == (1 / options if benchmark.metric in SHARED and options else 0)


@every_benchmark
def test_ids_are_unique_and_the_same_again(name: str, tmp_path: Path) -> None:
    benchmark = built(name, tmp_path)
    ids = [benchmark.question(at).id for at in range(len(benchmark))]
    assert len(set(ids)) == len(ids) and all(ids)
    assert [benchmark.question(at).id for at in range(len(benchmark))] == ids


@every_benchmark
@pytest.mark.parametrize("form", ["chat", "document"])
def test_every_question_can_be_asked_and_its_pictures_opened(name: str, form: str, tmp_path: Path) -> None:
    benchmark = built(name, tmp_path, form=form)
    for at in range(len(benchmark)):
        question = benchmark.question(at)
        sample = benchmark.ask(question)
        assert [picture.source for picture in sample.pictures] == [picture.source for picture in question.pictures]
        for picture in sample.pictures:
            assert open_picture(picture).size == (4, 4)
        words = [part for message in sample.messages for part in message.parts if isinstance(part, str)]
        assert all(part.strip() in "".join(words) for part in question.parts if isinstance(part, str))
        for choice in question.reference.choices if not question.choices else ():
            assert choice in words[-1]
        assert sample.messages[0].role == ("text" if form == "document" else "user")


@every_benchmark
def test_every_question_survives_the_processor(name: str, tmp_path: Path) -> None:
    read = processor(build())
    chat, document = (built(name, tmp_path / form, form=form) for form in ("chat", "document"))
    for at in range(len(chat)):
        question = chat.question(at)
        batch = read([chat.ask(question), document.ask(document.question(at))])
        assert (0 if batch.images is None else len(batch.images.grid)) == 2 * len(question.pictures)


@every_benchmark
def test_examples_bring_pictures_and_answers(name: str, tmp_path: Path) -> None:
    plain = built(name, tmp_path)
    if name == "own":
        benchmark = built(name, tmp_path / "more", shots=4, pool=plain.config.path)
    elif name == "mathvista":
        with pytest.raises(ValueError, match="no split to draw examples from"):
            built(name, tmp_path / "more", shots=4)
        return
    else:
        benchmark = built(name, tmp_path / "more", shots=2)
    for at in range(len(benchmark)):
        question = benchmark.question(at)
        examples = benchmark.examples(question)
        assert len(examples) == benchmark.config.shots
        assert question.id not in [one.id for one in examples]
        sample = benchmark.ask(question)
        expected = [picture for one in (*examples, question) for picture in one.pictures]
        assert [picture.source for picture in sample.pictures] == [picture.source for picture in expected]
        said = [message.parts[0] for message in sample.messages if message.role == "assistant"]
        assert said == [benchmark.shown_answer(one) for one in examples]


@every_benchmark
def test_a_limit_keeps_as_many_questions(name: str, tmp_path: Path) -> None:
    benchmark = built(name, tmp_path, limit=2)
    groups = {benchmark.question(at).reference.group or at for at in range(len(benchmark))}
    assert len(groups) == 2
    whole = built(name, tmp_path / "more")
    assert {benchmark.question(at).id for at in range(len(benchmark))} < {
        whole.question(at).id for at in range(len(whole))
    }


@every_benchmark
def test_what_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = component.parse(BenchmarkConfig, {"name": name, "path": str(tmp_path / "empty")})
    with pytest.raises(ValueError, match="empty"):
        config.build()
