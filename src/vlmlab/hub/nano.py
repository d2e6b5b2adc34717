"""The model in the box: what was trained for it, put into the two packaged backbones.

    vlmlab.toml                   [model] and [processor], as in every folder of ours
    adapter_config.json           the decoder's adapter, and the connector whole, in PEFT's files
    adapter_model.safetensors
    rows.safetensors              the embeddings of the tokens that the language model lacked

Its card is docs/models/nano.md; `scripts/box.py` writes these files from the runs of recipes/nano/.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor

from vlmlab import component
from vlmlab.hub import adapters, assemble, backbones, save
from vlmlab.hub.load import RECIPE
from vlmlab.model.adapters import fold
from vlmlab.model.vlm import VLM, VLMConfig
from vlmlab.processor.processor import Config as ProcessorConfig
from vlmlab.processor.processor import Processor

BOX = Path(__file__).with_name("box")
ROWS = "rows.safetensors"


def get_model(cache_dir: Path | str | None = None, progress: bool = True, box: Path | None = None) -> Path:
    """The folder of the model in the box, whole: it is put together once and kept in the cache.

    The first time fetches the two backbones (see `get_nano`) and takes 660 MB of disk more. Raises ValueError when they
    cannot be fetched.
    """
    box = box or BOX
    cache = Path(cache_dir).expanduser() if cache_dir is not None else backbones.default_cache()
    made = cache / f"nano-{_fingerprint(box)}"
    if (made / RECIPE).is_file():  # a folder gets its name when all of it is there
        return made
    try:
        found = backbones.get_nano(cache, progress)
    except ValueError as error:
        raise ValueError(f"nano, the model in the box, needs two backbones, or load another model: {error}") from None
    with backbones.telling(progress) as tell, tempfile.TemporaryDirectory(prefix=".nano.", dir=cache) as scratch:
        tell("putting nano together")
        model, processor = build(found, box)
        folder = save.save(model, processor, Path(scratch) / "model")
        try:
            folder.replace(made)
        except OSError:
            if not (made / RECIPE).is_file():  # another process may have been first
                raise
    return made


def build(found: backbones.Nano, box: Path) -> tuple[VLM, Processor]:
    """The model of a box's files and the two backbones, in single precision, with its processor."""
    data = component.read_toml(box / RECIPE)
    config = component.parse(VLMConfig, data["model"], "model")
    model, tokenizer = assemble.assemble(config, found.vision, found.language)
    put_rows(model, safetensors.torch.load_file(box / ROWS), tokenizer)
    adapters.read(model, box)
    fold(model)
    processor = component.parse(ProcessorConfig, data["processor"], "processor")
    return model.eval(), Processor(processor, tokenizer, model.placeholders, model.config.language.vocabulary)


@torch.no_grad()
def put_rows(model: VLM, rows: Mapping[str, Float[Tensor, " d"]], tokenizer: Tokenizer) -> None:
    """Give tokens their embeddings, which are a tied head's rows too."""
    weight = model.language.embedding.weight
    for token, row in rows.items():
        weight[tokenizer.token_to_id(token)] = row.to(weight.dtype)


def _fingerprint(box: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in box.iterdir() if path.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]
