"""Small convolutional networks that Keras described: their layers as plain data, their weights as tensors.

A folder holds `layers.json`, a list of layers in an order in which each comes after its inputs, and
`model.safetensors`. Reading one runs nothing that is in it: a layer is one of the kinds in this file, or an error.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vlmlab.writing import write, write_text

LAYERS, WEIGHTS = "layers.json", "model.safetensors"

Described = Mapping[str, Any]
"""A layer of Keras: `class_name`, `config`, and the names of its inputs."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": F.relu,
    "softmax": lambda x: x.softmax(-1),
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer: its kind, its inputs' names, sides and steps of its window down and across, and its activation."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padded: bool = False
    activation: str = "linear"

    @property
    def padding(self) -> tuple[int, int]:
        """The border, down and across, that keeps a picture's size."""
        return (self.window[0] // 2, self.window[1] // 2) if self.padded else (0, 0)


class Network:
    """A network, ready to be run on the CPU."""

    def __init__(self, layers: Sequence[Layer], weights: Mapping[str, Tensor]) -> None:
        """Raises ValueError for a layer of a kind that is not known here."""
        self.layers, self.weights = layers, weights
        for layer in layers:
            if layer.kind not in KINDS or layer.activation not in ACTIVATIONS:
                raise ValueError(f"layer {layer.name}: {layer.kind} with {layer.activation} is not known here")

    @torch.inference_mode()
    def __call__(self, pictures: Float[Tensor, "pictures 3 height width"]) -> Float[Tensor, "pictures classes"]:
        """What the last layer gives for some pictures."""
        values: dict[str, Tensor] = {}
        left = collections.Counter(name for layer in self.layers for name in layer.inputs)
        x = pictures
        for layer in self.layers:
            x = KINDS[layer.kind](layer, [values[name] for name in layer.inputs] or [pictures], self.weights)
            x = values[layer.name] = ACTIVATIONS[layer.activation](x)
            for name in layer.inputs:  # what no later layer needs is let go
                left[name] -= 1
                if not left[name]:
                    del values[name]
        return x


def _convolution(layer: Layer, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    kernel, bias = weights[f"{layer.name}.weight"], weights[f"{layer.name}.bias"]
    return F.conv2d(inputs[0], kernel, bias, layer.stride, layer.padding)


def _dense(layer: Layer, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    return F.linear(inputs[0], weights[f"{layer.name}.weight"], weights[f"{layer.name}.bias"])


KINDS: dict[str, Callable[[Layer, Sequence[Tensor], Mapping[str, Tensor]], Tensor]] = {
    "input": lambda layer, inputs, weights: inputs[0],
    "convolution": _convolution,
    "dense": _dense,
    "concatenate": lambda layer, inputs, weights: torch.cat(list(inputs), 1),
    # Keras lays the channels of a point side by side, and does not count a border in a mean.
    "flatten": lambda layer, inputs, weights: inputs[0].permute(0, 2, 3, 1).flatten(1),
    "most": lambda layer, inputs, weights: F.max_pool2d(inputs[0], layer.window, layer.stride, layer.padding),
    "mean": lambda layer, inputs, weights: F.avg_pool2d(
        inputs[0], layer.window, layer.stride, layer.padding, count_include_pad=False
    ),
}
"""What each kind of layer does."""


def convert(described: Sequence[Described], tensors: Mapping[str, Tensor]) -> tuple[list[Layer], dict[str, Tensor]]:
    """A model of Keras as layers of ours. A normalisation becomes part of the convolution before it.

    `tensors` by Keras's names, `conv2d_1/kernel`. Raises ValueError for a layer that is not known here.
    """
    layers: dict[str, Layer] = {}
    weights: dict[str, Tensor] = {}
    stands: dict[str, str] = {}  # which layer of ours gives what one of Keras's gives
    for one in described:
        name, kind, config = one["config"]["name"], one["class_name"], one["config"]
        inputs = tuple(stands[node[0]] for node in one["inbound_nodes"][0]) if one["inbound_nodes"] else ()
        stands[name] = inputs[0] if kind in _MERGED else name
        if kind == "BatchNormalization":
            _normalise(weights, inputs[0], name, config, tensors)
        elif kind == "Activation":
            layers[inputs[0]] = dataclasses.replace(layers[inputs[0]], activation=config["activation"])
        elif kind not in _MERGED:
            if kind not in _KERAS:
                raise ValueError(f"layer {name}: Keras's {kind} is not known here")
            layers[name] = _layer(name, _KERAS[kind], inputs, config)
            if _KERAS[kind] in ("convolution", "dense"):
                kernel = tensors[f"{name}/kernel"]
                weights[f"{name}.weight"] = kernel.permute(*((3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)))
                bias = tensors.get(f"{name}/bias")
                weights[f"{name}.bias"] = kernel.new_zeros(kernel.shape[-1]) if bias is None else bias
    return list(layers.values()), {name: tensor.contiguous() for name, tensor in weights.items()}


_KERAS = {
    "InputLayer": "input",
    "Conv2D": "convolution",
    "Dense": "dense",
    "Concatenate": "concatenate",
    "Flatten": "flatten",
    "MaxPooling2D": "most",
    "AveragePooling2D": "mean",
}
_MERGED = ("BatchNormalization", "Activation", "Dropout")


def _layer(name: str, kind: str, inputs: tuple[str, ...], config: Mapping[str, Any]) -> Layer:
    window = config.get("kernel_size") or config.get("pool_size") or (1, 1)
    stride = config.get("strides") or (1, 1)
    padded = config.get("padding") == "same"
    if padded and (tuple(stride) != (1, 1) or not all(side % 2 for side in window)):
        raise ValueError(f"layer {name}: a border around even windows, or steps over one, is not known here")
    if tuple(config.get("dilation_rate", (1, 1))) != (1, 1):
        raise ValueError(f"layer {name}: windows with gaps are not known here")
    size, step = (window[0], window[1]), (stride[0], stride[1])
    return Layer(name, kind, inputs, size, step, padded, config.get("activation", "linear"))


def _normalise(
    weights: dict[str, Tensor], layer: str, name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Make a normalisation by known means and variances part of the convolution whose result it normalises."""
    scale = (tensors[f"{name}/moving_variance"] + config["epsilon"]).rsqrt()
    if config["scale"]:
        scale = scale * tensors[f"{name}/gamma"]
    shift = tensors[f"{name}/beta"] if config["center"] else torch.zeros_like(scale)
    weights[f"{layer}.weight"] = weights[f"{layer}.weight"] * scale[:, None, None, None]
    weights[f"{layer}.bias"] = (weights[f"{layer}.bias"] - tensors[f"{name}/moving_mean"]) * scale + shift


def save(folder: Path, layers: Sequence[Layer], weights: Mapping[str, Tensor]) -> None:
    """Write a network into a folder that is there."""
    write_text(folder / LAYERS, json.dumps([dataclasses.asdict(layer) for layer in layers], indent=1) + "\n")
    write(folder / WEIGHTS, lambda path: safetensors.torch.save_file(dict(weights), path))


def load(folder: Path) -> Network:
    """The network of a folder. Raises ValueError where there is none, or it is damaged."""
    try:
        told = json.loads((folder / LAYERS).read_text(encoding="utf-8"))
        layers = [
            Layer(
                one["name"],
                one["kind"],
                tuple(one["inputs"]),
                (one["window"][0], one["window"][1]),
                (one["stride"][0], one["stride"][1]),
                one["padded"],
                one["activation"],
            )
            for one in told
        ]
        return Network(layers, safetensors.torch.load_file(folder / WEIGHTS))
    except (OSError, KeyError, TypeError, IndexError, json.JSONDecodeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder} holds no network that can be read: {error}") from None
