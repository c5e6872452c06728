"""What ranks on several machines have to find alike: the files of the base model, and one output folder.

Not covered: config, rows and libraries (`luthier.training.identity.require_one_plan`).
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from luthier.config.schema import ModelSection
from luthier.errors import MissingError, Problem
from luthier.machine.ranks import local_rank, of_all_ranks, of_rank_0, only_on_rank_0, rank, together
from luthier.model.hashes import base_folder, base_hashes

APPEARS_SECONDS = 60.0
"""For a file to be seen from another machine: a shared disk remembers for a while what was not there."""
_WEIGHTS = ".safetensors"


def hashing(section: ModelSection) -> Callable[[], dict[str, str]]:
    """What hashes the base model's files; nothing where another rank of this machine reads the same ones.

    All ranks call it.
    """
    folder = base_folder(section)
    place = (socket.gethostname(), str(folder and folder.resolve()))
    before = of_all_ranks(place)[: rank()]
    if local_rank() and place in before:
        return dict
    return lambda: base_hashes(section)


def require_one_base(hashes: dict[str, str]) -> dict[str, str]:
    """Compare the base models that the ranks have loaded; returns the hashes of rank 0's.

    Files that only some have are no matter, as long as not all of the weights are.

    Args:
        hashes: File name -> SHA-256; empty where another rank has read the same files.

    Raises:
        MissingError: E-ENV-008, they are not the same.
    """
    own, *others = of_all_ranks(hashes)
    for number, other in enumerate(others, 1):
        differs = [name for name in own if other.get(name, own[name]) != own[name]]
        weights = [name for name in own if name.endswith(_WEIGHTS)]
        if differs:
            name = differs[-1]
            what = f"{name} with SHA-256 {other[name][:12]}..., and rank 0 with {own[name][:12]}..."
        elif other and weights and not any(name in other for name in weights):
            what = f"no {weights[0]}, and rank 0 has"
        else:
            continue
        fix = "give every machine the same files; for a model of the hub write model.revision: a commit's hash"
        found = f"the base model of rank {number} has {what}"
        raise MissingError(Problem("E-ENV-008", found, fix, "model.model_name_or_path"))
    return own


def require_one_folder(output_dir: Path) -> None:
    """Compare the output folders of the ranks: checkpoints are written by rank 0 and read by all.

    Raises:
        MissingError: E-ENV-008, a rank does not see what rank 0 writes into it.
    """
    if not together():
        return
    probe = output_dir / of_rank_0(f".seen-{uuid.uuid4().hex}")
    try:
        only_on_rank_0(lambda: probe.write_bytes(b"luthier"))
        places = of_all_ranks((socket.gethostname(), str(output_dir.absolute()), _appears(probe)))
    finally:
        if rank() == 0:
            probe.unlink(missing_ok=True)
    machine, folder, _ = places[0]
    for number, (other, own, seen) in enumerate(places):
        if not seen:
            found = f"{own} of rank {number} on {other} is not {folder} of rank 0 on {machine}"
            fix = "write an output_dir on a disk that all machines share; each reads the checkpoints there"
            raise MissingError(Problem("E-ENV-008", found, fix, "training.output_dir"))


def _appears(path: Path) -> bool:
    end = time.monotonic() + APPEARS_SECONDS
    while not path.is_file():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
