"""Cold start: a fresh process from nothing to its first token, and its peak memory, on the same weights.

python benchmarks/cold_start.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import _bench
from _models import pair

PEAK = "[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0]"
"""The peak of the process in KiB. Not getrusage's: that one begins at the peak of the process that started it."""
OURS = """
import torch
torch.set_num_threads({threads})
from pathlib import Path
from vlmlab.batch import Batch
from vlmlab.generate.session import Session
from vlmlab.hub.load import load_model
model = load_model(Path({folder!r}))
ids = torch.arange(10, 42)[None]
session = Session(model, 1, 64)
logits = session.prefill(Batch(ids, torch.ones_like(ids), torch.arange(32)[None]), None, [], [0])
print(int(logits.argmax()), {peak})
"""
THEIRS = """
import torch
torch.set_num_threads({threads})
from transformers import Idefics2ForConditionalGeneration
model = Idefics2ForConditionalGeneration.from_pretrained({folder!r}, dtype=torch.float32)
ids = torch.arange(10, 42)[None]
out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False)
print(int(out[0, -1]), {peak})
"""


def main() -> None:
    args = _bench.arguments(__doc__).parse_args()
    _, peer = pair(args.tiny)
    with tempfile.TemporaryDirectory() as folder:
        peer.generation_config.pad_token_id = 0
        peer.save_pretrained(folder)
        weights = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
        said: dict[str, list[str]] = {}

        def run(name: str, script: str) -> None:
            code = script.format(threads=args.threads, folder=folder, peak=PEAK)
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            said[name] = done.stdout.split()

        sides = {"vlmlab": lambda: run("vlmlab", OURS), "transformers": lambda: run("transformers", THEIRS)}
        times = _bench.rounds(sides, args.rounds)
    rows = [
        {
            "side": name,
            **_bench.summary(times[name]),
            "times_ours": round(_bench.ratio(times, "vlmlab", name), 2),
            "peak_mb": round(int(said[name][1]) * 1024 / 1e6),
            "peak_over_weights": round(int(said[name][1]) * 1024 / weights, 2),
            "first_token": said[name][0],
        }
        for name in sides
    ]
    _bench.report("cold-start", rows, args)


if __name__ == "__main__":
    main()
