"""Full-size Idefics2 with random weights in bf16 on a GPU: the model card's case, ours against transformers.

    python benchmarks/gpu.py              # needs about 40 GB of GPU memory for both models in turn
    python benchmarks/gpu.py --tiny       # a tiny model, on the CPU where there is no GPU: shows that it runs

Twenty generations of two pictures and a turn of conversation, with and without splitting; then milliseconds per decoded
token against the time that reading the weights once takes at the measured memory bandwidth.
"""

import gc
import tempfile
import time
from pathlib import Path

import _bench
import torch
from _models import config
from transformers import Idefics2Config, Idefics2ForConditionalGeneration

from vlmlab.batch import Batch, Images
from vlmlab.generate.session import Session
from vlmlab.hub.load import load_model

GENERATIONS, TOKENS = 20, 64


def main() -> None:
    args = _bench.arguments(__doc__).parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not args.tiny:
        raise SystemExit("no GPU: run with --tiny, or on a machine with one")
    shape = config(tiny=True, latents=4) if args.tiny else Idefics2Config()
    shape.text_config.vocab_size = shape.text_config.vocab_size if args.tiny else 32003
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    grids = [(10, 14), (14, 10)] if args.tiny else [(46, 70), (70, 52)]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        with torch.device(device):
            peer = Idefics2ForConditionalGeneration(shape).to(dtype).eval()
        peer.save_pretrained(folder)
        for splitting in (False, True):
            rows.append(measure("transformers, sdpa", peer, grids, splitting, device, args))
        del peer
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        ours = load_model(Path(folder), device, dtype)
        for splitting in (False, True):
            rows.append(measure("vlmlab", ours, grids, splitting, device, args))
        rows.append(decode(ours, device, 8 if args.tiny else 200))
    _bench.report("gpu", rows, args)


def inputs(model, grids, splitting: bool, device) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Token ids with placeholders, and pixels [3, h, w] of every piece."""
    latents = model.config.perceiver_config.resampler_n_latents if hasattr(model, "generate") else None
    latents = latents or len(model.connector.latents)
    image = model.config.image_token_id if hasattr(model, "generate") else model.config.fusion.image_token
    pieces = [grid for grid in grids for _ in range(5 if splitting else 1)]
    draw = torch.Generator().manual_seed(0)
    pixels = [torch.randn(3, 14 * r, 14 * c, generator=draw).to(device) for r, c in pieces]
    ids = [1, *[t for _ in pieces for t in (5, *[image] * latents, 5)], *range(10, 50)]
    return torch.tensor([ids], device=device), pixels


def measure(side: str, model, grids, splitting: bool, device, args) -> dict[str, object]:
    """Seconds of `GENERATIONS` generations (fewer when tiny), and the peak of GPU memory."""
    ids, pixels = inputs(model, grids, splitting, device)
    count, tokens = (2, 4) if args.tiny else (GENERATIONS, TOKENS)
    run = theirs if hasattr(model, "generate") else mine
    run(model, ids, pixels, tokens)
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(count):
        run(model, ids, pixels, tokens)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
    return {"side": side, "splitting": splitting, "generations": count, "seconds": round(seconds, 2), "peak_gb": peak}


@torch.inference_mode()
def mine(model, ids, pixels, tokens: int) -> None:
    patches = [p.unfold(1, 14, 14).unfold(2, 14, 14).permute(1, 2, 0, 3, 4).reshape(-1, 588) for p in pixels]
    grid = torch.tensor([[p.shape[1] // 14, p.shape[2] // 14] for p in pixels])
    images = Images(torch.cat(patches).to(model.dtype), grid)
    session = Session(model, 1, ids.shape[1] + tokens)
    batch = Batch(ids, torch.ones_like(ids), torch.arange(ids.shape[1], device=ids.device)[None])
    logits = session.prefill(batch, model.see(images), model.count(grid), [0])
    for _ in range(tokens - 1):
        logits = session.step(logits.argmax(-1).tolist())


@torch.inference_mode()
def theirs(model, ids, pixels, tokens: int) -> None:
    height, width = (max(p.shape[axis] for p in pixels) for axis in (1, 2))
    values = torch.zeros(1, len(pixels), 3, height, width, device=ids.device, dtype=model.dtype)
    mask = torch.zeros(1, len(pixels), height, width, device=ids.device, dtype=torch.long)
    for at, p in enumerate(pixels):
        values[0, at, :, : p.shape[1], : p.shape[2]] = p
        mask[0, at, : p.shape[1], : p.shape[2]] = 1
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=values,
        pixel_attention_mask=mask,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
    )


@torch.inference_mode()
def decode(model, device, steps: int) -> dict[str, object]:
    """Milliseconds per token at batch 1, and the floor: reading every weight of the decoder once."""
    ids = torch.arange(10, 74, device=device)[None]
    session = Session(model, 1, 64 + 2 * steps + 8)
    positions = torch.arange(64, device=device)[None]
    logits = session.prefill(Batch(ids, torch.ones_like(ids), positions), None, [], [0])
    for _ in range(4):
        logits = session.step(logits.argmax(-1).tolist())
    start = time.perf_counter()
    for _ in range(steps):
        logits = session.step(logits.argmax(-1).tolist())
    spent = 1000 * (time.perf_counter() - start) / steps
    weights = sum(p.nbytes for p in model.language.parameters()) - model.language.embedding.weight.nbytes
    buffer = torch.ones(2**28 if device.type == "cuda" else 2**24, device=device)
    buffer.sum().item()
    start = time.perf_counter()
    for _ in range(20):
        total = buffer.sum()
    total.item()
    rate = 20 * buffer.nbytes / (time.perf_counter() - start)
    floor = 1000 * weights / rate
    return {"side": "vlmlab decode", "ms_per_token": spent, "floor_ms": floor, "over_floor": spent / floor}


if __name__ == "__main__":
    main()
