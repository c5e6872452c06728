"""One run of TRL's SFTTrainer on the tiny model of `record.py`, at its defaults but for the flags below."""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer


class Mishap(TrainerCallback):  # type: ignore[misc]
    """What goes wrong at a step: the process is killed, or the code raises."""

    def __init__(self, kill: int, fault: int) -> None:
        self.kill, self.fault = kill, fault

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Fail at the step that was asked for."""
        if state.global_step == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if state.global_step == self.fault:
            raise ValueError("the label of row 113 is not a number")


def main() -> None:
    """Train for some steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True)
    parser.add_argument("--bars", action="store_true", help="progress bars, as when nothing is set")
    parser.add_argument("--eval", action="store_true", help="evaluate every 6 steps")
    parser.add_argument("--report", action="store_true", help="write TensorBoard files")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=2, help="logging_steps")
    parser.add_argument("--kill", type=int, default=0, metavar="STEP")
    parser.add_argument("--break", type=int, default=0, metavar="STEP", dest="fault")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text(encoding="utf-8").splitlines()]
    data = Dataset.from_list([{"prompt": row["instruction"], "completion": row["output"]} for row in rows])
    settings = SFTConfig(
        output_dir=arguments.output,
        per_device_train_batch_size=4,
        max_steps=arguments.steps,
        learning_rate=2e-3,
        logging_steps=arguments.every,
        save_steps=3 if arguments.steps == 12 else arguments.steps,
        eval_strategy="steps" if arguments.eval else "no",
        eval_steps=6,
        report_to=["tensorboard"] if arguments.report else [],
        disable_tqdm=not arguments.bars,
        use_cpu=True,
        bf16=False,
    )
    trainer = SFTTrainer(
        "model",
        args=settings,
        train_dataset=data.select(range(80)),
        eval_dataset=data.select(range(80, 96)),
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Mishap(arguments.kill, arguments.fault)],
    )
    trainer.train(resume_from_checkpoint=True if arguments.resume else None)


if __name__ == "__main__":
    main()
