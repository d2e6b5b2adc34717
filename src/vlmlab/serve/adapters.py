"""Adapters at run time: loaded from folders of one directory, and let go, by vLLM's two routes."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from vlmlab.hub.adapters import CONFIG, WEIGHTS
from vlmlab.serve.failures import Failed
from vlmlab.serve.schemas import Schema
from vlmlab.serve.service import Service

LOG = logging.getLogger("vlmlab.serve")


class LoadRequest(Schema):
    """An adapter to be loaded."""

    lora_name: str = Field(min_length=1, max_length=100, description="What requests say as their `model`.")
    lora_path: str = Field(
        min_length=1, max_length=1000, description="Its folder, inside of the directory that the server was given."
    )
    lora_int_id: int | None = Field(None, description="Passed over.")


class UnloadRequest(Schema):
    """An adapter to be let go."""

    lora_name: str = Field(min_length=1, max_length=100)
    lora_int_id: int | None = Field(None, description="Passed over.")


def routes(service: Service, inside: Path) -> APIRouter:
    """The routes of a service that loads adapters from the folders of one directory."""
    router = APIRouter(prefix="/v1", tags=["Adapters"])
    # One at a time, beside the requests: reading files keeps nobody waiting.
    threads = ThreadPoolExecutor(1, "vlmlab-adapters")

    @router.post("/load_lora_adapter")
    async def load(asked: LoadRequest) -> Response:
        """Load an adapter, to be asked for by its name."""
        work = partial(load_from, service, inside, asked.lora_name, asked.lora_path)
        size = await asyncio.get_running_loop().run_in_executor(threads, work)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully: {size:,} bytes.")

    @router.post("/unload_lora_adapter")
    async def unload(asked: UnloadRequest) -> Response:
        """Let go of an adapter: nobody can ask for it from now on; answers under way are written to their end."""
        work = partial(service.engine.unload_adapter, asked.lora_name)
        await asyncio.get_running_loop().run_in_executor(threads, work)
        LOG.info("an adapter was unloaded")
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")

    return router


def load_from(service: Service, inside: Path, name: str, path: str) -> int:
    """Load an adapter from a folder of a directory; the bytes it takes. Raises Failed."""
    if name in service.names:
        raise Failed(400, f"{name[:200]!r} is the model's own name", "lora_name")
    folder = _folder(inside, path)
    try:
        loaded = service.engine.load_adapter(name, folder)
    except ValueError as error:  # without what lies where on this machine
        raise Failed(400, str(error).replace(str(folder), path)) from None
    except OSError:
        raise Failed(400, f"{path[:200]!r} cannot be read", "lora_path") from None
    LOG.info("an adapter of %d bytes was loaded", loaded.nbytes)
    return loaded.nbytes


def _folder(inside: Path, path: str) -> Path:
    """The folder that a path names, where it and its files lie inside of a directory. Raises Failed.

    Links are followed first. What is said of a folder outside does not tell whether there is one.
    """
    missing = Failed(400, f"there is no adapter at {path[:200]!r} inside of --adapters-from", "lora_path")
    try:
        root = inside.resolve(strict=True)
        folder = (root / path).resolve(strict=True)
        if not folder.is_relative_to(root) or not folder.is_dir():
            raise missing
        for file in (folder / CONFIG, folder / WEIGHTS):
            found = file.resolve()
            if file.is_symlink() and not found.is_relative_to(root):
                raise missing
            if found.exists() and not found.is_file():  # a pipe would be waited for
                raise missing
    except (OSError, ValueError, RuntimeError):  # none there, a name that cannot be, links in a circle
        raise missing from None
    return folder
