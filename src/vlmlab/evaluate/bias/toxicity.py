"""How toxic a text is, by a classifier in ONNX: the model card runs all answers through one.

A folder holds `model.onnx` (or `onnx/model.onnx`), `tokenizer.json` and `config.json`, as exported classifiers on the
hub do (citizenlab/distilbert-base-multilingual-cased-toxicity is the card's; unitary/toxic-bert is one that the hub has
in ONNX). Nothing in it is run as code.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from vlmlab.hub.files import read_json

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
        if not (folder / "tokenizer.json").is_file():
            raise ValueError(f"{folder} has no tokenizer.json")
        config = read_json(folder / "config.json")
        labels = {name: int(number) for number, name in config.get("id2label", {}).items()}
        self.one_of_many = config.get("problem_type") != "multi_label_classification"
        self.place = _place(labels, label, folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(LONGEST)
        self.tokenizer.no_padding()
        self.session = onnxruntime.InferenceSession(str(found[0]), providers=["CPUExecutionProvider"])
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


def _place(labels: dict[str, int], label: str, folder: Path) -> int:
    wanted = (label.casefold(),) if label else NAMES
    found = [place for name, place in labels.items() if name.casefold() in wanted]
    if not found:
        known = ", ".join(labels) or "none"
        raise ValueError(f"{folder / 'config.json'}: no class is called {' or '.join(wanted)}; its classes: {known}")
    return found[0]
