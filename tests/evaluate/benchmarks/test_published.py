"""Where published benchmarks lie: folders, single files, hub ids; and what is common to their answers."""

from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from evaluate.benchmarks import layouts
from vlmlab import component
from vlmlab.evaluate.benchmarks import BenchmarkConfig, spread_over_kinds
from vlmlab.evaluate.published import label, texts


def made(name: str, path: Any, **keys: Any) -> Any:
    return component.parse(BenchmarkConfig, {"name": name, "path": str(path), **keys}).build()


def test_a_hub_id_is_fetched_without_the_other_splits(tmp_path, monkeypatch):
    layouts.docvqa(tmp_path)
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    benchmark = made("docvqa", "lmms-lab/DocVQA", split="validation", revision="main")
    assert len(benchmark) == 6
    patterns = asked.pop("allow_patterns")
    assert asked == {"name": "lmms-lab/DocVQA", "revision": "main", "repo_type": "dataset"}
    there = [
        *("DocVQA/validation-00000-of-00006.parquet", "DocVQA/test-00000-of-00006.parquet"),
        *("InfographicVQA/validation-00000-of-00001.parquet", "data/validation-00000-of-00002.parquet"),
        *("val_v1.0.json", "README.md", "DocVQA.py", "images.zip", "model.bin"),
    ]
    assert list(huggingface_hub.utils.filter_repo_objects(there, allow_patterns=patterns)) == [
        "DocVQA/validation-00000-of-00006.parquet",
        "data/validation-00000-of-00002.parquet",
        "val_v1.0.json",
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            errors.LocalEntryNotFoundError("no network"),
            r"cannot fetch a/b from the hub \(no network\): .* a local folder",
        ),
        (OSError("name not known"), "give a local folder that holds its files"),
    ],
)
def test_the_hub_cannot_give_it(monkeypatch, error, told):
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=told):
        made("vqav2", "a/b")


def test_what_is_neither_a_folder_nor_a_hub_id_is_told():
    with pytest.raises(ValueError, match="vqav2: no/such/folder is no folder, no file, and no hub id"):
        made("vqav2", "no/such/folder")


@pytest.mark.parametrize(
    "place", ["default/validation/0000.parquet", "validation.parquet", "textvqa/validation/0000.parquet"]
)
def test_layouts_of_the_hub(tmp_path, place):
    layouts.textvqa(tmp_path / "from")
    (file,) = (tmp_path / "from").rglob("validation*")
    target = tmp_path / "to" / place
    target.parent.mkdir(parents=True)
    file.rename(target)
    assert made("textvqa", tmp_path / "to").question(2).id == "202"


def test_one_split_is_not_taken_for_another(tmp_path):
    """`test` is no part of `testdev` and `testmini`, nor `val` of `validation`."""
    layouts.vqav2(tmp_path)
    with pytest.raises(ValueError, match="no files of the split 'test'"):
        made("vqav2", tmp_path, split="test")


def test_the_name_of_the_whole_folder_says_nothing(tmp_path):
    layouts.textvqa(tmp_path / "validation")
    (tmp_path / "validation" / "data" / "train-00000-of-00001.parquet").rename(
        tmp_path / "validation" / "train-0.parquet"
    )
    assert len(made("textvqa", tmp_path / "validation")) == 6


def test_a_revision_is_of_the_path_and_not_of_the_pool(tmp_path, monkeypatch):
    layouts.textvqa(tmp_path)
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **options: Any) -> str:
        asked[name] = options["revision"]
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    made("textvqa", "a/b", shots=1, revision="refs/convert/parquet")
    assert asked == {"a/b": "refs/convert/parquet"}
    made("textvqa", "a/b", shots=1, revision="v1", pool="c/d")
    assert asked == {"a/b": "v1", "c/d": None}


def test_a_single_file_is_the_split_and_no_pool(tmp_path):
    layouts.textvqa(tmp_path)
    (file,) = (tmp_path / "data").glob("validation*")
    assert len(made("textvqa", file)) == 6
    with pytest.raises(ValueError, match="examples come from train, say where it lies with `pool`"):
        made("textvqa", file, shots=2)
    assert made("textvqa", file, shots=2, pool=str(tmp_path)).pool_count() == 6


def test_a_spread_counts_every_kind_once():
    assert spread_over_kinds([1.0, 1.0, 1.0, 0.0], ["a", "a", "b", "c"]) == pytest.approx(
        0.47140452
    )  # numpy.std([1, 1, 0])
    assert spread_over_kinds([1.0, 0.0], ["a", "a"]) == 0
    with pytest.raises(ValueError, match="at least one score"):
        spread_over_kinds([], [])


def test_labels_and_texts_that_are_none():
    assert label(1, ("human", "machine"), "by") == label("machine", ("human", "machine"), "by") == "machine"
    for wrong in (2, -1, True, None, "Human"):
        with pytest.raises(ValueError, match="column 'by' should be a number below 2 or one of human, machine"):
            label(wrong, ("human", "machine"), "by")
    assert texts(["", " "], "answers") == texts(None, "answers") == ()
    with pytest.raises(ValueError, match="column 'answers' should be"):
        texts(["a", None], "answers")
