"""`vlmlab prefer`: two models answer, a person judges, and what the votes come to is said and written."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import PIL.Image

from vlmlab import media
from vlmlab.evaluate.answering import Answerer, Writing
from vlmlab.evaluate.judging import Judging
from vlmlab.evaluate.prefer import Config, Pair, Prompts, Votes, answers, pairs, result
from vlmlab.evaluate.report import Shower
from vlmlab.train.log import Meter
from vlmlab.train.origin import Origin
from vlmlab.writing import write_text

RESULT = "result.json"


class Preferring:
    """Prompts, and the folder in which answers and votes are kept. Raises ValueError where prompts cannot be read."""

    def __init__(self, prompts: str, folder: Path, max_new_tokens: int, seed: int) -> None:
        self.prompts, self.folder, self.seed = Prompts(Config(path=prompts)), folder, seed
        self.writing = Writing(max_new_tokens)
        self.names: tuple[str, str] = ("", "")

    def pairs(self, first: Callable[[], Answerer], second: Callable[[], Answerer]) -> list[Pair]:
        """The answers of both in pairs; one model is let go before the other is loaded."""
        found = []
        waiting = [("A", first()), ("B", second())]  # neither is loaded yet, but both are there
        names = [answerer.name for _, answerer in waiting]
        while waiting:
            name, answerer = waiting.pop(0)
            with Meter(f"{name} answered", len(self.prompts)) as meter:
                found.append(answers(self.prompts, answerer, self.folder / "answers", self.writing, meter.advance))
        self.names = (names[0], names[1])
        return pairs(found[0], found[1], self.seed)

    def judge(self, among: Sequence[Pair], judge: str, port: int) -> None:
        """Serve the pairs to a judge until all are judged, or somebody interrupts."""
        votes = Votes(self.folder)
        if not votes.left(judge, among):
            return
        with Judging(among, votes, judge, self._show, port) as judging:
            print(f"open {judging.address} to judge; Ctrl-C stops, and the same again goes on", flush=True)
            try:
                judging.done.wait()
            except KeyboardInterrupt:
                print()

    def tell(self, among: Sequence[Pair]) -> None:
        """Print what all votes so far come to, and write it."""
        votes = Votes(self.folder)
        found = result(among, votes)
        print(f"A is {self.names[0]}, B is {self.names[1]}")
        lost = len(self.prompts) - len(among)
        if lost:
            print(f"{lost} prompts got an error for an answer and are left out")
        if found is None:
            print("there are no votes yet")
            return
        print("\n".join(found.lines()))
        told = {
            "made_by": Origin.now(json.dumps([*self.names, str(self.prompts.config.path)]), self.seed).plain(),
            "a": self.names[0],
            "b": self.names[1],
            **dataclasses.asdict(found),
            "judges": sorted({judge for judge, _ in votes.given}),
        }
        write_text(self.folder / RESULT, json.dumps(told, indent=1) + "\n")

    def _show(self, pair: Pair) -> list[PIL.Image.Image]:
        return Shower(self.prompts, media.fetch, 640)(pair.number, pair.a)
