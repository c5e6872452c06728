"""Launcher: `python src/training/train.py [CONFIG] [KEY=VALUE]...` is `luthier train`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from luthier.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
