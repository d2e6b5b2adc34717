"""Any vision tower with any connector and any fusion: built from TOML text alone, it trains a step and generates."""

import tomllib

import pytest
import torch
from torch.nn.functional import cross_entropy

from model.tiny import GRID, IMAGE, lay, picture, tables, text
from vlmlab.batch import Batch
from vlmlab.component import parse, plain, plugins, write_toml
from vlmlab.model.connectors import ConnectorConfig
from vlmlab.model.fusion import FusionConfig
from vlmlab.model.vision import VisionConfig
from vlmlab.model.vlm import VLM, VLMConfig


@pytest.mark.parametrize("fusion", plugins(FusionConfig))
@pytest.mark.parametrize("connector", plugins(ConnectorConfig))
@pytest.mark.parametrize("vision", plugins(VisionConfig))
def test_a_combination_lives(vision: str, connector: str, fusion: str) -> None:
    toml = write_toml(tables(vision=vision, connector=connector, fusion=fusion))
    config = parse(VLMConfig, tomllib.loads(toml))
    assert plain(parse(VLMConfig, plain(config))) == plain(config)
    torch.manual_seed(0)
    model = VLM(config)
    documents = [[*text(4, 1), picture(*GRID), *text(5, 2)], [picture(*GRID, 1), *text(3, 3), picture(*GRID, 2), 4, 5]]
    batch, _ = lay(model, [[document] for document in documents])

    losses = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    targets = torch.where(batch.segments[:, 1:] > 0, batch.tokens[:, 1:], -100)
    for _ in range(4):
        optimizer.zero_grad()
        loss = cross_entropy(model(batch)[:, :-1].flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert {name for name, parts in model.parts().items() if parts} == {
        *("vision", "connector", "language"),
        *(["fusion"] if fusion == "cross_attention" else []),
    }

    model.eval()
    assert greedy_cached(model, documents[0], 6) == greedy_again(model, documents[0], 6)


def greedy_cached(model: VLM, document: list, steps: int) -> list[int]:
    batch, _ = lay(model, [[document]])
    cache = model.language.cache(1, batch.tokens.shape[1] + steps)
    out: list[int] = []
    with torch.no_grad():
        logits = model.read(batch, model.see(batch.images), cache=cache)
        for _ in range(steps):
            out.append(pick(logits[0, -1]))
            one = torch.tensor([[out[-1]]])
            logits = model.read(Batch(one, torch.ones_like(one), torch.tensor([cache.lengths])), cache=cache)
    return out


def greedy_again(model: VLM, document: list, steps: int) -> list[int]:
    out: list[int] = []
    for _ in range(steps):
        with torch.no_grad():
            out.append(pick(model(lay(model, [[[*document, *out]]])[0])[0, -1]))
    return out


def pick(logits: torch.Tensor) -> int:
    logits = logits.clone()
    logits[IMAGE] = -torch.inf  # an image token is never produced
    return int(logits.argmax())
