"""Files are written whole or not at all, and what goes wrong names them."""

import errno

import pytest

from vlmlab import writing


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
