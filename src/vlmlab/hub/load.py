"""A checkpoint folder, ours or the hub's, as a model.

    ours         vlmlab.toml ([model], [processor])   model.safetensors   tokenizer.json
    the hub's    config.json (Idefics2, AWQ too)   safetensors, sharded or not   tokenizer.json, settings

Weights go straight to their device and dtype. On the CPU, in the dtype they are stored in, they stay a view into the
file: nothing is read until it is used. Only safetensors, JSON and TOML are ever read.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from vlmlab import component
from vlmlab.hub import adapters, awq, configs, files, fill, names, packed, repository, settings
from vlmlab.hub.files import Weights
from vlmlab.model.meta import without_memory
from vlmlab.model.vlm import VLM, VLMConfig
from vlmlab.processor.decode import Fetch
from vlmlab.processor.processor import Config as ProcessorConfig
from vlmlab.processor.processor import Processor

RECIPE = "vlmlab.toml"
NANO = "nano"
"""What the model in the box is called, where no folder has that name."""

PATTERNS = ("*.safetensors", "*.json", "*.toml")
"""The files of a hub repository that are fetched."""


def load(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    fetch: Fetch | None = None,
    adapter: Path | str | None = None,
    quantize: Callable[[VLM], VLM] | None = None,
) -> tuple[VLM, Processor]:
    """The model and its processor: a checkpoint folder, a hub id such as HuggingFaceM4/idefics2-8b, or `nano`.

    `dtype=None` keeps the weights as they are stored; `revision` is a branch, tag or commit of a hub id; `fetch` gets
    the bytes of pictures that are named by URL, which are refused without it; `adapter` is a folder or hub id of PEFT's
    files, whose adapter acts in the model; `quantize` is a quantizer, such as `vlmlab.quantize.int8.Config().build()`,
    which gets the model with its adapter before it goes to its device. A folder that was quantized needs none. Memory
    stays below the weights and one shard. Raises ValueError that says what is wrong with which file, and what to do.
    """
    place = locate(folder, revision)
    device = find_device(device)
    model = read_model(place, device if quantize is None else "cpu", dtype)
    if adapter is not None:
        adapters.read(model, locate(adapter))
    if quantize is not None:
        model = quantize(model).to(device)
    return model, read_processor(place, model, fetch)


def load_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> VLM:
    """The model alone: as `load`, but no tokenizer is needed."""
    return read_model(locate(folder, revision), device, dtype)


def read_model(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> VLM:
    """The model of a local folder; see `load`."""
    device = find_device(device)
    config = read_config(folder)
    native = (folder / RECIPE).is_file()
    weights = Weights(folder)
    with without_memory():
        model = VLM(config)
        held = packed.read(folder) if native else awq.read(folder, weights)
        if held is not None:
            packed.prepare(model, held, folder)
    if native:
        steps = [names.Step(name, (name,), names.MAKE["same"]) for name in weights]
        unknown: list[str] = []
    else:
        steps, unknown = names.plan_idefics2([name for name in weights if not awq.packed(name)])
        steps += awq.plan(list(weights))
        if component.plain(config.language)["tied"]:  # some files hold the embedding a second time, as the head
            steps = [step for step in steps if step.ours != "language.output.weight"]
    fill.fill(model, steps, unknown, weights, folder, device, dtype)
    for layer in packed.layers(model).values():
        layer.dtype = model.dtype
    return model.eval()


def read_config(folder: Path) -> VLMConfig:
    """The config of the model in a local folder. Raises ValueError naming the file and the key."""
    recipe = folder / RECIPE
    if recipe.is_file():
        data = component.read_toml(recipe)
        try:
            return component.parse(VLMConfig, data.get("model", {}), "model", trusted=False)
        except ValueError as error:
            raise ValueError(f"{recipe}: {error}") from None
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no checkpoint: it has neither {RECIPE} nor config.json")
    data = files.read_json(path)
    kind = data.get("model_type")
    if kind != "idefics2":
        hint = "; as a backbone it goes into start.vision or start.language of a recipe" * (kind in configs.BACKBONES)
        raise ValueError(f"{path}: model type {kind!r} is not known as a whole model; known: idefics2{hint}")
    try:
        return component.parse(VLMConfig, configs.idefics2(data), "model")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_processor(folder: Path, model: VLM, fetch: Fetch | None = None) -> Processor:
    """The processor of a local folder, for its model. Raises ValueError naming the file and the key."""
    tokenizer = settings.read_tokenizer(folder)
    recipe = folder / RECIPE
    if recipe.is_file():
        data = component.read_toml(recipe)
        try:
            config = component.parse(ProcessorConfig, data.get("processor", {}), "processor", trusted=False)
        except ValueError as error:
            raise ValueError(f"{recipe}: {error}") from None
    else:
        config = settings.read(folder, tokenizer, model.config)
    try:
        return Processor(config, tokenizer, model.placeholders, model.config.language.vocabulary, fetch)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def locate(folder: Path | str, revision: str | None = None) -> Path:
    """The local folder of a checkpoint: itself, where the hub's files were put, or where `nano` was put together.

    Raises ValueError for what is none of these, and when the hub or the packages of `nano` cannot be reached.
    """
    if not str(folder):
        raise ValueError(f"no model is named: give a folder, a hub id such as HuggingFaceM4/idefics2-8b, or {NANO}")
    path = Path(folder).expanduser()
    if path.is_dir():
        return path
    if str(folder) == NANO:
        from vlmlab.hub.nano import get_model

        return get_model()
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder that holds it")
    if not repository.is_name(str(folder)):
        raise ValueError(f"{folder} is no folder, no hub id such as HuggingFaceM4/idefics2-8b, and not {NANO}")
    return from_hub(str(folder), revision)


def from_hub(name: str, revision: str | None = None) -> Path:
    """Fetch the safetensors and settings of a hub repository, or find them in the hub's cache.

    Raises ValueError that says how to do without a network.
    """
    instead = "or give a local folder with the repository's files (config.json, *.safetensors, tokenizer.json)"
    return repository.fetch(name, PATTERNS, instead, revision)


def find_device(device: torch.device | str) -> torch.device:
    """A device of this machine by its name. Raises ValueError for one that there is not."""
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"{device!r} is no device: cpu, cuda or cuda:1 for example") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("this machine has no CUDA device that torch can use: load with device='cpu'")
    return device
