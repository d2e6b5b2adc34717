"""What every source keeps: samples that the processor takes, unopened pictures, the same from any thread."""

import json
import re
import tomllib
from concurrent.futures import ThreadPoolExecutor

import PIL.Image
import pytest

from data import corpora
from data import test_pdf as pdfs
from house import tree
from processor.pictures import released
from vlmlab.component import parse
from vlmlab.data.filters import FilterConfig
from vlmlab.data.sources import SourceConfig


def cauldron(folder):
    turn = {"user": "What?", "assistant": "Grey.", "source": "x"}
    rows = [{"images": [{"bytes": corpora.png(at), "path": None}] * 2, "texts": [turn]} for at in range(8)]
    corpora.parquet(folder / "vsr" / "train-00000-of-00001.parquet", rows)
    return {"path": folder, "subset": "vsr"}


def documents(folder):
    (folder / "a.png").write_bytes(corpora.png(1))
    rows = [{"images": [None, "a.png", None], "texts": [f"{at} <image>", None, "</s>"]} for at in range(8)]
    return {"path": corpora.parquet(folder / "d.parquet", rows)}


def pairs(folder):
    files = [(f"{at}.{kind}", data) for at in range(8) for kind, data in [("png", corpora.png(at)), ("txt", b"grey")]]
    return {"path": corpora.tar(folder / "p.tar", files)}


def table(folder):
    (folder / "a.png").write_bytes(corpora.png(1))
    (folder / "t.csv").write_text("picture,question,answer\n" + "a.png,What?,Grey.\n,Two and two?,4\n" * 4)
    return {"path": folder / "t.csv"}


def text(folder):
    rows = [{"instruction": f"{at}?", "output": "4", "input": "", "answer": ""} for at in range(8)]
    return {"path": corpora.as_json(folder / "g.json", rows), "set": "goat"}


def dialogues(folder):
    (folder / "a.png").write_bytes(corpora.png(1))
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Grey."}]
    return {"path": corpora.as_json(folder / "l.json", [{"image": "a.png", "conversations": turns}] * 8)}


def jsonl(folder):
    (folder / "a.png").write_bytes(corpora.png(1))
    rows = [{"text": f"{at}<image>", "images": ["a.png"]} for at in range(8)]
    return {"path": corpora.as_lines(folder / "j.jsonl", rows)}


def websight(folder):
    rows = [{"image": {"bytes": corpora.png(at), "path": None}, "text": f"<p>{at}</p>"} for at in range(8)]
    return {"path": corpora.parquet(folder / "w.parquet", rows)}


def rendered_text(folder):
    told = json.dumps({"ocr_annotation": {"text": ["Joe."], "bounding_boxes": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}})
    kinds = [("png", corpora.png(1)), ("json", told.encode())]
    return {"path": corpora.tar(folder / "r.tar", [(f"{at}.{kind}", data) for at in range(8) for kind, data in kinds])}


def pdf(folder):
    told = json.dumps({"pages": [{"text": ["A page."]}]}).encode()
    shown = pdfs.written([(40, 100, "A page.")])
    files = [(f"{at}.{kind}", data) for at in range(8) for kind, data in [("pdf", shown), ("json", told)]]
    return {"path": corpora.tar(folder / "p.tar", files), "side": 64}


def mixture(folder):
    own = {"name": "jsonl", "path": str(jsonl(folder)["path"])}
    return {"sources": {"made": {"data": {"name": "scenes", "samples": 4}}, "own": {"data": own}}}


FILES = (cauldron, documents, pairs, table, text, dialogues, jsonl, websight, rendered_text, pdf)
SOURCES = {make.__name__: make for make in FILES}
MADE = ("scenes", "charts", "arithmetic", "typeset")


@pytest.fixture(params=[*SOURCES, *MADE, "mixture"])
def source(request, tmp_path):
    if request.param == "mixture":
        return corpora.source("mixture", **mixture(tmp_path))
    if request.param in MADE:
        return corpora.source(request.param, samples=8)
    return corpora.source(request.param, **SOURCES[request.param](tmp_path))


def test_every_sample_survives_the_processor(source, idefics2_tokenizer):
    processor = released(idefics2_tokenizer)
    for at in range(len(source)):
        batch = processor([source[at]], learn="everything")
        pictures = len(source[at].pictures)
        assert (0 if batch.images is None else len(batch.images.grid)) == pictures
        assert int((batch.tokens == processor.image_id).sum()) == 64 * pictures


def test_pictures_are_not_opened_to_make_samples(source, monkeypatch):
    monkeypatch.setattr(PIL.Image, "open", None)
    assert [source[at] for at in range(8)] == [source[at] for at in range(8)]


def test_any_thread_reads_the_same(source):
    numbers = [at % 8 for at in range(0, 240, 7)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(source.__getitem__, numbers)) == [source[at] for at in numbers]


def test_a_path_that_leads_nowhere_is_said_when_the_source_is_made(tmp_path):
    for name, make in SOURCES.items():
        keys = {**make(tmp_path), "path": tmp_path / "gone"}
        with pytest.raises(ValueError, match=r"data\.path: no"):
            corpora.source(name, **keys)


PAGE = (tree.ROOT / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_the_page_tells_to_write_can_be_read(example):
    told = tomllib.loads(example)
    assert told.keys() <= {"data", "filters"} and told
    if "data" in told:
        assert isinstance(parse(SourceConfig, told["data"], "data"), SourceConfig)
    for name, keys in told.get("filters", {}).items():
        assert isinstance(parse(FilterConfig, {"name": name, **keys}, name), FilterConfig)


def test_the_page_has_every_source_and_the_message_form(tmp_path):
    assert [name for name in (*SOURCES, *MADE, "mixture") if f"`{name}`" not in PAGE] == []
    form = json.loads(re.search(r'\{"type": "image_url".*?\}\}', PAGE).group())
    path = corpora.as_lines(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": [form]}]}])
    assert corpora.source("jsonl", path=path)[0].pictures[0].source == str(tmp_path / "kite.jpg")
