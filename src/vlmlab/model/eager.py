"""Functions that `torch.compile` leaves alone."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Made = TypeVar("Made")


def uncompiled(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """`torch.compiler.disable`, put off until something is compiled: importing the compiler takes a second.

    For plans, which are made of lengths and lists rather than of tensors.
    """

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call
