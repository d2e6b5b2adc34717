"""Vision and connector on pictures of mixed sizes: ours against transformers, padded and one by one.

python benchmarks/vision.py
"""

import _bench
import torch
from _models import pair
from einops import rearrange

from vlmlab.batch import Images

MIXED = [(980, 980), (980, 653), (640, 490), (378, 378)]


def main() -> None:
    parser = _bench.arguments(__doc__)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours, peer = pair(args.tiny)
    rows = []
    for name, sizes in {"4 mixed": MIXED[2:] if args.tiny else MIXED, "16 of 378": [(378, 378)] * 16}.items():
        rows += measure(name, sizes, ours, peer, args)
    _bench.report("vision", rows, args)


@torch.inference_mode()
def measure(name: str, sizes, ours, peer, args) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(1)
    pixels = [torch.randn(3, h // 14 * 14, w // 14 * 14, generator=generator) for w, h in sizes]
    grid = torch.tensor([[p.shape[1] // 14, p.shape[2] // 14] for p in pixels])
    patches = torch.cat([rearrange(p, "c (h y) (w x) -> (h w) (c y x)", y=14, x=14) for p in pixels])
    images = Images(patches, grid)
    height, width = (max(p.shape[axis] for p in pixels) for axis in (1, 2))
    padded = torch.zeros(1, len(pixels), 3, height, width)
    mask = torch.zeros(1, len(pixels), height, width, dtype=torch.long)
    for at, p in enumerate(pixels):
        padded[0, at, :, : p.shape[1], : p.shape[2]] = p
        mask[0, at, : p.shape[1], : p.shape[2]] = 1

    def see(values, valid):
        with torch.inference_mode():
            out = peer.model.get_image_features(values, valid)
        return torch.cat(list(out.pooler_output)).reshape(-1, ours.connector.width)

    def mine():
        with torch.inference_mode():
            return ours.see(images)

    sides = {
        "vlmlab": mine,
        "transformers, padded": lambda: see(padded, mask),
        "transformers, one by one": lambda: torch.cat([see(p[None, None], None) for p in pixels]),
    }
    one, other = sides["vlmlab"](), sides["transformers, one by one"]()
    difference = float((one - other).abs().max() / other.abs().max())
    times = _bench.rounds(sides, args.rounds)
    memory = {side: _bench.peak_memory(run) for side, run in sides.items()}
    return [
        {
            "pictures": name,
            "side": side,
            **_bench.summary(times[side]),
            "times_ours": round(_bench.ratio(times, "vlmlab", side), 2),
            "peak_mb": round(memory[side] / 1e6),
            "difference": f"{difference:.1e}" if side == "vlmlab" else "",
        }
        for side in sides
    ]


if __name__ == "__main__":
    main()
