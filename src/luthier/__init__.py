"""Luthier fine-tunes language models and shows why each step does what it does.

Three lines from Python or a notebook::

    import luthier
    luthier.run("configs/quickstart.yaml")
    model = luthier.load("checkpoints/quickstart")
"""

import logging
import warnings
from typing import TYPE_CHECKING, Any

from luthier.version import __version__

# bitsandbytes warns at import that an optional kernel package is absent; without a handler that lands on every screen.
logging.getLogger("bitsandbytes").addHandler(logging.NullHandler())
# in a notebook tqdm asks for ipywidgets, for bars that are not shown there
warnings.filterwarnings("ignore", "IProgress not found")

if TYPE_CHECKING:
    from luthier.api import compare, load, plan, score, train
    from luthier.notebook import run

__all__ = ["__version__", "compare", "load", "plan", "run", "score", "train"]


def __getattr__(name: str) -> Any:
    """Import the engine, and with it torch, only when somebody uses it."""
    if name in __all__:
        from luthier import api, notebook

        return getattr(notebook if name == "run" else api, name)
    raise AttributeError(f"module 'luthier' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
