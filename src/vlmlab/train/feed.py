"""What training reads: windows of the stream, read ahead of need, packed in rows, prepared pass by pass."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from vlmlab.batch import Images
from vlmlab.data.reading import Outcome, Read, Reader
from vlmlab.data.stream import Draw, Order
from vlmlab.data.workers import Ahead
from vlmlab.model.vlm import VLM
from vlmlab.processor.pack import fill
from vlmlab.train.gallery import Gallery
from vlmlab.train.prepare import Features, Prepared

Normalise = Callable[[Sequence[UInt8[Tensor, "_ c"]]], Tensor]
"""Patches of 8 bits a number, as the model reads them: float [p, c], laid end to end."""


class Piece(NamedTuple):
    """A sample, or one of the pieces it was cut into, as numbers."""

    draw: Draw
    number: int
    kind: str
    read: Read

    @property
    def length(self) -> int:
        """Its tokens, those of pictures included."""
        return len(self.read.tokens)

    @property
    def patches(self) -> int:
        """The patches of its pictures."""
        return sum(rows * columns for rows, columns in self.read.grid)


class Window(NamedTuple):
    """What came of a window of the stream: the pieces in order, what could not be read, how much was too long."""

    draws: list[Draw]
    pieces: list[Piece]
    broken: list[tuple[Draw, str]]
    overlong: list[tuple[Draw, int]]


class Feed:
    """The stream as the training loop reads it: `order` says what comes, `reader` makes numbers of it.

    `tokens` is how many a pass holds, `patches` of how many patches at most (0: any number). With `frozen`, the vision
    tower is taken not to change: features are kept, up to `memory` bytes, where a sample is the same each time it is
    drawn; a `gallery` keeps them beyond the run.
    """

    def __init__(
        self,
        model: VLM,
        reader: Reader,
        order: Order,
        normalise: Normalise,
        tokens: int,
        frozen: bool,
        workers: int = 0,
        memory: int = 4 << 30,
        patches: int = 0,
        gallery: Gallery | None = None,
    ) -> None:
        self.model, self.reader, self.order, self.normalise = model, reader, order, normalise
        self.tokens, self.patches, self.frozen = tokens, patches, frozen
        # How many tokens a row of each source holds; sources of one kind agree.
        self.budgets = {name: shelf.row for name, shelf in reader.stock.items()}
        self.features = Features(model, memory, gallery)
        self.ahead = Ahead(reader, workers)
        # Of samples whose features are kept: how many pieces each has, and what is left of a piece without pixels.
        self.counts: dict[tuple[str, int], int] = {}
        self.light: dict[tuple[str, int, int], Read] = {}

    def window(self, places: range) -> Window:
        """Everything in a window of the stream, read."""
        found = Window([self.order[place] for place in places], [], [], [])
        for draw in found.draws:
            outcome = self._known(draw) or self.ahead.take(draw)
            if self.frozen and not outcome.why and not outcome.overlong:
                self.counts[draw.source, draw.number] = len(outcome.pieces)
            kind = self.reader.stock[draw.source].kind
            found.pieces.extend(Piece(draw, number, kind, read) for number, read in enumerate(outcome.pieces))
            if outcome.why:
                found.broken.append((draw, outcome.why))
            if outcome.overlong:
                found.overlong.append((draw, outcome.overlong))
        return found

    def expect(self, coming: Iterable[range]) -> None:
        """Start reading the windows that come next: one, or enough for every worker.

        Without workers, only for an accelerator: on a CPU the next samples would be read on cores that this step
        needs, which would be slower, not faster.
        """
        if not self.ahead.workers and self.model.device.type == "cpu":
            return
        count = 0
        for places in coming:
            self.ahead.expect(d for d in map(self.order.__getitem__, places) if self._known(d) is None)
            count += len(places)
            if count >= 4 * self.ahead.workers:
                return

    def passes(self, pieces: Sequence[Piece]) -> list[list[Piece]]:
        """Pieces as they are computed together: whole rows of one kind, or parts of rows where pictures are large.

        A row holds as many tokens as its kind may; a pass as many rows as fit when all are of the longest kind, and
        up to `patches` patches, where that is bounded. (Where a row is cut changes nothing but memory: its pieces
        cannot see each other.)
        """
        together = max(1, self.tokens // max(self.budgets.values()))
        found = []
        for kind in dict.fromkeys(piece.kind for piece in pieces):
            own = [piece for piece in pieces if piece.kind == kind]
            rows = fill([piece.length for piece in own], self.budgets[own[0].draw.source])
            for start in range(0, len(rows), together):
                found += self._bounded([own[at] for row in rows[start : start + together] for at in row])
        return found

    def _bounded(self, pieces: list[Piece]) -> list[list[Piece]]:
        """Pieces of one pass, cut in order into as few as keep to `patches`; one piece may have more alone."""
        found: list[list[Piece]] = [[]]
        room = self.patches
        for piece in pieces:
            if self.patches and found[-1] and piece.patches > room:
                found.append([])
                room = self.patches
            found[-1].append(piece)
            room -= piece.patches
        return found

    def prepare(self, piece: Piece, pixels: bool = True) -> Prepared:
        """A piece as the model reads it, with features where the tower is frozen; or without its pictures."""
        read, key = piece.read, (piece.draw.source, piece.draw.number, piece.number)
        if pixels and key in self.features.kept:
            return self.features.kept[key]
        tokens, targets = (torch.from_numpy(values).long() for values in (read.tokens, read.targets))
        if not pixels or not read.grid:
            return Prepared(tokens, targets)
        patches = self.normalise([torch.from_numpy(some) for some in read.patches])
        made = Prepared(tokens, targets, Images(patches, torch.tensor(read.grid)))
        if not self.frozen:
            return made
        changes = self.reader.stock[piece.draw.source].augment.changes
        seen = self.features.see(made, None if changes else key)
        if key in self.features.kept:
            self.light[key] = read._replace(patches=())
        return seen

    def _known(self, draw: Draw) -> Outcome | None:
        """A sample that need not be read again, because the features of all its pictures are kept."""
        count = self.counts.get((draw.source, draw.number))
        reads = [self.light.get((draw.source, draw.number, number)) for number in range(count or 0)]
        found = tuple(read for read in reads if read is not None)
        return Outcome(found) if count and len(found) == count else None

    def close(self) -> None:
        """Drop what was read ahead of need, and end the workers."""
        self.ahead.close()
