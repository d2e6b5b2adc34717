"""COCO captions: Karpathy's file and the hub's, what is asked, what an identical caption scores."""

import json

import pyarrow as pa
import pytest

from evaluate.benchmarks import layouts
from vlmlab import component
from vlmlab.evaluate import metrics
from vlmlab.evaluate.benchmarks import BenchmarkConfig


def made(path, **keys):
    return component.parse(BenchmarkConfig, {"name": "coco", "path": str(path), **keys}).build()


def test_karpathy_s_file(tmp_path):
    benchmark = made(layouts.coco(tmp_path))
    assert [benchmark.question(at).id for at in range(len(benchmark))] == [
        "1000",
        "1003",
        "1006",
        "1009",
        "1012",
        "1015",
    ]
    question = benchmark.question(1)
    assert question.reference.answers == (layouts.caption(3),) * 5
    assert question.pictures[0].source == tmp_path / "val2014" / "COCO_val2014_000000000003.jpg"
    assert benchmark.ask(question).messages[0].parts == (question.pictures[0], "Describe the image briefly.")


def test_a_base_model_goes_on_after_caption(tmp_path):
    benchmark = made(layouts.coco(tmp_path), form="document", shots=2)
    (message,) = benchmark.ask(benchmark.question(0)).messages
    shown = benchmark.examples(benchmark.question(0))
    words = [part for part in message.parts if isinstance(part, str)]
    assert words == [
        "Image:",
        *(f"Caption: {one.reference.answers[0]}\nImage:" for one in shown),
        "Caption:",
    ]
    assert "Caption" in benchmark.stop and "Question" not in benchmark.stop


def test_pictures_elsewhere(tmp_path):
    layouts.coco(tmp_path / "coco")
    (tmp_path / "coco" / "dataset_coco.json").rename(tmp_path / "dataset_coco.json")
    source = made(tmp_path, images=str(tmp_path / "coco")).question(1).pictures[0].source
    assert source == tmp_path / "coco" / "val2014" / "COCO_val2014_000000000003.jpg"
    (tmp_path / "coco" / "lists").mkdir()
    (tmp_path / "dataset_coco.json").rename(tmp_path / "coco" / "lists" / "dataset_coco.json")
    assert made(tmp_path / "coco").question(1).pictures[0].source == source


def test_the_hub_s_files_with_pictures(tmp_path):
    columns = {"image": layouts.IMAGE, "sentences_raw": layouts.TEXTS, "cocoid": pa.int32(), "split": pa.string()}
    rows = [{"image": layouts.image(at), "sentences_raw": [layouts.caption(at)], "cocoid": at} for at in range(2)]
    layouts.parquet(tmp_path / "2014_captions" / "test" / "0000.parquet", columns, rows)
    layouts.parquet(tmp_path / "2017" / "test" / "0000.parquet", columns, rows)
    benchmark = made(tmp_path)
    assert len(benchmark) == 2 and benchmark.question(1).reference.answers == (layouts.caption(1),)
    assert benchmark.question(0).id == "0" and benchmark.question(1).pictures[0].source == layouts.png(1)


def test_the_hub_s_files_without_pictures_need_them(tmp_path):
    columns = {
        **{"filepath": pa.string(), "filename": pa.string(), "imgid": pa.int32(), "split": pa.string()},
        **{"sentences": layouts.TEXTS, "cocoid": pa.int32(), "url": pa.string()},
    }
    row = {"filepath": "val2014", "filename": "a.jpg", "sentences": ["a", "b"], "cocoid": 5, "url": "http://x/a.jpg"}
    layouts.parquet(tmp_path / "data" / "test-00000-of-00001.parquet", columns, [row])
    with pytest.raises(ValueError, match=r"row 0: it has no picture, only a URL: give the folder .* as `images`"):
        made(tmp_path).question(0)
    picture = layouts.picture(tmp_path / "pictures" / "val2014" / "a.jpg", 1)
    question = made(tmp_path, images=str(tmp_path / "pictures")).question(0)
    assert question.pictures[0].source == picture and question.reference.answers == ("a", "b")


def test_the_published_figure_is_a_thousand_times_the_score(tmp_path):
    benchmark = made(layouts.coco(tmp_path))
    questions = [benchmark.question(at) for at in range(6)]
    scores = benchmark.score([one.reference.answers[0] for one in questions], questions)
    assert metrics.get("cider").published * scores[0].value == pytest.approx(1000)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"sentences": []}, "row 3: it has no captions"),
        ({"sentences": [{"tokens": []}]}, "row 3: column 'sentences'"),
        ({"cocoid": None}, "row 3: column 'cocoid'"),
        ({"filename": 3}, "row 3: column 'filename'"),
    ],
)
def test_a_damaged_entry_is_named_by_its_place_in_the_file(tmp_path, changed, told):
    path = layouts.coco(tmp_path) / "dataset_coco.json"
    listed = json.loads(path.read_text())
    listed["images"][3].update(changed)
    path.write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=rf"dataset_coco\.json, {told}"):
        made(tmp_path).question(1)


def test_an_entry_that_is_no_object_is_named(tmp_path):
    path = layouts.coco(tmp_path) / "dataset_coco.json"
    listed = json.loads(path.read_text())
    listed["images"][0] = "x"
    path.write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=r"dataset_coco\.json, row 0: an entry should be a JSON object"):
        made(tmp_path).question(0)
