"""GPUs that a plan can be made for without having them: what NVIDIA says of them, and what follows from it.

Memory is that of the datasheets (NVIDIA H200 Tensor Core GPU; NVIDIA H100, A100 and V100 Tensor Core GPU, SXM; NVIDIA
L40S, L4, A10 and T4; GeForce RTX 4090, 3090, 4060 and 3060 of 12 GB, product pages), a GB taken as 10^9 bytes: many
cards report up to 7 % more. Compute capabilities: developer.nvidia.com/cuda-gpus.

Not covered: what driver, desktop and other programs take of the memory; other cards.
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
        memory_gb: 10^9 bytes.
        capability: Compute capability.
    """

    name: str
    memory_gb: int
    capability: Capability


CARDS = {
    "H200": Card("NVIDIA H200", 141, (9, 0)),
    "H100": Card("NVIDIA H100 80GB HBM3", 80, (9, 0)),
    "A100-80": Card("NVIDIA A100-SXM4-80GB", 80, (8, 0)),
    "A100-40": Card("NVIDIA A100-SXM4-40GB", 40, (8, 0)),
    "L40S": Card("NVIDIA L40S", 48, (8, 9)),
    "V100-32": Card("Tesla V100-SXM2-32GB", 32, (7, 0)),
    "V100-16": Card("Tesla V100-SXM2-16GB", 16, (7, 0)),
    "4090": Card("NVIDIA GeForce RTX 4090", 24, (8, 9)),
    "3090": Card("NVIDIA GeForce RTX 3090", 24, (8, 6)),
    "L4": Card("NVIDIA L4", 24, (8, 9)),
    "A10": Card("NVIDIA A10", 24, (8, 6)),
    "T4": Card("Tesla T4", 16, (7, 5)),
    "3060": Card("NVIDIA GeForce RTX 3060", 12, (8, 6)),
    "4060": Card("NVIDIA GeForce RTX 4060", 8, (8, 9)),
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
    memory_gib = card.memory_gb * 1e9 / 2**30
    return replace(
        here,
        device="cuda",
        device_name=card.name,
        supports_bfloat16=computes_bfloat16(card.capability),
        supports_fp8=multiplies_fp8(card.capability),
        memory_gib=memory_gib,
        free_memory_gib=memory_gib,
        is_here=False,
    )


_WORDS = re.compile(r"NVIDIA|TESLA|GEFORCE|[RG]TX|GB|[\W_]")


def _bare(name: str) -> str:
    return _WORDS.sub("", name.upper())


def _nearest(name: str) -> str:
    """The fix: the sizes that there are of a card, or the cards by their memory."""
    if sizes := [known for known in CARDS if _bare(name) and _bare(known).startswith(_bare(name))]:
        return f"write --for {' or --for '.join(sizes)}"
    by_memory = sorted(CARDS.items(), key=lambda known: known[1].memory_gb)
    listed = ", ".join(f"{known} {card.memory_gb}" for known, card in by_memory)
    return f"name the one whose memory is nearest to yours, and not more; in GB: {listed}"
