"""Launcher: `python src/utils/training_dashboard.py --log training.log` is `luthier watch`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from luthier.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main(["watch", *sys.argv[1:]])
