"""GPUs that a plan can be made for without having them: what NVIDIA says of them, and what follows from it.

Memory is that of the datasheets (NVIDIA H200 Tensor Core GPU; NVIDIA H100 Tensor Core GPU, SXM; NVIDIA L40S; GeForce
RTX 4090, product page; NVIDIA T4), in GB of 10^9 bytes. Compute capabilities: developer.nvidia.com/cuda-gpus.

Not covered: what driver, desktop and other programs take of the memory; other cards.
"""

from __future__ import annotations

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
    "L40S": Card("NVIDIA L40S", 48, (8, 9)),
    "4090": Card("NVIDIA GeForce RTX 4090", 24, (8, 9)),
    "T4": Card("Tesla T4", 16, (7, 5)),
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
        name: Of the card, in any case.
        here: What is really there.

    Raises:
        MissingError: E-ENV-009, no such card in the table.
    """
    card = CARDS.get(name.upper().removeprefix("NVIDIA ").removeprefix("RTX ").strip())
    if card is None:
        known = ", ".join(CARDS)
        raise MissingError(
            Problem("E-ENV-009", f"{name!r} is none of {known}", "name the one with the next smaller memory", "--for")
        )
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
