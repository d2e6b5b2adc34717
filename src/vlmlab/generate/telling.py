"""Telling: the text of the tokens written, said in pieces that never have to be taken back."""

from collections.abc import Callable, Sequence

HALF = "\N{REPLACEMENT CHARACTER}"
"""What a character decodes to while some of its bytes are missing."""


class Telling:
    """The text of one document as it is written.

    A piece never holds half a character, nor anything that might still turn out to begin a stop string; all pieces
    together are the text, which ends before the first stop string. `decode` turns ids into text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self.decode, self.stop = decode, stop
        self.text = ""
        self.said = 0
        # What the tokens before `new` say is settled. Those from `context` on are decoded again with what follows
        # them, for a token may say something else at the beginning of a text.
        self.settled, self.context, self.new = "", 0, 0

    def hear(self, written: Sequence[int]) -> str:
        """What may be said now that these tokens are written (all of them, from the first)."""
        before = self.decode(written[self.context : self.new])
        fresh = self.decode(written[self.context :])[len(before) :]
        self.text = self.settled + fresh
        if fresh and not fresh.endswith(HALF):
            self.settled, self.context, self.new = self.text, self.new, len(written)
        unsaid = self.text[self.said :]
        return self._say(len(unsaid) - held_back(unsaid, self.stop))

    def finish(self) -> tuple[str, bool]:
        """What is left to be said when nothing more is written, and whether a stop string ended the text."""
        unsaid = self.text[self.said :]
        found = [at for at in (unsaid.find(stop) for stop in self.stop) if at >= 0]
        if found:
            self.text = self.text[: self.said + min(found)]
        return self._say(len(self.text) - self.said), bool(found)

    def _say(self, count: int) -> str:
        start, self.said = self.said, self.said + max(count, 0)
        return self.text[start : self.said]


def held_back(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of `text` may not be said yet: part of a character, or the start of a stop."""
    whole = text.rstrip(HALF)
    safe = len(whole)
    for string in stop:
        at = text.find(string)
        if at >= 0:
            safe = min(safe, at)
        starts = (size for size in range(min(len(string), len(whole)), 0, -1) if whole.endswith(string[:size]))
        safe = min(safe, len(whole) - next(starts, 0))
    return len(text) - safe
