"""Everything that the loop carries from step to step, and that a checkpoint therefore holds besides tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from luthier.data.collate import MicroBatch
from luthier.training.objective import Counted


@dataclass
class TrainState:
    """Counters of a run. All of them are restored on resume, so that each log line equals the uninterrupted run's."""

    step: int = 0
    """Optimizer steps done."""
    num_tokens: int = 0
    """Tokens seen, prompts included, padding excluded."""
    trained_tokens: int = 0
    loss_sum: float = 0.0
    """Sum of the losses over the whole run: negative log-likelihoods (nats) of tokens, or those of pairs, ..."""
    losses: int = 0
    """... and how many they were."""
    log_sums: list[float] = field(default_factory=list)
    """The objective's sums since the last log line, the loss first, ..."""
    log_losses: int = 0
    """... how many losses that were, ..."""
    log_trained_tokens: int = 0
    """... the number of trained tokens, ..."""
    log_num_tokens: int = 0
    """... of tokens, ..."""
    log_steps: int = 0
    """... of steps, ..."""
    log_seconds: float = 0.0
    """... and the time they took."""
    best_loss: float | None = None
    """Lowest eval_loss so far, ..."""
    best_step: int | None = None
    """... the step it was seen at, ..."""
    evaluations_without_gain: int = 0
    """Evaluations since one that was better by early_stopping_threshold, ..."""
    patience_loss: float | None = None
    """... and its eval_loss."""
    runtime_seconds: float = 0.0
    """Of all attempts, up to the newest checkpoint."""
    last_eval_step: int | None = None
    grad_norm: float = 0.0
    """Of the last step, before clipping."""
    saved_step: int | None = None
    """The step of the newest checkpoint."""
    sampled_step: int | None = None
    """The step at which prompts were answered last."""
    skipped_steps: int = 0
    """Steps that were left out because they were not finite, or a spike."""
    bad_in_a_row: int = 0
    """Of them, how many in a row up to now."""
    rollbacks: int = 0
    """How often the run went back to a checkpoint after too many bad steps, ..."""
    rolled_back_to: int | None = None
    """... the step it went back to last, ..."""
    went_bad_at: int | None = None
    """... the step at which that was found necessary, ..."""
    rate_factor: float = 1.0
    """... and what the learning rate is multiplied by since."""
    loss_scale: float = 16.0
    """Factor on float16's summed loss (`luthier.training.scale`); of 4,096 tokens the mean by 65,536, ..."""
    steps_at_scale: int = 0
    """... and since how many steps."""
    recent_losses: list[float] = field(default_factory=list)
    """Mean losses of the last applied steps, ..."""
    recent_norms: list[float] = field(default_factory=list)
    """... and the lengths of their gradients: what a spike is told by."""
    data_hash: str = ""
    """Chained from step to step over the tokens that went through the model and which of them were trained."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for trainer_state.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainState:
        """The inverse of `as_dict`; unknown keys are ignored."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def count(self, sums: Sequence[float], counted: Counted, seconds: float) -> None:
        """Add one finished optimizer step: the objective's sums, and what they went over."""
        self.step += 1
        self.num_tokens += counted.tokens
        self.trained_tokens += counted.trained_tokens
        self.loss_sum += sums[0]
        self.losses += counted.losses
        self.log_sums = [before + more for before, more in zip(self.log_sums or [0.0] * len(sums), sums, strict=True)]
        self.log_losses += counted.losses
        self.log_trained_tokens += counted.trained_tokens
        self.log_num_tokens += counted.tokens
        self.log_steps += 1
        self.log_seconds += seconds
        self.bad_in_a_row = 0

    @property
    def mean_loss(self) -> float:
        """Of the whole run."""
        return self.loss_sum / max(1, self.losses)

    def skip(self) -> None:
        """Add a step that was left out: it takes its place in the schedule and in the data."""
        self.step += 1
        self.skipped_steps += 1
        self.bad_in_a_row += 1

    def add_data(self, batches: Iterable[MicroBatch]) -> None:
        """Go on with the chain: where two runs have the same `data_hash`, each of their steps had the same rows."""
        digest = hashlib.sha256(self.data_hash.encode())
        for batch in batches:
            for tensor in (batch.input_ids_BT, batch.positions_N):
                digest.update(f"{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        self.data_hash = digest.hexdigest()

    def start_log_interval(self) -> None:
        """Forget the sums of the interval that was just logged."""
        self.log_sums, self.log_losses, self.log_seconds = [], 0, 0.0
        self.log_trained_tokens, self.log_num_tokens, self.log_steps = 0, 0, 0
