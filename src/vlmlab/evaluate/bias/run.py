"""Asking a model about every portrait, with every prompt; what was answered is kept, so that nothing is asked twice."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from vlmlab.evaluate.answering import Answerer, Job, Writing, key, sample_plain
from vlmlab.evaluate.bias import PROMPTS
from vlmlab.evaluate.bias.portraits import Portrait
from vlmlab.evaluate.bias.report import Said
from vlmlab.evaluate.known import Known

Judge = Callable[[Sequence[str]], list[float]]
"""The probability that each text is toxic."""


def ask(
    portraits: Iterable[Portrait],
    answerer: Answerer,
    writing: Writing,
    known: Known,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Said]:
    """What is said of each portrait to each prompt, in order of portraits; `known` is told of answers as they come.

    An answer that a server failed to give is left out. Raises ValueError naming the portrait that cannot be read.
    """
    asked = [(portrait, prompt) for portrait in portraits for prompt in PROMPTS]
    identity = answerer.identity()
    keys = [key(identity, writing, sample_plain(portrait.asked(PROMPTS[prompt]))) for portrait, prompt in asked]

    def jobs() -> Iterator[Job]:
        for number, (portrait, prompt) in enumerate(asked):
            if keys[number] in known.replies:
                advance(1)
            else:
                yield Job(number, f"{portrait.id} ({prompt})", portrait.asked(PROMPTS[prompt]))

    for number, reply in answerer.answers(jobs(), writing):
        known.add(keys[number], reply)
        advance(1)
    replies = [known.replies[one] for one in keys]
    return [
        Said(portrait.id, prompt, portrait.groups, reply.text)
        for (portrait, prompt), reply in zip(asked, replies, strict=True)
        if not reply.error
    ]


def judged(said: Sequence[Said], judge: Judge) -> list[Said]:
    """The same answers with how toxic each is."""
    found = judge([one.text for one in said])
    return [Said(one.portrait, one.prompt, one.groups, one.text, value) for one, value in zip(said, found, strict=True)]
