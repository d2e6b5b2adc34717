"""Functions that `torch.compile` leaves alone."""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def uncompiled(function: Function) -> Function:
    """`torch.compiler.disable`, put off until something is compiled: importing the compiler takes a second.

    For plans, which are made of lengths and lists rather than of tensors; they take no arguments by name.
    """

    @functools.wraps(function)
    def call(*args: object) -> object:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args)
        return function(*args)

    return call  # type: ignore[return-value]
