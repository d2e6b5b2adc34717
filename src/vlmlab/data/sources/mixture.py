"""Several sources as one, each with its share: see `vlmlab.data.mixture`."""

import dataclasses

from vlmlab.data.mixture import Mixture, MixtureConfig


@dataclasses.dataclass(frozen=True)
class Config(MixtureConfig):
    """As any mixture's."""


PLUGIN = Mixture
