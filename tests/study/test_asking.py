"""What is asked, and among which candidates; every question is answered as if it were asked alone."""

import random

import pytest
import torch

from study import small
from train import tiny
from vlmlab.batch import Message, Picture, Sample
from vlmlab.component import parse
from vlmlab.data.made import png
from vlmlab.processor.processor import Options
from vlmlab.study import asking
from vlmlab.study import plan as plans
from vlmlab.study.plan import Choices
from vlmlab.train import run


def choices(**changes) -> Choices:
    data = {**small.SCENES, "samples": 6, "split": "test", "kinds": ["shape", "count"]}
    return parse(Choices, {"data": data, **changes})


def test_candidates_part_where_most_answers_do():
    spelled = {"1": [0, 1], "2": [0, 2], "3": [0, 3], "red": [9]}
    forks = asking._forks(spelled, dict.fromkeys(spelled, 1))
    assert asking._candidates([0, 2], forks, 12, random.Random(0)) == ((0,), (2, 1, 3), ("1", "3"))
    assert asking._candidates([9], forks, 12, random.Random(0)) == ((), (9, 0), ("1",))
    opening, tokens, words = asking._candidates([0, 2], forks, 2, random.Random(0))
    assert (opening, tokens, words) == ((), (0, 9), ("red",))  # two are enough, and they part at the start


def test_what_is_common_is_no_hint_of_the_right_candidate():
    given = {str(number): 40 if number < 10 else 1 for number in range(60)}
    forks = asking._forks({word: [int(word)] for word in given}, given)
    generator = random.Random(0)
    asked = generator.choices(list(given), weights=list(given.values()), k=2000)
    guessed = 0
    for word in asked:
        _, tokens, words = asking._candidates([int(word)], forks, 8, generator)
        assert len({word, *words}) == len(tokens) == 8
        guessed += max(tokens, key=lambda token: (given[str(token)], generator.random())) == int(word)
    # Of eight. Were the others drawn evenly, a guess by what is common would have a half.
    assert guessed / len(asked) < 0.2


def test_every_question_has_its_answer_first_and_others_that_begin_otherwise():
    asked = asking.questions(choices(), tiny.tokenizer())
    assert {q.kind for q in asked.questions} <= {"shape", "count"}
    for question in asked.questions:
        assert len(set(question.tokens)) == len(question.tokens) == len(question.candidates) > 1
        assert question.answer == question.candidates[0]
        spelled = tiny.tokenizer().encode(f" {question.answer}").ids
        assert tuple(spelled[: len(question.opening) + 1]) == (*question.opening, question.tokens[0])
    assert asking.questions(choices(), tiny.tokenizer()).questions == asked.questions


def test_a_source_that_is_not_made_cannot_be_asked():
    with pytest.raises(ValueError, match="only made sources know"):
        asking.questions(parse(Choices, {"data": {"name": "train.tiny"}}), tiny.tokenizer())


@pytest.mark.parametrize("fusion", ["interleave", "cross_attention"])
def test_answers_are_those_of_each_question_asked_alone(tmp_path, fusion):
    cross = ["model.fusion.name=cross_attention", "model.fusion.image_token=260", "model.fusion.every=1"]
    cross += ["model.fusion.heads=2", "model.fusion.kv_heads=2", "model.fusion.head_width=16", "model.fusion.inner=32"]
    path = small.study(tmp_path, changes=cross if fusion == "cross_attention" else [])
    made = run.build(plans.load(path).recipe("two", 0))
    for name, weight in made.model.named_parameters():  # gates that are shut would let no picture through
        if "gate" in name and weight.numel() == 1:
            torch.nn.init.constant_(weight, 1.0)
    asked = asking.questions(choices(together=3), made.processor.tokenizer)
    said = asking.answer(made.model, made.processor, asked, choices(together=3), Options())
    assert said.controlled == list(range(len(asked.questions)))
    made.model.eval()
    groups = asking._groups(list(dict.fromkeys(q.picture for q in asked.questions)), 3)
    after = {one: other for group in groups for one, other in zip(group, [*group[1:], group[0]], strict=True)}
    for at, question in enumerate(asked.questions):
        other = after[question.picture]
        for number, loss in ((question.picture, said.losses[at]), (other, said.wrong_losses[at])):
            sample = Sample((Message("text", (asked.pictures[number], question.text)),))
            batch = made.processor([sample])
            opening = torch.tensor([question.opening], dtype=torch.long)
            tokens = torch.cat([batch.tokens, opening], 1)
            batch = type(batch)(
                tokens, torch.ones_like(tokens), torch.arange(tokens.shape[1])[None], None, batch.images
            )
            with torch.no_grad():
                scores = made.model(batch)[0, -1, list(question.tokens)].double().log_softmax(0)
            assert loss == pytest.approx(-float(scores[0]), abs=1e-4)
    assert said.losses != said.wrong_losses


def test_some_pictures_are_enough_for_the_control(tmp_path):
    made = run.build(plans.load(small.study(tmp_path)).recipe("two", 0))
    sparing = choices(control=2, together=4)
    asked = asking.questions(sparing, made.processor.tokenizer)
    said = asking.answer(made.model, made.processor, asked, sparing, Options())
    asked_about = list(dict.fromkeys(q.picture for q in asked.questions))
    assert {asked.questions[at].picture for at in said.controlled} == set(asked_about[:2])
    assert len(said.right) == len(asked.questions)


def test_the_last_picture_is_not_read_alone():
    assert asking._groups(list(range(9)), 4) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert asking._groups(list(range(6)), 4) == [[0, 1, 2, 3], [4, 5]]


def test_a_picture_is_read_as_it_is_drawn():
    asked = asking.questions(choices(), tiny.tokenizer())
    source = choices().data.build()
    assert asked.pictures[2].source == png(source.draw(source.truth(2)))
    assert isinstance(asked.pictures[2], Picture)
