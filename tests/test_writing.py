"""Files are written whole or not at all, and what goes wrong names them."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from vlmlab import writing
from vlmlab.hub import files
from vlmlab.writing import alone


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "card.json"
    writing.write_text(path, "old")

    def fill(partial):
        partial.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as error:
        writing.write(path, fill)
    assert error.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_not_written_over(tmp_path):
    with pytest.raises(IsADirectoryError) as error:
        writing.write_text(tmp_path, "text")
    assert error.value.filename == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit_are_named(tmp_path, monkeypatch):
    def full(*told, **more):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    path = tmp_path / "model.safetensors"
    with pytest.raises(OSError, match=f"{path}: cannot be written: .*No space left on device"):
        files.write_weights(path, {"weight": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == []


HOLDS = """
import os, signal, sys, time
from pathlib import Path
from vlmlab.writing import alone
with alone(Path(sys.argv[1])):
    if not os.fork():
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_until_that_ends_however_it_does(tmp_path):
    folder = tmp_path / "runs" / "one"
    with alone(folder):
        with pytest.raises(ValueError, match="one: another process is at work there"), alone(folder):
            pytest.fail("it was held twice")
        with alone(tmp_path):  # another folder
            pass
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, folder], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(ValueError, match="another process"), alone(folder):
            pytest.fail("it was held by two")
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # its copy goes on, and holds nothing
        with alone(folder):
            assert list(folder.iterdir()) == []
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_folder_made_for_nothing_goes_again_and_no_other(tmp_path):
    for folder in (tmp_path / "new", tmp_path):
        with pytest.raises(KeyError), alone(folder):
            raise KeyError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), alone(tmp_path / "new"):
        writing.write_text(tmp_path / "new" / "it", "is kept")
        raise KeyError
    assert (tmp_path / "new" / "it").read_text() == "is kept"


def test_where_there_are_no_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "fcntl", None)
    with alone(tmp_path), alone(tmp_path):
        pass
