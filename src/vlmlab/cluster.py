"""Ray: the cluster of many machines, or one of this process's own."""

import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Iterator

_TOKEN = secrets.token_hex(32)
"""One for as long as this process is there: Ray reads it when it is first imported, and not again."""


@contextlib.contextmanager
def joined(address: str = "", extra: str = "ray", show_output: bool = False) -> Iterator[None]:
    """Ray: the cluster at an address, or one of this process's own, for nobody else; one it is in already is kept.

    With `show_output`, what is printed there is printed here. Raises ValueError where there is none, and where Ray is
    not installed; `extra` names what to install.
    """
    there = sys.modules.get("ray")
    if there is not None and there.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "auto":
        address = named_address() or address
    if address == "local":
        address = ""
    if not address:
        # Ray would listen at every address of the machine, and runs what it is sent: it shall know its own by a token,
        # and stay at 127.0.0.1, which it does where it takes the system for one that has no clusters.
        # (A replica has a port at every address all the same; Ray Serve gives no choice. It asks for the token.)
        # So none of it is left to what the environment says: without the token anybody could have code run there.
        os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
        os.environ["RAY_AUTH_TOKEN"] = _TOKEN
    try:
        import ray
    except ModuleNotFoundError:
        raise ValueError(f"--ray needs ray: pip install 'vlmlab[{extra}]'") from None
    try:
        ray.init(
            address or "local",
            include_dashboard=None if address else False,
            log_to_driver=show_output,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(f"Ray at {address or 'this machine'}: no cluster answers: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def named_address() -> str:
    """The address of the cluster that the environment names, as Ray's own commands take it; "" where it names none."""
    return os.environ.get("RAY_ADDRESS", "")
