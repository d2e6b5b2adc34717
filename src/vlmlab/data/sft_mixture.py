"""The instruction mixture of the paper (Table 14): 59 sets, what each holds, and its share of the answer tokens."""

import csv
import dataclasses
import difflib
import functools
import importlib.resources
import tomllib
from collections.abc import Mapping, Sequence

CAULDRON = "HuggingFaceM4/the_cauldron"
"""Where the 50 sets with pictures are published together."""

ROUNDING = 0.005
"""How far a printed share may be from the exact one: the paper gives two decimals."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One set of the mixture. `subset` is its name in The Cauldron, empty for a set of text only.

    `answer_tokens` are those of its answers, once through the set; PlotQA's count is printed with decimals in the
    paper. `percent` is its share of the answer tokens in training.
    """

    name: str
    category: str
    repository: str
    subset: str
    images: int
    pairs: int
    answer_tokens: float
    percent: float


def entry(row: Mapping[str, str]) -> Entry:
    """An entry from a row of the table. Raises ValueError naming the set whose numbers cannot be read."""
    try:
        return Entry(
            row["dataset"],
            row["category"],
            row["hub_dataset"],
            row["hub_config"],
            int(row["images"]),
            int(row["question_answer_pairs"]),
            float(row["answer_tokens"]),
            float(row["mixture_percent"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"sft_mixture.csv, {row.get('dataset')}: {error}") from None


def check(entries: Sequence[Entry]) -> None:
    """Raises ValueError unless these are the paper's 59 sets: 50 with pictures, 9 of text, and all the shares.

    Names must be there once each, counts positive, and the shares add up to 100 as far as two decimals let them.
    """
    names, subsets = [e.name for e in entries], [e.subset for e in entries if e.subset]
    for several in (names, subsets):
        twice = next((name for at, name in enumerate(several) if name in several[:at]), None)
        if twice is not None:
            raise ValueError(f"{twice} is there twice")
    if (len(names), len(subsets)) != (59, 50):
        raise ValueError(f"{len(names)} sets, {len(subsets)} of them with pictures; there should be 59 and 50")
    for e in entries:
        with_pictures = (e.images > 0, bool(e.subset), e.repository == CAULDRON)
        if any(with_pictures) != all(with_pictures) or (e.category == "text only") == (e.images > 0):
            raise ValueError(f"{e.name}: a set has either pictures and a subset of {CAULDRON}, or neither")
        if min(e.pairs, e.answer_tokens, e.percent) <= 0:
            raise ValueError(f"{e.name}: every set has questions, answer tokens and a share")
    total = sum(e.percent for e in entries)
    if abs(total - 100) > len(entries) * ROUNDING:
        raise ValueError(f"the shares add up to {total:.2f} %, not to 100")


@functools.cache
def table() -> tuple[Entry, ...]:
    """The 59 sets, checked, in the order of the paper."""
    text = importlib.resources.files("vlmlab.data").joinpath("sft_mixture.csv").read_text(encoding="utf-8")
    entries = tuple(map(entry, csv.DictReader(text.splitlines())))
    check(entries)
    return entries


@functools.cache
def text_sets() -> Mapping[str, str]:
    """What the sets of text only are called in recipes, and in the table."""
    text = importlib.resources.files("vlmlab.data").joinpath("text_sets.toml").read_text(encoding="utf-8")
    return {name: columns["entry"] for name, columns in tomllib.loads(text).items()}


def of_subset(subset: str) -> Entry:
    """The set that is called `subset` in The Cauldron. Raises ValueError with the nearest right name."""
    known = {e.subset: e for e in table() if e.subset}
    if subset not in known:
        near = difflib.get_close_matches(subset, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"they are {', '.join(sorted(known))}"
        raise ValueError(f"The Cauldron has no subset {subset!r}; {hint}")
    return known[subset]
