"""Mixtures: shares in any unit, budgets by kind, and what recipes say of them."""

from fractions import Fraction

import numpy as np
import pytest

from train import tiny
from vlmlab.batch import Message, Picture, Sample
from vlmlab.component import parse, plain
from vlmlab.data.mixture import Ingredient, Mixture, MixtureConfig, Size, measured, shares
from vlmlab.data.reading import Reader, shelves
from vlmlab.data.sources import SourceConfig
from vlmlab.data.stream import Draw
from vlmlab.processor.processor import Encoded


def mixture(unit="samples", **weights: float) -> Mixture:
    sources = {name: Ingredient(tiny.Config(count=12), weight, tokens=32) for name, weight in weights.items()}
    return Mixture(parse_config(sources, unit))


def parse_config(sources, unit="samples") -> MixtureConfig:
    from vlmlab.data.sources import mixture as plugin

    return plugin.Config(sources=sources, unit=unit)


TABLE = {
    "name": "mixture",
    "unit": "answers",
    "sources": {
        "a": {"weight": 0.7, "tokens": 2048, "data": {"name": "scenes", "samples": 5}},
        "b": {
            "weight": 0.3,
            "kind": "pairs",
            "learn": "everything",
            "overlong": "split",
            "tokens": 1536,
            "augment": {"upscale": 0.7, "turns": True},
            "data": {"name": "train.tiny"},
        },
    },
}


def test_a_recipe_says_it_and_reads_it_back():
    config = parse(SourceConfig, TABLE)
    assert isinstance(config, MixtureConfig) and config.sources["b"].augment.turns
    assert parse(SourceConfig, plain(config)) == config
    source = config.build()
    assert len(source) == 5 + 24 and source[5] == tiny.Colours()[0]
    with pytest.raises(IndexError):
        source[29]
    with pytest.raises(ValueError, match=r"sources\.a\.wieght.*did you mean 'weight'"):
        parse(SourceConfig, {"name": "mixture", "sources": {"a": {"wieght": 1, "data": {"name": "scenes"}}}})


def test_shares_of_samples_are_the_weights_exactly():
    assert mixture(a=0.7, b=0.2, c=0.1).weights() == {"a": Fraction(7, 10), "b": Fraction(1, 5), "c": Fraction(1, 10)}
    both = mixture(a=45.0, b=35.0, c=20.0)
    assert shares(both, {}) == {"a": Fraction(9, 20), "b": Fraction(7, 20), "c": Fraction(1, 5)}
    assert list(mixture(a=1.0, b=0.0).sources) == ["a"]


@pytest.mark.parametrize("unit", ["rows", "images", "answers"])
def test_shares_of_other_units_become_shares_of_samples(unit):
    means = {"a": Size(1.0, 0.5, 1.0, 40.0, 64.0), "b": Size(1.0, 0.25, 8.0, 10.0, 32.0)}
    found = shares(mixture(unit, a=3.0, b=1.0), means)
    assert sum(found.values()) == 1
    amounts = {name: float(share) * means[name].of(unit) for name, share in found.items()}
    assert amounts["a"] / sum(amounts.values()) == pytest.approx(0.75, abs=1e-6)
    with pytest.raises(ValueError, match=f"'b' cannot have a share of {unit}"):
        shares(mixture(unit, a=3.0, b=1.0), {**means, "b": Size(1.0)})


def numbered(name: str, index: int) -> Size:
    return Size(samples=float(index))


def test_means_are_measured_through_the_processor():
    both = mixture(a=1.0, b=1.0)
    reader = Reader(shelves(both, "", "answers", 64), tiny.encode, tiny.IMAGE, 0)
    means = measured(both, 0, reader.size)
    # Each sample: a start, two image tokens, two of the question, two of the answer; the end is only predicted.
    assert means["a"] == means["b"] == Size(1.0, 7 / 32, 1.0, 3.0, 7.0)
    assert measured(both, 0, numbered) == measured(both, 0, numbered)


def test_what_cannot_be_used_counts_as_nothing():
    both = mixture(a=1.0)
    both.sources["a"] = Broken()
    reader = Reader(shelves(both, "", "answers", 64), tiny.encode, tiny.IMAGE, 0)
    assert measured(both, 0, reader.size)["a"].samples == pytest.approx(9 / 12)


class Broken(tiny.Colours):
    """Every fourth of its twelve samples cannot be read."""

    def __init__(self) -> None:
        super().__init__(12)

    def __getitem__(self, index):
        if index % 4 == 3:
            raise ValueError(f"shelf.tar, row {index}: not a picture")
        return super().__getitem__(index)


def test_sources_of_one_kind_share_a_budget():
    with pytest.raises(ValueError, match=r"a and b are of one kind, 'web'.*same tokens"):
        parse_config({n: Ingredient(tiny.Config(), tokens=t, kind="web") for n, t in (("a", 8), ("b", 9))})
    stock = shelves(mixture(a=1.0, b=1.0), "", "everything", 64)
    assert stock["a"].kind == "a" and stock["a"].row == 32 and stock["a"].learn == "everything"
    single = shelves(tiny.Colours(), "colours", "answers", 64)["colours"]
    assert (single.row, single.tokens, single.kind) == (64, 0, "colours")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weight": -1.0}, "weight must not be negative"),
        ({"tokens": -1}, "tokens must not be negative"),
        ({"overlong": "split"}, "needs `tokens`"),
    ],
)
def test_wrong_ingredients_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        Ingredient(tiny.Config(), **changes)
    with pytest.raises(ValueError, match="a weight above 0"):
        parse_config({"a": Ingredient(tiny.Config(), 0.0)})


def test_another_split_is_that_of_every_source():
    config = parse(SourceConfig, {**TABLE, "split": "validation"})
    built = config.build()
    assert built.sources["a"].made.split == "validation"


def letters(sample: Sample, learn, options) -> Encoded:
    """A token for each letter, two for each picture, of which there is one patch in its colour."""
    tokens, learned, patches = [1], [False], []
    for message in sample.messages:
        for part in message.parts:
            more = [tiny.IMAGE] * 2 if isinstance(part, Picture) else [10 + ord(letter) % 64 for letter in part]
            tokens += more
            learned += [learn == "everything" and not isinstance(part, Picture)] * len(more)
            if isinstance(part, Picture):
                import torch

                patches.append(torch.full((1, 3), part.source.getpixel((0, 0))[0], dtype=torch.uint8))
    return Encoded(tokens, learned, patches, [(1, 1)] * len(patches))


class Documents(tiny.Colours):
    """Texts of 4 to 48 letters, a picture before every second of their words."""

    def __getitem__(self, index):
        picture = tiny.Colours.pair(self, index).picture
        return Sample(
            (Message("text", tuple(p for n in range(index % 12 + 1) for p in ((picture,) * (n % 2) + ("abcd",)))),)
        )


@pytest.mark.parametrize("overlong", ["drop", "split"])
def test_what_is_too_long_is_dropped_or_cut_and_counted(overlong):
    both = mixture(a=1.0)
    both.sources["a"] = Documents(12)
    stock = shelves(both, "", "everything", 64)
    stock["a"] = type(stock["a"])(both.sources["a"], "a", "everything", 20, 20, overlong)
    reader = Reader(stock, letters, tiny.IMAGE, 0)
    for index in range(12):
        whole = letters(both.sources["a"][index], "everything", None)
        outcome = reader(Draw("a", index, 0))
        assert all(len(read.tokens) <= 20 for read in outcome.pieces) and not outcome.why
        if len(whole.tokens) - 1 <= 20:
            assert len(outcome.pieces) == 1 and not outcome.overlong
        elif overlong == "drop":
            assert not outcome.pieces and outcome.overlong == 1
        else:
            assert len(outcome.pieces) > 1 and not outcome.overlong
            # Every picture and every learned token once; each piece begins anew.
            assert sum(len(read.grid) for read in outcome.pieces) == len(whole.grid)
            assert sum(read.learned for read in outcome.pieces) == sum(whole.learned)
            assert all((read.tokens == tiny.IMAGE).sum() == 2 * len(read.grid) for read in outcome.pieces)


def test_a_row_that_cannot_be_read_says_why():
    both = mixture(a=1.0)
    both.sources["a"] = Broken()
    reader = Reader(shelves(both, "", "answers", 64), tiny.encode, tiny.IMAGE, 0)
    outcome = reader(Draw("a", 7, 2))
    assert outcome == ((), 0, "shelf.tar, row 7: not a picture")
    same = reader(Draw("a", 2, 0)).pieces[0]
    assert np.array_equal(same.tokens, reader(Draw("a", 2, 5)).pieces[0].tokens)
