"""A build can be killed at any moment: it goes on, and ends in the same bytes, whoever made them."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.test_builders import PROSE, photo
from vlmlab import writing
from vlmlab.component import parse
from vlmlab.data import build
from vlmlab.data.build import Build
from vlmlab.data.builders import BuilderConfig, documents


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Thirty pages with pictures, some of which are dropped."""
    root = tmp_path_factory.mktemp("site")
    for number in range(30):
        photo(root / "p" / f"{number}.png", 160, 160, 8 * number, "PNG")
        text = "Few." if number % 7 == 3 else f"{PROSE} Page {number}."
        shown = f"<img src='p/{number}.png'><img src='p/{number // 2}.png'>"
        (root / f"{number:02}.html").write_text(f"<title>{number}</title><p>{text}</p>{shown}")
    return root


def begin(place, out, **keys):
    return Build(parse(BuilderConfig, {"name": "documents", "shard": 3, **keys}), place, out)


def held(out):
    """Every file below a folder with the hash of its bytes."""
    files = (path for path in Path(out).rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """What an undisturbed build leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    begin(place, out).run(1)
    return held(out)


def test_the_manifest_tells_what_was_made(place, tmp_path):
    done = []
    made = begin(place, tmp_path / "out")
    assert (made.units, made.shards, made.done) == (30, 10, 0)
    manifest = made.run(1, advance=done.append)
    assert done == [3] * 10
    assert manifest["samples"] == 26 and manifest["dropped"] == {"few words": 4, "picture: repeated": 1}
    assert manifest["kind"] == "documents" and manifest["config"]["least"] == 150
    files = held(tmp_path / "out")
    assert all(files[shard["file"]] == shard["sha256"] for shard in manifest["shards"])
    assert sum(shard["samples"] for shard in manifest["shards"]) == 26
    lines = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [line["unit"] for line in lines] == ["03.html", "10.html", "17.html", "24.html"]
    assert lines[0] == {"unit": "03.html", "kind": "few words", "detail": "1 words, 2 pictures"}
    assert not (tmp_path / "out" / ".work").exists()
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()


def test_pictures_that_return_are_dropped_from_every_page(tmp_path, monkeypatch):
    """A banner on twelve pages, under two addresses, goes; a picture on ten stays. Counted before a crash, once."""
    place = tmp_path / "in"
    photo(place / "banner.png", 200, 200, 10, "PNG")
    (place / "b.png").write_bytes((place / "banner.png").read_bytes())
    photo(place / "ten.png", 200, 200, 99, "PNG")
    for number in range(14):
        photo(place / "p" / f"{number}.png", 160, 160, 8 * number, "PNG")
        banner = "<img src='b.png'><img src='banner.png'>" if number < 6 else "<img src=banner.png>" * (number < 12)
        shown = banner + "<img src=ten.png>" * (number < 10) + f"<img src='p/{number}.png'>"
        (place / f"{number:02}.html").write_text(f"<title>{number}</title><p>{PROSE}</p>{shown}")
    free = begin(place, tmp_path / "free").run(1)
    assert free["dropped"] == {"picture: repeated": 6}
    manifest = begin(place, tmp_path / "out", often=10).run(1)
    assert manifest["samples"] == 14 and manifest["dropped"] == {"picture: on too many pages": 18}
    assert len([name for name in held(tmp_path / "out") if name.startswith("pictures/")]) == 15
    again = begin(place, tmp_path / "again", often=10)
    with pytest.raises(Killed):
        again.run(1, advance=dying)
    monkeypatch.setattr(documents.Documents, "survey", None)
    begin(place, tmp_path / "again", often=10).run(1)
    assert held(tmp_path / "again") == held(tmp_path / "out")
    with pytest.raises(ValueError, match="often of 0 or more"):
        begin(place, tmp_path / "bad", often=-1)


def dying(count):
    raise Killed


def test_what_is_whole_is_not_built_again(place, tmp_path, monkeypatch):
    begin(place, tmp_path / "out").run(1)
    monkeypatch.setattr(build, "make", None)
    again = begin(place, tmp_path / "out")
    assert again.finished and again.done == 30 and again.run(1)["samples"] == 26


def test_another_input_or_other_settings_are_refused(place, tmp_path):
    begin(place, tmp_path / "out")
    with pytest.raises(ValueError, match="was built of other config"):
        begin(place, tmp_path / "out", least=100)
    begin(place, tmp_path / "out").run(1)
    photo(tmp_path / "other" / "a.png")
    (tmp_path / "other" / "a.html").write_text(PROSE)
    with pytest.raises(ValueError, match="was built of other units"):
        begin(tmp_path / "other", tmp_path / "out")


def test_a_file_is_whole_or_not_there(tmp_path):
    def half(path):
        path.write_bytes(b"half")
        assert sorted(file.name for file in tmp_path.iterdir()) == [path.name] != ["a"]
        raise Killed

    with pytest.raises(Killed):
        writing.write(tmp_path / "a", half)
    assert list(tmp_path.iterdir()) == []


class Killed(BaseException):
    """Stands for a process that is no more."""


def test_a_crash_at_any_write_changes_nothing(place, tmp_path, monkeypatch):
    """The process dies at its first write, at its second, ... until it gets to the end."""
    replace = Path.replace
    begin(place, tmp_path / "whole", shard=10).run(1)
    wanted = held(tmp_path / "whole")
    for fatal in range(10_000):
        out = tmp_path / str(fatal)
        left = fatal

        def dying(self, target):
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", dying)
        try:
            begin(place, out, shard=10).run(1)
            break
        except Killed:
            monkeypatch.setattr(Path, "replace", replace)
        begin(place, out, shard=10).run(1)
        assert held(out) == wanted, f"write {fatal}"
    assert fatal > 20  # pictures, shards, records, header, list and manifest


def test_killed_at_any_moment_it_ends_in_the_same_bytes(place, whole, tmp_path):
    generator = random.Random(1)
    for attempt in range(6):
        out = tmp_path / str(attempt)
        kills = 0
        while True:
            child = os.fork()
            if not child:
                try:
                    begin(place, out).run(1)
                finally:
                    os._exit(0)
            if kills < 6:
                time.sleep(generator.uniform(0.0, 0.12))
                os.kill(child, signal.SIGKILL)
                kills += 1
            status = os.waitpid(child, 0)[1]
            if os.WIFEXITED(status):
                break
        assert held(out) == whole, f"attempt {attempt}"


def test_leftovers_of_a_killed_process_are_removed(place, whole, tmp_path):
    begin(place, tmp_path / "out")
    (tmp_path / "out" / f"{writing.PARTIAL}documents-00000.parquet.x").write_bytes(b"half")
    (tmp_path / "out" / "pictures" / "ab").mkdir(parents=True)
    (tmp_path / "out" / "pictures" / "ab" / f"{writing.PARTIAL}y").write_bytes(b"half")
    (tmp_path / "out" / "documents-00004.parquet").write_bytes(b"no record says that this is whole")
    (tmp_path / "out" / ".work" / "00002.json").write_text('{"file": "documents-00002.parquet"}')  # its shard is gone
    begin(place, tmp_path / "out").run(1)
    assert held(tmp_path / "out") == whole


def test_a_shard_without_samples_has_no_file(tmp_path):
    for number in range(4):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.html").write_text("Few.")
    manifest = begin(tmp_path / "in", tmp_path / "out", shard=2).run(1)
    assert manifest["samples"] == 0 and manifest["shards"] == [] and manifest["dropped"] == {"few words": 4}
    assert sorted(held(tmp_path / "out")) == ["dropped.jsonl", "manifest.json"]
    assert begin(tmp_path / "in", tmp_path / "out", shard=2).finished


def test_an_error_is_not_swallowed_and_what_was_done_stays(place, whole, tmp_path, monkeypatch):
    make = build.make

    def breaking(task):
        if task.number == 4:
            raise OSError(28, "No space left on device")
        return make(task)

    monkeypatch.setattr(build, "make", breaking)
    with pytest.raises(OSError, match="No space left"):
        begin(place, tmp_path / "out").run(1)
    monkeypatch.setattr(build, "make", make)
    made = begin(place, tmp_path / "out")
    assert made.done == 12
    made.run(1)
    assert held(tmp_path / "out") == whole


SCRIPT = """
import sys
from vlmlab import cli
if __name__ == "__main__":
    sys.exit(cli.main(["data", "build", *sys.argv[1:]]))
"""


def command(tmp_path, place, out, *words):
    (tmp_path / "script.py").write_text(SCRIPT)
    line = [sys.executable, str(tmp_path / "script.py"), "documents", str(place), str(out), "shard=3", *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_several_processes_make_the_same_bytes_and_end_with_the_first(place, whole, tmp_path):
    process = command(tmp_path, place, tmp_path / "out", "--workers", "2")
    while not list((tmp_path / "out").glob("documents-*")) and process.poll() is None:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if children.exists() else []
    process.kill()
    process.communicate()
    for _ in range(2000):
        if not any(alive(pid) for pid in workers):
            break
        time.sleep(0.05)
    else:
        for pid in workers:
            os.kill(int(pid), signal.SIGKILL)
        pytest.fail("workers live on after the process that started them was killed")
    again = command(tmp_path, place, tmp_path / "out", "--workers", "2")
    told = again.communicate()[0]
    assert again.returncode == 0, told
    assert "26 samples in 10 shards" in told
    assert held(tmp_path / "out") == whole


def alive(pid):
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_bytes(place, whole, tmp_path):
    pytest.importorskip("ray")
    process = command(tmp_path, place, tmp_path / "out", "--ray")
    told = process.communicate()[0]
    assert process.returncode == 0, told
    assert held(tmp_path / "out") == whole


def test_without_ray_it_is_said(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs ray: pip install 'vlmlab\[ray\]'"):
        begin(place, tmp_path / "out").run(ray=True)
