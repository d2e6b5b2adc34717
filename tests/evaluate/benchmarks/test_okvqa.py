"""OK-VQA: raw answers or stemmed ones."""

import pytest

from evaluate.benchmarks import layouts
from vlmlab import component
from vlmlab.evaluate.benchmarks import BenchmarkConfig


def made(path, **keys):
    return component.parse(BenchmarkConfig, {"name": "okvqa", "path": str(path), **keys}).build()


def test_the_hub_s_validation_is_called_val2014(tmp_path):
    benchmark = made(layouts.okvqa(tmp_path))
    question = benchmark.question(3)
    assert (benchmark.split, question.id, question.kind) == ("validation", "203", "eight")
    assert question.reference.answers == ("grey",) * 10


def test_the_official_files_have_raw_answers_and_stemmed_ones(tmp_path):
    layouts.vqa_official(tmp_path, first="")
    assert made(tmp_path).question(3).reference.answers == ("greyish",) * 10
    assert made(tmp_path, stemmed=True).question(3).reference.answers == ("grey",) * 10
    assert made(tmp_path).question(3).pictures[0].source == tmp_path / "val2014" / "COCO_val2014_000000000003.jpg"


def test_answers_in_one_form_are_not_taken_for_stemmed(tmp_path):
    benchmark = made(layouts.okvqa(tmp_path), stemmed=True)
    with pytest.raises(ValueError, match=r"val2014-00000-of-00001\.parquet, row 0: its answers are in one form only"):
        benchmark.question(0)


def test_it_has_no_server(tmp_path):
    with pytest.raises(ValueError, match="okvqa has no server that scores answers"):
        made(layouts.okvqa(tmp_path)).submission({})
