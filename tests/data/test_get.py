"""Corpora out of packages: unpacked trees become lines that the source reads."""

import json
import subprocess

import pytest
from PIL import Image

from vlmlab import component
from vlmlab.data import get
from vlmlab.data.sources import SourceConfig

PAGE = """<html><head><title>no</title><script>no</script></head><body><div class="navheader"><div>Prev</div></div>
<h1>Tools &amp; more</h1><pre>a
b</pre><p>The
  first tool, <i>shown</i> here: <img src="images/a.png" alt="x"/> and again.</p>
<img src="https://example.org/b.png"><img src="images/gone.png"><p>It says &lt;image&gt; somewhere.</p>
<p>{words}</p><div class="navfooter"><img src="images/a.png"></div></body></html>"""


@pytest.fixture
def root(tmp_path):
    """What the packages hold, unpacked."""
    stamps = tmp_path / "root" / "usr/share/tuxpaint/stamps/animals"
    stamps.mkdir(parents=True)
    for number in range(60):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(stamps / f"{number}.png")
        (stamps / f"{number}.txt").write_text(f"A bird, number {number // 2}.\nde.utf8=Ein Vogel.\n")
    (stamps / "alone.txt").write_text("No picture.\n")
    (stamps / "0.txt").write_text("\n")
    pages = tmp_path / "root" / "usr/share/gimp/2.0/help/en"
    (pages / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(pages / "images" / "a.png")
    (pages / "tools.html").write_text(PAGE.format(words="word " * 30))
    (pages / "short.html").write_text("<p>Short. <img src='images/a.png'></p>")
    return tmp_path / "root"


def source(folder, split):
    plain = {"name": "jsonl", "path": f"{folder}/{{split}}.jsonl", "split": split}
    return component.parse(SourceConfig, plain).build()


def test_stamps_become_samples(root, tmp_path):
    get.write("tuxpaint-stamps", root, tmp_path / "out", {"x.deb": "0"})
    origin = json.loads((tmp_path / "out" / get.ORIGIN).read_text())
    assert sum(origin["samples"].values()) == 59 and origin["licence"] == "GPL-2"
    said = {split: set() for split in ("train", "validation", "test")}
    for split, answers in said.items():
        held = source(tmp_path / "out", split)
        for sample in (held[at] for at in range(len(held))):
            assert len(sample.pictures) == 1 and Image.open(sample.pictures[0].source).size == (4, 4)
            answers.add(sample.messages[1].parts[0])
    assert not said["train"] & said["test"] and not said["train"] & said["validation"]
    assert "Ein Vogel" not in str(said) and "A bird, number 0." in set().union(*said.values())


def test_pages_become_documents(root):
    (key, sample, pictures), *more = get.manual(root)
    assert not more and key == "tools.html" and [p.name for p in pictures] == ["a.png"]
    text = sample["text"]
    assert text.startswith("Tools & more\n\na\nb\n") and "The first tool, shown here: <image> and again." in text
    assert text.count("<image>") == 1 and "It says < image> somewhere." in text
    assert "Prev" not in text and "no" not in text.split()


def test_get_fetches_once(root, tmp_path, monkeypatch):
    fetched = []

    def download(packages, place):
        fetched.append(packages)
        root.rename(place)
        return {"x.deb": "0"}

    monkeypatch.setattr(get, "download", download)
    told = get.get("gimp-help", tmp_path / "cache")
    assert told == get.get("gimp-help", tmp_path / "cache") and len(fetched) == 1
    assert "data.name=jsonl" in told and sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["gimp-help"]


def test_what_cannot_be_fetched_is_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no corpus 'cats'; known: emoji, tuxpaint-stamps, gimp-help, nsfw"):
        get.get("cats", tmp_path)
    assert "nothing to fetch" in get.get("emoji", tmp_path)
    monkeypatch.setattr(get.shutil, "which", lambda tool: None)
    with pytest.raises(ValueError, match="comes through apt-get, which is not on this system"):
        get.get("gimp-help", tmp_path)
    monkeypatch.setattr(get.shutil, "which", lambda tool: tool)
    failed = subprocess.CompletedProcess([], 100, "", "W: x\nE: Unable to locate package gimp-help-en\n")
    monkeypatch.setattr(get.subprocess, "run", lambda *words, **how: failed)
    with pytest.raises(ValueError, match="Unable to locate package"):
        get.get("gimp-help", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == []


def test_the_listing_names_all():
    assert [line.split()[0] for line in get.listing().splitlines()] == [*get.SHIPPED, *get.CORPORA, *get.MODELS]
