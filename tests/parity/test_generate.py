"""Greedy, penalised and beam-searched tokens equal those of transformers, prompt by prompt."""

import pytest
import torch
from einops import rearrange

from generate import tiny as ours
from hub import tiny as theirs
from vlmlab.generate.decoding import beam, greedy
from vlmlab.generate.engine import Engine
from vlmlab.hub.load import load_model
from vlmlab.processor.images import native, split
from vlmlab.processor.processor import Config, Options, Processor

SHAPES = [
    {"text": {"vocab_size": 103, "sliding_window": None}},
    {"text": {"vocab_size": 103, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 9}},
    {"text": {"vocab_size": 103}, "tie_word_embeddings": True, "perceiver": {"resampler_n_latents": 5}},
]


@pytest.fixture(scope="module", params=range(len(SHAPES)))
def pair(request, tmp_path_factory):
    """A model of transformers and the engine on the same weights."""
    made = theirs.build(SHAPES[request.param], seed=request.param)
    made.config.image_token_id = made.model.config.image_token_id = 101
    folder = theirs.save(made, tmp_path_factory.mktemp("model"))
    model = load_model(folder)
    config = Config(images=native.Config(longest=70, shortest=28), pad="<unk>")
    return made, Engine(model, Processor(config, ours.tokenizer(), model.placeholders, 103))


def written(made, engine: Engine, sample, options, **ways) -> list[int]:
    """What transformers writes after our batch of one sample, its pixels put together again from our patches."""
    batch = engine.processor([sample], add_generation_prompt=True, options=options)
    inputs = {"input_ids": batch.tokens, "attention_mask": torch.ones_like(batch.tokens)}
    if batch.images is not None:
        sizes = batch.images.sizes()
        pieces = batch.images.patches.split([rows * columns for rows, columns in sizes])
        pixels = [
            rearrange(p, "(h w) (c y x) -> c (h y) (w x)", h=rows, y=14, x=14)
            for p, (rows, _) in zip(pieces, sizes, strict=True)
        ]
        inputs = theirs.for_them(batch.tokens[0].tolist(), pixels)
    out = made.generate(
        **inputs,
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=[99, 102],
        pad_token_id=0,
        bad_words_ids=[[100], [101]],
        **ways,
    )
    return out[0, batch.tokens.shape[1] :].tolist()


@pytest.mark.parametrize(
    ("way", "same"),
    [
        (greedy.Config(), {}),
        (greedy.Config(repetition_penalty=1.3), {"repetition_penalty": 1.3}),
        (beam.Config(beams=3), {"num_beams": 3}),
        (beam.Config(beams=4, length_penalty=0.3), {"num_beams": 4, "length_penalty": 0.3}),
    ],
    ids=["greedy", "penalty", "beam", "short beams"],
)
def test_tokens_equal_transformers(pair, way, same):
    made, engine = pair
    together = engine.answers(ours.samples(), 12, way)
    for sample, answer in zip(ours.samples(), together, strict=True):
        assert answer.tokens == written(made, engine, sample, None, **same)


def test_tokens_equal_transformers_with_pictures_split(pair):
    made, engine = pair
    options = Options(images=split.Config(longest=70, shortest=28))
    sample = ours.samples()[3]
    answer = engine.answers([sample], 12, options=options)[0]
    assert answer.cost.visual_tokens == 5 * engine.model.count(torch.ones(1, 2, dtype=torch.long))[0]
    assert answer.tokens == written(made, engine, sample, options)
