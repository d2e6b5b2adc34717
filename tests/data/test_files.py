"""Rows of every format: the right one at every number, nothing lost unseen, and what is broken is named."""

import json
import random
import subprocess
import sys
import tarfile

import pytest

from data import corpora
from vlmlab.data import rows
from vlmlab.data.files import parquet
from vlmlab.data.files.json_array import JsonArray
from vlmlab.data.files.parquet import Groups, Parquet
from vlmlab.data.files.table import Table
from vlmlab.data.files.tar import Tar

NAMES = [f'a "{number}" {{[,\\ é\n' for number in range(7)]
OBJECTS = [{"number": number, "name": name} for number, name in enumerate(NAMES)]


def csv(path, delimiter=","):
    cells = [["number", "name"], *([str(o["number"]), '"' + o["name"].replace('"', '""') + '"'] for o in OBJECTS)]
    path.write_text("".join(delimiter.join(row) + "\r\n" for row in cells), encoding="utf-8-sig", newline="")
    return path


def tars(path):
    files = []
    for at, o in enumerate(OBJECTS):
        key = f"{'long-' * 30}{at:03}" if at == 3 else f"x/{at:03}"
        files += [(f"{key}.TXT", o["name"].encode()), (f"{key}.json", json.dumps(o).encode()), (f"{key}.npy", b"\0")]
    return corpora.tar(path, files)


MAKERS = {
    "rows.jsonl": lambda path: corpora.as_lines(path, OBJECTS),
    "rows.json": lambda path: corpora.as_json(path, OBJECTS),
    "more.json": lambda path: corpora.as_lines(path, OBJECTS),
    "rows.csv": csv,
    "rows.tsv": lambda path: csv(path, "\t"),
    "rows.parquet": lambda path: corpora.parquet(path, OBJECTS),
    "rows.tar": tars,
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_row_is_found_at_its_number_in_any_order(tmp_path, name):
    MAKERS[name](tmp_path / name)
    found = rows.open_rows(str(tmp_path / name), "train")
    assert len(found) == len(OBJECTS)
    numbers = [*range(7), *random.Random(0).sample(range(7), 7)]
    for number in numbers:
        row = found[number]
        assert (int(row["number"]), row["name"]) == (number, NAMES[number])
        assert row.place == f"{tmp_path / name}, row {number}" and row.folder == tmp_path
    for past in (7, -1):
        with pytest.raises(IndexError):
            found[past]


def test_many_files_are_one_list_in_the_order_of_their_names(tmp_path):
    for part in (10, 2, 0):
        corpora.as_lines(tmp_path / f"train-{part:02}.jsonl", [{"n": part + at} for at in range(2)])
    (tmp_path / "train-05.jsonl").write_text("")
    corpora.as_lines(tmp_path / "test-00.jsonl", [{"n": 99}])
    found = rows.open_rows(str(tmp_path / "{split}-*.jsonl"), "train")
    assert [found[at]["n"] for at in range(len(found))] == [0, 1, 2, 3, 10, 11]
    assert found[5].place.endswith("train-10.jsonl, row 1")
    assert len(rows.open_rows(str(tmp_path / "{split}-*.jsonl"), "test")) == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone.jsonl", "no such file"),
        ("gone-*.jsonl", "no file is called"),
        ("empty.jsonl", "holds no samples"),
        ("notes.md", "is none of .csv, .json, .jsonl, .parquet, .tar, .tsv"),
    ],
)
def test_a_path_that_leads_nowhere(tmp_path, name, told):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(ValueError, match=told) as error:
        rows.open_rows(str(tmp_path / name), "train")
    assert name in str(error.value)


def test_parquet_reads_the_columns_asked_for_and_one_group_at_a_time(tmp_path, monkeypatch):
    path = corpora.parquet(tmp_path / "a.parquet", [{"n": at, "picture": bytes(1000)} for at in range(9)], group=3)
    groups = Groups(limit=1 << 20)
    monkeypatch.setattr(parquet, "_GROUPS", groups)
    file = Parquet(path, ["n"])
    assert [file.values(at) for at in (4, 5, 3)] == [{"n": 4}, {"n": 5}, {"n": 3}]
    assert [key[2] for key in groups.kept] == [1]
    with pytest.raises(ValueError, match=r"a\.parquet: there is no column 'm'; there are 'n', 'picture'"):
        Parquet(path, ["m"])


def test_what_parquet_keeps_is_bounded(tmp_path, monkeypatch):
    path = corpora.parquet(tmp_path / "a.parquet", [{"picture": random.randbytes(1000)} for at in range(40)], group=4)
    groups = Groups(limit=10_000)
    monkeypatch.setattr(parquet, "_GROUPS", groups)
    file = Parquet(path)
    for at in range(40):
        file.values(at)
        assert 0 < groups.held <= 10_000
        assert groups.held == sum(table.nbytes for table in groups.kept.values())
    assert len(groups.kept) == 2


def test_a_row_group_too_large_to_keep_is_read_in_pieces(tmp_path, monkeypatch):
    data = [random.randbytes(1000) for _ in range(50)]
    path = corpora.parquet(tmp_path / "a.parquet", [{"picture": picture} for picture in data], group=30)
    groups = Groups(limit=10_000)
    monkeypatch.setattr(parquet, "_GROUPS", groups)
    file = Parquet(path)
    assert [file.values(at)["picture"] for at in (29, 30, 0, 49)] == [data[at] for at in (29, 30, 0, 49)]
    assert not groups.kept


def test_a_process_forked_while_a_thread_reads_can_read_too(tmp_path):
    path = corpora.parquet(tmp_path / "a.parquet", OBJECTS)
    code = (
        "import os, signal; from pathlib import Path; from vlmlab.data.files import parquet\n"
        f"file = parquet.Parquet(Path({str(path)!r})); file.values(0)\n"
        "parquet._GROUPS.lock.acquire(); child = os.fork()\n"
        "if not child: signal.alarm(20); os._exit(file.values(6)['number'])\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "6", done.stdout + done.stderr


def test_damaged_parquet_is_named(tmp_path):
    whole = corpora.parquet(tmp_path / "whole.parquet", [{"t": random.randbytes(200)} for _ in range(4)]).read_bytes()
    cut, changed = tmp_path / "cut.parquet", tmp_path / "changed.parquet"
    cut.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"cut\.parquet: "):
        Parquet(cut)
    changed.write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    file = Parquet(changed)
    with pytest.raises(ValueError, match=r"changed\.parquet, row 1: "):
        file.row(1)
    assert file.row(2)["t"]


def test_parquet_says_what_to_install(tmp_path, monkeypatch):
    path = corpora.parquet(tmp_path / "a.parquet", OBJECTS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install 'vlmlab\[data\]'"):
        Parquet(path)


def test_pyarrow_is_imported_only_to_read_parquet(tmp_path):
    corpora.as_lines(tmp_path / "a.jsonl", [{"text": "x"}])
    code = (
        "import sys; from vlmlab.data.sources import jsonl, pairs, cauldron, documents\n"
        f"jsonl.Config(path={str(tmp_path / 'a.jsonl')!r}).build()[0]; print('pyarrow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_a_tar_groups_neighbours_by_name_up_to_the_first_dot(tmp_path):
    path = corpora.tar(
        tmp_path / "a.tar",
        [
            ("d/1.jpg", corpora.png(1)),
            ("d/1.json", b'{"text": "told", "url": "u"}'),
            ("d/1.txt", "wörds".encode()),
            ("e/1.txt", b"another folder"),
            ("e/1.seg.png", b"s"),
            ("e/1.txt", b"the same name once more"),
        ],
    )
    file = Tar(path)
    assert [set(file.values(at)) for at in range(len(file))] == [
        {"image", "url", "text"},
        {"text", "seg.png"},
        {"text"},
    ]
    assert file.values(0)["text"] == "wörds" and file.values(2)["text"] == "the same name once more"


def test_folders_in_a_tar_are_no_rows(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.txt").write_text("one")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "d", "d")
    assert [Tar(tmp_path / "a.tar").values(0)] == [{"text": "one"}]


@pytest.mark.parametrize("at", range(0, 9 * 1024, 512))
def test_a_tar_that_is_cut_short_loses_no_row_unseen(tmp_path, at):
    whole = tars(tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: at + 300])
    with pytest.raises(ValueError, match=r"cut\.tar: "):
        Tar(tmp_path / "cut.tar")
    (tmp_path / "cut.tar").write_bytes(whole[:at])
    with pytest.raises(ValueError, match=r"cut\.tar: "):
        Tar(tmp_path / "cut.tar")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    data = bytearray(tars(tmp_path / "a.tar").read_bytes())
    data[4 * 512 + 10] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match="damaged at byte 2048"):
        Tar(tmp_path / "a.tar")


def test_broken_parts_of_a_tar_are_named(tmp_path):
    files = [("0.txt", b"\xff"), ("1.json", b"{"), ("2.json", b"[]"), ("3.txt", b"well")]
    found = rows.open_rows(str(corpora.tar(tmp_path / "a.tar", files)), "train")
    for number in range(3):
        with pytest.raises(ValueError, match=rf"a\.tar, row {number}: "):
            found[number]
    assert found[3]["text"] == "well"
    with pytest.raises(ValueError, match="unpack it first"):
        (tmp_path / "b.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
        Tar(tmp_path / "b.tar")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("  ", "no JSON"),
        ('[{"a": 1}', "cut short"),
        ('[{"a": "1}]', "cut short"),
        ('[{"a": 1}, 7, {"a": 2}]', "only objects can be rows, not b', 7,'"),
        ('[{"a": 1} {"a": 2}]', "only objects"),
        ('[{"a": 1}, null]', "only objects"),
        ('["a"]', "only objects"),
        ('{"a": 1}, {"a": 2}', "only objects"),
    ],
)
def test_json_that_is_no_list_of_objects(tmp_path, text, told):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError) as error:
        JsonArray(tmp_path / "a.json")
    assert str(error.value).startswith(f"{tmp_path / 'a.json'}: ") and told in str(error.value)


def test_json_with_an_object_that_cannot_be_read(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1}, {"a": nix}, [2], {"a": [{}, "]"]}]')
    file = JsonArray(tmp_path / "a.json")
    assert len(file) == 4 and file.row(3)["a"] == [{}, "]"]
    for number in (1, 2):
        with pytest.raises(ValueError, match=rf"a\.json, row {number}: "):
            file.row(number)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "should name the columns"),
        ("a,b,a\n", "two columns are called 'a'"),
        ('a,b\n1,"2\n3,4\n', "never closed, in the row that begins at byte 4"),
    ],
)
def test_a_table_without_sense(tmp_path, text, told):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=told):
        Table(tmp_path / "a.csv")


def test_a_row_of_a_table_with_too_many_values(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n\n1,2\n1,2,3\n5,6")
    file = Table(tmp_path / "a.csv")
    assert [dict(file.values(at)) for at in (0, 2)] == [{"a": "1", "b": "2"}, {"a": "5", "b": "6"}]
    with pytest.raises(ValueError, match=r"a\.csv, row 1: it has 3 values, the header names 2"):
        file.row(1)


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    row = rows.open_rows(str(corpora.as_lines(tmp_path / "a.jsonl", [{"a": 1, "b": ""}])), "train")[0]
    with pytest.raises(ValueError, match="no column 'c'; there are 'a', 'b'"):
        row["c"]
    for use in (row.text, row.items):
        with pytest.raises(ValueError, match="column 'b' should be"):
            use("b")
