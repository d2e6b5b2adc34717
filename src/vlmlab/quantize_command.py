"""`vlmlab quantize`: a model with its weights in few bits, as a folder. Whatever is heavy is imported inside."""

import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from vlmlab.commands import Number, Overrides, adapter_folder, model_folder, torch_dtype

if TYPE_CHECKING:
    from vlmlab.batch import Batch
    from vlmlab.model.vlm import VLM
    from vlmlab.processor.processor import Processor
    from vlmlab.quantize import QuantizerConfig


def quantize(
    model: Annotated[Positional[str], arg(metavar="FOLDER|HUB-ID")],
    method: Annotated[Positional[Literal["int8", "int4", "nf4", "awq"]], arg(metavar="METHOD")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    overrides: Overrides = (),
    adapter: Annotated[str, arg(metavar="FOLDER|HUB-ID", help_behavior_hint="(default: none)")] = "",
    samples: Annotated[
        Path | None, arg(metavar="FILE.jsonl", help_behavior_hint="(default: packaged pictures)")
    ] = None,
    count: int = 48,
    dtype: Number = "auto",
) -> None:
    """Write a model with its weights in few bits: int8, int4, nf4, or awq, which looks at samples first.

    The decoder is quantized, embeddings and head in eight bits; vision and connector are left alone unless
    quantizer.parts names them.

    Examples:
      vlmlab quantize nano int8 nano-int8
      vlmlab quantize HuggingFaceM4/idefics2-8b int4 idefics2-int4 quantizer.group=64
      vlmlab quantize runs/instruct awq instruct-awq --samples train.jsonl --count 64

    Args:
        model: A model's folder, a run's, a name on the hub, or nano.
        method: int8 (half of bfloat16), int4, nf4 or awq (a quarter and a little).
        out: The folder to write; ask, chat and serve take it as a model.
        overrides: Keys of the quantizer to change, such as quantizer.parts or quantizer.group.
        adapter: An adapter to put into the weights first, in PEFT's files.
        samples: Conversations for awq to look at, with their pictures.
        count: How many samples it looks at.
        dtype: The kind of numbers of what is not quantized; auto is as stored.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; give a new folder")
    if count < 1:
        raise ValueError("--count must be 1 or more")
    from vlmlab import component
    from vlmlab.hub.load import load
    from vlmlab.hub.save import save
    from vlmlab.model.packed import held
    from vlmlab.quantize import told

    config = configured(method, overrides)
    out.parent.mkdir(parents=True, exist_ok=True)
    made, processor = load(model_folder(model), dtype=torch_dtype(dtype), adapter=adapter_folder(adapter))
    before = {name: held(made.get_submodule(name)) for name in ("language", "vision", "connector")}
    batches = _batches(processor, samples, count) if method == "awq" else []
    made = config.build(batches)(made)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        whole = save(made, processor, Path(scratch) / out.name, quantized=component.plain(config))
        if out.exists():
            out.rmdir()
        whole.replace(out)
    for name, size in before.items():
        now = held(made.get_submodule(name))
        print(f"{name:10} {size / 1e6:10,.1f} MB -> {now / 1e6:10,.1f} MB   {now / size:.3f}x")
    for kind, paths in told(made).items():
        print(f"{kind:10} {'; '.join(paths)}")
    print(f'{out} is written; ask it: vlmlab ask photo.jpg "What is this?" --model {out}')


def configured(method: str, overrides: Sequence[str] = ()) -> "QuantizerConfig":
    """A quantizer's config by its name, with keys changed by `quantizer.KEY=VALUE`."""
    from vlmlab import component
    from vlmlab.quantize import QuantizerConfig

    data = component.override({"quantizer": {"name": method}}, overrides)
    odd = sorted(data.keys() - {"quantizer"})
    if odd:
        raise ValueError(f"{odd[0]!r} is no key of quantizing; write quantizer.group=64, for example")
    if data["quantizer"]["name"] != method:
        raise ValueError(f"quantizer.name={data['quantizer']['name']}: the method is the command's, {method}")
    return component.parse(QuantizerConfig, data["quantizer"], "quantizer")


def speed_up(model: "VLM") -> None:
    """Take the fastest kernels that are here for a quantized model, and say on stderr which those are."""
    from vlmlab import quantize

    quantize.speed_up(model)
    for kind, paths in quantize.told(model).items():
        print(f"vlmlab: {kind}: {'; '.join(paths)}", file=sys.stderr)


def _batches(processor: "Processor", samples: Path | None, count: int) -> "list[Batch]":
    """What awq looks at: the first samples of a file, or pictures with their titles that ship in the package."""
    from vlmlab.data.sources import emoji, jsonl

    source = emoji.Config().build() if samples is None else jsonl.Config(path=str(samples)).build()
    if not len(source):
        raise ValueError(f"{samples} holds no sample")
    step = max(1, len(source) // count)
    return [processor([source[at]]) for at in itertools.islice(range(0, len(source), step), count)]
