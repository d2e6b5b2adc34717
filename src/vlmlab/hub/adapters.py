"""Adapters by the names of transformers' modules, and in PEFT's files.

    adapter_config.json          PEFT's LoraConfig         adapter_model.safetensors    the numbers

What PEFT says by a setting that we do not have is refused by the setting's name. Which layers are adapted, and in which
rank, is read off the tensors. Modules that transformers has no name for (of towers other than Idefics2's, say) are
called as we call them: we read such a file back, PEFT has no model for it.
"""

import collections
import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from vlmlab.hub import files, fill, names
from vlmlab.hub.named import ends, inside, linear_layers
from vlmlab.model import adapters
from vlmlab.model.adapters import DEFAULT, Adapted, LowRank
from vlmlab.model.packed import Packed
from vlmlab.model.products import Linear
from vlmlab.model.vlm import VLM

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
TIED = "lm_head.weight"

PARTS = {
    "vision": ("model.vision_model",),
    "connector": ("model.connector",),
    "language": ("model.text_model", "lm_head"),
    "fusion": ("fusion",),
}
"""What holds each part in transformers' Idefics2. A fusion that has parameters is not part of it."""

READ = {"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"}
FREE = {
    *("peft_type", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode"),
    *("peft_version", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core"),
    *("qalora_group_size", "loftq_config", "runtime_config", "ensure_weight_tying"),
}
"""Settings that change nothing once the numbers are there: the tensors' names say what is adapted."""


_REPEATS, _GROUPS = 3, 8
"""How often a pattern may repeat something, and how many groups it may have, none repeated: beyond that, looking for
it could take for ever."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _of_each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or (isinstance(value, dict) and all(map(fits, value.values())))


FITTING: dict[str, Callable[[Any], bool]] = {
    "r": _is_rank,
    "rank_pattern": _of_each(_is_rank),
    "lora_alpha": _is_number,
    "alpha_pattern": _of_each(_is_number),
    "lora_dropout": lambda value: _is_number(value) and 0 <= value < 1,
    "use_dora": lambda value: value in (True, False, None),
    "use_rslora": lambda value: value in (True, False, None),
}
"""What a setting that is read may be."""

DRAWN = (True, False, "gaussian", "orthogonal", None)
"""Ways to begin that leave the base's weights alone; the others (PiSSA, OLoRA, ...) put part of them in the adapter."""


def save(
    model: VLM,
    folder: Path | str,
    base: str | None = None,
    whole: Iterable[str] = (),
    name: str = DEFAULT,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write an adapter, and what was trained in full beside it, as a folder that PEFT reads.

    `base` says which model it is for; `whole` are parts (`connector`) and paths of modules whose weights are written
    too, PEFT's `modules_to_save`; `dtype` makes the file smaller (None: numbers as they are), but for
    vectors. Raises ValueError when PEFT's one config cannot say what the adapter is.
    """
    folder = Path(folder)
    found = {p: layer.adapters[name] for p, layer in adapters.layers(model).items() if name in layer.adapters}
    if not found:
        raise ValueError(f"the model has no adapter called {name!r} to save")
    tensors: dict[str, Tensor] = {}
    said: dict[str, LowRank] = {}
    for path, adapter in found.items():
        assert isinstance(adapter, LowRank)
        theirs = _theirs(path)
        said[theirs] = adapter
        tensors[f"{PREFIX}{theirs}.lora_A.weight"] = adapter.a
        tensors[f"{PREFIX}{theirs}.lora_B.weight"] = adapter.b
        if adapter.magnitude is not None:
            tensors[f"{PREFIX}{theirs}.lora_magnitude_vector"] = adapter.magnitude
    kept, state = [], model.state_dict()
    for path in whole:
        kept += list(PARTS.get(path, (_theirs(path),)))
        tensors |= {
            PREFIX + k: v for ours in state if inside(ours, path) for k, v in _renamed(model, ours, state[ours])
        }
    if PREFIX + TIED in tensors and "lm_head" not in kept:
        kept.append("lm_head")
    config = _config(said, _shortest(model, list(said)), kept, base)
    folder.mkdir(parents=True, exist_ok=True)
    # DoRA's magnitudes and norms count for whole rows, and are few.
    made = {key: tensor if tensor.ndim < 2 else tensor.to(dtype=dtype) for key, tensor in tensors.items()}
    files.write_weights(folder / WEIGHTS, made)
    files.write_json(folder / CONFIG, config)
    return folder


def _theirs(path: str) -> str:
    """Transformers' name of a module with a weight, or ours where it has none."""
    found = names.to_theirs(f"{path}.weight", names.IDEFICS2)
    return path if found is None else found[0].removesuffix(".weight")


def _renamed(model: VLM, ours: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    found = names.to_theirs(ours, names.IDEFICS2)
    if found is None:
        return [(ours, tensor)]
    theirs, how = found
    made = names.to_convolution(tensor, model.config.vision.patch) if how == "patch" else tensor
    # A tied head is a copy of its own in PEFT, once the embedding is one.
    tied = ours == "language.embedding.weight" and not any(k == "output.weight" for k in model.language.state_dict())
    return [(theirs, made), (TIED, made.clone())] if tied else [(theirs, made)]


def _config(
    said: Mapping[str, LowRank], targets: Sequence[str], kept: Sequence[str], base: str | None
) -> dict[str, Any]:
    """PEFT's LoraConfig for the adapters of some modules, by transformers' names."""
    for key, values in (
        ("kinds (LoRA and DoRA)", {a.magnitude is not None for a in said.values()}),
        ("rslora", {a.rslora for a in said.values()}),
        ("dropout", {a.dropout for a in said.values()}),
    ):
        if len(values) > 1:
            raise ValueError(f"this adapter has more than one of {key}; PEFT's files hold one for all layers")
    first = next(iter(said.values()))
    rank = collections.Counter(a.rank for a in said.values()).most_common(1)[0][0]
    alpha = collections.Counter(a.alpha for a in said.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": first.dropout,
        "use_rslora": first.rslora,
        "use_dora": first.magnitude is not None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": list(targets),
        "modules_to_save": list(kept) or None,
        "rank_pattern": {re.escape(k): a.rank for k, a in said.items() if a.rank != rank},
        "alpha_pattern": {re.escape(k): a.alpha for k, a in said.items() if a.alpha != alpha},
    }


def _shortest(model: VLM, adapted: Sequence[str]) -> list[str]:
    """The last words of the adapted modules' names where those fit no other module, else the whole names."""
    every = [theirs for part in PARTS for theirs in linear_layers(model, part).values()]
    words = sorted({theirs.rpartition(".")[2] for theirs in adapted})
    fitting = [theirs for theirs in every if any(ends(theirs, word) for word in words)]
    return words if set(fitting) == set(adapted) else sorted(adapted)


@dataclasses.dataclass
class Found:
    """An adapter as it was read: its parts by the path of the layer, what PEFT saved whole by the parameter's, and the
    config. A path is a plain model's, whatever adapters the model has.
    """

    low: dict[str, LowRank]
    whole: dict[str, Tensor]
    config: dict[str, Any]


def read(model: VLM, place: Path, name: str = DEFAULT) -> dict[str, Any]:
    """Give a model the adapter in a local folder of PEFT's, and let it act. Returns its config.

    Its numbers are held in the dtype of the layers they are for. Modules that PEFT saved whole replace the model's.
    Raises ValueError naming the file and the setting or tensor that does not fit.
    """
    found = find(model, place)
    try:
        adapters.attach(model, found.low, name)
    except ValueError as error:
        raise ValueError(f"{place / WEIGHTS}: {error}") from None
    for path, tensor in found.whole.items():
        module, leaf = owner(model, path)
        fill.put(module, leaf, tensor)
    return found.config


def find(model: VLM, place: Path) -> Found:
    """The adapter in a local folder of PEFT's, made for a model, which stays as it is. Raises as `read` does."""
    if (place / PICKLE).is_file() and not (place / WEIGHTS).is_file():
        raise ValueError(
            f"{place} holds its weights as a Python pickle only, which can run code when it is read; vlmlab reads "
            "safetensors alone: save the adapter again with a newer PEFT, where you trust it"
        )
    if not (place / CONFIG).is_file():
        raise ValueError(f"{place} is no adapter of PEFT's: it has no {CONFIG}")
    config = _checked(files.read_json(place / CONFIG), place / CONFIG)
    try:
        with safetensors.safe_open(place / WEIGHTS, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{place} has no {WEIGHTS}") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{place / WEIGHTS} is not a whole safetensors file ({error}); fetch it again") from None
    try:
        low, whole = _sorted(model, tensors)
        if not low and not whole:
            raise ValueError("it holds no tensors: it would act on nothing")
        return Found({path: _made(model, path, some, config) for path, some in low.items()}, whole, config)
    except ValueError as error:
        raise ValueError(f"{place / WEIGHTS}: {error}") from None


def owner(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that has the parameter at a plain model's path, and what it calls it."""
    place, _, leaf = path.rpartition(".")
    module = model.get_submodule(place)
    return (module.base if isinstance(module, Adapted) else module), leaf


def base_of(place: Path) -> str:
    """Which model the adapter in a local folder says it is for. Raises ValueError when it does not say."""
    found = files.read_json(place / CONFIG).get("base_model_name_or_path")
    if not isinstance(found, str) or not found:
        raise ValueError(f"{place / CONFIG} does not say which model it is for: name one")
    return found


def _checked(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """PEFT's config, when it says nothing that we would have to ignore."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{path}: peft_type {kind!r} is not supported; known: LORA")
    if config.get("init_lora_weights", True) not in DRAWN:
        raise ValueError(
            f"{path}: init_lora_weights = {config['init_lora_weights']!r} changes the base's weights too: convert the "
            "adapter to plain LoRA when saving it with PEFT (path_initial_model_for_weight_conversion)"
        )
    for key, fits in FITTING.items():
        if key in config and not fits(config[key]):
            raise ValueError(f"{path}: {key} = {json.dumps(config[key])[:80]} cannot be")
    for key, value in config.items():
        harmless = value in (None, False, {}, []) or (key == "bias" and value == "none")
        if key not in READ | FREE | {"init_lora_weights"} and not harmless:
            raise ValueError(f"{path}: {key} = {json.dumps(value)[:80]} is not supported")
    return config


def _sorted(model: VLM, tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """An adapter's tensors by our paths: those of each adapted layer, and whole ones by the path of the parameter."""
    low: dict[str, dict[str, Tensor]] = collections.defaultdict(dict)
    whole: dict[str, Tensor] = {}
    parameters = _parameters(model)
    known = {theirs: path for part in PARTS for path, theirs in linear_layers(model, part).items()}
    for key, tensor in tensors.items():
        theirs = key.removeprefix(PREFIX)
        found = re.fullmatch(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?", theirs)
        if found is not None:
            if found[1] not in known:
                near = difflib.get_close_matches(found[1], known, n=1, cutoff=0.0)
                raise ValueError(f"it holds {key}, but no linear layer here is called so; the nearest: {near[0]}")
            low[known[found[1]]][found[2]] = tensor
            continue
        ours = names.to_ours(theirs, names.IDEFICS2) or (theirs, "same")
        if theirs == TIED and "language.output.weight" not in parameters:
            continue  # the tied head's copy
        if ours[0] not in parameters:
            raise ValueError(f"it holds {key}, which this model has no place for")
        held, made = parameters[ours[0]], names.MAKE[ours[1]](tensor)
        if made.shape != held.shape:
            raise ValueError(f"{ours[0]} is {list(held.shape)}, but {list(made.shape)} there")
        whole[ours[0]] = _finite(made.to(held.device, held.dtype), ours[0])
    return low, whole


def _parameters(model: VLM) -> dict[str, nn.Parameter]:
    """The parameters of a model without those of its adapters, by the paths that a plain model has."""
    found: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules():
        if isinstance(module, LowRank):
            continue
        above = path.rpartition(".")[0]
        place = above if isinstance(model.get_submodule(above), Adapted) else path
        found |= {f"{place}.{leaf}": value for leaf, value in module.named_parameters(recurse=False)}
    return found


def _made(model: VLM, path: str, some: Mapping[str, Tensor], config: Mapping[str, Any]) -> LowRank:
    theirs = _theirs(path)
    wanted = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if config.get("use_dora", False) else set())
    if some.keys() != wanted:
        odd = sorted(some.keys() ^ wanted)[0]
        raise ValueError(f"{odd} of {theirs} is {'missing' if odd in wanted else 'there, but use_dora is not set'}")
    a, b, magnitude = some["lora_A"], some["lora_B"], some.get("lora_magnitude_vector")
    rank = int(_pattern(config, "rank_pattern", theirs, config.get("r", 8)))
    if a.ndim != 2 or b.ndim != 2 or not len(a) == b.shape[1] == rank:
        raise ValueError(f"lora_A and lora_B of {theirs} are {list(a.shape)} and {list(b.shape)}, not of rank {rank}")
    if magnitude is not None and magnitude.numel() != len(b):
        raise ValueError(f"lora_magnitude_vector of {theirs} is {list(magnitude.shape)}, but lora_B has {len(b)} rows")
    alpha = float(_pattern(config, "alpha_pattern", theirs, config.get("lora_alpha", 8)))
    layer = model.get_submodule(path)
    base = layer.base if isinstance(layer, Adapted) else layer
    assert isinstance(base, Linear | Packed)
    like = base.weight
    a, b = _finite(a.to(like), theirs), _finite(b.to(like), theirs)
    magnitude = None if magnitude is None else _finite(magnitude.flatten().to(like), theirs)
    dropout, rslora = float(config.get("lora_dropout", 0.0)), bool(config.get("use_rslora", False))
    return LowRank(a, b, alpha, magnitude, dropout, rslora)


def _finite(tensor: Tensor, where: str) -> Tensor:
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"of {where} it holds numbers that are not finite as {tensor.dtype}")
    return tensor


def _pattern(config: Mapping[str, Any], key: str, theirs: str, otherwise: float | int) -> float | int:
    """PEFT's rule: the first pattern that fits the end of the module's name counts."""
    for pattern, value in (config.get(key) or {}).items():
        intricate = pattern.count("(") > _GROUPS or re.search(r"\)[*+?{]|\(\?[^:]", pattern)
        if intricate or len(re.findall(r"[*+?{]", pattern.replace("(?:", "("))) > _REPEATS:
            raise ValueError(f"{key}: {pattern!r} is too intricate to be looked for in names")
        try:
            if re.match(rf"(.*\.)?({pattern})$", theirs):
                return value
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{key}: {pattern!r} is no pattern ({error})") from None
    return otherwise
