"""Eight photos from JPEG bytes to pixels: ours against transformers' Pillow processor, equal pixels in the same run.

python benchmarks/processor.py
"""

import io
import statistics

import _bench
import numpy as np
import PIL.Image
import torch
from einops import rearrange
from tokenizers import Tokenizer, models
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from vlmlab.batch import Sample
from vlmlab.processor.images import native, split
from vlmlab.processor.processor import Config, Processor

# Of a phone, a camera, the web and a scan; upright and lying.
SIZES = [(500, 375), (640, 480), (800, 1200), (1024, 768), (1600, 1200), (1500, 2000), (2592, 1944), (3000, 2000)]
PATCH = 14


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG with the smooth areas, edges and fine grain of a photo (about 0.25 bytes a pixel)."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((3, 110), (12, 70), (60, 40), (300, 18)):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        field = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)
        canvas += (np.asarray(field, np.float32) / 255 - 0.5) * weight
    down, across = np.mgrid[:height, :width]
    for _ in range(12):
        slope, place = rng.normal(), rng.uniform(0, width)
        canvas[across + slope * down > place] += rng.normal(0, 14, 3).astype(np.float32)
    canvas += 128 + rng.normal(0, 3, (height, width, 1)).astype(np.float32)
    file = io.BytesIO()
    PIL.Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


def tokenizer() -> Tokenizer:
    """No text is read here; a processor only wants the names of its control tokens."""
    made = Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>"))
    made.add_special_tokens(["<s>", "</s>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"])
    return made


def main() -> None:
    args = _bench.arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    sizes = [(width // 8, height // 8) for width, height in SIZES] if args.tiny else SIZES
    photos = [photo(*size, seed=at) for at, size in enumerate(sizes)]
    rows = []
    for splitting in (False, True):
        rows += measure(photos, splitting, args)
    _bench.report("processor", rows, args)


def measure(photos: list[bytes], splitting: bool, args) -> list[dict[str, object]]:
    config = Config(images=split.Config() if splitting else native.Config(), patch=PATCH)
    processor = Processor(config, tokenizer(), lambda grid: [1] * len(grid))
    peer = Idefics2ImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3, do_image_splitting=splitting)

    def mine():
        return processor([Sample.from_text("<image>", [data]) for data in photos]).images

    def opened() -> list[list[PIL.Image.Image]]:
        return [[PIL.Image.open(io.BytesIO(data))] for data in photos]

    def padded():
        return peer(opened(), return_tensors="pt")

    def one_by_one():
        return [peer([image], return_tensors="pt") for image in opened()]

    difference = compare(mine(), one_by_one())
    sides = {"vlmlab": mine, "transformers, one batch": padded, "transformers, one by one": one_by_one}
    times = _bench.rounds(sides, args.rounds)
    best = min(list(sides)[1:], key=lambda side: statistics.median(times[side]))
    return [
        {
            "workload": f"8 photos, {'5 pieces each' if splitting else 'whole'}",
            "side": side,
            **_bench.summary(times[side]),
            "times_ours": round(_bench.ratio(times, "vlmlab", side), 2),
            "best_peer": side == best,
            "largest_difference": difference,
        }
        for side in sides
    ]


def compare(ours, theirs) -> float:
    """The largest difference between our patches and those cut from the peer's pixels. More than 1e-6 ends the run."""
    at, largest = 0, 0.0
    values = [value for out in theirs for value in out["pixel_values"].flatten(0, 1)]
    masks = [mask for out in theirs for mask in out["pixel_attention_mask"].flatten(0, 1)]
    for value, mask, size in zip(values, masks, ours.sizes(), strict=True):
        rows, columns = int(mask[:, 0].sum()) // PATCH, int(mask[0].sum()) // PATCH
        whole = value[:, : rows * PATCH, : columns * PATCH]
        patches = rearrange(whole, "c (h a) (w b) -> (h w) (c a b)", a=PATCH, b=PATCH)
        if (rows, columns) != size:
            raise SystemExit(f"the grids differ: {size} and {(rows, columns)}")
        largest = max(largest, float((ours.patches[at : at + len(patches)] - patches).abs().max()))
        at += len(patches)
    if largest > 1e-6:
        raise SystemExit(f"the pixels differ by {largest}")
    return largest


if __name__ == "__main__":
    main()
