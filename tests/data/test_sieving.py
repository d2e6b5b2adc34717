"""Sieving can be killed at any moment: it goes on, and finds the same drops, whoever judged what."""

import dataclasses
import json
import os
import pickle
import signal
from pathlib import Path

import pytest

from data import corpora
from data.test_perplexity import readers
from vlmlab import writing
from vlmlab.component import parse
from vlmlab.data import sieve, sieving
from vlmlab.data.filters import FilterConfig
from vlmlab.data.filters.perplexity import Perplexity
from vlmlab.data.sieving import Sieving
from vlmlab.data.sources import SourceConfig

MADE_BY = {"by": "a test"}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Fifty samples in pieces of eight: numbers as words for the language model, some too few, two pictures gone."""
    monkeypatch.setattr(sieving, "FEWEST", 8)
    lines = []
    for number in range(50):
        text = "1 2" if number % 9 == 4 else " ".join(str((number * step) % 13 / 4) for step in range(1, 13))
        gone = {"images": ["gone.png"]} if number in (20, 41) else {}
        lines.append({"text": text + "<image>" * bool(gone), **gone})
    return corpora.as_lines(tmp_path / "mine.jsonl", lines)


RULES = {"repeats": {"least": 3}, "perplexity": {"share": 0.2, "measured": 30}, "pictures": {}}


def begin(corpus, out, loads=readers, **rules):
    configs = {name: parse(FilterConfig, {"name": name, **keys, **rules.get(name, {})}) for name, keys in RULES.items()}
    return Sieving(parse(SourceConfig, {"name": "jsonl", "path": str(corpus)}), configs, out, loads)


def held(out):
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(out)): path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}


@pytest.fixture
def whole(corpus, tmp_path):
    """What an undisturbed sieving leaves."""
    begin(corpus, tmp_path / "whole").run(MADE_BY, 1)
    return held(tmp_path / "whole")


def test_pieces_find_what_is_found_at_once(corpus, tmp_path):
    done = []
    made = begin(corpus, tmp_path / "out")
    assert (made.samples, len(made.pieces), made.done) == (50, 7, 0)
    found = made.run(MADE_BY, 1, done.append)
    assert done == [8] * 6 + [2]
    filters = {name: each.build() for name, each in made.configs.items()}
    assert found == sieve.sieve(made.source, filters, readers)
    assert found.counts() == {"perplexity: strange text": 7, "repeats: too short": 6, "unreadable: ValueError": 1}
    found.save(tmp_path / "at once", json.loads((tmp_path / "out" / sieve.FACTS).read_text()))
    assert held(tmp_path / "out") == held(tmp_path / "at once")
    told = json.loads((tmp_path / "out" / sieve.FACTS).read_text())
    assert told["made_by"] == MADE_BY and "most" not in told["filters"]["perplexity"]
    assert told["filters"]["perplexity"]["found"] == filters["perplexity"].facts()


class Killed(BaseException):
    """Stands for a process that is no more."""


def test_a_crash_at_any_write_changes_nothing(corpus, whole, tmp_path, monkeypatch):
    """The process dies at its first write, at its second, ... until it gets to the end."""
    replace = Path.replace
    for fatal in range(100):
        out, left = tmp_path / str(fatal), fatal

        def dying(self, target):
            nonlocal left
            if not left:
                # Killed for good, it would leave this behind.
                (self.parent / f"{writing.PARTIAL}left").write_bytes(self.read_bytes()[:5])
                raise Killed
            left -= 1
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", dying)
        try:
            begin(corpus, out).run(MADE_BY, 1)
            break
        except Killed:
            monkeypatch.setattr(Path, "replace", replace)
        begin(corpus, out).run(MADE_BY, 1)
        assert held(out) == whole, f"write {fatal}"
    assert fatal == 10  # the header, seven pieces, the list and the counts


def test_killed_between_pieces_nothing_is_judged_twice(corpus, whole, tmp_path):
    out = tmp_path / "out"
    for kill in range(1, 7):
        child = os.fork()
        if not child:
            try:
                begin(corpus, out).run(MADE_BY, 1, lambda count: os.kill(os.getpid(), signal.SIGKILL))
            finally:
                os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert begin(corpus, out).done == 8 * kill
    done = []
    found = begin(corpus, out).run(MADE_BY, 1, done.append)
    assert done == [2] and held(out) == whole and len(found.dropped) == 14


def test_a_full_disk_keeps_what_was_done(corpus, whole, tmp_path, monkeypatch):
    write = sieving.Work.write

    def full(self, number, record):
        if number == 3:
            raise OSError(28, "No space left on device")
        write(self, number, record)

    with monkeypatch.context() as patched:
        patched.setattr(sieving.Work, "write", full)
        with pytest.raises(OSError, match="No space left"):
            begin(corpus, tmp_path / "out").run(MADE_BY, 1)
    again = begin(corpus, tmp_path / "out")
    assert again.done == 24
    again.run(MADE_BY, 1)
    assert held(tmp_path / "out") == whole


def test_what_was_measured_is_not_measured_again(corpus, whole, tmp_path, monkeypatch):
    """The worst begin where they did before the crash, though other samples were drawn now."""
    made = begin(corpus, tmp_path / "out")
    with pytest.raises(Killed):
        made.run(MADE_BY, 1, dying)
    prepare = Perplexity.prepare

    def loading(self, source, readers):
        assert self.config.most is not None
        prepare(self, source, readers)

    monkeypatch.setattr(Perplexity, "prepare", loading)
    begin(corpus, tmp_path / "out").run(MADE_BY, 1)
    assert held(tmp_path / "out") == whole


def dying(count):
    raise Killed


def test_a_task_is_all_that_a_process_needs(corpus, whole, tmp_path, monkeypatch):
    """Every piece is judged from what is sent to another process, last piece first."""

    def elsewhere(make, tasks, workers):
        assert workers == 3
        for task in reversed(tasks):
            sieving._opened.cache_clear()
            yield pickle.loads(pickle.dumps(make))(pickle.loads(pickle.dumps(task)))

    monkeypatch.setattr(sieving, "on_processes", elsewhere)
    begin(corpus, tmp_path / "out").run(MADE_BY, 3)
    assert held(tmp_path / "out") == whole


def test_other_work_is_not_gone_on_with(corpus, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("example.org\n")
    opting = {"opt_out": parse(FilterConfig, {"name": "opt_out", "lists": [str(listed)]})}
    data = parse(SourceConfig, {"name": "jsonl", "path": str(corpus)})
    made = Sieving(data, opting, tmp_path / "out")
    with pytest.raises(Killed):
        made.run(MADE_BY, 1, dying)
    with pytest.raises(ValueError, match="half found, with other filters"):
        begin(corpus, tmp_path / "out")
    more = corpora.as_lines(tmp_path / "more.jsonl", [{"text": "x"}])
    with pytest.raises(ValueError, match="half found, with other data"):
        Sieving(parse(SourceConfig, {"name": "jsonl", "path": str(more)}), opting, tmp_path / "out")
    listed.write_text("example.org\nexample.com\n")
    with pytest.raises(ValueError, match="half found, with other files that filters read: choose a new folder"):
        Sieving(data, opting, tmp_path / "out")


def test_what_is_whole_is_found_anew(corpus, whole, tmp_path):
    """Lists that filters read grow: the same said again is asked again."""
    out = tmp_path / "out"
    begin(corpus, out, repeats={"least": 0}).run(MADE_BY, 1)
    assert held(out) != whole
    assert begin(corpus, out).done == 0
    begin(corpus, out).run(MADE_BY, 1)
    assert held(out) == whole


def test_records_of_no_known_work_are_not_believed(corpus, whole, tmp_path):
    record = {"dropped": [dataclasses.asdict(sieve.Drop(9, "x", "y", "z"))]}
    sieving.Work(tmp_path / "out").write(1, record)
    with pytest.raises(Killed):
        begin(corpus, tmp_path / "out").run(MADE_BY, 1, dying)
    begin(corpus, tmp_path / "out").run(MADE_BY, 1)
    assert held(tmp_path / "out") == whole
