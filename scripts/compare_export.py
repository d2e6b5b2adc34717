"""A run's model beside its export in transformers: logits, and greedy texts, on held-out pictures of the demo's corpus.

    python scripts/compare_export.py runs/demo

Exits with 1 where logits are further apart than 1e-4, or a text differs.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from einops import rearrange

import vlmlab
from vlmlab.batch import Sample
from vlmlab.data.sources import emoji
from vlmlab.hub.export import export

BOUND, TOKENS = 1e-4, 12


def pixels(images: vlmlab.batch.Images, patch: int) -> torch.Tensor:
    """One image as transformers takes it: [1, 1, 3, height, width]."""
    rows, columns = images.sizes()[0]
    shape = {"r": rows, "c": columns, "y": patch, "x": patch}
    return rearrange(images.patches, "(r c) (d y x) -> 1 1 d (r y) (c x)", **shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--pictures", type=int, default=8, help="how many")
    args = parser.parse_args()
    model, processor = vlmlab.load(args.run / "model", dtype=torch.float32)
    engine, source = vlmlab.Engine(model, processor), emoji.Config(split="test").build()
    with tempfile.TemporaryDirectory() as folder:
        out = export((model, processor), Path(folder) / "exported")
        theirs = transformers.Idefics2ForConditionalGeneration.from_pretrained(out).eval()
    failed = 0
    for number in range(0, len(source), max(1, len(source) // args.pictures)):
        pair = source.pair(number)
        sample = Sample.from_text("<image>", [pair.picture])
        batch = processor([sample])
        given = {"input_ids": batch.tokens, "pixel_values": pixels(batch.images, model.config.vision.patch)}
        with torch.inference_mode():
            one, other = model(batch), theirs(**given).logits
            written = theirs.generate(
                **given,
                max_new_tokens=TOKENS,
                do_sample=False,
                suppress_tokens=processor.never_written,
                eos_token_id=sorted(processor.ends),
            )
        far = float((one - other).abs().max() / other.abs().max())
        ours = engine.generate([sample], TOKENS)[0]
        text = processor.decode(written[0, batch.tokens.shape[1] :].tolist())
        failed += far > BOUND or ours != text
        print(f"{'ok' if ours == text else 'DIFFERENT'}  logits {far:.1e}  {pair.title!r}: {ours!r}")
        if ours != text:
            print(f"    transformers: {text!r}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
