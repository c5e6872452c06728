"""What `luthier explain` can be asked: words that people type for other topics, what is near a slip, and the list."""

from __future__ import annotations

import textwrap

MEANT: dict[str, tuple[str, ...]] = {
    "accuracy": ("rewards/accuracies",),
    "batch": ("per_device_train_batch_size", "pass"),
    "bos_token": ("bos and eos",),
    "bs": ("per_device_train_batch_size",),
    "crash": ("run-failed", "checkpoint"),
    "eos_token": ("bos and eos", "end-trained"),
    "eta": ("eta_seconds",),
    "inf": ("not-finite",),
    "margin": ("rewards/margins", "margins-flat"),
    "nan": ("not-finite",),
    "oom": ("out-of-memory", "vram"),
    "out_of_memory": ("out-of-memory", "vram"),
    "pad_token": ("padding",),
    "reward": ("rewards/chosen", "rewards/rejected"),
    "slow": ("data-bound", "gpu-idle", "slowing-down"),
    "speed": ("tokens_per_second", "step_seconds"),
    "spike": ("loss-spikes",),
    "stuck": ("loss-stuck",),
    "time": ("eta_seconds", "step_seconds"),
}
"""A word, with `_` between its parts -> the topics that are told."""
MOST_SUGGESTIONS = 3


def nothing(topic: str) -> str:
    """That nothing is called so, and what may be meant: at most three topics; one when it is a slip of that."""
    from luthier.config.glossary import TERMS
    from luthier.config.keys import SECTIONS, by_name, closest, is_one_slip
    from luthier.doctor import RULES
    from luthier.events.numbers import NUMBERS
    from luthier.gate.gate import BY_NAME

    word = topic.rpartition(".")[2]
    names = (*by_name(), *SECTIONS, *NUMBERS, *TERMS, *(rule.name for rule in RULES), *BY_NAME, *MEANT)
    candidates = dict.fromkeys(names, 0.0)
    near: list[str] = []
    while len(near) < MOST_SUGGESTIONS and (found := closest(word, candidates)):
        near.append(found)
        del candidates[found]
        if is_one_slip(word.lower(), found.lower()):
            near = near[-1:]
            break
    meant = (
        ", ".join(f'"{name}"' for name in near[:-1]) + " or " * (len(near) > 1) + "".join(f'"{n}"' for n in near[-1:])
    )
    return f'nothing is called "{topic}"' + (f"; did you mean {meant}?" if near else "")


def listed(room: int) -> str:
    """What kinds of topics there are, and what is in each."""
    from luthier.config.glossary import TERMS
    from luthier.doctor import RULES
    from luthier.events.numbers import NUMBERS
    from luthier.gate.gate import BY_NAME

    kinds = {
        "a key": "learning_rate; all of them: luthier explain",
        "a number": ", ".join(NUMBERS),
        "a word": ", ".join(TERMS),
        "an error code": "E-CFG-003; all of them: luthier explain E-",
        "a doctor's rule": ", ".join(rule.name for rule in RULES),
        "a check": ", ".join(BY_NAME),
    }
    rows = (f"  {kind:<17}{names}" for kind, names in kinds.items())
    filled = (textwrap.fill(row, room, subsequent_indent=" " * 19, break_on_hyphens=False) for row in rows)
    return "\n".join(("A topic is", *filled))
