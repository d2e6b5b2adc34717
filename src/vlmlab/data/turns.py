"""Conversations as corpora of dialogues store them: a list of turns, each with who speaks and what is said."""

from collections.abc import Mapping, Sequence
from typing import Any

SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
"""What the published corpora call the roles of a conversation."""


def read_turns(turns: Sequence[Any], speaker: str = "from", said: str = "value") -> list[tuple[str, str]]:
    """Roles and texts of a conversation whose turns are objects; with `speaker` empty, of one that is a list of texts.

    Texts take turns, the user first. Raises ValueError naming the turn that cannot be read, and where no answer follows
    a question.
    """
    found = []
    for number, turn in enumerate(turns):
        if not speaker:
            role, text = ("user", "assistant")[number % 2], turn
        elif isinstance(turn, Mapping) and speaker in turn and said in turn:
            role, text = SPEAKERS.get(str(turn[speaker]), ""), turn[said]
            if not role:
                raise ValueError(f"turn {number} is by {turn[speaker]!r}; known are {', '.join(SPEAKERS)}")
        else:
            raise ValueError(f"turn {number} should be an object with {speaker!r} and {said!r}, not {turn!r:.80}")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"turn {number} should have text, not {text!r:.80}")
        found.append((role, text.strip()))
    roles = [role for role, _ in found]
    if "user" not in roles or "assistant" not in roles[roles.index("user") :]:
        raise ValueError("a conversation needs a question and an answer")
    return found
