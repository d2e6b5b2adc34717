"""What the answers should have been: the bare engine's, without a server; and what to say of those that differ."""

import dataclasses
from collections import Counter
from collections.abc import Iterable

import torch

from serve.soak.asked import Scale, Secret, secret
from vlmlab.generate.answers import Answer, Settings
from vlmlab.generate.decoding import Allowed
from vlmlab.generate.engine import Engine
from vlmlab.model.vlm import VLM
from vlmlab.processor.processor import Processor

BOUND = 1e-4
"""Two tokens whose log-probabilities are nearer than this are as good as equal: either may be taken, by the law."""

AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Heard:
    """A text that a client was told about a secret; all of it, or with `whole` false what came before it left."""

    number: int
    secret: int
    text: str
    whole: bool = True


@dataclasses.dataclass
class Findings:
    """How many texts were right, how many but for tokens as good as equal, and those that were not.

    `crossed` are the answers to other requests' secrets. `secrets` were asked about; so many `distinct` answers they
    have, and the chance that a swap of two of them would not be seen is `alike`.
    """

    right: int = 0
    ties: int = 0
    parts: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    crossed: list[str] = dataclasses.field(default_factory=list)
    secrets: int = 0
    distinct: int = 0
    alike: float = 0.0


class Truth:
    """Answers of the engine itself."""

    def __init__(self, model: VLM, processor: Processor, seed: int, scale: Scale) -> None:
        self.engine = Engine(model, processor, rows=AT_ONCE, capacity=scale.context, queue=10 * AT_ONCE)
        self.words = model.config.language.vocabulary
        self.seed, self.scale = seed, scale

    def check(self, heard: Iterable[Heard]) -> Findings:
        """Hold texts against the engine's own."""
        heard = list(heard)
        with self.engine:
            answers = self._answers(sorted({one.secret for one in heard}))
            said = {number: self._secret(number).said(answer.text) for number, answer in answers.items()}
            owners = {text: number for number, text in said.items()}
            counts = Counter(said.values())
            pairs = max(len(said) * (len(said) - 1), 1)
            found = Findings(secrets=len(said), distinct=len(counts))
            found.alike = sum(n * (n - 1) for n in counts.values()) / pairs
            for one in heard:
                right = said[one.secret]
                if one.text == right if one.whole else right.startswith(one.text):
                    found.right += one.whole
                    found.parts += not one.whole
                elif self._as_good(one):
                    found.ties += 1
                else:
                    told = f"request {one.number}: {one.text!r} for {right!r}"
                    other = owners.get(one.text) if one.whole else None
                    (found.wrong if other is None else found.crossed).append(told)
        return found

    def _secret(self, number: int) -> Secret:
        return secret(self.seed, number, self.scale)

    def _answers(self, numbers: list[int]) -> dict[int, Answer]:
        found: dict[int, Answer] = {}
        for start in range(0, len(numbers), 4 * AT_ONCE):
            some = numbers[start : start + 4 * AT_ONCE]
            secrets = [self._secret(number) for number in some]
            handles = [self.engine.submit(each.sample(), Settings(each.limit)) for each in secrets]
            found |= {number: handle.result() for number, handle in zip(some, handles, strict=True)}
        return found

    def _as_good(self, heard: Heard) -> bool:
        """Whether the engine writes this text too when it may take either of two tokens that are as good as equal."""
        about = self._secret(heard.secret)
        waiting: list[list[int]] = [[]]
        for _ in range(16):
            if not waiting:
                break
            begun = waiting.pop(0)
            settings = Settings(about.limit, logprobs=4, allowed=self._beginning(begun))
            answer = self.engine.submit(about.sample(), settings).result()
            said = about.said(answer.text)
            if said == heard.text if heard.whole else said.startswith(heard.text):
                return True
            taken = [one.token for one in answer.scored]
            for at, one in list(enumerate(answer.scored))[len(begun) :]:
                near = [token for token, logprob in one.likeliest if abs(logprob - one.logprob) < BOUND]
                waiting += [[*taken[:at], token] for token in near if token != one.token]
        return False

    def _beginning(self, tokens: list[int]) -> Allowed:
        """Nothing but these tokens, then anything."""

        def allowed(written: list[int]) -> torch.Tensor | None:
            if len(written) >= len(tokens):
                return None
            mask = torch.zeros(self.words, dtype=torch.bool)
            mask[tokens[len(written)]] = True
            return mask

        return allowed
