"""The words of a caption as captioning scores count them: Penn Treebank tokens in lower case, without punctuation.

They equal what Stanford's `PTBTokenizer -preserveLines -lowerCase` (CoreNLP 3.4.1) gives, after the removal of punctuation
that pycocoevalcap does. The rules were found by running that program on millions of strings; none of its code was read.
At each place the longest token wins, and the earlier rule among equally long ones. It has its oddities, kept here:
brackets stay as `-lrb-` (the removal expects capitals), `a.m.,` keeps its points, and a letter before a sentence loses
its own.
"""

import re
import unicodedata

_ABBREVIATIONS = """
adj adm adv al ala alex apr ariz assn asst assoc atty aug ave bhd bldg blvd brig bros calif capt cf cie cmdr co col colo
comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind
insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs
ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc ppte ppty pres prof profs pte ptes pty ptys pvt rd rep reps rev
rt sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc
wm wyo
""".split()
_WITH_A_CAPITAL = "Az La Pa Ark Del Ill Ore Tex Mass Miss Wash".split()
_BEFORE_A_NUMBER = "art ca fig figs no nos op pp prop".split()
_STARTS = """
A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once One Other
Our She Since So Some Such That The Their Then There These They This We What When While Yet You
""".split()
_TWO = {word: [word[:3], word[3:]] for word in ("cannot", "gimme", "gonna", "gotta", "lemme", "wanna")}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_PUNCTUATION = frozenset("'' ' \" `` ` . ? ! , : - ; \ue000".split())


def _any(words: list[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_L = r"(?:[^\W\d_]|[\u0300-\u036f])"
_W = r"(?:[^\W_]|[\u0300-\u036f])"
_COMPOUND = rf"{_W}+(?:[-_]{_W}+)*"
_GROUP = r"[A-Za-z0-9]+(?:-[A-Za-z]+)*"
_ENDING = r"(?:[sSmMdD]|[lL][lL]|[rR][eE]|[vV][eE])"
_CLITIC = rf"['’]{_ENDING}(?![A-Za-z])"

# A rule with a group takes the group, and is as long as the whole.
_RULES = [
    r"([A-Za-z]*[A-MO-Za-mo-z])[nN]['’][tT]",
    rf"({_COMPOUND}){_CLITIC}",
    r"[nN]['’][tT]",
    _COMPOUND,
    rf"({_COMPOUND}\.)[,;:]",
    rf"{_W}(?:{_W}|[.,])*-{_COMPOUND}",
    rf"{_GROUP}(?:\\?/{_GROUP}){{1,2}}",
    r"(?:[0-9]+[- \xa0])?[0-9]+\\?/[0-9]+",
    rf"{_L}{_W}*(?:[.!?]{_L}{_W}*)+",
    r"(?:[A-Za-z]\.)+[A-Za-z]?",
    rf"({_L})\.\s+(?:{_any(_STARTS)})(?:\s|$)",
    rf"(?i:{_any(_ABBREVIATIONS)})\.",
    rf"(?:{_any([word for one in _WITH_A_CAPITAL for word in (one, one.upper())])})\.",
    rf"((?i:{_any(_BEFORE_A_NUMBER)})\.)\s*[0-9]",
    r"[-+]?(?:[0-9]*(?:[.:,][0-9]+)+|[0-9]+)",
    r"\+?(?:[01]?[0-9]{0,2}[ -]?)?\([0-9]{2,3}\)[ -]?[0-9]{3,4}[ -]?[0-9]{4}",
    r"[A-Z]+(?:[+&][A-Z]+)+|[A-Z]+\$|[cC]\+\+|[cCfF]#",
    rf"#{_L}+|@[A-Za-z_][A-Za-z0-9_]*",
    r"[A-Za-z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}.]+",
    r"https?://[^\s\"<>|(){}]+[^\s\"<>|.!?(){},;:-]|www\.(?:[^\s\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}",
    rf"{_L}+[aeiouyAEIOUY]['’`][aeiouA-Z]{_L}*",
    rf"[A-XZdlno]['’]{_L}{{2}}{_W}*",
    r"[dDjJlLyY]['’]|[oO][lL]['’]",
    r"[cC]['’](?:mon|est)|[mM]a['’]am|[lL]i['’]l|(?i:nor['’]easter)|[eE]['’]er|[oO]['’`][oO]",
    r"''|``|[“”„«»‘’‹›]+",
    rf"{_CLITIC}|’{_ENDING}",
    r"['’][nN]['’]|['’][nN](?![A-Za-z])|['’](?:[eE][mM]|[tT]il|cause)",
    r"(['’][tT])(?:is|was)",
    rf"['’][0-9]0s|'[0-9][0-9](?!{_W}|['’])",
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
_SIGNS = str.maketrans({"(": "-lrb-", ")": "-rrb-"} | _QUOTES)


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


_CHARACTERS = _Characters(
    {ord(letter): made for letters, made in (
        ("¼", " 1/4 "), ("½", " 1/2 "), ("¾", " 3/4 "), ("⅓", " 1/3 "), ("⅔", " 2/3 "), ("¢", " cents "), ("£", " # "),
        ("€¤₠", " $ "), ("…–—―", _NOTHING), ("\xad", ""),
    ) for letter in letters} | {ord(quote): quote for quote in _QUOTES}
)  # fmt: skip


def words(text: str) -> list[str]:
    """The words of a caption, in lower case and in order."""
    if not text.isascii():
        text = text.translate(_CHARACTERS)
    elif _PLAIN.fullmatch(text):
        found = text.lower().split()
        if _TWO.keys().isdisjoint(found):
            return found
    return _scanned(text)


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
                best, length = match[match.re.groups], len(match[0])
        at += len(best)
        lower = _ENTITIES.get(best) or _BRACKETS.get(best) or _plain(best)
        if lower in _PUNCTUATION or lower[:2] in ("--", ".."):
            continue
        found += _TWO[lower] if lower in _TWO and length == len(best) else lower.split()
    return found
