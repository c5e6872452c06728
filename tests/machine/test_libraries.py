"""What libraries say goes into a file."""

from __future__ import annotations

import warnings

import pytest

from luthier.machine.libraries import library_output_to


@pytest.mark.filterwarnings("always")
def test_after_an_inner_block_the_outer_one_still_keeps_warnings_from_the_screen(tmp_path, capfd):
    before = warnings.showwarning
    with library_output_to(tmp_path / "outer.log"):
        with library_output_to(tmp_path / "inner.log"):
            warnings.warn("the first", FutureWarning, stacklevel=1)
        warnings.warn("the second, hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", FutureWarning, stacklevel=1)
    assert capfd.readouterr().err == "" and warnings.showwarning is before
    assert "FutureWarning: the first" in (tmp_path / "inner.log").read_text()
    second = (tmp_path / "outer.log").read_text()
    assert "FutureWarning: the second" in second and "hf_abcdefgh" not in second
