"""GPUs that a plan can be made for without having them: what is known of them, and what follows from it.

Memory is what CUDA hands to programs, not what the box says: `nvidia-smi` shows a few percent more (24,564 MiB on an
RTX 4090), as the driver keeps some, and how much differs by driver. Taken is the least that torch says of such cards in
public logs from Linux (`total_memory`, or the capacity in messages of memory that ran out), rounded down to a tenth of
a GiB. Compute capabilities: developer.nvidia.com/cuda-gpus.

Not covered: what desktop and other programs take of the memory; other cards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from luthier.config.plan import MachineFacts
from luthier.errors import MissingError, Problem

Capability = tuple[int, int]


@dataclass(frozen=True)
class Card:
    """One kind of GPU.

    Attributes:
        name: As the driver calls it.
        memory_gib: What a program can have of it.
        capability: Compute capability.
    """

    name: str
    memory_gib: float
    capability: Capability


CARDS = {
    "H200": Card("NVIDIA H200", 139.8, (9, 0)),
    "H100": Card("NVIDIA H100 80GB HBM3", 79.1, (9, 0)),
    "A100-80": Card("NVIDIA A100-SXM4-80GB", 79.1, (8, 0)),
    "A100-40": Card("NVIDIA A100-SXM4-40GB", 39.3, (8, 0)),
    "L40S": Card("NVIDIA L40S", 44.4, (8, 9)),
    "V100-32": Card("Tesla V100-SXM2-32GB", 31.7, (7, 0)),
    "V100-16": Card("Tesla V100-SXM2-16GB", 15.7, (7, 0)),
    "4090": Card("NVIDIA GeForce RTX 4090", 23.6, (8, 9)),
    "3090": Card("NVIDIA GeForce RTX 3090", 23.6, (8, 6)),
    "L4": Card("NVIDIA L4", 22.0, (8, 9)),
    "A10": Card("NVIDIA A10", 22.0, (8, 6)),
    "T4": Card("Tesla T4", 14.5, (7, 5)),
    "3060": Card("NVIDIA GeForce RTX 3060", 11.6, (8, 6)),
    "4060": Card("NVIDIA GeForce RTX 4060", 7.6, (8, 9)),
}


def computes_bfloat16(capability: Capability) -> bool:
    """Whether products of bfloat16 run in hardware (Ampere and later)."""
    return capability >= (8, 0)


def multiplies_fp8(capability: Capability) -> bool:
    """Whether `torch._scaled_mm` multiplies float8 with a scale for each row (Ada and later)."""
    return capability >= (8, 9)


def as_if(name: str, here: MachineFacts) -> MachineFacts:
    """This box with another device: a card of `CARDS`, all of its memory free.

    Args:
        name: Of the card, in any case, as people write it: `rtx4090`, `NVIDIA RTX 4090`, `A100 80GB`.
        here: What is really there.

    Raises:
        MissingError: E-ENV-009, no such card in the table.
    """
    card = {_bare(known): card for known, card in CARDS.items()}.get(_bare(name))
    if card is None:
        raise MissingError(Problem("E-ENV-009", f"{name!r} is none of {', '.join(CARDS)}", _nearest(name), "--for"))
    return replace(
        here,
        device="cuda",
        device_name=card.name,
        supports_bfloat16=computes_bfloat16(card.capability),
        supports_fp8=multiplies_fp8(card.capability),
        memory_gib=card.memory_gib,
        free_memory_gib=card.memory_gib,
        is_here=False,
    )


_WORDS = re.compile(r"NVIDIA|TESLA|GEFORCE|[RG]TX|GB|[\W_]")


def _bare(name: str) -> str:
    return _WORDS.sub("", name.upper())


def _nearest(name: str) -> str:
    """The fix: the sizes that there are of a card, or the cards by their memory."""
    if sizes := [known for known in CARDS if _bare(name) and _bare(known).startswith(_bare(name))]:
        return f"write --for {' or --for '.join(sizes)}"
    by_memory = sorted(CARDS.items(), key=lambda known: known[1].memory_gib)
    listed = ", ".join(f"{known} {card.memory_gib:g}" for known, card in by_memory)
    return f"name the one whose memory is nearest to yours, and not more; in GiB: {listed}"
