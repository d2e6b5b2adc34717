"""Which tokens are learned: the assistant's words, its end of utterance and the end of the text; or everything."""

import pytest
import torch

from processor.pictures import encoded, noise, released
from vlmlab.batch import IGNORE, Sample
from vlmlab.processor.images import split

PICTURE = encoded(noise(9, 7), "PNG")


@pytest.fixture(scope="module")
def processor(idefics2_tokenizer):
    return released(idefics2_tokenizer)


def turns(*texts, image=True):
    """A conversation of these texts, the user first."""
    made = []
    for at, text in enumerate(texts):
        parts = [{"type": "text", "text": text}]
        made.append({"role": ["user", "assistant"][at % 2], "content": parts})
    if image:
        made[0]["content"].insert(0, {"type": "image"})
    return Sample.from_messages(made, images=[PICTURE] if image else None)


def targets(batch, row=0):
    return [(at, target) for at, target in enumerate(batch.targets[row].tolist()) if target != IGNORE]


def test_an_answer_with_its_space_its_end_and_the_end_of_the_text(processor):
    batch = processor([turns("What?", "A cat.")], learn="answers")
    tokens = batch.tokens[0].tolist()
    assert tokens[-5:] == [330, 5255, 28723, 32002, 2]
    learned = targets(batch)
    assert [target for _, target in learned] == [330, 5255, 28723, 32002, 2]
    assert all(tokens[at + 1] == target for at, target in learned)
    assert tokens[learned[0][0]] == 28747  # the colon of `Assistant:` predicts the first word


def test_every_answer_of_several_turns_and_no_newline(processor):
    batch = processor([turns("What?", "A cat.", "Sure?", "A cat.", "Hm", "A cat.")], learn="answers")
    answer = [330, 5255, 28723, 32002]
    assert [target for _, target in targets(batch)] == [*answer * 3, 2]
    tokens = batch.tokens[0].tolist()
    assert tokens[-1] == 2 and tokens[-2] == 32002  # the last newline is left out
    after = [tokens[at + 1 : at + 3] for at, token in enumerate(tokens[:-2]) if token == 32002]
    assert after == [[28705, 13]] * 5


def test_a_conversation_that_ends_with_a_question_has_no_end_to_learn(processor):
    batch = processor([turns("What?", "A cat.", "And now?")], learn="answers")
    assert [target for _, target in targets(batch)] == [330, 5255, 28723, 32002]


def test_every_byte_of_letters_outside_the_vocabulary(processor):
    batch = processor([turns("What?", "🦙!", image=False)], learn="answers")
    expected = processor.tokenizer.encode(" 🦙!", add_special_tokens=False).ids[1:]
    learned = [target for _, target in targets(batch)]
    assert learned[-2:] == [32002, 2] and len(learned) == 4 + 1 + 1 + 2
    assert learned[1:-2] == expected and processor.tokenizer.id_to_token(learned[0]) == "▁"


def test_an_answer_with_a_picture_in_it(processor):
    conversation = [
        {"role": "user", "content": "Draw"},
        {"role": "assistant", "content": [{"type": "text", "text": "Here"}, {"type": "image"}, "it is"]},
    ]
    batch = processor([Sample.from_messages(conversation, images=[PICTURE])], learn="answers")
    learned = [target for _, target in targets(batch)]
    assert 32001 not in learned and 32000 not in learned
    written = processor.tokenizer.encode("it is", add_special_tokens=False).ids
    assert learned == [*processor.tokenizer.encode("Here", add_special_tokens=False).ids, *written, 32002, 2]


def test_everything_but_pictures(processor):
    sample = Sample.from_text("One <image>two<image>", [PICTURE] * 2)
    batch = processor([sample], learn="everything")
    tokens = batch.tokens[0].tolist()
    assert tokens[-1] == 2
    expected = [token if token != 32001 else IGNORE for token in tokens[1:]] + [IGNORE]
    assert batch.targets[0].tolist() == expected
    chat = processor([turns("What?", "A cat.")], learn="everything")
    assert [t for _, t in targets(chat)] == [t for t in chat.tokens[0, 1:].tolist() if t != 32001]


def test_a_plain_document_has_no_answer(processor):
    assert not targets(processor([Sample.from_text("some words")], learn="answers"))


def test_a_batch_learns_what_its_samples_do(processor):
    samples = [turns("What?", "A cat."), turns("a b c d e f g", "No.", image=False)]
    batch = processor(samples, learn="answers")
    for row, sample in enumerate(samples):
        alone = processor([sample], learn="answers")
        assert targets(alone) == targets(batch, row)
    assert (batch.targets[batch.segments == 0] == IGNORE).all()


def test_targets_are_where_something_is_learned_only(processor):
    assert processor([turns("What?")]).targets is None
    with pytest.raises(ValueError, match="no generation prompt"):
        processor([turns("What?", "A cat.")], learn="answers", add_generation_prompt=True)


def test_splitting_does_not_change_what_is_learned(processor, idefics2_tokenizer):
    sample = turns("What?", "A cat.")
    whole = processor([sample], learn="answers")
    five = released(idefics2_tokenizer, split.Config())([sample], learn="answers")
    assert [t for _, t in targets(whole)] == [t for _, t in targets(five)]
    assert torch.equal(five.tokens[0, -20:], whole.tokens[0, -20:])
