"""The instruction mixture of the paper (Table 14): The Cauldron's 50 subsets and nine sets of text, with their shares.

Shares are of answer tokens, as in the paper; they stand in `data/sft_mixture.csv`, so that a recipe names folders only.
"""

import dataclasses

from vlmlab.component import parse
from vlmlab.data.augment import Augment
from vlmlab.data.mixture import Ingredient, Mixed, Mixture, MixtureConfig
from vlmlab.data.sft_mixture import Entry, table, text_sets
from vlmlab.data.sources import SourceConfig

KIND = "instruct"


@dataclasses.dataclass(frozen=True)
class Config(Mixed):
    """`cauldron` is the folder of the published dataset; `text` has the file, or a pattern, of each text-only set.

    Sets that `without` names (as The Cauldron or `text` does) are left out, the others keep their shares among each
    other. Rows of `tokens` hold samples of any set; what is longer is left out. The rest is as in any mixture.
    """

    cauldron: str = dataclasses.field(kw_only=True)
    text: dict[str, str] = dataclasses.field(kw_only=True)
    without: tuple[str, ...] = ()
    tokens: int = 2048
    augment: Augment = dataclasses.field(default_factory=Augment)
    probe: int = 64
    drift: float = 0.05

    def __post_init__(self) -> None:
        known = called()
        for key, names in (("without", self.without), ("text", self.text)):
            odd = next((name for name in names if name not in known or (key == "text" and known[name].images)), None)
            if odd is not None:
                wanted = [name for name, entry in known.items() if key == "without" or not entry.images]
                raise ValueError(f"{key} names {odd!r}, which is no set of Table 14; they are {', '.join(wanted)}")
        missing = [name for name, e in known.items() if not e.images and name not in {*self.text, *self.without}]
        if missing:
            raise ValueError(f"text.{missing[0]} is missing: give its file, or name it in `without`")

    def mixture(self) -> MixtureConfig:
        """The same as a mixture that says everything itself."""
        sources = {
            name: Ingredient(
                self._source(name, entry), entry.percent, self.tokens, KIND, "answers", "drop", self.augment
            )
            for name, entry in called().items()
            if name not in self.without
        }
        return MixtureConfig(self.split, sources=sources, unit="answers", probe=self.probe, drift=self.drift)

    def _source(self, name: str, entry: Entry) -> SourceConfig:
        if entry.subset:
            told = {"name": "cauldron", "path": self.cauldron, "subset": name}
        else:
            told = {"name": "text", "path": self.text[name], "set": name}
        return parse(SourceConfig, told, f"data.{name}")


def called() -> dict[str, Entry]:
    """The 59 sets by the names that recipes have for them, in the order of the paper."""
    names = {entry: name for name, entry in text_sets().items()}
    return {e.subset or names[e.name]: e for e in table()}


class Instruction(Mixture):
    """The mixture, made of the sources of its sets."""

    def __init__(self, config: Config) -> None:
        """Opens every set. Raises ValueError naming the file that is missing."""
        super().__init__(config.mixture())


PLUGIN = Instruction
