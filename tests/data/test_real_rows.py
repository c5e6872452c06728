"""MBPP as it was published: Windows line ends and tabs inside strings, columns `text` and `code`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from luthier.config.schema import DatasetSource
from tests.data.support import make_tokenizer, pieces, problems, run

FOLDER = Path(os.environ.get("LUTHIER_DATA", Path(__file__).parents[3] / "shared" / "data"))
MBPP = FOLDER / "mbpp.jsonl"

pytestmark = pytest.mark.skipif(
    not MBPP.is_file(), reason=f"no {MBPP}: take mbpp.jsonl from google-research/google-research and set LUTHIER_DATA"
)


def test_mbpp(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    source = DatasetSource(path=str(MBPP), format="alpaca", columns={"instruction": "text", "output": "code"})
    prepared = run(tokenizer, source, max_seq_length=8192, cache_dir=str(tmp_path))
    lines = [json.loads(line) for line in MBPP.read_bytes().split(b"\n") if line.strip()]
    assert len(prepared.train) == len(lines) == 974
    for index in range(0, 974, 50):
        (prompt, _), (answer, trained) = pieces(tokenizer, prepared.train.members(index)[0])
        assert trained
        assert answer == lines[index]["code"] + "</s>"
        assert f"### Instruction:\n{lines[index]['text']}\n\n" in prompt
    assert any("\r\n\t" in line["code"] for line in lines)
    assert prepared.report.bos_share == prepared.report.eos_share == 1.0


def test_mbpp_without_columns_says_which(tmp_path: Path) -> None:
    assert problems(make_tokenizer(), MBPP, cache_dir=str(tmp_path))[0][0] == "E-DATA-020"
