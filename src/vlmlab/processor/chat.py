"""The published chat template, and the text forms in which prompts with pictures arrive."""

import re
from typing import NamedTuple

from vlmlab.batch import Message, Picture, Sample

DOCUMENTS = ("text", "prompt", "continuation")
"""Roles that are read as written, without the template. In a `prompt` the end-of-utterance marks are control tokens; a
`continuation` is what a document is to be continued with: learned, as an assistant's answer is."""


class Span(NamedTuple):
    """A stretch of a rendered conversation: text, a picture, or a control token by name.

    `answer` is what the model is meant to learn to say.
    """

    kind: str
    value: str | Picture
    answer: bool = False


def render(sample: Sample, add_generation_prompt: bool, end_of_utterance: str) -> list[Span]:
    """A conversation as the released model was taught to read it; a plain document as it is.

    `Role: text<end_of_utterance>` and a newline for each message, without a space after the colon when a picture comes
    first. The generation prompt is `Assistant:`.
    """
    spans: list[Span] = []
    for message in sample.messages:
        spans += _document(message, end_of_utterance) if message.role in DOCUMENTS else _turn(message, end_of_utterance)
    if add_generation_prompt and sample.messages[-1].role not in DOCUMENTS:
        spans.append(Span("text", "Assistant:"))
    return spans


def _document(message: Message, end_of_utterance: str) -> list[Span]:
    spans: list[Span] = []
    for part in message.parts:
        if isinstance(part, Picture):
            spans.append(Span("picture", part))
        elif message.role == "prompt":
            first, *rest = part.split(end_of_utterance)
            spans.append(Span("text", first))
            for piece in rest:
                spans += [Span("control", end_of_utterance), Span("text", piece)]
        else:
            spans.append(Span("text", part, message.role == "continuation"))
    return spans


def _turn(message: Message, end_of_utterance: str) -> list[Span]:
    answer = message.role == "assistant"
    spans = [Span("text", message.role.capitalize() + ":")]
    if not (message.parts and isinstance(message.parts[0], Picture)):
        spans.append(Span("text", " ", answer))
    for part in message.parts:
        picture = isinstance(part, Picture)
        spans.append(Span("picture" if picture else "text", part, answer and not picture))
    return [*spans, Span("control", end_of_utterance, answer), Span("text", "\n")]


_MARKDOWN = re.compile(r"!\[\]\(([^)\s]+)\)")


def from_markdown(text: str) -> Sample:
    """A plain document from the text form of text-generation-inference: pictures as `![](url)`, the rest verbatim.

    The caller writes the template itself, as the model card's example does:
    `User:![](url)Question<end_of_utterance>` and a newline, then `Assistant:`. The end-of-utterance marks are therefore
    control tokens here, unlike in a chat message.
    """
    parts: list[str | Picture] = []
    at = 0
    for match in _MARKDOWN.finditer(text):
        if match.start() > at:
            parts.append(text[at : match.start()])
        parts.append(Picture.of(match.group(1)))
        at = match.end()
    if at < len(text):
        parts.append(text[at:])
    return Sample((Message("prompt", tuple(parts)),))
