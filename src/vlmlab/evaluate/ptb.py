"""The words of a caption as captioning scores count them: Penn Treebank tokens in lower case, without punctuation.

They equal what Stanford's `PTBTokenizer -preserveLines -lowerCase` (CoreNLP 3.4.1) gives, after the removal of punctuation
that pycocoevalcap does. The rules were found by running that program on millions of strings; none of its code was read.
At each place the longest token wins, and the earlier rule among equally long ones. It has its oddities, kept here:
brackets stay as `-lrb-` (the removal expects capitals), `a.m.,` keeps its points, and a letter before a sentence loses
its own.
"""

import re
import unicodedata

# Those that may end a sentence, and those that stand before what they shorten.
_ENDING_ABBREVIATIONS = """
al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri ga inc
ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc ppte ppty pte ptes pty
ptys rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo
""".split()
_LEADING_ABBREVIATIONS = """
adj adm adv alex asst assoc atty ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen gov govs hon insp
invt jos lieut lt maj messrs mfg mlle mme mr mrs ms msgr mt mtg natl pfc ph pres prof profs pvt rep reps rev sen sens sfc
sgt spc st ste supt treas vs wm
""".split()
_CAPITAL_ABBREVIATIONS = "Az La Pa Ark Del Ill Ore Tex Mass Miss Wash".split()
_CAPITALS = [word for one in _CAPITAL_ABBREVIATIONS for word in (one, one.upper())]
_BEFORE_A_NUMBER = "art ca fig figs no nos op pp prop".split()
_STARTS = """
A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once One Other
Our She Since So Some Such That The Their Then There These They This We What When While Yet You
""".split()
_TWO = {word: [word[:3], word[3:]] for word in ("cannot", "gimme", "gonna", "gotta", "lemme", "wanna")}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_PUNCTUATION = frozenset("'' ' \" `` ` . ? ! , : - -- --- ---- ... .... ..... ; \ue000".split())


def _any(words: list[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_L = r"(?:[^\W\d_]|[\u0300-\u036f])"
_W = r"(?:[^\W_]|[\u0300-\u036f])"
_ENDING_ABBREVIATION = rf"(?:(?i:{_any(_ENDING_ABBREVIATIONS)})|{_any(_CAPITALS)})"
_COMPOUND = rf"{_W}+(?:[-_]{_W}+)*"
_GROUP = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_ENDING = r"(?:[sSmMdD]|[lL][lL]|[rR][eE]|[vV][eE])"
_CLITIC = rf"['’]{_ENDING}(?![A-Za-z])"

# A rule with a group takes the group, and is as long as the whole.
_RULES = [
    r"([A-Za-z]*[A-MO-Za-mo-z])[nN]['’][tT]",
    rf"({_COMPOUND}){_CLITIC}",
    r"[nN]['’][tT]",
    _COMPOUND,
    rf"({_COMPOUND}\.|{_L}{_W}*(?:\.{_L}{_W}*)+\.)[,;:]",
    rf"{_L}{_W}*(?:[.!?]{_L}{_W}*)+",
    rf"({_ENDING_ABBREVIATION}\.)(?:[\s\S]{{2}})?",
    rf"{_W}(?:{_W}|[.,])*-{_COMPOUND}",
    rf"{_GROUP}(?:\\?/{_GROUP}){{1,2}}",
    r"(?:[0-9]+[- \xa0])?[0-9]+\\?/[0-9]+",
    r"(?:[A-Za-z]\.)+[A-Za-z]?|[pP][hH]\.[dD]\.",
    rf"({_L})\.\s+(?:{_any(_STARTS)})(?:\s|$)",
    rf"(?i:{_any(_LEADING_ABBREVIATIONS)})\.",
    rf"((?i:{_any(_BEFORE_A_NUMBER)})\.)\s*[0-9]",
    r"[0-9]+(?:\.[0-9]+)*\.[xX](?![A-Za-z0-9])",
    r"[-+]?(?:[0-9]*(?:[.:,][0-9]+)+|[0-9]+)",
    r"\+?(?:[01]?[0-9]{0,2}[ -]?)?\([0-9]{2,3}\)[ -]?[0-9]{3,4}[ -]?[0-9]{4}",
    r"[A-Z]+(?:[+&][A-Z]+)+|[A-Z]+\$|[cC]\+\+|[cCfF]#",
    rf"#{_L}+|@[A-Za-z_][A-Za-z0-9_]*",
    r"[A-Za-z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}.]+",
    r"https?://[^\s\"<>|(){}]+[^\s\"<>|.!?(){},-]|www\.(?:[^\s\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}",
    r"(?:[^\s\"'<>|.!?(){}\[\],$:/-]+\.)+(?:com|net|org|edu)(?:/[^\s\"<>|!?(){},]+[^\s\"<>|.!?(){},])?(?![A-Za-z0-9])",
    r"<[A-Za-z0-9][^\s\"<>|(){}]*@[^\s\"<>|(){}]+>",
    rf"{_L}+[aeiouyAEIOUY]['’`][aeiouA-Z]{_L}*",
    rf"[A-XZdlno]['’]{_L}{{2}}{_W}*",
    r"[dDjJlL]['’]|[oO][lL]['’]|([yY]['’])[A-Za-z]",
    r"[cC]['’](?:mon|est)|[mM]a['’]am|[lL]i['’]l|(?i:nor['’]easter)|[eE]['’]er|[eE]v['’]ry|[cC]ap['’]n|[oO]['’`][oO]",
    r"''|``|[“”„«»‘’‹›]+",
    rf"{_CLITIC}|’{_ENDING}",
    r"['’][nN]['’]|['’][nN](?![A-Za-z.,!?])|['’](?i:em|till?|cause)",
    r"(['’][tT])(?:is|was)",
    r"['’][0-9]0s|'[0-9][0-9](?=\s|$)",
    r"&(?:amp|lt|gt|nbsp|quot|apos);",
    r"\*+|#+|_+|[!?]+|@@+|\\\*|--+|\.{3,5}|<<|>>",
    rf"[<>]?[:;=][-o*']?[()\[\]{{DPdpO\\|@](?!{_W})|[=x^'<>~-]_[=x^'<>~-]|\([=<>-]{{2}}\)",
    rf"</?[A-Za-z][A-Za-z0-9_:-]*(?:\s[^<>\"]*(?:\"[^<>\"]*\"[^<>\"]*)*)?/?>|<[!?][A-Za-z-][^>]*>",
    r"\S",
]
_TOKENS = [re.compile(rule) for rule in _RULES]
_PLAIN = re.compile(r"[A-Za-z]{2,}(?: [A-Za-z]+)*")
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&nbsp;": "-", "&quot;": "'", "&apos;": "'"}
_QUOTES = {"“": "``", "„": "``", "«": "``", "”": "''", "»": "''", "‘": "`", "‹": "`", "’": "'", "›": "'"}
_MEANT = dict(zip("¼½¾⅓⅔¢£€¤₠", "1/4 1/2 3/4 1/3 2/3 cents # $ $ $".split(), strict=True))
_OWN = 0xE001  # from here on, private characters stand for those of _MEANT: signs that no rule takes for letters
_SIGNS = str.maketrans({"(": "-lrb-", ")": "-rrb-"} | _QUOTES | {chr(_OWN + at): to for at, to in enumerate(_MEANT.values())})


_NOTHING = "\ue000"


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
    if not text.isascii():
        text = text.translate(_CHARACTERS)
    elif _PLAIN.fullmatch(text):
        found = text.lower().split()
        if _TWO.keys().isdisjoint(found):
            return found
    return _scanned(text + "\n")


def _plain(token: str) -> str:
    """In lower case, curly quotes as straight ones but for the one of `’90s`, round brackets by name."""
    return token.lower() if token[0] == "’" and token[1:2].isdigit() else token.lower().translate(_SIGNS)


def _scanned(text: str) -> list[str]:
    found: list[str] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        best, length = "", 0
        for token in _TOKENS:
            match = token.match(text, at)
            if match and len(match[0]) > length:
                best, length = match[match.lastindex or 0], len(match[0])
        at += len(best)
        lower = _ENTITIES.get(best) or _BRACKETS.get(best) or _plain(best)
        if lower in _PUNCTUATION:
            continue
        found += _TWO[lower] if lower in _TWO and length == len(best) else lower.split()
    return found
