"""Seeded random answers: from what models say to what nobody says, so that every rule of the official code is met."""

import random

WORDS = [
    "a",
    "an",
    "the",
    "yes",
    "no",
    "red",
    "blue",
    "Red",
    "dog",
    "dogs",
    "man's",
    "frisbee",
    "tennis",
    "racket",
    "stop",
    "left",
    "right",
    "Nike",
    "Coca-Cola",
    "wearing",
    "none",
    "zero",
    "one",
    "two",
    "three",
    "ten",
    "eleven",
    "dont",
    "don't",
    "cant",
    "isnt",
    "it's",
    "its",
    "thats",
    "somebody'd",
    "oclock",
    "let's",
    "she's",
    "yall",
    "USA",
    "U.S.A.",
    "St.",
    "Mary's",
    "Inc.",
    "p.m.",
    "5",
    "12",
    "12.",
    "3.5",
    ".5",
    "0.50",
    "1,234",
    "1,234,567",
    "1,,2",
    "10%",
    "50",
    "%",
    "$5",
    "-3",
    "2/3",
    "1e3",
    "1.5e-4",
    "half-eaten",
    "black/white",
    "#3",
    "@home",
    "(left)",
    "[sic]",
    '"quoted"',
    "'single'",
    "café",
    "naïve",
    "ﬁ",
    "ß",
    "İ",
    "①",
    "٣",
    "日本",
    "—",
    "–",
    "…",
    "?",
    "!",
    ";",
    ":",
    ",",
    ".",
    "/",
    "\\",
    "_",
    "-",
    "+",
    "=",
    ">",
    "<",
    "`",
    "~",
    "&",
    "*",
    "{",
    "}",
    "\t",
    "\n",
    "",
    "",
]
ENDS = ("", "", "", "", ".", "..", "!", "?", ",", " .", ". ", "\n", " ", ";", "%", "'", '"', ":")
LETTERS = "abcdeABC0123456789 .,'-/()%$"


def answer(random_: random.Random, most: int = 5) -> str:
    """A short answer: a few words, sometimes with marks inside or at the end, rarely letters at random or nothing."""
    draw = random_.random()
    if draw < 0.02:
        return random_.choice(("", " ", ".", "...", "\n", "-", "'"))
    if draw < 0.12:
        return "".join(random_.choice(LETTERS) for _ in range(random_.randint(1, 12)))
    words = [random_.choice(WORDS) for _ in range(random_.choice((1, 1, 1, 2, 2, 3, most)))]
    between = random_.choices((" ", "", ", ", "-", "  ", ". ", "/", "\n"), (30, 2, 2, 2, 1, 1, 1, 1))[0]
    return between.join(words) + random_.choice(ENDS)


def number(random_: random.Random) -> str:
    """Something that looks like a number."""
    value = random_.choice(
        (
            random_.randint(-20, 20),
            random_.randint(0, 2030),
            round(random_.uniform(-5, 200), random_.randint(1, 3)),
            round(random_.uniform(0, 1), 2),
            f"{random_.randint(1000, 9_999_999):,}",
        )
    )
    frame = random_.choices(
        ("{}", "{}%", "${}", "{}.", " {} ", "{} %", "{}.0", "about {}", "0{}", "nan", "inf"), (30, *([3] * 8), 1, 1)
    )[0]
    return frame.format(value)


def changed(random_: random.Random, text: str) -> str:
    """A text with a few letters changed, put in or taken out, or with another case or end."""
    letters = list(text)
    for _ in range(random_.choice((0, 0, 1, 1, 2, 3, len(letters) // 2))):
        at = random_.randrange(len(letters) + 1)
        letters[at : at + random_.randint(0, 1)] = random_.choice(("", random_.choice(LETTERS)))
    made = "".join(letters)
    return random_.choice((str, str, str, str.lower, str.upper, str.title, str.strip))(made) + random_.choice(ENDS)


PROSE = (
    "The answer is {}.", "The answer is \"{}\".", "Answer: {}", "So the final answer is {}", "{} because it is so.",
    "I think it could be {} or {}.", "Therefore, the result is {}.\nThis is clear.", "{}", "({})", "{}.", "({}) {}",
    "{}: {}", "Option {} is wrong. Option {} is right", "It is not {} but {} that the picture shows here.",
    "= {}", "x = 3 + 4 = {}", "The correct option is ({}).", "**{}**", "{})", "A dog. The USA has {} states.",
    "From the picture we see {} of them. Thus {} is it", "my choice is {}", "Let me see. {}\n{}", "Z", "{}, {}",
    "I'm sorry, but without the image provided {}", "Failed to obtain answer via API {}", "Cannot determine the answer",
    "[{}, {}]",
)  # fmt: skip


def prose(random_: random.Random, texts: list[str]) -> str:
    """An answer in prose about some of `texts`."""
    made = random_.choice(PROSE)
    while "{}" in made:
        made = made.replace("{}", random_.choice(texts), 1)
    return made
