"""What made a file: written into every output, so that it can be made again."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import shlex
import sys


@dataclasses.dataclass(frozen=True)
class Origin:
    """The version of vlmlab, the hash of the resolved recipe, the seed, the command line, and when (UTC)."""

    version: str
    recipe: str
    seed: int
    command: str
    date: str

    @staticmethod
    def now(recipe: str, seed: int) -> "Origin":
        """Of this process, for a recipe's text."""
        name = sys.argv[0].replace("\\", "/").rpartition("/")[2]
        return Origin(
            importlib.metadata.version("vlmlab"),
            hashlib.sha256(recipe.encode()).hexdigest()[:16],
            seed,
            shlex.join([name, *sys.argv[1:]]),
            datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def plain(self) -> dict[str, str | int]:
        """As plain data, for JSON."""
        return dataclasses.asdict(self)

    def line(self) -> str:
        """On one line, for a page or a comment."""
        return f"vlmlab {self.version}, recipe {self.recipe}, seed {self.seed}, {self.date}, made by: {self.command}"
