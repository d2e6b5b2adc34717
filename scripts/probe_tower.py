"""What a linear reading finds in each layer of the packaged tower: a thing's colour, shape and size at its own patch.

    python scripts/probe_tower.py

For each layer of DINOv2-S/14 as packaged, pictures of 112 pixels with up to three drawn things: ridge regression on the
features, standardised, of the patch that a thing's middle lies in; three quarters of the pictures learn, the others are
scored. This is why nano takes nine layers of twelve.
"""

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmlab.component import parse
from vlmlab.data.made.graph import COLOURS, SHAPES, SIZES, Thing
from vlmlab.data.sources import scenes
from vlmlab.hub import assemble
from vlmlab.hub.backbones import get_nano
from vlmlab.model.vlm import VLMConfig
from vlmlab.processor.images import square
from vlmlab.processor.processor import Config, Processor

SIDE, THINGS = 112, 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ASKED = {"colour": sorted(COLOURS), "shape": list(SHAPES), "size": sorted(SIZES)}


def right(features: Tensor, answers: Tensor, kinds: int) -> float:
    """The share of the last quarter that a ridge regression on the others gets right."""
    cut = len(features) * 3 // 4
    mean, spread = features[:cut].mean(0), features[:cut].std(0) + 1e-6
    rows = F.pad((features - mean) / spread, (0, 1), value=1.0)
    wanted = F.one_hot(answers, kinds).float()
    weight = torch.linalg.solve(rows[:cut].T @ rows[:cut] + 30 * torch.eye(rows.shape[1]), rows[:cut].T @ wanted[:cut])
    return float(((rows[cut:] @ weight).argmax(1) == answers[cut:]).float().mean())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=450)
    args = parser.parse_args()
    found = get_nano()
    tables = assemble.config_of(found.vision, found.language)
    tables["connector"] = {"name": "perceiver", "latents": 2, "depth": 1, "heads": 2, "kv_heads": 1}
    model, tokenizer = assemble.assemble(parse(VLMConfig, tables), found.vision, found.language)
    config = Config(
        patch=14, images=square.Config(side=SIDE), bos="<|im_start|>", eos="<|im_end|>", pad="<|endoftext|>"
    )
    processor = Processor(config, tokenizer, model.placeholders, model.config.language.vocabulary)
    seen: dict[int, Tensor] = {}
    for number, layer in enumerate(model.vision.layers):
        layer.register_forward_hook(lambda _, __, out, number=number: seen.__setitem__(number, out.flatten(0, -2)))
    source = scenes.Config(samples=args.pictures, side=SIDE, things=THINGS, kinds=("description",)).build()
    rows: list[list[Tensor]] = [[] for _ in model.vision.layers]
    things: list[Thing] = []
    for index in range(args.pictures):
        images = processor([source[index]]).images
        assert images is not None
        model.vision(images)
        high, wide = images.sizes()[0]
        for thing in source.truth(index).scene.things:
            things.append(thing)
            place = int(thing.y * high) * wide + int(thing.x * wide)
            for number, some in enumerate(rows):
                some.append(seen[number][place])
    print("| layer | " + " | ".join(ASKED) + " |\n|---|" + "---|" * len(ASKED))
    for number, some in enumerate(rows, 1):
        scores = []
        for key, kinds in ASKED.items():
            answers = torch.tensor([kinds.index(getattr(thing, key)) for thing in things])
            scores.append(f"{right(torch.stack(some), answers, len(kinds)):.2f}")
        print(f"| {number} | {' | '.join(scores)} |")


if __name__ == "__main__":
    main()
