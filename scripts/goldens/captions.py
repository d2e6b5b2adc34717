"""Golden files of captions: the PTB tokeniser with the removal of punctuation, and CIDEr-D.

python scripts/goldens/captions.py --sources FOLDER

Needs pycocoevalcap==1.2 and a Java runtime; `--sources` is not looked at. Every text is followed by a line `x`, because
the Java program looks past a line's end: what follows decides whether the point of an abbreviation ends a sentence.
"""

import random
import sys

from _oracles import arguments, write
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

SEED = 20_262

NOUNS = "man woman dog cat bike bus street train pizza kite frisbee boy girl horse surfboard clock giraffe T-shirt"
VERBS = "rides holds isn't eats is watching can't see stands near flies is sitting on doesn't like"
MORE = """
two, three; a red-and-white 5:30 p.m. U.S. St. Mr. Smith's "STOP" (left) [sic] {x} 1/2 3.5 1,000 10% $5.99 #1 @home
e.g. etc. No. 5 o'clock rock 'n' roll y'all cannot gonna wanna it's they're dogs' don't CAN'T '90s 1990's black/white
and/or w/o C++ C# AT&T R&B :-) ;) ... -- - ! ? ?! : ; ' ` * ** ~ ^ | \\ / = + <b> </b> & &amp; 4x4 2nd 20th-century
café naïve “quoted” ‘so’ it’s – — … ½ £5 €5 ¢ ° © ™ Ph.D. J.K. a.m., Co. Inc. in. vs. 7-Eleven O'Brien D'Angelo ma'am
ol' 'em 'til 'tis c'mon foo_bar __ (555) 555-1234 555-1234 10/12/1999 -5 +5 .5 5. Jan. 5 fig. 3
"""
ADDRESSES = "www.foo.com http://x.org/y?z=1 https://a.b.co/c a.b@c.org me@home.net bar.com x.org/y/z.html"
RARE = """
plan B. The dog|version 2.6.x is|call (555) 555-1234 now|+1 (555) 555-1234|me <a@b.org> here|d' a|l' x|J' is
li'l dog|LI'L|a nor'easter|e'er|ev'ry day|cap'n Bob|o'o|''n|t''n|``a``|““a””|“a”’s|‘‘b’’|in '58 he|'58, he
the '60s|@@ b|\\*|a << b >> c|^_^|-_- x|(==)|(>>)|<!-- x -->|<?xml a?>|a stack/l-i-n-u-x/and|a/b/c/d/e|gimme's
AA'S|dogs' toys|bos'n's|ma'am|www.foo.com's|see http://a.b/c.|a.|A. B. Smith|Mr. B. Smith|fig. 3|Fig. three
5'10"|6' 2"|1-1/2|3 1/2 cups|5.5-inch|aa.,|aa.; b|y'all|y' a|Y'all|'em|'Til|'till|'Cause|rock 'n roll|heav'n.
O'Neil-Smith|x'y|don’t|it’s|I’ll|’90s|’tis|¾ of|1½|€ 5|US$5|C$|a…b|a—b|naïve|Zürich|北京|m²|x\u00adray|½-inch
5:30pm|10-12-1999|a@b|#1|#tag1|@home_2|A&B|a&b|C+D|F#|---- x|----- y|. . .|?!?|***|www.x-y.com
www.5foo.com|www.a.b-c.org/d-e|www.foo.museum|www.foo.com/x|WWW.FOO.COM
"""


def caption(random_: random.Random) -> str:
    """A caption as people write them, sometimes with what tokenisers trip over."""
    made = [random_.choice(("a", "A", "the", "The", "two", "Some")), random_.choice(NOUNS.split())]
    for _ in range(random_.randint(1, 3)):
        made += [random_.choice(VERBS.split()), random_.choice(("a", "the", "his")), random_.choice(NOUNS.split())]
    for _ in range(random_.choice((0, 0, 1, 2, 4))):
        made.insert(
            random_.randrange(len(made) + 1), random_.choice((ADDRESSES if random_.random() < 0.05 else MORE).split())
        )
    text = " ".join(made)
    return text + random_.choice((".", "", ".", " .", "!", ","))


def odd(random_: random.Random) -> str:
    """Words and marks at random, in order to meet the rules."""
    parts = [random_.choice(MORE.split()) for _ in range(random_.randint(1, 5))]
    return "".join(part + random_.choice((" ", " ", " ", "", ", ", ". ")) for part in parts)


def letters(random_: random.Random) -> str:
    """A few characters at random."""
    alphabet = random_.choice(
        ("aB5.,:+-", "aB5-_/", "aenBt' ", "aB5.!?", "ab:;=()-DP8", "aB()[]", "5/ -1a", "aB&+;#$%*")
    )
    return "".join(random_.choice(alphabet) for _ in range(random_.randint(1, 6)))


def tokenised(texts: list[str]) -> list[str]:
    """Each text as pycocoevalcap tokenises it, whatever comes after it."""
    given = {at: [{"caption": text}, {"caption": "x"}] for at, text in enumerate(texts)}
    return [both[0] for both in PTBTokenizer().tokenize(given).values()]


def main() -> None:
    out = arguments(__doc__).out
    random_ = random.Random(SEED)
    texts = dict.fromkeys(caption(random_) for _ in range(1500))
    texts |= dict.fromkeys(letters(random_) for _ in range(1500))
    texts |= dict.fromkeys(odd(random_).strip() for _ in range(1500))
    rare, order = RARE.strip().replace("\n", "|").split("|"), random.Random(SEED + 1)
    texts |= dict.fromkeys([*rare, *(f"{order.choice(rare)} {order.choice(rare)}" for _ in range(200))])
    texts = [text for text in texts if text.strip()]
    # CIDEr splits the tokens at spaces of any kind: a fraction such as `3 1/2` has one inside.
    rows = [[text, " ".join(words.split())] for text, words in zip(texts, tokenised(texts), strict=True)]
    write(out / "ptb.jsonl", "the words of captions", ("pycocoevalcap",), ["text", "words"], rows)

    pictures = []
    for _ in range(400):
        people = [caption(random_) for _ in range(random_.choice((5, 5, 5, 1, 2)))]
        words = random_.choice(people).split()
        random_.shuffle(words)
        said = random_.choice((caption(random_), random_.choice(people), " ".join(words[:6]), "", "..."))
        pictures.append((said, people))
    said = {at: [text] for at, text in enumerate(tokenised([text for text, _ in pictures]))}
    flat = iter(tokenised([text for _, texts in pictures for text in texts]))
    people = {at: [next(flat) for _ in texts] for at, (_, texts) in enumerate(pictures)}
    _, official = Cider().compute_score(people, said)
    raw = ({at: texts for at, (_, texts) in enumerate(pictures)}, {at: [text] for at, (text, _) in enumerate(pictures)})
    _, untokenised = Cider().compute_score(*raw)
    rows = [
        [text, texts, float(one), float(two)]
        for (text, texts), one, two in zip(pictures, official, untokenised, strict=True)
    ]
    columns = ["said", "answers", "official", "vlmevalkit"]
    write(out / "cider.jsonl", "CIDEr-D of all captions together, 0 to 10", ("pycocoevalcap",), columns, rows)


if __name__ == "__main__":
    sys.exit(main())
