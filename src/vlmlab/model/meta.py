"""Models built without memory: shapes and dtypes, no numbers."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

FILLS = frozenset([init.normal_, init.uniform_, init.trunc_normal_, init.kaiming_uniform_, init.zeros_, init.ones_])
"""What modules fill their first weights with."""


class _Undrawn(TorchFunctionMode):
    """Leaves out what fills a tensor: there is nothing to fill, and drawing on meta imports the compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in FILLS:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Modules made in here have parameters on the meta device, not initialised."""
    with torch.device("meta"), _Undrawn():
        yield
