"""Evaluations: every question asked once, kept as it comes, scored, logged, and read back; what is broken is named."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from evaluate import questions
from evaluate.questions import Sure
from vlmlab.batch import Picture
from vlmlab.evaluate import evaluation
from vlmlab.evaluate.answering import Reply, Writing, key, picture_digest, sample_plain
from vlmlab.evaluate.benchmarks import Benchmark, BenchmarkConfig, Question
from vlmlab.evaluate.evaluation import Asking, Evaluation
from vlmlab.evaluate.known import Known
from vlmlab.evaluate.local import Local, digest_of
from vlmlab.evaluate.metrics import Reference
from vlmlab.evaluate.session import Manner, Session

WRITING = Writing(8)


def asked(path, answerer, place, writing=WRITING, **keys):
    """All records of one's own benchmark."""
    asking = Asking(questions.config(path, **keys).build(), answerer, writing)
    with Known(place) as known:
        asking.answer(known)
        return asking.records(known)


def test_every_question_is_asked_scored_and_logged(tmp_path):
    path = questions.file(tmp_path)
    records = asked(path, Sure(lambda n: str(n) if n % 3 else "no"), tmp_path / "answers.jsonl")
    assert [record.id for record in records] == [str(n) for n in range(24)]
    assert [record.score for record in records] == [float(n % 3 > 0) for n in range(24)]
    assert records[4].prompt == "User: <image>Question: What is 4?\nGive a very brief answer."
    fourth = records[4]
    assert (fourth.text, fourth.parsed, fourth.visual_tokens, fourth.seconds) == ("What is 4?", "4", 3, 0.5)
    assert records[4].cluster == records[5].cluster == records[4].pictures[0] != records[6].cluster


def test_what_is_known_is_not_asked_again(tmp_path):
    path = questions.file(tmp_path)
    asked(path, Sure(), tmp_path / "answers.jsonl", limit=12)
    again = Sure()
    records = asked(path, again, tmp_path / "answers.jsonl")
    assert len(again.asked) == 12 and len(records) == 24 and all(record.score for record in records)


def test_a_killed_run_goes_on(tmp_path):
    path, place = questions.file(tmp_path), tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        asked(path, Sure(at_most=9), place)
    whole = place.read_bytes()
    assert whole.count(b"\n") == 9
    place.write_bytes(whole[:-25])  # the last line was cut off
    again = Sure()
    assert [record.answer for record in asked(path, again, place)] == [str(n) for n in range(24)]
    assert again.asked == [str(n) for n in range(8, 24)]
    last = Sure()
    asked(path, last, place)
    assert last.asked == []


@pytest.mark.parametrize("line", ["{", "3", "{}", '{"key": 3, "text": "x"}', "\x00\xff", '{"key": "a", "text": null}'])
def test_lines_that_cannot_be_read_are_asked_again(tmp_path, line):
    place = tmp_path / "answers.jsonl"
    with Known(place) as known:
        known.add("a", Reply("one", "end", None, 3, 0.25))
        known.add("b", Reply("two\nlines \ud83d", "stop"))
    lines = place.read_text().splitlines()
    place.write_text("\n".join([lines[0], line, lines[1]]) + "\n", encoding="latin-1")
    with Known(place) as known:
        assert known.unread == 1
        assert known.replies == {"a": Reply("one", "end", None, 3, 0.25), "b": Reply("two\nlines \ud83d", "stop")}


def test_two_that_write_at_once_keep_each_other_whole(tmp_path):
    with Known(tmp_path / "a.jsonl") as one, Known(tmp_path / "a.jsonl") as other:
        for n in range(20):
            (one if n % 2 else other).add(str(n), Reply("x" * 5000, "end"))
    with Known(tmp_path / "a.jsonl") as known:
        assert len(known.replies) == 20 and not known.unread


def test_errors_are_kept_for_the_run_only(tmp_path):
    with Known(tmp_path / "a.jsonl") as known:
        known.add("a", Reply("", "", error="busy"))
        assert known.replies["a"].error == "busy"
    with Known(tmp_path / "a.jsonl") as known:
        assert not known.replies


def test_a_key_is_of_everything_that_matters(tmp_path):
    path = questions.file(tmp_path)
    benchmark = questions.config(path).build()
    sample = benchmark.ask(benchmark.question(0))
    other = benchmark.ask(benchmark.question(1))

    def of(identity="one", writing=WRITING, sample=sample):
        return key({"weights": identity}, writing, sample_plain(sample))

    changed = [
        of("another"),
        of(sample=other),
        *(
            of(writing=dataclasses.replace(WRITING, **{name: value}))
            for name, value in {"max_new_tokens": 9, "stop": ("User",), "split": False, "longest": 30}.items()
        ),
    ]
    assert len({of(), *changed}) == 7
    assert of() == of()
    (tmp_path / "0.png").write_bytes((tmp_path / "1.png").read_bytes())
    assert of() != changed[1] and of() not in changed  # the picture's content counts, not its name


def test_pictures_are_told_apart_by_content(tmp_path):
    path = questions.file(tmp_path, 2)
    data = (path.parent / "0.png").read_bytes()
    assert picture_digest(Picture(data)) == picture_digest(Picture(tmp_path / "0.png"))
    opened = questions.tiny.picture(4, 4, 0), questions.tiny.picture(4, 4, 1)
    assert len({picture_digest(Picture.of(one)) for one in (*opened, "https://example.org/a.png")}) == 3
    with pytest.raises(ValueError, match=r"gone.png: cannot be read: No such file"):
        picture_digest(Picture.of(tmp_path / "gone.png"))


def test_a_model_answers_the_same_in_company_and_alone(tmp_path):
    path, model = questions.file(tmp_path), questions.model(tmp_path / "model")
    one, other = Local(str(model), rows=16), Local(str(model), rows=1)
    assert one.identity() == other.identity()
    both = [asked(path, each, tmp_path / f"{at}.jsonl") for at, each in enumerate((one, other))]
    assert [r.answer for r in both[0]] == [r.answer for r in both[1]]
    assert len({r.answer for r in both[0]}) > 3 and {r.visual_tokens for r in both[0]} == {3}
    assert other.facts()["images"]["longest"] == 40


def test_other_weights_are_another_model(tmp_path):
    model = questions.model(tmp_path / "model")
    before = Local(str(model)).identity()
    assert before == Local(str(model)).identity() and before["dtype"] == "F32"
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert Local(str(model)).identity()["weights"] != before["weights"]


def test_files_that_the_hubs_cache_names_by_content_are_not_read(tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    folder.mkdir(parents=True)
    for name in ("a" * 64, "b" * 64):
        (blobs / name).write_bytes(b"not what it says")
    (folder / "model.safetensors").symlink_to(blobs / ("a" * 64))
    first = digest_of([folder])
    (blobs / ("a" * 64)).write_bytes(b"anything else")
    assert digest_of([folder]) == first
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(blobs / ("b" * 64))
    assert digest_of([folder]) != first


def test_nothing_is_loaded_where_every_answer_is_known(tmp_path, monkeypatch):
    path, model = questions.file(tmp_path, 4), questions.model(tmp_path / "model")
    first = asked(path, Local(str(model)), tmp_path / "answers.jsonl")
    monkeypatch.setattr("vlmlab.evaluate.local.load", None)
    assert asked(path, Local(str(model)), tmp_path / "answers.jsonl") == first


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    path, model = questions.file(tmp_path, 8), questions.model(tmp_path / "model")
    (tmp_path / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ValueError, match=r"question 4: .*row 4, picture 0"):
        asked(path, Local(str(model)), tmp_path / "answers.jsonl")
    (tmp_path / "2.png").unlink()
    with pytest.raises(ValueError, match=r"question 4: .*2.png"):
        asked(path, Local(str(model)), tmp_path / "answers.jsonl")


def test_two_questions_may_not_have_one_id(tmp_path):
    path = questions.file(tmp_path, 2, id="same")
    with pytest.raises(ValueError, match="two questions have the id 'same'"):
        asked(path, Sure(), tmp_path / "answers.jsonl")


def test_two_that_ask_the_same_are_asked_once(tmp_path):
    path = questions.file(tmp_path, 2)
    rows = [json.loads(line) | {"question": "Same?"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sure = Sure()
    assert [record.answer for record in asked(path, sure, tmp_path / "a.jsonl")] == ["0", "0"]
    assert sure.asked == ["0"]


def saved(tmp_path):
    records = tuple(questions.record(n, float(n > 1)) for n in range(3))
    card = {
        "label": "own",
        "questions": 3,
        "benchmark": {"name": "own", "path": "x"},
        "metric": {"name": "exact", "variant": "official"},
        "model": {"name": "m"},
        "writing": {"max_new_tokens": 8},
        "decoding": "greedy",
        "prompt": "{question}",
        "shares": {},
        "visual_tokens": 16.0,
        "seconds": 1.5,
        "versions": {},
        "made_by": {},
    }
    found = Evaluation(records, card)
    evaluation.save(tmp_path / "e", found)
    return found


def test_an_evaluation_is_read_back(tmp_path):
    found = saved(tmp_path)
    assert evaluation.read(tmp_path / "e") == found


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("questions.jsonl", lambda text: text[:-30], "questions.jsonl, line 3: cannot be read"),
        ("questions.jsonl", lambda text: "\n".join(text.splitlines()[:2]), "holds 2 of 3 questions"),
        ("questions.jsonl", lambda text: text.replace('"score": 1.0', '"score": "1"'), "line 3: cannot be read"),
        ("questions.jsonl", lambda text: text.replace('"answers": ["1"]', '"answers": 1'), "line 2: cannot be read"),
        ("questions.jsonl", lambda text: text.replace('"kind"', '"knid"'), "line 1: cannot be read"),
        ("questions.jsonl", None, "lacks questions.jsonl; make one with vlmlab eval"),
        ("card.json", lambda text: text[:-3], "card.json: cannot be read"),
        ("card.json", lambda text: "[]", "is no card of an evaluation"),
        ("card.json", None, "lacks card.json"),
    ],
)
def test_a_damaged_evaluation_is_named(tmp_path, file, change, told):
    saved(tmp_path)
    path = tmp_path / "e" / file
    if change is None:
        path.unlink()
    else:
        path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=told):
        evaluation.read(tmp_path / "e")


class Elsewhere(Benchmark):
    """A benchmark whose answers are scored elsewhere, or here where `known`."""

    metric = "exact"
    spread = True
    submission_ending = ".csv"

    def __init__(self, config, known, server=True):
        super().__init__(config)
        self.known, self.server = known, server

    def count(self):
        return 4

    def read(self, number):
        answers = (str(number * (number % 2)),) if self.known else ()
        return Question(str(number), (f"What is {number}?",), Reference(answers), "ab"[number % 2])

    def submission_text(self, answers):
        if not self.server:
            return super().submission_text(answers)
        return "".join(f"{name},{said}\n" for name, said in answers.items())


@pytest.fixture
def session(tmp_path, monkeypatch):
    """Measures a benchmark that is made as told, and says what was printed."""

    def measure(**made):
        config = BenchmarkConfig(path="x")
        monkeypatch.setattr(BenchmarkConfig, "build", lambda self: Elsewhere(self, **made))
        console = Console(file=io.StringIO(), width=100)
        (found,) = Session(Sure(), tmp_path, console).measure("test", config, 1, Manner())
        return found, console.file.getvalue()

    return measure


def test_what_is_scored_elsewhere_leaves_a_submission(session, tmp_path):
    found, said = session(known=False)
    assert (tmp_path / "test" / "submission.csv").read_text() == "0,0\n1,1\n2,2\n3,3\n"
    assert "scored elsewhere" in said and "score" not in found.card


def test_why_there_is_no_submission_is_said_and_the_answers_are_kept(session, tmp_path):
    _, said = session(known=False, server=False)
    assert "no submission is written" in said and "has no server that scores answers" in " ".join(said.split())
    assert len(evaluation.read(tmp_path / "test").records) == 4
    assert "no submission" not in session(known=True, server=False)[1]


def test_kinds_that_lie_apart_are_told_where_that_is_part_of_the_figure(session, tmp_path):
    found, _ = session(known=True)
    assert found.card["spread"] == 25.0  # of kind a half are right, of kind b all
    assert "| spread over kinds | 25.0 (standard deviation) |" in (tmp_path / "test" / "card.md").read_text()
