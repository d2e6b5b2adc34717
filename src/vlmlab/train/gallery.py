"""What a frozen vision tower has seen, kept in a folder: runs that share the tower and the pictures look only once."""

import hashlib
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlmlab.batch import Images
from vlmlab.model.vision import Vision, VisionConfig
from vlmlab.writing import write


class Gallery:
    """Features [p, v] by the patches they were made from, for one tower: another has another folder.

    They are held in memory; `save` adds those that are new to the folder, as a file of their own.
    """

    def __init__(self, folder: Path, tower: Vision, config: VisionConfig) -> None:
        self.place = folder / fingerprint(tower, config)
        self.held: dict[str, Tensor] = {}
        self.fresh: dict[str, Tensor] = {}
        for path in sorted(self.place.glob("*.safetensors")):
            try:
                self.held |= load_file(path)
            except SafetensorError:  # damaged: it is made again
                path.unlink(missing_ok=True)

    def find(self, images: Images) -> Float[Tensor, "p v"] | None:
        """What is known of some images, looked at together."""
        return self.held.get(key(images))

    def add(self, images: Images, features: Float[Tensor, "p v"]) -> None:
        """Keep what was seen."""
        name = key(images)
        self.held[name] = self.fresh[name] = features.contiguous()

    def save(self) -> None:
        """Write what is new."""
        if not self.fresh:
            return
        fresh = self.fresh
        digest = hashlib.sha256("".join(sorted(fresh)).encode()).hexdigest()[:16]
        write(self.place / f"{digest}.safetensors", lambda partial: save_file(fresh, partial))
        self.fresh = {}


def key(images: Images) -> str:
    """The name of some images: a hash of their patches and grids."""
    digest = hashlib.sha256(str(images.grid.tolist()).encode())
    digest.update(images.patches.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def fingerprint(tower: Vision, config: VisionConfig) -> str:
    """The name of a tower: a hash of its config and its weights."""
    digest = hashlib.sha256(f"{type(tower).__name__} {config}".encode())
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
