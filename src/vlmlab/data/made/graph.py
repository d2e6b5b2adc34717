"""Scenes as graphs: things with colours, shapes, sizes and places, and what can be said of them by rule.

A scene is made before it is drawn. Every answer is worked out on the graph; nothing is asked whose answer could not be
seen: things do not touch, what is left of another is wholly left of it, and sizes are two and far apart.
"""

import dataclasses
import itertools
import math
import random
from typing import Literal

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond")

COLOURS = {
    "red": (214, 39, 40),
    "green": (38, 150, 60),
    "blue": (31, 90, 200),
    "yellow": (245, 205, 20),
    "orange": (250, 130, 15),
    "purple": (128, 50, 160),
    "pink": (245, 140, 190),
    "brown": (125, 75, 40),
    "black": (25, 25, 25),
    "grey": (135, 135, 135),
}
BACKGROUNDS = ((255, 255, 255), (253, 250, 238), (236, 246, 240), (240, 240, 250))

# Radii as shares of the picture's side: no small thing could be taken for a large one.
SIZES = {"small": (0.05, 0.062), "large": (0.105, 0.125)}
_GAP = 0.02  # the least space between two things

Direction = Literal["left", "right", "above", "below"]


@dataclasses.dataclass(frozen=True)
class Description:
    """What may be said of a thing: any of its size, colour and shape."""

    size: str = ""
    colour: str = ""
    shape: str = ""

    def fits(self, thing: "Thing") -> bool:
        """Whether all that is said is true of `thing`."""
        return self.size in ("", thing.size) and self.colour in ("", thing.colour) and self.shape in ("", thing.shape)

    @property
    def text(self) -> str:
        """In words, in the singular: `large red circle`."""
        return " ".join(word for word in (self.size, self.colour, self.shape or "thing") if word)

    @property
    def plural(self) -> str:
        """In words, in the plural."""
        return self.text + ("es" if self.text.endswith("s") else "s")

    @property
    def one(self) -> str:
        """With its article: `an orange star`."""
        return ("an " if self.text[0] in "aeiou" else "a ") + self.text


@dataclasses.dataclass(frozen=True)
class Thing:
    """One thing: it lies within `radius` of (`x`, `y`), all shares of the picture's side; `angle` in degrees.

    `fill` is the very colour it is painted in, a shade of `colour`.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    fill: tuple[int, int, int]

    def descriptions(self) -> list[Description]:
        """All that can be said of it, the shortest first; that it is a thing, of no size, colour or shape, is one."""
        sizes, colours, shapes = ("", self.size), ("", self.colour), ("", self.shape)
        found = [Description(*said) for said in itertools.product(sizes, colours, shapes)]
        return sorted(found, key=lambda said: sum(map(bool, (said.size, said.colour, said.shape))))

    def lies(self, direction: Direction, other: "Thing") -> bool:
        """Whether it lies wholly on that side of `other`."""
        across, down = self.x - other.x, self.y - other.y
        far = {"left": -across, "right": across, "above": -down, "below": down}[direction]
        return far >= self.radius + other.radius


@dataclasses.dataclass(frozen=True)
class Scene:
    """Things on a plain ground, none touching another."""

    things: tuple[Thing, ...]
    background: tuple[int, int, int]

    def find(self, description: Description) -> list[Thing]:
        """The things that a description fits."""
        return [thing for thing in self.things if description.fits(thing)]

    def shapes(self) -> list[str]:
        """The shapes that are there, in order of the alphabet."""
        return sorted({thing.shape for thing in self.things})

    def colours(self) -> list[str]:
        """The colours that are there, in order of the alphabet."""
        return sorted({thing.colour for thing in self.things})

    def naming(self, thing: Thing) -> list[Description]:
        """The descriptions that fit `thing` and no other; the shortest first."""
        return [said for said in thing.descriptions()[1:] if len(self.find(said)) == 1]


def scene(generator: random.Random, most: int, zoom: float = 1.0) -> Scene:
    """A scene of 1 to `most` things, `zoom` times as large as usual; of many, some may find no room."""
    things: list[Thing] = []
    for _ in range(generator.randint(1, most)):
        thing = _thing(generator, zoom)
        for _ in range(30):
            x, y = (generator.uniform(thing.radius + _GAP, 1 - thing.radius - _GAP) for _ in range(2))
            if all(math.hypot(x - o.x, y - o.y) >= thing.radius + o.radius + _GAP for o in things):
                things.append(dataclasses.replace(thing, x=x, y=y))
                break
    return Scene(tuple(things), generator.choice(BACKGROUNDS))


def _thing(generator: random.Random, zoom: float) -> Thing:
    """A thing that has no place yet."""
    colour, size = generator.choice(sorted(COLOURS)), generator.choice(sorted(SIZES))
    shade = generator.randint(-10, 10)  # the same for all three: grey stays grey
    red, green, blue = (min(255, max(0, value + shade)) for value in COLOURS[colour])
    shape = generator.choice(SHAPES)
    radius, angle = zoom * generator.uniform(*SIZES[size]), generator.uniform(-10, 10)
    return Thing(shape, colour, size, 0.0, 0.0, radius, angle, (red, green, blue))
