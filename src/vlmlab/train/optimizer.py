"""What is trained, and how fast: parameter groups for AdamW, and the learning rate's course."""

import math
from typing import Any

import torch

from vlmlab.hub.named import HEAD, linear_layers, modules, resolve
from vlmlab.model import adapters
from vlmlab.model.nf4 import NF4
from vlmlab.model.vlm import VLM
from vlmlab.train.recipe import Stage


def adapt(model: VLM, stage: Stage) -> None:
    """Give a model the fresh adapters that a stage trains, drawn from torch's global generator.

    Raises ValueError naming the key and the target that fits nothing.
    """
    for part, config in stage.adapters.items():
        try:
            paths, beside = resolve(model, part, config.targets), modules(model, part, config.full)
            both = [path for path in paths if path in beside]
            if both:
                raise ValueError(f"full and targets both name {both[0]}: leave it out of one")
            if config.base == "nf4":
                adapters.replace(model, [p for p in linear_layers(model, part) if p not in (HEAD, *beside)], NF4)
            adapters.add(model, paths, config)
        except ValueError as error:
            raise ValueError(f"stage.adapters.{part}: {error}") from None


def whole(model: VLM, stage: Stage) -> list[str]:
    """What a stage trains in full: parts, and paths of modules beside adapters."""
    beside = [path for part, config in stage.adapters.items() for path in modules(model, part, config.full)]
    return [*stage.train, *beside]


def freeze(model: VLM, stage: Stage) -> dict[str, torch.nn.Parameter]:
    """Let only what `stage` trains learn: parts, adapters, modules beside them. Returns the parameters by name.

    Raises ValueError when there are none in a part.
    """
    model.requires_grad_(False)
    for path in whole(model, stage):
        model.get_submodule(path).requires_grad_(True)
    for name in stage.adapters:
        learned = adapters.learned(model.get_submodule(name))
        if not learned:
            raise ValueError(f"stage.adapters.{name}: the model has no adapter there yet (see `adapt`)")
        for parameter in learned.values():
            parameter.requires_grad_(True)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError(f"stage.train = {list(stage.train)}: this model has no parameters there")
    return trained


def optimizer(model: VLM, stage: Stage) -> torch.optim.AdamW:
    """AdamW over the trained parts. Biases, norms and other vectors do not decay, as in Idefics2's training."""
    freeze(model, stage)
    groups: list[dict[str, Any]] = []
    for part, parameters in model.parts().items():
        for decays in (True, False):
            chosen = [p for p in parameters if p.requires_grad and (p.ndim > 1) == decays]
            if chosen:
                decay = stage.weight_decay * stage.decay_factors.get(part, 1.0) if decays else 0.0
                factor = stage.lr_factors.get(part, 1.0)
                groups.append({"params": chosen, "weight_decay": decay, "factor": factor, "lr": 0.0})
    # One kernel for all parameters, where there is a device for it; on a CPU it would round otherwise than before.
    fused = True if all(p.is_cuda for group in groups for p in group["params"]) else None
    return torch.optim.AdamW(groups, betas=stage.betas, eps=stage.eps, fused=fused)


def course(step: int, stage: Stage) -> float:
    """The learning rate of step number `step` (from 0), before the factors of the parts.

    It rises over `warmup` steps, then falls along `schedule` to `final` times its peak at the last step.
    """
    if step < stage.warmup:
        return stage.lr * (step + 1) / stage.warmup
    if stage.schedule == "constant":
        return stage.lr
    done = (step - stage.warmup + 1) / max(stage.steps - stage.warmup, 1)
    fall = 0.5 * (1 + math.cos(math.pi * done)) if stage.schedule == "cosine" else 1 - done
    return stage.lr * (stage.final + (1 - stage.final) * fall)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the learning rate `rate`, times the factor of its part."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
