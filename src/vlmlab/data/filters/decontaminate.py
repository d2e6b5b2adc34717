"""Decontamination: samples that hold a picture or a passage of an evaluation set.

A picture is compared in two steps: by a perceptual hash of 64 bits (signs of the lowest frequencies of its brightness),
which finds what may be the same, and then as a small picture, point by point, which decides. Hashes of several lightly
cropped versions of each evaluation picture are held, so that a crop of it is found as well, and what was cropped is
then sought exactly: small things on a plain ground are nowhere near themselves when they are a little off.

A passage is the same when so many words in a row are, whatever their case and punctuation; Brown et al. 2020
(appendix C) use 13. A question and its answer that are shorter, and come without a picture, are the same when all of
their words are: with a picture, the picture decides.
"""

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator

import numpy as np
import PIL.Image
from einops import rearrange
from jaxtyping import Float, UInt8, UInt64

from vlmlab.batch import Picture, Sample
from vlmlab.data.filters import Filter, FilterConfig, Reason, said
from vlmlab.data.sources import SourceConfig
from vlmlab.processor.decode import open_picture

_SIDE = 32  # of the small picture that is compared
_KEPT = 64  # of what is kept of an evaluation picture, from which crops are made
_FLAT = 4.0  # a picture whose brightness strays less than this, of 255, shows nothing that could be recognised
_CROP = 0.05  # of a side, at most, that is cut from each evaluation picture

_CLOSEST = 20  # pictures, at most, that are compared point by point with one
_FEWEST = 5  # words that tell a short question and its answer from small talk

Crop = tuple[float, float, float, float]
"""What is cut off a picture: left, top, right, bottom, as shares of its sides."""

# The crops that are hashed, in shares of `_CROP`.
_CROPS: tuple[Crop, ...] = (
    (0.0, 0.0, 0.0, 0.0),
    (0.5, 0.5, 0.5, 0.5),
    (1.0, 1.0, 1.0, 1.0),
    (1.0, 0.0, 0.0, 0.0),
    (0.0, 1.0, 0.0, 0.0),
    (0.0, 0.0, 1.0, 0.0),
    (0.0, 0.0, 0.0, 1.0),
    (1.0, 1.0, 0.0, 0.0),
    (0.0, 1.0, 1.0, 0.0),
    (0.0, 0.0, 1.0, 1.0),
    (1.0, 0.0, 0.0, 1.0),
)

_SCALED: tuple[Crop, ...] = tuple((a * _CROP, b * _CROP, c * _CROP, d * _CROP) for a, b, c, d in _CROPS)


@dataclasses.dataclass(frozen=True)
class Config(FilterConfig):
    """`evaluation` are the sources that are measured on, in full.

    Two pictures may be the same when their hashes differ in `bits` of 64 at most (chance gives 32), and are when their
    small versions correlate by `alike` or more, 1 being the same but for brightness and contrast. Two texts share a
    passage when `words` words in a row are the same.
    """

    evaluation: tuple[SourceConfig, ...] = dataclasses.field(kw_only=True)
    bits: int = 20
    alike: float = 0.95
    words: int = 13

    def __post_init__(self) -> None:
        if not self.evaluation:
            raise ValueError("evaluation is empty: name a source that is measured on")
        if not 0 <= self.bits <= 64 or not 0 < self.alike <= 1 or self.words < 1:
            raise ValueError("needs bits of 0 to 64, alike above 0 and up to 1, and words of 1 or more")


class Held:
    """What an evaluation set holds, to find it again: its pictures and passages, each by the numbers of its samples.

    `bits`, `alike` and `words` are those of `Config`. About 5 kB are held for each picture.
    """

    def __init__(self, samples: Iterable[Sample], bits: int = 20, alike: float = 0.95, words: int = 13) -> None:
        self.bits, self.alike, self.words = bits, alike, words
        self.pictures: list[tuple[list[int], str, PIL.Image.Image]] = []
        self.passages: dict[int, list[int]] = {}
        hashes: list[int] = []
        places: dict[bytes, int] = {}
        for number, sample in enumerate(samples):
            for picture in sample.pictures:
                small = shrunk(picture)
                place = places.get(small.tobytes())
                if place is not None:
                    self.pictures[place][0].append(number)
                elif np.asarray(small).std() >= _FLAT:
                    places[small.tobytes()] = len(self.pictures)
                    self.pictures.append(([number], picture.name, small))
                    hashes += [perceptual_hash(view(small, crop)) for crop in _SCALED]
            for run in _runs(said(sample), words) or _short(sample, words):
                numbers = self.passages.setdefault(_number(run), [])
                if numbers[-1:] != [number]:
                    numbers.append(number)
        self.hashes = np.array(hashes, np.uint64)

    def fingerprint(self) -> str:
        """A hash of the pictures, by what they are compared by, and the passages."""
        told = hashlib.sha256(self.hashes.tobytes())
        for _, name, small in self.pictures:
            told.update(name.encode() + b"\0" + small.tobytes())
        for number in sorted(self.passages):
            told.update(number.to_bytes(8))
        return told.hexdigest()

    def find(self, sample: Sample) -> Iterator[tuple[int, Reason]]:
        """The samples whose picture or passage another sample holds, and which; one may be found more than once.

        Raises ValueError where a picture cannot be read.
        """
        for picture in sample.pictures:
            for numbers, name in self._same(picture):
                for number in numbers:
                    yield number, Reason("picture", f"{picture.name} is {name}")
        for run in _runs(said(sample), self.words) + _short(sample, self.words):
            for number in self.passages.get(_number(run), ()):
                yield number, Reason("text", run)

    def _same(self, picture: Picture) -> Iterator[tuple[list[int], str]]:
        """The pictures that it is a copy of, the most likely first: whose they are, and their names."""
        small = shrunk(picture)
        if not self.pictures or np.asarray(small).std() < _FLAT:
            return
        seen = view(small, _CROPS[0])
        apart = distances(self.hashes, perceptual_hash(seen)).reshape(len(self.pictures), len(_CROPS))
        nearest = apart.min(1)
        for place in np.argsort(nearest, kind="stable")[:_CLOSEST].tolist():
            numbers, name, kept = self.pictures[place]
            if nearest[place] > self.bits:
                return
            if aligned(seen, kept, _SCALED[int(apart[place].argmin())]) >= self.alike:
                yield numbers, name


class Decontaminate(Filter):
    """Drops a sample that shares a picture or a passage with an evaluation set."""

    def __init__(self, config: Config) -> None:
        """Reads the evaluation sets, once."""
        sources = [each.build() for each in config.evaluation]
        samples = (source[index] for source in sources for index in range(len(source)))
        self.held = Held(samples, config.bits, config.alike, config.words)

    def fingerprint(self) -> str:
        """A hash of what the evaluation sets hold."""
        return self.held.fingerprint()

    def why_not(self, sample: Sample) -> Reason | None:
        """Reasons: `picture`, `text`."""
        return next((reason for _, reason in self.held.find(sample)), None)


def shrunk(picture: Picture) -> PIL.Image.Image:
    """The brightness of a picture, 64 pixels square, whatever its own shape."""
    # Averaged, as it is made smaller: a picture that was made smaller before gives the same.
    return open_picture(picture).convert("L").resize((_KEPT, _KEPT), PIL.Image.Resampling.BOX)


def view(small: PIL.Image.Image, crop: Crop) -> Float[np.ndarray, "side side"]:
    """What is left of a small picture when its edges are cut off, 32 pixels square, 0 to 255."""
    left, top, right, bottom = (share * _KEPT for share in crop)
    box = (left, top, _KEPT - right, _KEPT - bottom)
    return np.asarray(small.resize((_SIDE, _SIDE), PIL.Image.Resampling.BOX, box), np.float64)


def aligned(seen: Float[np.ndarray, "side side"], kept: PIL.Image.Image, crop: Crop) -> float:
    """The correlation of a picture with the crop of another that is most like it, sought from `crop` on."""
    best = correlation(seen, view(kept, crop))
    for step in (_CROP / 2, _CROP / 4, _CROP / 10):
        better = True
        while better:
            better = False
            for edge, way in itertools.product(range(4), (step, -step)):
                moved = min(max(crop[edge] + way, 0.0), 1.2 * _CROP)
                trial = (*crop[:edge], moved, *crop[edge + 1 :])
                score = correlation(seen, view(kept, (trial[0], trial[1], trial[2], trial[3])))
                if score > best + 1e-6:
                    best, crop, better = score, (trial[0], trial[1], trial[2], trial[3]), True
    return best


@functools.cache
def _waves() -> Float[np.ndarray, "frequency side"]:
    """The eight lowest waves of a discrete cosine transform (type II), the constant one left out."""
    across = np.arange(_SIDE) + 0.5
    return np.cos(np.pi / _SIDE * np.outer(np.arange(1, 9), across))


def perceptual_hash(small: Float[np.ndarray, "side side"]) -> int:
    """64 bits, one for each pair of a wave across and one down: whether it is stronger than half of them are."""
    strength = rearrange(_waves() @ small @ _waves().T, "down across -> (down across)")
    bits = strength > np.median(strength)
    return int("".join("1" if bit else "0" for bit in bits), 2)


def distances(hashes: UInt64[np.ndarray, " x"], one: int) -> UInt8[np.ndarray, " x"]:
    """In how many bits each of `hashes` differs from one."""
    differing = np.bitwise_xor(hashes, np.uint64(one))
    return np.unpackbits(differing.view(np.uint8).reshape(-1, 8), axis=1).sum(1, dtype=np.uint8)


def correlation(one: Float[np.ndarray, "side side"], other: Float[np.ndarray, "side side"]) -> float:
    """Pearson's correlation of two pictures' points."""
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum() + 1e-9))


def _short(sample: Sample, length: int) -> list[str]:
    """Each turn with its answer, of a sample without pictures, that has fewer than so many words, and five or more."""
    if sample.pictures:
        return []
    turns = [" ".join(part for part in message.parts if isinstance(part, str)) for message in sample.messages]
    texts = [f"{one} {other}" for one, other in itertools.pairwise(turns)] or turns
    found = (re.findall(r"\w+", text.casefold()) for text in texts)
    return [" ".join(words) for words in found if _FEWEST <= len(words) < length]


def _runs(text: str, length: int) -> list[str]:
    """Every so many words in a row, without case and punctuation."""
    words = re.findall(r"\w+", text.casefold())
    return [" ".join(words[start : start + length]) for start in range(len(words) - length + 1)]


def _number(run: str) -> int:
    """64 bits for a passage: less to hold than its words."""
    return int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest())


PLUGIN = Decontaminate
