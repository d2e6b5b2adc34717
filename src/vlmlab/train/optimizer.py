"""What is trained, and how fast: parameter groups for AdamW, and the learning rate's course."""

import math

import torch

from vlmlab.model.vlm import PARTS, VLM
from vlmlab.train.recipe import Stage


def freeze(model: VLM, stage: Stage) -> dict[str, torch.nn.Parameter]:
    """Let only the parts in `stage.train` learn. Returns their parameters by name.

    Raises ValueError when those parts hold no parameters.
    """
    for name in PARTS:
        model.get_submodule(name).requires_grad_(name in stage.train)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError(f"stage.train = {list(stage.train)}: this model has no parameters there")
    return trained


def optimizer(model: VLM, stage: Stage) -> torch.optim.AdamW:
    """AdamW over the trained parts. Biases, norms and other vectors do not decay, as in Idefics2's training."""
    freeze(model, stage)
    groups = []
    for part, parameters in model.parts().items():
        for decays in (True, False):
            chosen = [p for p in parameters if p.requires_grad and (p.ndim > 1) == decays]
            if chosen:
                decay = stage.weight_decay * stage.decay_factors.get(part, 1.0) if decays else 0.0
                factor = stage.lr_factors.get(part, 1.0)
                groups.append({"params": chosen, "weight_decay": decay, "factor": factor, "lr": 0.0})
    return torch.optim.AdamW(groups, betas=stage.betas, eps=stage.eps)


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
