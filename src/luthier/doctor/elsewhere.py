"""What other programs call the keys that the rules name. Data, and the one way to show it.

Sources: transformers 5.23 `TrainingArguments`, TRL 1.16 `SFTConfig` and `DPOConfig`,
Axolotl 0.15 `utils/schemas/config.py`,
LLaMA-Factory 0.9.3 `hparams`, Unsloth 2025.9 `FastLanguageModel.from_pretrained` (which trains with TRL).
"""

from __future__ import annotations

TRAINER, AXOLOTL, FACTORY, UNSLOTH = "Trainer", "Axolotl", "LLaMA-Factory", "Unsloth"

ELSEWHERE: dict[str, dict[str, str]] = {
    "data.max_seq_length": {
        TRAINER: "max_length", AXOLOTL: "sequence_len", FACTORY: "cutoff_len", UNSLOTH: "max_seq_length",
    },
    "data.val_set_size": {
        TRAINER: "train_test_split(test_size)", AXOLOTL: "val_set_size", FACTORY: "val_size",
        UNSLOTH: "train_test_split(test_size)",
    },
    "dpo.beta": {TRAINER: "beta", AXOLOTL: "rl_beta", FACTORY: "pref_beta", UNSLOTH: "beta"},
    "evaluation.early_stopping_patience": {
        TRAINER: "EarlyStoppingCallback(early_stopping_patience)", AXOLOTL: "early_stopping_patience",
        FACTORY: "early_stopping_steps", UNSLOTH: "EarlyStoppingCallback(early_stopping_patience)",
    },
    "training.num_train_epochs": {
        TRAINER: "num_train_epochs", AXOLOTL: "num_epochs", FACTORY: "num_train_epochs", UNSLOTH: "num_train_epochs",
    },
    "training.per_device_train_batch_size": {
        TRAINER: "per_device_train_batch_size", AXOLOTL: "micro_batch_size", FACTORY: "per_device_train_batch_size",
        UNSLOTH: "per_device_train_batch_size",
    },
}  # fmt: skip
"""Key -> its name in each. A key that is not here has Luthier's bare name in all of them."""


def name_in(key: str, program: str = "") -> str:
    """What a key is called in a program; in all of them, the usual name first, where the program is not known.

    Args:
        key: Luthier's, dotted.
        program: As the log tells it; empty: not known.
    """
    names = ELSEWHERE.get(key, {})
    usual = names.get(TRAINER, key.rpartition(".")[2])
    if program:
        return names.get(program, usual)
    others = [f"{other}: {name}" for other, name in names.items() if name != usual]
    return f"{usual} ({', '.join(others)})" if others else usual
