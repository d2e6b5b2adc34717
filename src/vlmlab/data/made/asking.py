"""Questions about a scene, each answered by rule on its graph.

Where the answer is yes or no, which of the two is wanted is decided first, by a coin, and then a question is sought
that has it: neither the words of a question nor the kind of scene say which it will be. A kind that a scene does not
allow with *both* answers is not asked of it at all, for the same reason.
"""

import random
from collections import Counter
from collections.abc import Callable
from itertools import permutations, product
from typing import Literal

from vlmlab.data.made import Question
from vlmlab.data.made.graph import COLOURS, SHAPES, Description, Direction, Scene, Thing

Kind = Literal["colour", "shape", "count", "relation", "comparison", "existence", "description", "alt"]

_WORDS: dict[Direction, str] = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}
_OPPOSITE: dict[Direction, Direction] = {"left": "right", "right": "left", "above": "below", "below": "above"}
_ZERO = 0.12  # the share of counting questions, where it can be told, whose answer is 0


def ask(scene: Scene, kinds: tuple[Kind, ...], count: int, generator: random.Random) -> tuple[Question, ...]:
    """`count` different questions of the given kinds, or fewer where the scene allows no more; one at least.

    Existence stands in where a scene allows none of the kinds.
    """
    found: dict[str, Question] = {}
    for _ in range(3 * count):
        for kind in generator.sample(kinds, len(kinds)):
            question = _KINDS[kind](scene, generator)
            if question is not None:
                found.setdefault(question.text, question)
                break
        if len(found) == count:
            break
    if not found:
        question = existence(scene, generator)
        found[question.text] = question
    return tuple(found.values())


def colour(scene: Scene, generator: random.Random) -> Question | None:
    """The colour of a thing that its shape, or size and shape, tell from the others."""
    named = [(thing, said) for thing, said in _names(scene) if said.shape and not said.colour]
    if not named:
        return None
    thing, said = generator.choice(named)
    word = generator.choice(("colour", "color"))
    texts = (f"What {word} is the {said.text}?", f"What is the {word} of the {said.text}?")
    return Question("colour", generator.choice(texts), thing.colour)


def shape(scene: Scene, generator: random.Random) -> Question | None:
    """The shape of a thing that its colour, or size and colour, tell from the others."""
    named = [(thing, said) for thing, said in _names(scene) if not said.shape]
    if not named:
        return None
    thing, said = generator.choice(named)
    texts = (f"What shape is the {said.text}?", f"What is the shape of the {said.text}?")
    return Question("shape", generator.choice(texts), thing.shape)


def count(scene: Scene, generator: random.Random) -> Question:
    """How many things a description fits: each number that can be asked for as often as any other, 0 more seldom."""
    numbers = Counter(said for thing in scene.things for said in thing.descriptions()[:-1])
    if generator.random() < _ZERO:
        said = Description(colour=generator.choice(sorted(COLOURS)), shape=generator.choice(SHAPES))
    else:
        number = generator.choice(sorted(set(numbers.values())))
        said = generator.choice([said for said, times in numbers.items() if times == number])
    texts = (f"How many {said.plural} are there?", f"How many {said.plural} do you see?")
    return Question("count", generator.choice(texts), str(numbers[said]))


def relation(scene: Scene, generator: random.Random) -> Question | None:
    """Whether one thing lies on a side of another, or which of two lies further on a side."""
    named = [(thing, names) for thing in scene.things if (names := scene.naming(thing))]
    pairs = [
        (names, direction, others)
        for (one, names), (other, others) in permutations(named, 2)
        for direction in _OPPOSITE
        if one.lies(direction, other)
    ]
    if not pairs:
        return None
    names, direction, others = generator.choice(pairs)
    first, second = generator.choice(names), generator.choice(others)
    if generator.random() < 1 / 3:
        which = {"left": "further left", "right": "further right", "above": "higher up", "below": "lower down"}
        mentioned = generator.sample([first.text, second.text], 2)
        text = f"Which is {which[direction]}, the {mentioned[0]} or the {mentioned[1]}?"
        return Question("relation", text, f"the {first.text}")
    yes = generator.random() < 0.5
    if generator.random() < 0.5:  # the same said from the other side
        first, second, direction = second, first, _OPPOSITE[direction]
    said = direction if yes else _OPPOSITE[direction]
    return Question("relation", f"Is the {first.text} {_WORDS[said]} the {second.text}?", _answer(yes))


def comparison(scene: Scene, generator: random.Random) -> Question | None:
    """Which of two kinds there are more of, or which of two things is larger."""
    yes = generator.random() < 0.5
    if generator.random() < 0.5:
        # Their sizes are the answer: they are left out of their names.
        unsized = [(thing.size, said) for thing, said in _names(scene) if not said.size]
        large, small = ([said for size, said in unsized if size == wanted] for wanted in ("large", "small"))
        if large and small:
            one, other = generator.choice(large), generator.choice(small)
            word = generator.choice(("larger", "smaller"))
            first, second = (one, other) if yes == (word == "larger") else (other, one)
            return Question("comparison", f"Is the {first.text} {word} than the {second.text}?", _answer(yes))
    shapes = [Description(shape=value) for value in scene.shapes()]
    colours = [Description(colour=value) for value in scene.colours()]
    uneven = [
        (more, fewer)
        for group in (shapes, colours)
        for more, fewer in permutations(group, 2)
        if len(scene.find(more)) > len(scene.find(fewer))
    ]
    if not uneven:
        return None
    more, fewer = generator.choice(uneven)
    word = generator.choice(("more", "fewer"))
    first, second = (more, fewer) if yes == (word == "more") else (fewer, more)
    return Question("comparison", f"Are there {word} {first.plural} than {second.plural}?", _answer(yes))


def existence(scene: Scene, generator: random.Random) -> Question:
    """Whether there is such a thing. Half of those that are not there have a colour and a shape that are."""
    yes = generator.random() < 0.5
    level = generator.choice(("colour and shape", "colour and shape", "colour", "shape"))
    absent_shapes = [value for value in SHAPES if value not in scene.shapes()]
    absent_colours = [value for value in sorted(COLOURS) if value not in scene.colours()]
    if level == "shape" and absent_shapes:
        said = Description(shape=generator.choice(scene.shapes() if yes else absent_shapes))
    elif level == "colour" and absent_colours:
        said = Description(colour=generator.choice(scene.colours() if yes else absent_colours))
    elif yes:
        thing = generator.choice(scene.things)
        said = Description(colour=thing.colour, shape=thing.shape)
    else:
        every = [Description(colour=c, shape=s) for c, s in product(sorted(COLOURS), SHAPES)]
        near = [Description(colour=c, shape=s) for c, s in product(scene.colours(), scene.shapes())]
        absent = [[said for said in some if not scene.find(said)] for some in (near, every)]
        said = generator.choice(absent[0] if absent[0] and generator.random() < 0.5 else absent[1])
    texts = (f"Is there {said.one}?", f"Is there {said.one} in the picture?", f"Do you see {said.one}?")
    return Question("existence", generator.choice(texts), _answer(yes))


def description(scene: Scene, generator: random.Random) -> Question:
    """All that is there, from left to right, each thing by its size, colour and shape."""
    across = sorted(scene.things, key=lambda thing: thing.x)
    said = [Description(thing.size, thing.colour, thing.shape).one for thing in across]
    texts = ("What is in the picture, from left to right?", "Describe the picture from left to right.")
    listed = " and ".join([", ".join(said[:-1]), said[-1]] if said[1:] else said)
    return Question("description", generator.choice(texts), listed)


def alt(scene: Scene, generator: random.Random) -> Question:
    """What is asked as of a description, and answered as the web's alternative texts would: with little, or nothing."""
    thing = generator.choice(scene.things)
    told = (thing.shape, f"{thing.colour} {thing.shape}", "clip art", "picture", f"image {generator.randint(1, 99)}")
    return Question("alt", description(scene, generator).text, generator.choice(told))


def _names(scene: Scene) -> list[tuple[Thing, Description]]:
    """Every thing with each description that fits it alone."""
    return [(thing, said) for thing in scene.things for said in scene.naming(thing)]


def _answer(yes: bool) -> str:
    return "yes" if yes else "no"


_KINDS: dict[Kind, Callable[[Scene, random.Random], Question | None]] = {
    "colour": colour,
    "shape": shape,
    "count": count,
    "relation": relation,
    "comparison": comparison,
    "existence": existence,
    "description": description,
    "alt": alt,
}

KINDS: tuple[Kind, ...] = tuple(_KINDS)
"""Every kind."""
