"""The paper's table of 59 sets as data: whole, and wrong tables are refused."""

import dataclasses

import pytest

from vlmlab.data import sft_mixture
from vlmlab.data.sft_mixture import check, entry, of_subset, table
from vlmlab.data.sources import text


def test_the_table_is_the_papers():
    found = {e.name: e for e in table()}
    assert len(found) == 59 and sum(e.images > 0 for e in table()) == 50
    assert sum(e.percent for e in table()) == pytest.approx(99.98)
    assert len({e.category for e in table()}) == 10
    largest = max(table(), key=lambda e: e.percent)
    assert (largest.name, largest.percent, largest.answer_tokens) == ("OpenHermes-2.5", 12.73, 248_553_747)
    vqa = found["VQAv2"]
    assert (vqa.subset, vqa.images, vqa.pairs, vqa.answer_tokens) == ("vqav2", 82_772, 443_757, 1_595_929)
    assert found["WebSight"].percent == 0.28 and of_subset("robut_wtq").name == "WTQ"


def test_the_text_only_sets_are_those_that_can_be_read():
    assert {columns.entry for columns in text.sets().values()} == {e.name for e in table() if not e.images}


def changed(at, **values):
    entries = list(table())
    entries[at] = dataclasses.replace(entries[at], **values)
    return entries


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (table()[1:], "58 sets, 49 of them with pictures"),
        (changed(0, name="GSD"), "GSD is there twice"),
        (changed(3, subset="vqav2"), "vqav2 is there twice"),
        (changed(0, images=0), "VQAv2: a set has either pictures"),
        (changed(0, repository="else/where"), "VQAv2: a set has either pictures"),
        (changed(0, category="text only"), "VQAv2: a set has either pictures"),
        (changed(58, images=1), "Goat: a set has either pictures"),
        (changed(0, percent=0.0), "VQAv2: every set has"),
        (changed(0, percent=5.27), "add up to 99.53 %"),
    ],
)
def test_a_wrong_table_is_refused(entries, told):
    with pytest.raises(ValueError) as error:
        check(entries)
    assert told in str(error.value)


def test_a_number_that_is_none_is_named():
    row = dict.fromkeys(["category", "hub_dataset", "hub_config"], "") | {"dataset": "A", "images": "many"}
    with pytest.raises(ValueError, match=r"sft_mixture\.csv, A: .*many"):
        entry(row)
    with pytest.raises(ValueError, match=r"sft_mixture\.csv, B: 'category'"):
        entry({"dataset": "B"})


def test_a_set_has_pictures_where_it_has_a_subset():
    assert {e.repository for e in table() if e.subset} == {sft_mixture.CAULDRON}
