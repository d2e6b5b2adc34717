"""The bank: adapters by name over one model, each acting for the requests that ask for it, loaded and let go any time.

Whatever reads a file or computes happens in the thread that asks for it. What changes the model happens between two
rounds of the engine, and takes a moment: layers are wrapped, nothing is copied.
"""

import dataclasses
import itertools
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from vlmlab.generate.answers import NoAdapter
from vlmlab.hub import adapters as files
from vlmlab.model import adapters
from vlmlab.model.adapters import Adapted, LowRank
from vlmlab.model.vlm import VLM

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")
"""What an adapter may be called."""

CONFIG_BYTES = 1 << 20
"""The most that an adapter's settings may have."""

Made = TypeVar("Made")
Between = Callable[[Callable[[], Made]], Made]
"""Does some work between two rounds of the engine, and returns what came of it."""


@dataclasses.dataclass(eq=False)
class Loaded:
    """An adapter in memory.

    `key` is its name inside the model, which no other ever has. `whole` are parameters that it brings in full, by their
    path. `sees` says whether it changes what is seen in pictures; where it is `alone`, no other can share its steps.
    """

    name: str
    key: str
    low: dict[str, LowRank]
    whole: dict[str, nn.Parameter]
    nbytes: int
    sees: bool
    alone: bool
    gone: bool = False

    @staticmethod
    def of(name: str, key: str, found: files.Found) -> "Loaded":
        """An adapter that was read."""
        whole = {path: nn.Parameter(tensor.clone(), requires_grad=False) for path, tensor in found.whole.items()}
        size = sum(tensor.nbytes for tensor in whole.values())
        for low in found.low.values():
            low.requires_grad_(False)
            for parameter in low.parameters():
                parameter.data = parameter.data.clone()  # it was a view into the file, which may go
                size += parameter.nbytes
            size += 0 if low.magnitude is None else low.magnitude.nbytes  # what rows are multiplied with is kept
        eyes, rest = ("vision.", "connector."), ("language.", "fusion.")
        return Loaded(
            name,
            key,
            found.low,
            whole,
            size,
            sees=any(path.startswith(eyes) for path in (*found.low, *found.whole)),
            alone=any(path.startswith(rest) for path in found.whole)
            or any(path.startswith("fusion.") for path in found.low),
        )


class Bank:
    """The adapters of one model, of at most `memory` bytes together."""

    def __init__(self, model: VLM, memory: int = 1 << 30) -> None:
        self.model, self.memory = model, memory
        self.named: dict[str, Loaded] = {}
        self.leaving: list[Loaded] = []
        self._lock = threading.Lock()  # of the names
        self._changing = threading.Lock()  # one adapter comes or goes at a time
        self._keys = (f"bank{number}" for number in itertools.count(1))
        self._layers: list[Adapted] = []
        self._plain: dict[str, nn.Parameter] = {}
        self._now: tuple[str, ...] = ()

    @property
    def held(self) -> int:
        """How many bytes the adapters take, those included that are let go when their last request has ended."""
        with self._lock:
            return sum(one.nbytes for one in (*self.named.values(), *self.leaving))

    def listed(self) -> list[Loaded]:
        """The adapters that may be asked for, in the order they came."""
        with self._lock:
            return list(self.named.values())

    def called(self, name: str) -> Loaded | None:
        """The adapter of a name; None for the empty one. Raises NoAdapter."""
        if not name:
            return None
        with self._lock:
            if name not in self.named:
                known = ", ".join(self.named) or "none"
                raise NoAdapter(f"there is no adapter called {name[:200]!r}; loaded: {known}")
            return self.named[name]

    def load(self, name: str, folder: Path, between: Between[None]) -> Loaded:
        """Load the adapter in a local folder of PEFT's files, to be asked for by `name` from now on.

        Raises ValueError for a name that is taken or cannot be one, for files that are damaged, too large or do not fit
        the model, and for an adapter that acts on nothing.
        """
        if NAME.fullmatch(name) is None:
            raise ValueError(
                f"an adapter cannot be called {name[:200]!r}: up to 100 letters, digits and . _ : / -, a letter or "
                "digit first"
            )
        with self._changing:
            if any(one.name == name for one in self.listed()):
                raise ValueError(f"an adapter called {name!r} is loaded already: unload it, or choose another name")
            keys = {one.key for one in (*self.named.values(), *self.leaving)}
            if not keys.issuperset(adapters.names(self.model)):
                raise ValueError("the model has an adapter that acts for all: adapters by name need it without")
            sizes = {path.name: path.stat().st_size for path in folder.glob("adapter_*") if path.is_file()}
            if sizes.get(files.CONFIG, 0) > CONFIG_BYTES:
                raise ValueError(f"{folder / files.CONFIG} has {sizes[files.CONFIG]:,} bytes: it is no config")
            self._check_room(folder, sizes.get(files.WEIGHTS, 0))
            made = Loaded.of(name, next(self._keys), files.find(self.model, folder))
            self._check_room(folder, made.nbytes)
            _check_acts(self.model, folder, made)
            between(lambda: self._attach(made))
            return made

    def unload(self, name: str, settle: Callable[[], None]) -> Loaded:
        """Let go of an adapter: from now on nobody can ask for it; requests under way go on with it to their end.

        `settle` frees the memory of what nobody uses any more. Raises NoAdapter.
        """
        with self._changing:
            with self._lock:
                gone = self.named.pop(name, None)
                if gone is not None:
                    self.leaving.append(gone)
            if gone is None:
                raise NoAdapter(f"there is no adapter called {name[:200]!r}")
            settle()
            return gone

    def settle(self, used: Iterable[Loaded | None]) -> list[Loaded]:
        """Free the memory of adapters that are leaving and not `used`, and return them. Call it between rounds."""
        used = set(used)
        gone = [one for one in self.leaving if one not in used]
        for one in gone:
            self.act(())
            one.gone = True
            if one.low:
                adapters.remove(self.model, one.key)
            with self._lock:
                self.leaving.remove(one)
            self._layers = list(adapters.layers(self.model).values())
        return gone

    def together(self, under: Sequence[Loaded | None]) -> list[list[int]]:
        """Which rows, each under an adapter, can be written in one pass: all but those that need one of their own."""
        groups: dict[Loaded | None, list[int]] = {}
        for row, one in enumerate(under):
            groups.setdefault(one if one is not None and one.alone else None, []).append(row)
        return list(groups.values())

    def act(self, under: Sequence[Loaded | None]) -> str | None:
        """Let adapters act in the next pass, whose rows are `under` them; where all are under one, in all of the model.

        Returns what names the model as it is now: empty without an adapter, None where rows differ.
        """
        keys = tuple("" if one is None else one.key for one in under)
        if len(set(keys)) <= 1:
            keys = tuple(key for key in keys[:1] if key)
        if keys != self._now:
            self._now = keys
            self._turn(under, keys)
        return None if len(keys) > 1 else keys[0] if keys else ""

    def _turn(self, under: Sequence[Loaded | None], keys: tuple[str, ...]) -> None:
        rows = None
        if len(keys) > 1:
            assert not any(one.alone for one in under if one is not None)
            rows = {
                key: torch.tensor([at for at, other in enumerate(keys) if other == key], device=self.model.device)
                for key in dict.fromkeys(keys)
                if key
            }
        for layer in self._layers:
            layer.active, layer.rows = keys[0] if len(keys) == 1 else None, rows
        for path, parameter in self._plain.items():
            self._put(path, parameter)
        self._plain = {}
        if len(keys) == 1 and under[0] is not None:
            for path, parameter in under[0].whole.items():
                module, leaf = files.owner(self.model, path)
                self._plain[path] = module.get_parameter(leaf)
                self._put(path, parameter)

    def _put(self, path: str, parameter: nn.Parameter) -> None:
        module, leaf = files.owner(self.model, path)
        setattr(module, leaf, parameter)

    def _attach(self, made: Loaded) -> None:
        self.act(())
        if made.low:
            adapters.attach(self.model, made.low, made.key)
            adapters.use(self.model, None)
        self._layers = list(adapters.layers(self.model).values())
        with self._lock:
            self.named[made.name] = made

    def _check_room(self, folder: Path, size: int) -> None:
        held = self.held
        if held + size > self.memory:
            raise ValueError(
                f"{folder}: the adapter takes {size:,} bytes, {held:,} of the {self.memory:,} for adapters are taken"
            )


@torch.no_grad()
def _check_acts(model: VLM, folder: Path, made: Loaded) -> None:
    """Raise ValueError for an adapter that changes nothing. What DoRA's rows are multiplied with is computed here."""
    changes = bool(made.whole)
    for path, low in made.low.items():
        layer = model.get_submodule(path)
        base = layer.base if isinstance(layer, Adapted) else layer
        assert isinstance(base, adapters.Base)
        changes = changes or bool(low.b.any())
        if low.magnitude is not None and len(low.b) == len(base.weight) and low.a.shape[1] == base.weight.shape[1]:
            changes = bool((low.gain(base) != 1).any()) or changes
    if not changes:
        raise ValueError(f"{folder}: the adapter acts on nothing: all of its numbers leave the model as it is")
