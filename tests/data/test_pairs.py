"""Pictures with captions from every layout: tars, parquet, a folder, a table; alt text or synthetic caption."""

import csv
import json

import pytest

from data import corpora
from vlmlab.data.sources import PairSource

ALT = ["DSC 0001 shop now", "buy kites"]
SYNTHETIC = ["a dog on grass", "two kites over the sea"]


def tars(folder):
    for shard in range(2):
        told = json.dumps({"url": f"u{shard}", "top_caption": SYNTHETIC[shard]}).encode()
        files = [(f"{shard:09}.jpg", corpora.png(shard)), (f"{shard:09}.json", told)]
        corpora.tar(folder / f"{shard:05}.tar", [*files, (f"{shard:09}.txt", ALT[shard].encode())])
    return {"path": folder / "*.tar"}


def parquet(folder):
    rows = [
        {"image": {"bytes": corpora.png(at), "path": None}, "text": ALT[at], "top_caption": SYNTHETIC[at], "meta": "{}"}
        for at in range(2)
    ]
    return {"path": corpora.parquet(folder / "pmd.parquet", rows)}


def beside(folder):
    (folder / "sub").mkdir()
    for at, stem in enumerate(["a.v1", "sub/b"]):
        (folder / f"{stem}.PNG").write_bytes(corpora.png(at))
        (folder / f"{stem}.txt").write_text(ALT[at])
        (folder / f"{stem}.json").write_text(json.dumps({"top_caption": SYNTHETIC[at]}))
    return {"path": folder}


def with_metadata(folder):
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "top_caption"])
        for at in range(2):
            (folder / f"{at}.png").write_bytes(corpora.png(at))
            writer.writerow([f"{at}.png", ALT[at], SYNTHETIC[at]])
    return {"path": folder, "image": "file_name"}


def table(folder):
    (folder / "pictures").mkdir()
    for at in range(2):
        (folder / "pictures" / f"{at}.png").write_bytes(corpora.png(at))
    rows = "".join(f"{at}.png\t{ALT[at]}\t{SYNTHETIC[at]}\n" for at in range(2))
    (folder / "pairs.tsv").write_text("URL\tTEXT\tblip\n" + rows)
    keys = {"image": "URL", "alt": "TEXT", "synthetic": "blip", "pictures": folder / "pictures"}
    return {"path": folder / "pairs.tsv", **keys}


@pytest.mark.parametrize("make", [tars, parquet, beside, with_metadata, table])
@pytest.mark.parametrize(("caption", "texts"), [("alt", ALT), ("synthetic", SYNTHETIC)])
def test_the_caption_that_the_recipe_chooses(tmp_path, make, caption, texts):
    found = corpora.source("pairs", caption=caption, **make(tmp_path))
    assert len(found) == 2 and isinstance(found, PairSource)
    for at in (1, 0):
        (message,) = found[at].messages
        picture, text = message.parts
        assert (message.role, text, corpora.shade(picture)) == ("text", texts[at], at)
        assert found.pair(at).title == texts[at] and corpora.shade(found.pair(at).picture) == at
    with pytest.raises(IndexError):
        found.pair(2)


def test_a_question_makes_it_a_conversation(tmp_path):
    found = corpora.source("pairs", question="What is this?", **parquet(tmp_path))
    asked, answered = found[1].messages
    assert (asked.role, asked.parts[1], answered.role, answered.parts) == (
        "user",
        "What is this?",
        "assistant",
        ("buy kites",),
    )


def test_pictures_by_url_stay_urls(tmp_path):
    path = corpora.parquet(tmp_path / "l.parquet", [{"URL": "https://example.org/1.jpg", "TEXT": "a"}])
    found = corpora.source("pairs", path=path, image="URL", alt="TEXT")
    assert found[0].pictures[0].source == "https://example.org/1.jpg"


def test_what_is_missing_is_named_with_file_and_row(tmp_path):
    corpora.tar(
        tmp_path / "a.tar",
        [
            ("0.jpg", corpora.png(0)),
            ("1.txt", b"no picture"),
            ("2.jpg", corpora.png(2)),
            ("2.txt", b" \n"),
            ("3.jpg", b""),
            ("3.txt", b"a"),
        ],
    )
    found = corpora.source("pairs", path=tmp_path / "a.tar")
    told = ["no column 'text'; there are 'image'", "no column 'image'", "'text' should be text", "should be bytes"]
    for at, message in enumerate(told):
        for use in (found.__getitem__, found.pair):
            with pytest.raises(ValueError) as error:
                use(at)
            assert f"a.tar, row {at}: " in str(error.value) and message in str(error.value)


def test_a_picture_in_a_folder_without_a_caption_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(corpora.png(0))
    with pytest.raises(ValueError, match=r"a\.png: there is no column 'text'"):
        corpora.source("pairs", path=tmp_path)[0]


def test_a_column_that_parquet_lacks_is_named_at_once(tmp_path):
    with pytest.raises(ValueError, match="no column 'blip'; there are 'image', 'text', 'top_caption', 'meta'"):
        corpora.source("pairs", caption="synthetic", synthetic="blip", **parquet(tmp_path))
