"""Rules for pictures: too small, too large, too long and thin, too many. Icons and banners are no use to learn from.

The pixels are not decoded: a file's head says how large its picture is. OBELICS keeps sides of 150 to 20,000 pixels and
ratios of 1 to 2 either way, and at most 30 pictures to a document; the defaults are the first and last of those, and
wider for the ratio, so that lines of text and tall screenshots pass.
"""

import dataclasses
import io
import warnings
from pathlib import Path

import PIL.Image

from vlmlab.batch import Picture, Sample
from vlmlab.data.filters import Filter, FilterConfig, Reason
from vlmlab.processor.decode import read


@dataclasses.dataclass(frozen=True)
class Config(FilterConfig):
    """`least` and `most`, of either side in pixels; `ratio`, of the longer to the shorter; `count`, to a sample."""

    least: int = 150
    most: int = 20_000
    ratio: float = 5.0
    count: int = 30

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most or self.ratio < 1 or self.count < 0:
            raise ValueError("needs 0 < least <= most, a ratio of 1 or more, and a count of 0 or more")


class Pictures(Filter):
    """Drops a sample for the first of its pictures that breaks a rule, or for having too many."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def why_not(self, sample: Sample) -> Reason | None:
        """Reasons: `too many`, `too small`, `too large`, `too long`."""
        rules, pictures = self.config, sample.pictures
        if len(pictures) > rules.count:
            return Reason("too many", f"{len(pictures)} pictures")
        for picture in pictures:
            short, long = sorted(size(picture))
            detail = f"{picture.name}: {short} by {long} pixels"
            if short < rules.least:
                return Reason("too small", detail)
            if long > rules.most:
                return Reason("too large", detail)
            if long > rules.ratio * short:
                return Reason("too long", detail)
        return None


def size(picture: Picture) -> tuple[int, int]:
    """Width and height as the file's head has them. Raises ValueError naming a picture that is none."""
    source = picture.source
    if isinstance(source, str | Path):
        source = read(str(source), None, picture.name)
    if not isinstance(source, bytes):
        return source.size
    with warnings.catch_warnings():
        # Pillow warns of, and then refuses, pictures that would take a lot of memory; none is decoded here.
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        try:
            with PIL.Image.open(io.BytesIO(source)) as image:
                return image.size
        except PIL.Image.DecompressionBombError as error:
            raise ValueError(f"{picture.name}: too many pixels: {error}") from None
        except OSError as error:
            raise ValueError(f"{picture.name}: not a picture that can be read: {error}") from None


PLUGIN = Pictures
