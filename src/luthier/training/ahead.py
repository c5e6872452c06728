"""How long a run still takes, from what its steps cost and which steps are to come.

    seconds left = sum over steps to come of (a passes + b tokens) + steps (time between steps)
                 + evaluations, saves, samples to come, each x its mean so far (final_model counts as a save)

Before the first steps b is what the rehearsal found, a is 0, and an update is counted for each step. Before the first
evaluation its time is what the rehearsal found, or its tokens x b x the share of a forward pass; what a sample takes is
not known before the first one.

Which rows a step takes is a pure function of the seed, so passes and tokens of every step to come are known. a and b
are fitted on this attempt's steps, the usual ones where there are any (`luthier.training.cost`), and get better as it
goes; time between steps is what is left of the clock when all that is known is taken off it: logging, and whoever reads
the events.

Not covered: early stopping; checkpoints of evaluations that are the best so far; other programs that come and go.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Literal

from luthier.config.plan import Plan
from luthier.data.loader import Rows, step_passes
from luthier.events.types import Notice, TimeForecast
from luthier.machine.ranks import rank, world_size
from luthier.training.cost import FIRST_STEPS, WARM_UP, Cost, StepCost, advice, fit

Pause = Literal["evaluation", "saving", "sampling"]
_MOST_STEPS = 2000
"""Steps whose passes are looked at; of longer runs every n-th is, and stands for n."""
_REMEMBERED = 1000
FORWARD = 0.4
"""Of a step's time; with frozen weights the backward pass takes a little longer than the forward pass."""


class TimeLeft:
    """Watches an attempt and says how long it will go on.

    Attributes:
        predicted_seconds: Of the whole attempt, as it looked after its first `FIRST_STEPS` steps; nan before.
    """

    def __init__(
        self, plan: Plan, rows: Rows, held_out: Rows | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan, self._rows, self._clock = plan, rows, clock
        self._held_out_tokens = int(held_out.lengths.sum()) if held_out is not None else 0
        self._started = clock()
        self._steps: list[StepCost] = []
        self._done, self._step_seconds = 0, 0.0
        self._pauses: dict[Pause, list[float]] = {"evaluation": [], "saving": [], "sampling": []}
        self._expected: dict[Pause, float] = {}
        self._work: dict[int, tuple[int, int]] = {}
        self._rehearsed: Cost | None = None
        self.predicted_seconds = math.nan

    def start(self) -> None:
        """The attempt begins now: what came before is no part of it."""
        self._to_come(0)  # looked at here, so that it does not count as time between steps
        self._started = self._clock()

    def follow(self, plan: Plan) -> None:
        """The steps to come go through other passes."""
        self._plan, self._work = plan, {}

    def expect(self, pause: Pause, seconds: float) -> None:
        """How long something takes that has not happened yet."""
        self._expected[pause] = seconds

    def rehearsed(self, tokens: int, seconds: float, update_seconds: float) -> None:
        """What one pass took before the first step, and the update of a step."""
        self._rehearsed = Cost(0.0, seconds / max(1, tokens), update_seconds=update_seconds)

    def took(self, pause: Pause, seconds: float) -> None:
        """Something between two steps has happened."""
        self._pauses[pause].append(seconds)

    def add(self, done: StepCost, step: int) -> None:
        """One more step is done, the one of this number; after the first `FIRST_STEPS` the prediction is made."""
        self._done += 1
        self._step_seconds += done.seconds
        self._steps = [*self._steps, done][-_REMEMBERED:]
        if self._done == FIRST_STEPS:
            self.predicted_seconds = self._clock() - self._started + self.remaining(step)

    def remaining(self, step: int) -> float:
        """Seconds that are left after `step` steps; its own evaluation, save and sample are still to come."""
        return self.forecast(step).remaining_seconds

    def forecast(self, step: int) -> TimeForecast:
        """The same with all that it is made of, for who reads it before or after `step`."""
        cost, steps, epoch = self._cost(), self._plan.total_steps - step, self._plan.steps_per_epoch
        counts = self._pauses_to_come(step)
        means = {pause: self._mean(pause, cost) for pause in counts}
        in_steps = self._in_steps(step, cost)
        left = in_steps + sum(means[pause] * count for pause, count in counts.items())
        samples_known = self._pauses["sampling"] or not counts["sampling"]
        return TimeForecast(
            step=step,
            remaining_seconds=left,
            ends_at=time.time() + left,
            steps=steps,
            step_seconds=in_steps / max(1, steps),
            evaluations=counts["evaluation"],
            eval_seconds=means["evaluation"],
            saves=counts["saving"],
            save_seconds=means["saving"],
            samples=counts["sampling"],
            sample_seconds=means["sampling"] if samples_known else math.nan,
            epoch_seconds=left / steps * epoch if steps >= epoch else math.nan,
            fitted_steps=cost.steps,
            error=cost.error,
        )

    def told(self, step: int) -> Iterator[TimeForecast | Notice]:
        """What there is to say after `step`: once, by the first steps; the forecast where enough of the run is left."""
        if self._done != FIRST_STEPS:
            return
        if self._plan.total_steps - step >= FIRST_STEPS:
            yield self.forecast(step)
        if self._plan.config.training.auto and (said := advice(self._steps, step)):
            yield said

    def _cost(self) -> Cost:
        """What a step costs by those that tell; by the rehearsal, where there was one, while the first ones warm up."""
        if self._done <= WARM_UP and self._rehearsed is not None:
            return self._rehearsed
        latest = self._steps[-max(1, self._done - WARM_UP) :]
        telling = [step for step in latest if step.usual] or latest
        return fit([(step.passes, step.whole, step.seconds) for step in telling]) if telling else Cost(0.0, 0.0)

    def _in_steps(self, step: int, cost: Cost) -> float:
        """Seconds in the steps after `step`, and between them."""
        passes, tokens = self._to_come(step)
        between = self._clock() - self._started - self._step_seconds - sum(map(sum, self._pauses.values()))
        each = cost.update_seconds + (max(0.0, between) / self._done if self._done else 0.0)
        left = self._plan.total_steps - step
        return cost.pass_seconds * passes + cost.token_seconds * tokens + each * left

    def _mean(self, pause: Pause, cost: Cost) -> float:
        """Seconds that something takes: as it did, as it is expected to, or as its tokens say."""
        if seconds := self._pauses[pause]:
            return sum(seconds) / len(seconds)
        guess = FORWARD * cost.token_seconds * self._held_out_tokens if pause == "evaluation" else 0.0
        return self._expected.get(pause, guess)

    def _pauses_to_come(self, step: int) -> dict[Pause, int]:
        plan = self._plan
        return {
            "evaluation": plan.evaluations.left(step),
            "saving": plan.saves.left(step) + 1,  # final_model
            "sampling": plan.samples.left(step) if plan.config.evaluation.sample_prompts else 0,
        }

    def _to_come(self, step: int) -> tuple[float, float]:
        """Passes and tokens of the steps after `step`."""
        total = self._plan.total_steps
        every = max(1, math.ceil(total / _MOST_STEPS))
        passes = tokens = 0
        for first in range(0, total, every):
            left = min(first + every, total) - max(first, step)
            if left <= 0:
                continue
            if first not in self._work:
                self._work[first] = self._work_of(first)
            passes += left * self._work[first][0]
            tokens += left * self._work[first][1]
        return passes, tokens

    def _work_of(self, step: int) -> tuple[int, int]:
        groups = step_passes(self._rows, self._plan, step, rank(), world_size())
        rows = [row for group in groups for row in group]
        return len(groups), int(self._rows.lengths[rows].sum())
