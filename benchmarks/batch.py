"""Eight requests at once: ours against transformers, one padded batch and one by one.

    python benchmarks/batch.py            # pictures of 378 to 450 pixels
    python benchmarks/batch.py --large    # pictures of 980 pixels: bound by the products of the vision tower

Distinct pictures, half of the requests text only, 32 tokens each, nothing cached from before. Both sides get the same
decoded pictures and the same token ids; their processors' work is part of the time.
"""

import _bench
import numpy as np
import PIL.Image
import torch
from _models import END, FRAME, IMAGE, pair
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from vlmlab.batch import Sample
from vlmlab.generate.engine import Engine
from vlmlab.processor.images import native
from vlmlab.processor.processor import Config, Processor

TOKENS = 32
SMALL = [(378, 378), (450, 400), (400, 430), (420, 378)]
LARGE = [(980, 980), (980, 735), (735, 980), (980, 653)]


def tokenizer() -> Tokenizer:
    """Words of a letter and a number, enough for the model's vocabulary: text is not what is measured."""
    vocabulary = {f"w{at}": at for at in range(FRAME)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    for name in ("<fake_token_around_image>", "<image>", "<end_of_utterance>"):
        made.add_special_tokens([AddedToken(name, special=True)])
    assert made.token_to_id("<image>") == IMAGE and made.token_to_id("<end_of_utterance>") == END
    return made


def requests(sizes) -> list[Sample]:
    """Four requests with a picture and four without, prompts of 12 to 40 words."""
    draw = np.random.default_rng(0)
    samples = []
    for number, (width, height) in enumerate(sizes):
        words = [" ".join(f"w{draw.integers(10, 49000)}" for _ in range(12 + 7 * number)) for _ in range(2)]
        picture = PIL.Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8))
        samples += [Sample.from_text("<image>" + words[0], [picture]), Sample.from_text(words[1])]
    return samples


def main() -> None:
    parser = _bench.arguments(__doc__)
    parser.add_argument("--large", action="store_true", help="pictures of 980 pixels")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours, peer = pair()
    config = Config(images=native.Config(), bos=None, eos="w2", pad="w0", ends=())
    processor = Processor(config, tokenizer(), ours.placeholders)
    samples = requests(LARGE if args.large else SMALL[: 1 if args.tiny else 4])
    pictures = Idefics2ImageProcessorPil(do_image_splitting=False)
    banned = [[FRAME], [IMAGE]]

    def mine() -> list[list[int]]:
        return [a.tokens for a in Engine(ours, processor).answers(samples, TOKENS)]

    def theirs(some: list[Sample]) -> list[list[int]]:
        ids = [processor.encode(sample).tokens for sample in some]
        width = max(map(len, ids))
        tokens = torch.tensor([[0] * (width - len(i)) + i for i in ids])
        mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids])
        inputs = {}
        images = [[p.source for p in sample.pictures] for sample in some]
        if any(images):
            done = pictures([i for i in images], return_tensors="pt")
            inputs = {"pixel_values": done["pixel_values"], "pixel_attention_mask": done["pixel_attention_mask"]}
        with torch.inference_mode():
            out = peer.generate(
                input_ids=tokens,
                attention_mask=mask,
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                do_sample=False,
                bad_words_ids=banned,
                **inputs,
            )
        return out[:, width:].tolist()

    sides = {
        "vlmlab": mine,
        "transformers, one padded batch": lambda: theirs(samples),
        "transformers, one by one": lambda: [row for sample in samples for row in theirs([sample])],
    }
    texts = sides["vlmlab"](), sides["transformers, one by one"]()
    equal = sum(a == b for a, b in zip(*texts, strict=True))
    times = _bench.rounds(sides, args.rounds)
    rows = [
        {
            "side": side,
            **_bench.summary(times[side]),
            "times_ours": round(_bench.ratio(times, "vlmlab", side), 2),
            "equal_texts": f"{equal} of {len(samples)}" if side == "vlmlab" else "",
        }
        for side in sides
    ]
    _bench.report("batch-large" if args.large else "batch", rows, args)


if __name__ == "__main__":
    main()
