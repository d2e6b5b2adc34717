"""A language model reads a text: its surprise is that of transformers' model, token by token."""

import json
import math
import random

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from data import corpora
from model.tiny import scramble
from vlmlab.component import parse
from vlmlab.data import sieve, sieving
from vlmlab.data.filters import FilterConfig
from vlmlab.data.sources import SourceConfig
from vlmlab.evaluate import perplexity
from vlmlab.hub.assemble import read_language

SIZES = {"vocab_size": 59, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 600}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def backbone(request, tmp_path_factory):
    """A folder, and the model that transformers wrote into it."""
    folder = tmp_path_factory.mktemp("backbone")
    config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=request.param)
    theirs = scramble(transformers.LlamaForCausalLM(config).eval())
    theirs.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(59)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    return folder, theirs


@pytest.mark.parametrize(("count", "most"), [(2, 100), (40, 100), (300, 100), (590, 590)])
def test_the_surprise_is_that_of_transformers(backbone, count, most):
    folder, theirs = backbone
    ids = torch.randint(0, 59, (count,), generator=torch.Generator().manual_seed(count)).tolist()
    nats, predicted = perplexity.readers()(str(folder))(" ".join(f"w{i}" for i in ids), most)
    kept = torch.tensor([ids[:most]])
    wanted = theirs(kept, labels=kept).loss.item()
    assert predicted == len(kept[0]) - 1
    assert math.isclose(nats / predicted, wanted, rel_tol=1e-5)


def test_a_text_of_one_token_is_no_surprise(backbone):
    read = perplexity.reader(*read_language(backbone[0]))
    assert read("w1", 10) == (0.0, 0) and read("w1 w2", 1) == (0.0, 0) and read("", 10) == (0.0, 0)


def test_a_model_is_loaded_once(backbone, monkeypatch):
    loads = perplexity.readers()
    first = loads(str(backbone[0]))
    monkeypatch.setattr(perplexity, "read_language", None)
    assert loads(str(backbone[0])) is first


@pytest.mark.slow
def test_several_processes_judge_with_a_model_each(backbone, tmp_path):
    """Three pieces on two processes: the same bytes as by this one."""
    generator = random.Random(0)
    lines = [{"text": " ".join(f"w{generator.randrange(59)}" for _ in range(20))} for _ in range(160)]
    data = parse(SourceConfig, {"name": "jsonl", "path": str(corpora.as_lines(tmp_path / "mine.jsonl", lines))})
    keys = {"name": "perplexity", "model": str(backbone[0]), "measured": 40, "share": 0.1}
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        made = sieving.Sieving(data, {"perplexity": parse(FilterConfig, keys)}, out, perplexity.readers())
        assert 0 < len(made.run({}, workers).dropped) < 80
        found.append([(out / name).read_bytes() for name in (sieve.DROPS, sieve.FACTS)])
    assert found[0] == found[1]


def test_a_tower_is_no_language_model(tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "image_size": 28, "patch_size": 7}
    config = {"model_type": "siglip_vision_model", "intermediate_size": 40, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is a 'siglip_vision_model' checkpoint, not a language model"):
        read_language(tmp_path)
