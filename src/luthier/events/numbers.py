"""What the numbers of a log mean: the dashboard's `?`, `luthier explain`, TensorBoard and the guide tell these texts.

Not covered: what a number says of one run (`luthier.monitor.dashboard.explain`), and numbers that are not in a log.
"""

from __future__ import annotations

from dataclasses import dataclass

from luthier.events.types import REWARDS


@dataclass(frozen=True)
class Number:
    """One number.

    Attributes:
        idea: What it is.
        care: What to do when it is not well; empty where nothing is to be done.
        page: The page of the guide that tells more, as a path in docs/; empty: none.
    """

    idea: str
    care: str = ""
    page: str = ""


NUMBERS: dict[str, Number] = {
    "loss": Number(
        "How wrong the predictions are: at each token of the answer, minus the logarithm of the probability that the "
        "model gave to the token that is really there; the mean of these over the steps since the line before. 0 is "
        "certain and right, and lower is better.",
        "Single lines are noisy, each has other rows: look at the mean. It should fall within a hundred steps. If it "
        "does not, try a learning_rate three times higher; if it jumps up and stays, three times lower.",
        "concepts/loss.md",
    ),
    "eval_loss": Number(
        "The same loss on rows that are held out (val_set_size) and never trained on. It says whether what is learned "
        "carries over.",
        "When it turns upwards while the loss goes on falling, the model learns rows by heart: lower num_train_epochs. "
        "load_best_model_at_end: true keeps the best weights.",
        "concepts/loss.md",
    ),
    "train_loss": Number(
        "The mean loss of the whole run, its beginning included. So it lies above the loss at "
        "the end, and says little of the model that came out.",
        "Compare eval_loss, or the last lines of loss. Two runs of unlike length cannot be compared by it.",
        "concepts/loss.md",
    ),
    "learning_rate": Number(
        "How far one step moves the weights. It rises first (warmup), then falls, so that the model gets near quickly "
        "and settles calmly.",
        "It is the number that most often decides whether a run is good. The loss jumps: three times lower. The loss "
        "hardly moves: three times higher.",
        "concepts/learning-rate.md",
    ),
    "grad_norm": Number(
        "The length of the gradient of the last step, before clipping: how strongly its rows pull at the weights.",
        "Single spikes are what clipping is for. Above the limit all the time: raise max_grad_norm to three times the "
        "usual length, and lower learning_rate if the loss jumps as well. Near 0 from the start: nothing is trained, "
        "look at target_modules.",
        "concepts/gradients.md",
    ),
    "norms": Number(
        "The length of the gradient of one layer's trained weights, before clipping.",
        "A layer that stays at 0 learns nothing; one far above all others decides alone how the gradient is clipped.",
        "concepts/gradients.md",
    ),
    "rewards/chosen": Number(
        "Of training on pairs (objective: dpo): beta times how much more probable the chosen answers are now than they "
        "were before step 1 (the difference of the logarithms), a mean over the pairs since the line before.",
        "It may fall below 0 as long as the rejected answers fall further: DPO looks at the difference alone. If it "
        "falls far, chosen answers get improbable too: raise beta, lower learning_rate, or train on them first (sft).",
        "concepts/preferences.md",
    ),
    "rewards/rejected": Number(
        "The same of the rejected answers.",
        "It should fall below rewards/chosen.",
        "concepts/preferences.md",
    ),
    "rewards/margins": Number(
        "How much further apart chosen and rejected answers are than before step 1: rewards/chosen less "
        "rewards/rejected. It begins at 0.",
        "It should rise. Does it stay at 0: a learning_rate three times higher. Does it rise on and on while "
        "eval_rewards/accuracies no longer does: fewer epochs, or a larger beta.",
        "concepts/preferences.md",
    ),
    "rewards/accuracies": Number(
        "Of the pairs since the line before, the share whose chosen answer has the higher reward. 0.5 is chance; in "
        "the first step no answer has a reward yet.",
        "Look at eval_rewards/accuracies, of pairs that are held out: if only this one rises, pairs are learned by "
        "heart.",
        "concepts/preferences.md",
    ),
    "epoch": Number(
        "How often all rows have been trained on: 1.5 is one and a half times.", "", "concepts/epoch-and-steps.md"
    ),
    "step": Number(
        "How many optimizer steps are done; in each the weights moved once.", "", "concepts/epoch-and-steps.md"
    ),
    "num_tokens": Number(
        "How many tokens the model has seen in training, prompts included, padding excluded.",
        "More text helps until it is the same text again: see the eval loss.",
    ),
    "tokens_per_second": Number(
        "Tokens that go through the model in a second, prompts included, padding excluded; evaluating and saving do "
        "not count.",
        "It should be steady. When it falls, somebody else uses the machine, it runs hot, or the data come too slowly.",
        "performance.md",
    ),
    "trained_tokens_per_second": Number(
        "As tokens_per_second, of the trained tokens alone: the answers.",
        "Long prompts with short answers make it small; nothing is wrong with that.",
        "performance.md",
    ),
    "step_seconds": Number(
        "The seconds of one optimizer step, without evaluation and saving.",
        "Steps with long rows take longer. A rising mean is a machine that gets hot or has to share.",
        "performance.md",
    ),
    "memory_gib": Number(
        "The most memory that the run has held at once: of the GPU, or of the process where there is none.",
        "A step that does not fit is done again in smaller passes, which costs time; on a CPU the system may end the "
        "run. Halve max_tokens_per_micro_batch: it changes no result.",
        "memory.md",
    ),
    "eta_seconds": Number(
        "The seconds that are left: the steps to come at the speed of those before, evaluations and saving included. "
        "events.jsonl calls it remaining_seconds.",
        "The dashboard's margin (about 95 %) is from how much the step times vary. It cannot know of a machine that "
        "others begin to use.",
    ),
    "eval_runtime": Number(
        "The seconds that this evaluation took. No training step runs meanwhile.",
        "If evaluations take a large part of the run: a larger eval_steps, or fewer held-out rows.",
    ),
    "eval_tokens": Number(
        "The trained tokens of the held-out rows. eval_loss is the mean over them; of objective: dpo over pairs."
    ),
    "train_runtime": Number("The seconds of the whole run, those before a resume included."),
    "predicted_runtime": Number(
        "The same seconds as they were predicted after the first 20 steps. Beside train_runtime it says how good the "
        "forecast was."
    ),
    "peak_memory_gib": Number("The most memory that the run ever held at once, as memory_gib.", "", "memory.md"),
    "data_seconds": Number(
        "Seconds of a step in which it waited for its rows.",
        "It should be near 0: if it is not, raise dataloader_num_workers.",
        "performance.md",
    ),
    "forward_seconds": Number(
        "Seconds of a step for the predictions and the loss. A pass that is recorded on a GPU (cuda_graphs) counts "
        "here, its backward pass included.",
        "", "performance.md",
    ),
    "backward_seconds": Number(
        "Seconds of a step for the gradients: about as long as forward, or twice. Of a recorded pass (cuda_graphs) "
        "they count as forward.",
        "", "performance.md",
    ),
    "optimizer_seconds": Number(
        "Seconds of a step for the length of the gradient, clipping and the update.",
        "Much of a step means very small steps.",
        "performance.md",
    ),
    "other_seconds": Number("Seconds of a step that are none of the others: histograms, where they are due."),
    "ranks_seconds": Number(
        "Seconds of a step for adding the gradients of all processes, the wait for the slowest one included.",
        "A slow rank holds all up: see own_seconds.",
        "ranks.md",
    ),
    "own_seconds": Number("Seconds of a step of one process (rank), without the waiting for others.", "", "ranks.md"),
    "own_memory_gib": Number("The most memory of one process (rank), as memory_gib.", "", "ranks.md"),
    "gpu_utilization": Number(
        "How busy the GPU is: percent of the last moments in which it computed anything. A GPU that waits trains "
        "nothing.",
        "Below 90 % for long: look at where a step's seconds go.",
        "gpu.md",
    ),
    "gpu_memory_used_gib": Number("GPU memory of all programs, caches included: more than memory_gib.", "", "gpu.md"),
    "gpu_memory_total_gib": Number("The memory that the GPU has.", "", "gpu.md"),
    "gpu_temperature_c": Number(
        "How hot the GPU is, in °C.", "At its own limit, mostly 83 to 90 °C, it slows itself down.", "gpu.md"
    ),
    "gpu_power_w": Number("What the GPU draws, in watts.", "", "gpu.md"),
    "cpu_utilization": Number("How busy all cores of the processor are together, in percent; the whole machine."),
    "ram_used_gib": Number("Main memory in use, by all programs."),
    "ram_total_gib": Number("The main memory that the machine has."),
    "disk_free_gib": Number(
        "What is free on the disk that the run writes to.",
        "When it gets less than two checkpoints: make room, or lower save_total_limit.",
    ),
}  # fmt: skip
NUMBERS["remaining_seconds"] = NUMBERS["eta_seconds"]
NUMBERS.update({field: NUMBERS[name] for field, name in REWARDS.items()})

NUMBERS_OF_PAIRS: dict[str, Number] = {
    "loss": Number(
        "How badly chosen and rejected answers are told apart: minus the logarithm of the probability that the chosen "
        "one wins, sigmoid(margin), a mean over the pairs since the line before. It begins at log 2 = 0.693, which is "
        "chance, and falls towards 0 as the margins grow. It says nothing of single tokens.",
        "Single lines are noisy: look at the mean. If it stays at 0.693, try a learning_rate three times higher; if it "
        "rises above it, three times lower. With dpo.label_smoothing it cannot get near 0, nor should it.",
        "concepts/preferences.md",
    ),
    "eval_loss": Number(
        "The same loss on pairs that are held out (val_set_size) and never trained on. It says whether what is learned "
        "carries over to other answers.",
        "When it turns upwards while the loss goes on falling, the model learns pairs by heart: lower "
        "num_train_epochs, or raise dpo.beta. load_best_model_at_end: true keeps the best weights.",
        "concepts/preferences.md",
    ),
}
"""Those that mean something else in a run that learns from pairs of answers (`objective: dpo`)."""
