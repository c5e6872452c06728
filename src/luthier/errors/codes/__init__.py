"""All error codes, one file per family; a code is never reused for something else."""

from luthier.errors.codes.base import Explanation
from luthier.errors.codes.checkpoint import CHECKPOINT
from luthier.errors.codes.config import CONFIG
from luthier.errors.codes.data import DATA
from luthier.errors.codes.environment import ENVIRONMENT
from luthier.errors.codes.evaluate import EVALUATE
from luthier.errors.codes.export import EXPORT
from luthier.errors.codes.gate import GATE
from luthier.errors.codes.launch import LAUNCH
from luthier.errors.codes.learn import LEARN
from luthier.errors.codes.model import MODEL
from luthier.errors.codes.run import RUN
from luthier.errors.codes.serve import SERVE
from luthier.errors.codes.sweep import SWEEP

CODES: dict[str, Explanation] = {
    **CONFIG, **DATA, **MODEL, **ENVIRONMENT, **CHECKPOINT, **GATE, **RUN, **EVALUATE, **EXPORT, **SERVE, **SWEEP,
    **LAUNCH,
    **LEARN,
}  # fmt: skip

__all__ = ["CODES", "Explanation"]
