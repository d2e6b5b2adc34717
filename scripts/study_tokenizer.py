"""Makes recipes/nano/study-tokenizer.json, the tokenizer of the small studies: bytes, and the words of their questions.

python scripts/study_tokenizer.py
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from vlmlab.data.made.asking import KINDS
from vlmlab.data.sources import scenes

OUT = Path(__file__).parents[1] / "recipes" / "nano" / "study-tokenizer.json"
CONTROL = ("<s>", "</s>", "<pad>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")
VOCABULARY = 512  # at most: fewer where no more words repeat


def texts() -> Iterator[str]:
    """What is asked and answered about some thousand scenes."""
    source = scenes.Config(samples=4000, things=6, questions=6, kinds=KINDS, chat=False).build()
    for index in range(len(source)):
        for question in source.truth(index).questions:
            yield f"{question.text} {question.answer}\n"


def main() -> None:
    """Train it and write it."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.chain(texts()), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    tokenizer.save(str(OUT))
    print(f"{OUT}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
