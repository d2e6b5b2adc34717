"""vlmlab: an open workbench for vision-language models of the Idefics2 family.

    model, processor = vlmlab.load("runs/demo/model")
    sample = vlmlab.Sample.from_messages([{"role": "user", "content": [
        {"type": "image", "path": "photo.jpg"}, {"type": "text", "text": "What is this?"}]}])
    print(vlmlab.Engine(model, processor).generate([sample], max_new_tokens=64)[0])

The names below are imported when they are first used: `import vlmlab` itself is light.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmlab.batch import Batch, Images, Message, Picture, Sample
    from vlmlab.generate.engine import Engine
    from vlmlab.hub.load import load, load_model
    from vlmlab.model.vlm import VLM
    from vlmlab.processor.processor import Processor

_PLACES = {
    "Batch": "vlmlab.batch",
    "Engine": "vlmlab.generate.engine",
    "Images": "vlmlab.batch",
    "Message": "vlmlab.batch",
    "Picture": "vlmlab.batch",
    "Processor": "vlmlab.processor.processor",
    "Sample": "vlmlab.batch",
    "VLM": "vlmlab.model.vlm",
    "load": "vlmlab.hub.load",
    "load_model": "vlmlab.hub.load",
}

__all__ = [
    "VLM",
    "Batch",
    "Engine",
    "Images",
    "Message",
    "Picture",
    "Processor",
    "Sample",
    "load",
    "load_model",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'vlmlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
