"""The words of a caption as captioning scores count them: Penn Treebank tokens in lower case, without punctuation.

They equal what Stanford's `PTBTokenizer -preserveLines -lowerCase` (CoreNLP 3.4.1) gives, after the removal of
punctuation that pycocoevalcap does. The rules were found by running that program on millions of strings; none of its
code was read. At each place the longest token wins, and the earlier rule among equally long ones. It has its oddities,
kept here: brackets stay as `-lrb-` (the removal expects capitals), `dogs.,` keeps its point, and a letter before a
sentence loses its own.
"""

import functools
import re
import unicodedata

# Those that may end a sentence, and those that stand before what they shorten.
_ENDING_ABBREVIATIONS = """
al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri ga inc
ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc ppte ppty pte ptes
pty ptys rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo
"""
_LEADING_ABBREVIATIONS = """
adj adm adv alex asst assoc atty ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen gov govs hon
insp invt jos lieut lt maj messrs mfg mlle mme mr mrs ms msgr mt mtg natl pfc ph pres prof profs pvt rep reps rev sen
sens sfc sgt spc st ste supt treas vs wm
"""
_CAPITAL_ABBREVIATIONS = "Az La Pa Ark Del Ill Ore Tex Mass Miss Wash"
_CAPITALS = f"{_CAPITAL_ABBREVIATIONS} {_CAPITAL_ABBREVIATIONS.upper()}"
_BEFORE_A_NUMBER = "art ca fig figs no nos op pp prop"
_STARTS = """
A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once One
Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You
"""
_TWO = {word: [word[:3], word[3:]] for word in ("cannot", "gimme", "gonna", "gotta", "lemme", "wanna")}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_MARKS = "'' ' \" `` ` . ? ! , : - -- --- ---- ... .... ..... ;"
_NOTHING = "\ue000"  # where the Java program deletes a sign that it does not know
_PUNCTUATION = frozenset([*_MARKS.split(), _NOTHING])


def _any(listed: str) -> str:
    return "|".join(sorted(listed.split(), key=len, reverse=True))


_L = r"(?:[^\W\d_]|[\u0300-\u036f])"
_W = r"(?:[^\W_]|[\u0300-\u036f])"
_ENDING_ABBREVIATION = rf"(?:(?i:{_any(_ENDING_ABBREVIATIONS)})|{_any(_CAPITALS)})"
_COMPOUND = rf"{_W}+(?:[-_]{_W}+)*"
_GROUP = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_ENDING = r"(?:[sSmMdD]|[lL][lL]|[rR][eE]|[vV][eE])"
_CLITIC = rf"['’]{_ENDING}(?![A-Za-z])"

_PATH = r"(?:/[^\s\"<>|!?(){},]+[^\s\"<>|.!?(){},])?"

# With what a rule's tokens start: letters `a`, digits `1`, other signs `*`. A rule with a group takes the group, and is
# as long as the whole.
_RULES = [
    ("a", r"([A-Za-z]*[A-MO-Za-mo-z])[nN]['’][tT]"),
    ("a1", rf"({_COMPOUND}){_CLITIC}"),
    ("a", r"[nN]['’][tT]"),
    ("a1", _COMPOUND),
    ("a1", rf"({_COMPOUND}\.|{_L}{_W}*(?:\.{_L}{_W}*)+\.)[,;:]"),
    ("a", rf"{_L}{_W}*(?:[.!?]{_L}{_W}*)+"),
    ("a", rf"({_ENDING_ABBREVIATION}\.)(?:[\s\S]{{2}})?"),
    ("a1", rf"{_W}(?:{_W}|[.,])*-{_COMPOUND}"),
    ("a1", rf"{_GROUP}(?:\\?/{_GROUP}){{1,2}}"),
    ("1", r"(?:[0-9]+[- \xa0])?[0-9]+\\?/[0-9]+"),
    ("a", r"(?:[A-Za-z]\.)+[A-Za-z]?|[pP][hH]\.[dD]\."),
    ("a", rf"({_L})\.\s+(?:{_any(_STARTS)})(?:\s|$)"),
    ("a", rf"(?i:{_any(_LEADING_ABBREVIATIONS)})\."),
    ("a", rf"((?i:{_any(_BEFORE_A_NUMBER)})\.)\s*[0-9]"),
    ("1", r"[0-9]+(?:\.[0-9]+)*\.[xX](?![A-Za-z0-9])"),
    ("1*", r"[-+]?(?:[0-9]*(?:[.:,][0-9]+)+|[0-9]+)"),
    ("1*", r"\+?(?:[01]?[0-9]{0,2}[ -]?)?\([0-9]{2,3}\)[ -]?[0-9]{3,4}[ -]?[0-9]{4}"),
    ("a", r"[A-Z]+(?:[+&][A-Z]+)+|[A-Z]+\$|[cC]\+\+|[cCfF]#"),
    ("*", rf"#{_L}+|@[A-Za-z_][A-Za-z0-9_]*"),
    ("a1", r"[A-Za-z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}.]+"),
    ("a", r"https?://[^\s\"<>|(){}]+[^\s\"<>|.!?(){},-]"),
    ("a", rf"www\.(?:[^\s\"<>|.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}{_PATH}"),
    (
        "a1*",
        rf"(?:[^\s\"'<>|.!?(){{}}\[\],$:/-]+\.)+(?:com|net|org|edu){_PATH}(?![A-Za-z0-9])",
    ),
    ("*", r"<[A-Za-z0-9][^\s\"<>|(){}]*@[^\s\"<>|(){}]+>"),
    ("a", rf"{_L}+[aeiouyAEIOUY]['’`][aeiouA-Z]{_L}*"),
    ("a", rf"[A-XZdlno]['’]{_L}{{2}}{_W}*(?:[-_]{_W}+)*"),
    ("a", r"[dDjJlL]['’]|[oO][lL]['’]|([yY]['’])[A-Za-z]"),
    (
        "a",
        r"[cC]['’](?:mon|est)|[lL]i['’]l|(?i:nor['’]easter)|[eE]['’]er|[eE]v['’]ry|[cC]ap['’]n|[oO]['’`][oO]",
    ),
    ("*", r"''|[“”„«»‘’‹›]+"),
    ("*", rf"{_CLITIC}|’{_ENDING}"),
    ("*", r"['’][nN]['’]|['’][nN](?![A-Za-z.,!?])|['’](?i:em|till?|cause)"),
    ("*", r"('[tT])(?:is|was)"),
    ("*", r"['’][0-9]0s|'[0-9][0-9](?=\s|$)"),
    ("*", r"&(?:amp|lt|gt|nbsp|quot|apos);"),
    ("*", r"\*+|#+|_+|[!?]+|@@+|\\\*|--+|\.{3,5}|<<|>>"),
    ("a1*", rf"[<>]?[:;=][-o*']?[()\[\]{{DPdpO\\|@](?!{_W})|[=x^'<>~-]_[=x^'<>~-]|\([=<>-]{{2}}\)"),
    ("*", r"</?[A-Za-z][A-Za-z0-9_:-]*(?:\s[^<>\"]*(?:\"[^<>\"]*\"[^<>\"]*)*)?/?>|<[!?][A-Za-z-][^>]*>"),
    ("a1*", r"\S"),
]
_COMPILED = [(kinds, re.compile(rule)) for kinds, rule in _RULES]
_LETTER, _DIGIT, _SIGN = ([rule for kinds, rule in _COMPILED if kind in kinds] for kind in "a1*")
# Most captions are plain words with a full stop at most at the end.
_PLAIN = re.compile(r"([A-Za-z]+(?: [A-Za-z]+)*)(\.?)")
# A word between spaces, with at most one mark after it: by far the most common, and no rule reaches past the space.
_WORD = re.compile(r"([A-Za-z]+)((?:['-][A-Za-z]+)*)([,;:!?.]?)\s+")
_SHORT = frozenset(f"{_ENDING_ABBREVIATIONS} {_LEADING_ABBREVIATIONS} {_CAPITALS.lower()} {_BEFORE_A_NUMBER}".split())
_CLITICS = frozenset(("'s", "'re", "'ll", "'ve", "'d", "'m"))
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&nbsp;": "-", "&quot;": "'", "&apos;": "'"}
_QUOTES = {"“": "``", "„": "``", "«": "``", "”": "''", "»": "''", "‘": "`", "‹": "`", "’": "'", "›": "'"}
_MEANT = {
    **{"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "¢": "cents"},
    **{"£": "#", "€": "$", "¤": "$", "₠": "$"},
}
_OWN = 0xE001  # from here on, private characters stand for those of _MEANT: signs that no rule takes for letters
_SIGNS = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-"} | _QUOTES | {chr(_OWN + at): to for at, to in enumerate(_MEANT.values())}
)


class _Characters(dict[int, str]):
    """What a character outside ASCII becomes before the rules apply, found out once for each."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        kind = unicodedata.category(letter)
        if code < 128 or kind[0] == "L" or kind in ("Nd", "Mn", "Mc"):
            made = letter
        elif kind == "No":
            made = f" {letter} "
        elif letter.isspace() or (kind in ("Sm", "So", "Sk", "Po") and code < 0x3000):
            made = letter
        else:
            made = _NOTHING
        self[code] = made
        return made


_CHARACTERS = _Characters({ord(letter): chr(_OWN + at) for at, letter in enumerate(_MEANT)})
_CHARACTERS.update({ord(quote): quote for quote in _QUOTES} | dict.fromkeys(map(ord, "…–—―"), _NOTHING) | {0xAD: ""})


def words(text: str) -> list[str]:
    """The words of a caption, in lower case and in order."""
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        found = plain[1].lower().split()
        ends = not plain[2] or (len(found[-1]) > 1 and found[-1] not in _SHORT)
        if ends and _TWO.keys().isdisjoint(found):
            return found
    text = (text if text.isascii() else text.translate(_CHARACTERS)) + "\n"
    found = []
    at, end = len(text) - len(text.lstrip()), len(text)
    while at < end:
        word = _WORD.match(text, at)
        if word is not None:
            lower, rest, mark = word[1].lower(), word[2], word[3]
            joined = "'" not in rest or rest in _CLITICS
            if mark != "." or (len(lower) > 1 and lower not in _SHORT and joined):
                found.extend(_joined(word[1] + rest) if rest else _TWO.get(lower) or (lower,))
                at = word.end()
                continue
        if text[at].isspace():
            at += 1
            continue
        token, length = _token(text, at)
        at += len(token)
        found += _written(token, length)
    return found


@functools.lru_cache(maxsize=65536)
def _joined(text: str) -> tuple[str, ...]:
    """The words of a few that apostrophes and hyphens join, which spaces surround."""
    found: list[str] = []
    at = 0
    while at < len(text):
        token, length = _token(text + "\n", at)
        at += len(token)
        found += _written(token, length)
    return tuple(found)


def _written(token: str, length: int) -> list[str]:
    """A token as it is written out: in lower case, none where it is punctuation, two of some words that stand alone."""
    lower = _ENTITIES.get(token) or _BRACKETS.get(token) or _plain(token)
    if lower in _PUNCTUATION:
        return []
    return _TWO[lower] if lower in _TWO and length == len(token) else lower.split()


def _token(text: str, at: int) -> tuple[str, int]:
    """The token that starts at a place, and how much of the text its rule looked at."""
    best, length = "", 0
    first = text[at]
    for rule in _DIGIT if first.isdigit() else _LETTER if first.isalpha() else _SIGN:
        match = rule.match(text, at)
        if match and len(match[0]) > length:
            best, length = match[match.lastindex or 0], len(match[0])
    return best, length


def _plain(token: str) -> str:
    """In lower case, curly quotes as straight ones but for the one of `’90s`, round brackets by name."""
    return token.lower() if token[0] == "’" and token[1:2].isdigit() else token.lower().translate(_SIGNS)
