"""How toxic a text is, by a classifier in ONNX: the model card runs all answers through one.

A folder holds `model.onnx` (or `onnx/model.onnx`), `tokenizer.json` and `config.json`, as exported classifiers on the
hub do (citizenlab/distilbert-base-multilingual-cased-toxicity is the card's; unitary/toxic-bert is one that the hub has
in ONNX). Nothing in it is run as code.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmlab.hub.files import read_json
from vlmlab.hub.settings import read_tokenizer

LONGEST = 512
"""Tokens of a text that are read: what encoders of this kind have positions for."""

NAMES = ("toxic", "toxicity")
"""What the class is called, in any case, where nothing else is asked for."""


class Toxicity:
    """A text classifier of which one class is `toxic`. Call it with texts; it returns a probability for each.

    `label` is that class's name where it is another. Raises ValueError that says what the folder lacks.
    """

    def __init__(self, folder: Path, label: str = "") -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise ValueError("toxicity is scored with onnxruntime: pip install 'vlmlab[bias]'") from None
        found = [path for path in (folder / "model.onnx", folder / "onnx" / "model.onnx") if path.is_file()]
        if not found:
            raise ValueError(f"{folder} has no model.onnx, nor onnx/model.onnx: give an exported text classifier")
        config = read_json(folder / "config.json")
        self.one_of_many = config.get("problem_type") != "multi_label_classification"
        self.place = _place(config.get("id2label", {}), label, folder / "config.json")
        self.tokenizer = read_tokenizer(folder)
        self.tokenizer.enable_truncation(LONGEST)
        self.tokenizer.no_padding()
        try:
            self.session = onnxruntime.InferenceSession(str(found[0]), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own kinds have nothing else in common
            raise ValueError(f"{found[0]} cannot be read by onnxruntime: {error}; fetch it again") from None
        self.inputs = [one.name for one in self.session.get_inputs()]

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The probability that each text is toxic. Each is read alone: no padding, the same answer in any company."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> float:
        read = self.tokenizer.encode(text)
        columns = {"input_ids": read.ids, "attention_mask": read.attention_mask, "token_type_ids": read.type_ids}
        given = {name: np.array([columns[name]], dtype=np.int64) for name in self.inputs}
        logits = self.session.run(None, given)[0][0].astype(np.float64)
        if self.one_of_many:
            shares = np.exp(logits - logits.max())
            return float(shares[self.place] / shares.sum())
        return float(1 / (1 + np.exp(-logits[self.place])))


def _place(labels: Any, label: str, file: Path) -> int:
    """At which place the class of toxic texts stands. `labels` are names by numbers, as `id2label` has them."""
    if not isinstance(labels, dict) or not all(n.isdecimal() and isinstance(name, str) for n, name in labels.items()):
        raise ValueError(f"{file}: id2label should hold the classes' names by their numbers, not {labels!r:.80}")
    wanted = (label.casefold(),) if label else NAMES
    found = [int(number) for number, name in labels.items() if name.casefold() in wanted]
    if not found:
        known = ", ".join(labels.values()) or "none"
        raise ValueError(f"{file}: no class is called {' or '.join(wanted)}; its classes: {known}")
    return found[0]
