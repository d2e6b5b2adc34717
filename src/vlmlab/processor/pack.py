"""Packing: which samples share a row of so many tokens, and how a sample that is too long for one is cut.

Lengths count everything a row holds, the tokens of pictures included.
"""

import bisect
from collections.abc import Callable, Sequence

from vlmlab.batch import Message, Picture, Sample


def fill(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Rows of at most `tokens` tokens: the numbers of the samples in each, in rising order, the rows by their first.

    Best fit, the longest first: a sample goes where the least room is left that takes it. What is longer than a row has
    one of its own. Depends on the lengths alone. When everything fits one row, that is the samples as they came.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # the room left and the row, rising
    for number in sorted(range(len(lengths)), key=lambda at: (-lengths[at], at)):
        found = bisect.bisect_left(rooms, (lengths[number], -1))
        if found == len(rooms):
            room, row = tokens, len(rows)
            rows.append([])
        else:
            room, row = rooms.pop(found)
        rows[row].append(number)
        if room > lengths[number]:
            bisect.insort(rooms, (room - lengths[number], row))
    return sorted(sorted(row) for row in rows)


def split(sample: Sample, length: Callable[[Sample], int], tokens: int) -> tuple[list[Sample], int]:
    """A sample that is too long, in pieces of at most `tokens` tokens each, and how many blocks fit none.

    It is cut between blocks only. A document's block is a text with the pictures right before it; pictures at its end
    belong to the last block. A conversation's is a question with its answer; a system prompt, and pictures that stand
    before the first question, are given to every piece. What cannot be cut is one block. `length` counts the tokens of
    a piece; what follows it may not make it shorter.
    """
    before, blocks = _blocks(sample)
    if len(blocks) < 2:
        return [], 1
    pieces: list[Sample] = []
    left_out, start = 0, 0
    while start < len(blocks):
        end = _most(before, blocks, start, length, tokens)
        if end == start:
            left_out, start = left_out + 1, start + 1
            continue
        pieces.append(_joined(before, blocks[start:end]))
        start = end
    return pieces, left_out


Block = tuple[Message, ...]


def _most(before: Block, blocks: Sequence[Block], start: int, length: Callable[[Sample], int], tokens: int) -> int:
    """The last end at which the blocks from `start` fit, found by halving: counting means reading the pictures."""
    low, high = start, len(blocks)
    while low < high:
        middle = (low + high + 1) // 2
        if length(_joined(before, blocks[start:middle])) <= tokens:
            low = middle
        else:
            high = middle - 1
    return low


def _joined(before: Block, blocks: Sequence[Block]) -> Sample:
    """Some blocks as a sample: messages of a document become one again, and pictures of `before` lead the first."""
    messages = [message for block in blocks for message in block]
    if messages[0].role == "text":
        return Sample((Message("text", tuple(part for message in messages for part in message.parts)),))
    system = [message for message in before if message.role == "system"]
    pictures = [part for message in before if message.role != "system" for part in message.parts]
    first = Message(messages[0].role, (*pictures, *messages[0].parts))
    return Sample((*system, first, *messages[1:]))


def _blocks(sample: Sample) -> tuple[Block, list[Block]]:
    """What every piece begins with, and the blocks that it may be cut between."""
    messages = sample.messages
    if len(messages) == 1 and messages[0].role == "text":
        return (), [(Message("text", tuple(parts)),) for parts in _texts(messages[0].parts)]
    system = messages[:1] if messages[0].role == "system" else ()
    turns = messages[len(system) :]
    if not turns or {message.role for message in turns} != {"user", "assistant"} or turns[0].role != "user":
        return (), [messages]
    pictures: list[Picture] = []
    for part in turns[0].parts:
        if not isinstance(part, Picture):
            break
        pictures.append(part)
    turns = (Message("user", turns[0].parts[len(pictures) :]), *turns[1:])
    starts = [
        at for at, message in enumerate(turns) if message.role == "user" and (not at or turns[at - 1].role != "user")
    ]
    blocks = [turns[start:end] for start, end in zip(starts, [*starts[1:], len(turns)], strict=True)]
    return (*system, *([Message("user", tuple(pictures))] if pictures else [])), blocks


def _texts(parts: Sequence[str | Picture]) -> list[list[str | Picture]]:
    blocks: list[list[str | Picture]] = []
    open_ = False  # whether the last block still waits for its text
    for part in parts:
        if not open_:
            blocks.append([])
        blocks[-1].append(part)
        open_ = isinstance(part, Picture)
    if open_ and len(blocks) > 1:
        last = blocks.pop()
        blocks[-1] += last
    return blocks
