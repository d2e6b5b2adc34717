"""Scenes with exact graphs, and questions answered by rule: colour, shape, count, relation, comparison, existence.

Endless and seeded. What is in a picture is known before it is drawn (`truth`); of the questions that are answered yes
or no, half are answered no. See vlmlab/data/made/.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from vlmlab.batch import Message, Sample
from vlmlab.data.made import MadeConfig, MadeSource, Question
from vlmlab.data.made.asking import Kind, ask, description
from vlmlab.data.made.graph import Scene, Thing, scene

_FINE = 3  # drawn this many times as large and reduced, for smooth edges

Outline = list[tuple[float, float]]
"""Corners of a shape within the circle of radius 1 around (0, 0), y downwards."""


@dataclasses.dataclass(frozen=True)
class Config(MadeConfig):
    """`side` of the square pictures, in pixels; `things`, the most that one shows; `questions` asked about each.
    `zoom`, how many times larger than usual things are, for small pictures; up to 3.

    With `sizes` (width and height, in pixels) pictures are of these, each as often, and not square.

    `kinds` are the kinds of questions that are asked, all equally often where the scene allows. With `told`, words that
    say all that is there stand in place of the picture: for a decoder that is to learn the language first.
    """

    side: int = 224
    things: int = 8
    questions: int = 1
    zoom: float = 1.0
    kinds: tuple[Kind, ...] = ("colour", "shape", "count", "relation", "comparison", "existence")
    told: bool = False
    sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, least, most in (("side", 32, 4096), ("things", 1, 20), ("questions", 1, 20)):
            value = {"side": self.side, "things": self.things, "questions": self.questions}[key]
            if not least <= value <= most:
                raise ValueError(f"{key} = {value} should be {least} to {most}")
        for size in self.sizes:
            if not all(32 <= side <= 4096 for side in size):
                raise ValueError(f"sizes has {list(size)}: each side should be 32 to 4096")
        if not 0.5 <= self.zoom <= 3:
            raise ValueError(f"zoom = {self.zoom:g} should be 0.5 to 3")
        if not self.kinds:
            raise ValueError("kinds is empty: name one at least, such as count")


@dataclasses.dataclass(frozen=True)
class Truth:
    """A scene, what is asked about it, and the size of its picture."""

    scene: Scene
    questions: tuple[Question, ...]
    size: tuple[int, int]


class Scenes(MadeSource[Truth]):
    """Coloured shapes on a plain ground, with questions about them."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def __getitem__(self, index: int) -> Sample:
        """The picture, or words in its place, with its questions and answers. Raises IndexError past the end."""
        sample = super().__getitem__(index)
        if not self.config.told:
            return sample
        words = description(self.truth(index).scene, self.generator(index)).answer + ".\n"
        first, *others = sample.messages
        return Sample((Message(first.role, (words, *first.parts[1:])), *others))

    def truth(self, index: int) -> Truth:
        """The scene's graph, and its questions with their answers. Raises IndexError past the end."""
        generator = self.generator(index)
        graph = scene(generator, self.config.things, self.config.zoom)
        asked = ask(graph, self.config.kinds, self.config.questions, generator)
        side = self.config.side
        return Truth(graph, asked, generator.choice(self.config.sizes) if self.config.sizes else (side, side))

    def questions(self, truth: Truth) -> Sequence[Question]:
        """Its questions."""
        return truth.questions

    def draw(self, truth: Truth) -> Image.Image:
        """The picture."""
        width, height = truth.size[0] * _FINE, truth.size[1] * _FINE
        image = Image.new("RGB", (width, height), truth.scene.background)
        pen = ImageDraw.Draw(image)
        for thing in truth.scene.things:
            pen.polygon(_placed(thing, width, height), fill=thing.fill)
        return image.reduce(_FINE)


def _placed(thing: Thing, width: int, height: int) -> Outline:
    """The corners of a thing in a picture of so many pixels: its place stretches with that, itself it does not."""
    turned, side = math.radians(thing.angle), min(width, height)
    cosine, sine = math.cos(turned) * thing.radius, math.sin(turned) * thing.radius
    corners = _OUTLINES[thing.shape]()
    return [
        (thing.x * width + (x * cosine - y * sine) * side, thing.y * height + (x * sine + y * cosine) * side)
        for x, y in corners
    ]


def _regular(count: int, start: float = -90.0) -> Outline:
    angles = [math.radians(start + 360 * n / count) for n in range(count)]
    return [(math.cos(a), math.sin(a)) for a in angles]


def _star() -> Outline:
    return [(x * far, y * far) for n, (x, y) in enumerate(_regular(10)) for far in [0.42 if n % 2 else 1.0]]


def _heart() -> Outline:
    angles = [math.radians(6 * n) for n in range(60)]
    curve = [
        (16 * math.sin(a) ** 3, -13 * math.cos(a) + 5 * math.cos(2 * a) + 2 * math.cos(3 * a) + math.cos(4 * a))
        for a in angles
    ]
    return [(x / 17.5, (y - 2.5) / 17.5) for x, y in curve]


def _cross() -> Outline:
    near, far = 0.3, 0.95
    quarter = [(near, -far), (near, -near), (far, -near)]
    corners = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return corners


_OUTLINES: dict[str, Callable[[], Outline]] = {
    "circle": lambda: _regular(60),
    "square": lambda: _regular(4, -45.0),
    "triangle": lambda: _regular(3),
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "diamond": lambda: [(0.0, -1.0), (0.6, 0.0), (0.0, 1.0), (-0.6, 0.0)],
}


PLUGIN = Scenes
