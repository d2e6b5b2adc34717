"""What a tower saw is found again by tower and picture, in another process too; damaged files are made again."""

import dataclasses

import torch

from train import tiny
from vlmlab.batch import Images
from vlmlab.train.gallery import Gallery, fingerprint
from vlmlab.train.prepare import Features, Prepared


def images(seed: int) -> Images:
    patches = torch.rand(4, 48, generator=torch.Generator().manual_seed(seed))
    return Images(patches, torch.tensor([[2, 2]]))


def prepared(seed: int) -> Prepared:
    return Prepared(torch.tensor([1]), torch.tensor([-100]), images(seed))


def test_a_tower_looks_once(tmp_path, monkeypatch):
    model = tiny.model()
    first = Features(model, 0, Gallery(tmp_path, model.vision, model.config.vision))
    seen = [first.see(prepared(n)).features for n in range(3)]
    first.gallery.save()
    first.gallery.save()  # nothing is new
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    again = Features(model, 0, Gallery(tmp_path, model.vision, model.config.vision))
    monkeypatch.setattr(type(model.vision), "forward", lambda *given: 1 / 0)
    for n, features in enumerate(seen):
        assert torch.equal(again.see(prepared(n)).features, features)
        assert again.see(prepared(n)).images.patches.numel() == 0


def test_another_tower_or_picture_is_not_known(tmp_path):
    one, other = tiny.model(0), tiny.model(1)
    gallery = Gallery(tmp_path, one.vision, one.config.vision)
    gallery.add(images(0), torch.zeros(4, 32))
    gallery.save()
    assert gallery.find(images(0)) is not None
    assert gallery.find(images(1)) is None
    wide = images(0)
    assert gallery.find(Images(wide.patches, torch.tensor([[1, 4]]))) is None
    config = one.config.vision
    assert fingerprint(one.vision, config) != fingerprint(other.vision, config)
    assert fingerprint(one.vision, config) != fingerprint(one.vision, dataclasses.replace(config, heads=1))
    assert Gallery(tmp_path, other.vision, other.config.vision).find(images(0)) is None


def test_a_damaged_file_is_made_again(tmp_path):
    model = tiny.model()
    gallery = Gallery(tmp_path, model.vision, model.config.vision)
    gallery.add(images(0), torch.zeros(4, 32))
    gallery.save()
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    fresh = Gallery(tmp_path, model.vision, model.config.vision)
    assert fresh.find(images(0)) is None
    assert not file.exists()
