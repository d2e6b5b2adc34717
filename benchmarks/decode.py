"""Decoding 64 tokens at batch 1 in fp32: ours against transformers (default and static cache), and the products alone.

    python benchmarks/decode.py

The floor is the matrix products of the same steps by themselves: once with the kernels vlmlab uses, once with
`torch.nn.functional.linear`. Both are timed in the same process, in turn with the rest.
"""

import _bench
import torch
from _models import pair
from torch.nn import functional as F

from vlmlab.batch import Batch
from vlmlab.generate.session import Session
from vlmlab.model.products import linear

TOKENS, PROMPT = 64, 64


def main() -> None:
    args = _bench.arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    ours, peer = pair(args.tiny)
    prompt = torch.randint(3, ours.config.language.vocabulary - 10, (1, PROMPT))
    ones, positions = torch.ones_like(prompt), torch.arange(PROMPT)[None]

    def mine() -> list[int]:
        session = Session(ours, 1, PROMPT + TOKENS)
        logits = session.prefill(Batch(prompt, ones, positions), None, [], [0])
        written = [int(logits.argmax())]
        while len(written) < TOKENS:
            written.append(int(session.step(written[-1:]).argmax()))
        return written

    def theirs(**settings) -> list[int]:
        with torch.inference_mode():
            out = peer.generate(
                input_ids=prompt,
                attention_mask=ones,
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                do_sample=False,
                disable_compile=True,
                **settings,
            )
        return out[0, PROMPT:].tolist()

    weights = [p for _, p in ours.language.named_parameters() if p.ndim == 2]
    inputs = {w.shape[1]: torch.randn(1, w.shape[1]) for w in weights}

    @torch.inference_mode()
    def products(product) -> None:
        for _ in range(TOKENS - 1):
            for weight in weights:
                product(inputs[weight.shape[1]], weight)

    sides = {
        "vlmlab": mine,
        "transformers, default cache": theirs,
        "transformers, static cache": lambda: theirs(cache_implementation="static"),
        "products alone, vlmlab's kernels": lambda: products(linear),
        "products alone, F.linear": lambda: products(F.linear),
    }
    same = mine() == theirs()
    times = _bench.rounds(sides, args.rounds)
    rows = [
        {
            "side": side,
            **_bench.summary(times[side]),
            "ms_per_token": round(1000 * _bench.summary(times[side])["median_s"] / TOKENS, 2),
            "times_ours": round(_bench.ratio(times, "vlmlab", side), 2),
            "same_tokens": same if side == "vlmlab" else "",
        }
        for side in sides
    ]
    _bench.report("decode", rows, args)


if __name__ == "__main__":
    main()
