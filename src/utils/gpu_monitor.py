"""Launcher: `python src/utils/gpu_monitor.py [OPTIONS]` is `luthier gpu`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from luthier.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main(["gpu", *sys.argv[1:]])
