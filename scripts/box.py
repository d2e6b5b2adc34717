"""Write the model in the box (src/vlmlab/hub/box/) from the runs of recipes/nano/, in their order.

    python scripts/box.py runs/nano/1-pretrain runs/nano/2-high-resolution runs/nano/3-instruct runs/nano/4-chat

Each stage put its adapter into the decoder's weights and began a new one: they become one adapter of the untouched
decoder. The connector is the last one. Written in half the bits; prints what that changes, and the size.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch

import vlmlab
from vlmlab import component
from vlmlab.hub import adapters, assemble, nano
from vlmlab.hub.backbones import get_nano
from vlmlab.hub.load import NANO, RECIPE
from vlmlab.model import adapters as adapting
from vlmlab.model.adapters import LowRank
from vlmlab.train.run import ADAPTER, MODEL
from vlmlab.writing import write, write_text

HALF = torch.bfloat16


@torch.no_grad()
def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="the folders of the stages, the first one first")
    parser.add_argument("--out", type=Path, default=nano.BOX)
    args = parser.parse_args(words)
    last, processor = vlmlab.load(args.runs[-1] / MODEL, dtype=torch.float32)
    found = get_nano()
    model, _ = assemble.assemble(last.config, found.vision, found.language)
    turns = [f"stage{number}" for number in range(1, 1 + len(args.runs))]
    for name, folder in zip(turns, args.runs, strict=True):
        adapters.read(model, folder / ADAPTER, name)
    made: dict[str, LowRank] = {}
    for path, layer in adapting.layers(model).items():
        done = [layer.adapters[name] for name in turns if name in layer.adapters]
        made[path] = adapting.joined(layer.base, [low for low in done if isinstance(low, LowRank)])
    adapting.attach(model, made, NANO)
    adapters.save(model, args.out, NANO, whole=["connector"], name=NANO, dtype=HALF)
    embedding, number_of = last.language.embedding.weight, processor.tokenizer.token_to_id
    rows = {token: embedding[number_of(token)].to(HALF).clone() for token in assemble.SPECIAL_TOKENS}
    write(args.out / nano.ROWS, lambda partial: safetensors.torch.save_file(rows, partial))
    nano.put_rows(model, {token: embedding[number_of(token)] for token in rows}, processor.tokenizer)
    write_text(args.out / RECIPE, component.write_toml(component.read_toml(args.runs[-1] / MODEL / RECIPE)))
    again, _ = nano.build(found, args.out)
    exact = adapting.plain_state(last)
    for what, other in (
        ("put together in single precision", adapting.plain_state(model)),
        ("read back from the files", again.state_dict()),
    ):
        assert other.keys() == exact.keys()
        far = {name: float((exact[name] - other[name]).norm() / (1e-9 + exact[name].norm())) for name in exact}
        worst = max(far, key=far.__getitem__)
        print(f"{what}: {worst} is {far[worst]:.1e} of its length from the last run's, all others are nearer")
    print(f"{sum(path.stat().st_size for path in args.out.iterdir()) / 1e6:.1f} MB in {args.out}")


if __name__ == "__main__":
    main()
