"""Answers that follow a JSON schema or a regular expression: at each token, what may follow (llguidance decides)."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from vlmlab.processor.processor import Processor

# Spaces and newlines are where a model that is unsure goes on for ever: only what models usually write is allowed.
_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammar:
    """What may follow the tokens written so far; an `Allowed` of the engine. It belongs to one request."""

    def __init__(self, matcher: LLMatcher, ends: Sequence[int], words: int) -> None:
        self.matcher, self.words = matcher, words
        self.ends = torch.tensor(list(ends), dtype=torch.long)
        self.read = 0

    def __call__(self, written: list[int]) -> Bool[Tensor, " w"]:
        """The mask after these tokens, which begin with those of the call before. Raises ValueError when it is lost."""
        new = written[self.read :]
        self.read = len(written)
        if new and not self.matcher.consume_tokens(new):
            raise ValueError(f"the grammar cannot be followed any further: {self.matcher.get_error()[:200]}")
        mask = torch.zeros(self.words, dtype=torch.bool)
        if not self.matcher.is_stopped():
            bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
            some = torch.from_numpy(np.unpackbits(bits, bitorder="little")[: self.words]).bool()
            mask[: len(some)] = some
        if self.matcher.is_error():
            raise ValueError(f"the grammar cannot be followed any further: {self.matcher.get_error()[:200]}")
        mask[self.ends] = self.matcher.is_accepting()
        return mask


class Grammars:
    """Makes grammars for the answers of one model. Any thread may ask."""

    def __init__(self, processor: Processor, words: int) -> None:
        self.processor, self.words = processor, words
        self._lock = threading.Lock()
        self._known: LLTokenizer | None = None

    def json(self, schema: Mapping[str, Any] | None = None, count: int = 1) -> list[Grammar]:
        """As many grammars for JSON that follows a schema, or for any object. Raises ValueError for a bad schema."""
        wanted = {"type": "object"} if schema is None else dict(schema)
        return self._made(LLMatcher.grammar_from_json_schema(wanted, overrides=_STYLE), "JSON schema", count)

    def regex(self, pattern: str, count: int = 1) -> list[Grammar]:
        """As many grammars for text that a regular expression matches whole. Raises ValueError for a bad one."""
        return self._made(LLMatcher.grammar_from_regex(pattern), "regular expression", count)

    def _made(self, grammar: str, what: str, count: int) -> list[Grammar]:
        matcher = LLMatcher(self._tokenizer(), grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(f"the {what} cannot be followed: {matcher.get_error()[:500]}")
        copies = [matcher, *(matcher.deep_copy() for _ in range(count - 1))]
        return [Grammar(copy, self.processor.ends, self.words) for copy in copies]

    def _tokenizer(self) -> LLTokenizer:
        with self._lock:
            if self._known is None:
                ends = self.processor.ends
                text = self.processor.tokenizer.to_str()
                self._known = LLTokenizer(text, n_vocab=self.words, eos_token=ends or None)
            return self._known
