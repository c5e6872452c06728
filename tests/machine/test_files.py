"""A file that is written is the new one whole, or the old one as it was."""

from __future__ import annotations

import pytest

from luthier.machine.files import whole_file, write_whole


def test_a_file_takes_the_place_of_the_old_one_only_when_it_is_written(tmp_path):
    path = tmp_path / ("x" * 255)
    write_whole(path, "old")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" and [*tmp_path.iterdir()] == [path]


def test_what_fails_in_the_middle_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "plan.yaml"
    write_whole(path, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]
    with pytest.raises(OSError):
        write_whole(path / "below", "a file is no folder")
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]
