"""What an export may replace, what a killed one leaves, and where a link leads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from luthier.config.outputs import MANIFEST
from luthier.errors import MissingError
from luthier.export.place import EXPORTED, destination, filled, size
from luthier.training.commit import commit, verify
from tests.cli.support import environment

KILLED = """
import sys, time
from pathlib import Path
from luthier.export.place import filled
with filled(Path(sys.argv[1])) as aside:
    (aside / "half.bin").write_bytes(b"x" * 1000)
    print("writing", flush=True)
    time.sleep(100)
"""


def content(text):
    return lambda folder: (folder / "a").write_text(text) and None


def place(folder, *, overwrite=True):
    return destination(folder.parent, folder, "merged", overwrite=overwrite)


def export(folder, text="old"):
    with filled(place(folder)) as aside:
        content(text)(aside)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_export_is_replaced_and_nothing_else(tmp_path):
    folder = export(tmp_path / "m")
    assert names(folder) == ["a", EXPORTED, MANIFEST] and verify(folder) == ""
    assert size(folder) == sum((folder / name).stat().st_size for name in ("a", EXPORTED))
    with pytest.raises(MissingError, match="--overwrite replaces it"):
        place(folder, overwrite=False)
    export(folder, "new")
    assert (folder / "a").read_text() == "new" and names(tmp_path) == ["m"]


CHANGES = {
    "a file of the user's": lambda m: (m / "thesis.txt").write_text("years of work"),
    "a file in a folder": lambda m: (m / "evals").mkdir() or (m / "evals" / "results.json").write_text("{}"),
    "an empty folder": lambda m: (m / "evals").mkdir(),
    "a link": lambda m: (m / "link").symlink_to(m.parent),
    "a changed file": lambda m: (m / "a").write_text("other"),
    "a file taken away": lambda m: (m / "a").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_e_export_001_an_export_that_somebody_changed(change, tmp_path):
    folder = export(tmp_path / "m")
    CHANGES[change](folder)
    with pytest.raises(MissingError, match=r"E-EXPORT-001.*not as an export left it"):
        place(folder)


def test_e_export_001_a_sealed_folder_that_no_export_wrote(tmp_path):
    commit(tmp_path / "checkpoint-12", content("weights"))
    with pytest.raises(MissingError, match="E-EXPORT-001"):
        place(tmp_path / "checkpoint-12")
    (tmp_path / "checkpoint-12" / EXPORTED).write_text("{}")  # not in its manifest
    with pytest.raises(MissingError, match="E-EXPORT-001"):
        place(tmp_path / "checkpoint-12")


def test_through_a_link_the_export_behind_it_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    real = export(tmp_path / "disk" / "m1")
    link = tmp_path / "m"
    link.symlink_to(real)
    assert export(link, "new").is_symlink() and place(link) == real
    assert (real / "a").read_text() == "new"
    assert names(tmp_path) == ["disk", "m"] and names(tmp_path / "disk") == ["m1"]


def test_what_a_killed_export_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    folder = tmp_path / "m"
    others = [tmp_path / ".inflight-m-12345678", tmp_path / ".inflight-other-12345678"]
    for other in others:  # a run or a user made these
        other.mkdir()
    command = [sys.executable, "-c", KILLED, str(folder)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "writing\n"
        (aside,) = [path for path in tmp_path.iterdir() if path not in others]
        assert place(folder) == folder and (aside / "half.bin").is_file()
        child.kill()
    assert aside.is_dir()
    place(folder)
    assert sorted(tmp_path.iterdir()) == others


def test_an_export_that_was_about_to_be_replaced_comes_back(tmp_path):
    folder = export(tmp_path / "m [1]")
    folder.rename(tmp_path / ".replaced-m [1]-12345678")  # a kill between the two renames
    with pytest.raises(MissingError, match="--overwrite replaces it"):
        place(folder, overwrite=False)
    assert names(tmp_path) == ["m [1]"]
