"""A training step with LoRA on every part, pictures and texts of mixed sizes: ours against transformers with PEFT.

    python benchmarks/training.py

Three samples with a picture of another size each and one without; half of each text is learned. All sides compute the
gradient of the same loss, the mean over all learned tokens, and step AdamW over adapters of the same layers. Ours packs
them into passes of up to 4,000 patches, as a recipe with `stage.patches = 4_000` does: the first sample is one.
"""

import _bench
import peft
import torch
from _models import FRAME, IMAGE, pair
from einops import rearrange
from torch.nn import functional as F

from vlmlab.batch import IGNORE, Batch, Images
from vlmlab.hub.named import linear_layers
from vlmlab.model import adapters
from vlmlab.train.objectives import next_token

PICTURES = [(980, 735), (640, 490), (378, 378), None]
WORDS = [300, 120, 40, 200]
RANK, LR, LATENTS = 8, 1e-4, 16
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "fc1", "fc2", "gate_proj", "up_proj", "down_proj")


def documents(tiny: bool) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """Token ids, which of them are learned, and the picture [3, height, width] of each sample."""
    draw = torch.Generator().manual_seed(0)
    image, words = (298, 290) if tiny else (IMAGE, FRAME)
    found = []
    for size, length in zip(PICTURES, WORDS, strict=True):
        text = torch.randint(3, words, (length // (8 if tiny else 1),), generator=draw)
        seats = torch.full((LATENTS if size else 0,), image)
        learned = torch.arange(len(seats) + len(text)) >= len(seats) + len(text) // 2
        width, height = ((side // 14 * 14) // (5 if tiny else 1) // 14 * 14 for side in size or (14, 14))
        picture = torch.randn(3, height, width, generator=draw) if size else None
        found.append((torch.cat([seats, text]), learned, picture))
    return found


def packed(samples) -> Batch:
    """All samples end to end in one row."""
    rows, images = [], []
    for number, (tokens, learned, picture) in enumerate(samples, 1):
        targets = torch.cat([torch.where(learned[1:], tokens[1:], IGNORE), torch.tensor([IGNORE])])
        rows.append((tokens, torch.full_like(tokens, number), torch.arange(len(tokens)), targets))
        if picture is not None:
            patches = rearrange(picture, "c (h y) (w x) -> (h w) (c y x)", y=14, x=14)
            grid = torch.tensor([[picture.shape[1] // 14, picture.shape[2] // 14]])
            images.append(Images(patches, grid))
    return Batch(*(torch.cat(column)[None] for column in zip(*rows, strict=True)), Images.join(images))


def padded(samples) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Samples as transformers takes them: texts padded to the longest, pictures to the largest; and the targets."""
    length = max(len(tokens) for tokens, _, _ in samples)
    ids, mask = (torch.zeros(len(samples), length, dtype=torch.long) for _ in range(2))
    targets = torch.full((len(samples), length), IGNORE)
    for row, (tokens, learned, _) in enumerate(samples):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        targets[row, : len(tokens) - 1] = torch.where(learned[1:], tokens[1:], IGNORE)
    given = {"input_ids": ids, "attention_mask": mask}
    pictures = [picture for _, _, picture in samples if picture is not None]
    if pictures:
        height, width = (max(p.shape[axis] for p in pictures) for axis in (1, 2))
        given["pixel_values"] = torch.zeros(len(samples), 1, 3, height, width)
        given["pixel_attention_mask"] = torch.zeros(len(samples), 1, height, width, dtype=torch.long)
        for row, (_, _, picture) in enumerate(samples):
            if picture is not None:
                given["pixel_values"][row, 0, :, : picture.shape[1], : picture.shape[2]] = picture
                given["pixel_attention_mask"][row, 0, : picture.shape[1], : picture.shape[2]] = 1
    return given, targets


def main() -> None:
    args = _bench.arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    ours, plain = pair(args.tiny, LATENTS)
    samples = documents(args.tiny)
    ours.requires_grad_(False)
    for part in ("vision", "connector", "language"):
        paths = [path for path in linear_layers(ours, part) if path not in ("vision.patch", "language.output")]
        adapters.add(ours, paths, adapters.Config(rank=RANK, alpha=RANK))
    peer = peft.get_peft_model(plain, peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(LAYERS)))
    own = list(adapters.learned(ours).values())
    theirs = [p for p in peer.parameters() if p.requires_grad]
    assert sum(p.numel() for p in own) == sum(p.numel() for p in theirs), "the two sides adapt other layers"
    steps = {id(params): torch.optim.AdamW(params, lr=LR) for params in (own, theirs)}
    objective = next_token.Config().build()
    passes, whole = [packed(samples[:1]), packed(samples[1:])], padded(samples)
    alone = [padded([sample]) for sample in samples]
    learned = sum(objective.weight(batch) for batch in passes)
    ours.train()
    peer.train()

    def finish(params) -> None:
        steps[id(params)].step()
        steps[id(params)].zero_grad(set_to_none=True)

    def mine() -> float:
        total = 0.0
        for batch in passes:
            loss = objective(ours, batch).each.sum() / learned
            loss.backward()
            total += float(loss.detach())
        finish(own)
        return total

    def other(batches) -> float:
        total = 0.0
        for given, targets in batches:
            logits = peer(**given).logits.float()
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
            (loss / learned).backward()
            total += float(loss.detach()) / learned
        finish(theirs)
        return total

    sides = {
        "vlmlab": mine,
        "transformers + PEFT, padded": lambda: other([whole]),
        "transformers + PEFT, one by one": lambda: other(alone),
    }
    first = {side: run() for side, run in sides.items()}
    assert abs(first["vlmlab"] - first["transformers + PEFT, padded"]) < 1e-3, f"the losses differ: {first}"
    times = _bench.rounds(sides, args.rounds)
    memory = {side: _bench.peak_memory(run) for side, run in sides.items()}
    rows = [
        {
            "side": side,
            **_bench.summary(times[side]),
            "learned_tokens_per_s": round(learned / _bench.summary(times[side])["median_s"], 1),
            "times_ours": round(_bench.ratio(times, "vlmlab", side), 2),
            "peak_mb": round(memory[side] / 1e6),
            "first_loss": round(first[side], 5),
        }
        for side in sides
    ]
    _bench.report("training", rows, args)


if __name__ == "__main__":
    main()
