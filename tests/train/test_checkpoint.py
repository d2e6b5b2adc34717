"""A checkpoint is used only as it was written: one that is damaged is passed over for the one before."""

import hashlib
import json
import shutil

import pytest

from train.test_loop import same, train, weights
from vlmlab.train import checkpoint
from vlmlab.train.checkpoint import MANIFEST, OPTIMIZER, STATE, WEIGHTS
from vlmlab.train.log import read_metrics


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def turn_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps with all its checkpoints, and the weights it ended with."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, weights(train(folder, save_every=1, keep=9))


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE, MANIFEST])
@pytest.mark.parametrize("harm", [cut, empty, remove, turn_a_bit])
def test_a_damaged_checkpoint_is_found(whole, tmp_path, name, harm):
    shutil.copytree(whole[0], tmp_path / "run")
    harm(checkpoint.latest(tmp_path / "run").folder / name)
    found = checkpoint.find(tmp_path / "run")
    assert found.whole.step == 5 and len(found.damaged) == 1
    assert found.damaged[0].startswith("step-000006 is damaged (")
    # A manifest with another hash in it accuses another file; all that is sure is that one of the two is wrong.
    assert name in found.damaged[0] or (name == MANIFEST and harm is turn_a_bit)


def test_training_goes_on_from_the_one_before_and_says_so(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    for step in (5, 6):
        cut(checkpoint.home(run) / f"step-{step:06d}" / WEIGHTS)
    resumed = train(run, resume=True, save_every=1, keep=2)
    assert "step-000005 is damaged (trained.safetensors has" in capsys.readouterr().err
    assert [r["why"].split()[0] for r in read_metrics(run) if r["kind"] == "damaged"] == ["step-000006", "step-000005"]
    assert same(weights(resumed), whole[1])
    assert checkpoint.find(run) == checkpoint.Found(checkpoint.latest(run)) and checkpoint.latest(run).step == 6
    assert [r["step"] for r in read_metrics(run) if r["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


def test_none_that_is_whole_is_an_error_that_names_them(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    assert checkpoint.find(tmp_path / "nothing") == checkpoint.NOTHING
    for number, one in enumerate(checkpoint.kept(run)):
        (remove if number % 2 else empty)(one.folder / OPTIMIZER)
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole: step-000006 .*0 bytes .*; step-000005 .*miss"):
        train(run, resume=True)


def test_what_got_further_than_a_new_checkpoint_is_dropped(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    cut(checkpoint.latest(run).folder / STATE)
    train(run, resume=True, steps=5, save_every=1, keep=1)  # begins at step 5: nothing to do, nothing written
    assert checkpoint.latest(run).step == 6
    for one in checkpoint.kept(run)[1:3]:
        shutil.rmtree(one.folder)
    train(run, resume=True, steps=4, save_every=1, keep=1)
    assert [one.step for one in checkpoint.kept(run)] == [4]


def test_a_manifest_lists_every_file_with_its_hash(whole):
    folder = checkpoint.latest(whole[0]).folder
    told = json.loads((folder / MANIFEST).read_text())["files"]
    assert told.keys() == {WEIGHTS, OPTIMIZER, STATE}
    content = (folder / WEIGHTS).read_bytes()
    assert told[WEIGHTS] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
