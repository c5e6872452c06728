"""What the model writes while it is trained: answers to the configured prompts, at milestones.

All prompts are answered together. Where that fails they are asked one by one, so that a prompt that is too long costs
the others nothing; and no failure of a sample ends a run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from luthier.errors.trace import summary
from luthier.events.types import Notice, Sampled
from luthier.machine.memory import free_memory, is_out_of_memory
from luthier.machine.ranks import in_step, on_any_rank, rank
from luthier.model.forward import autocast
from luthier.model.sampling import continue_many
from luthier.training.job import Job


def sample(job: Job) -> Iterator[Sampled | Notice]:
    """What the model answers now to the configured prompts (greedy)."""
    settings, state = job.plan.config.evaluation, job.state
    if state.sampled_step == state.step or (state.step == 0 and 0 not in settings.sample_steps):
        return
    started = time.monotonic()
    if rank() == 0 or job.plan.sharded:
        said = in_step(lambda: list(_answers(job))) if job.plan.sharded else _answers(job)
        yield from said
    job.agree()
    if not job.abandoned:
        job.ahead.took("sampling", time.monotonic() - started)
        state.sampled_step = state.step


def _answers(job: Job) -> Iterator[Sampled | Notice]:
    """Of this process, or of all ranks of a sharded model in step; a stop breaks them off."""
    step, prompts = job.state.step, job.plan.config.evaluation.sample_prompts
    most = job.plan.config.evaluation.sample_max_new_tokens
    together = [list(range(len(prompts)))] if prompts else []
    while together and not job.abandoned:
        asked = together.pop(0)
        try:
            said = [Sampled(step, *both) for both in _asked(job, [prompts[number] for number in asked])]
        except Exception as error:  # no sample is worth a run
            if job.plan.sharded:
                raise
            no_memory, why = is_out_of_memory(error), summary(error)
        else:
            yield from said
            continue
        if no_memory:
            free_memory()
        if len(asked) > 1:
            together = [[number] for number in asked]
            continue
        text, change = f"no sample of prompt {asked[0] + 1}: {why}; training goes on", ""
        if no_memory:
            text = "no memory to write samples; training goes on"
            change, together = f"evaluation.sample_max_new_tokens: {max(1, most // 2)}", []
        yield Notice("warning", text, change, step)


def _asked(job: Job, prompts: list[str]) -> list[tuple[str, str]]:
    """The prompts, each with its answer; none where a stop was asked for meanwhile."""
    sharded, most = job.plan.sharded, job.plan.config.evaluation.sample_max_new_tokens

    def stop() -> bool:
        return on_any_rank(job.stop_asked()) if sharded else job.stop_asked()

    stop_ids = job.data.template.stop_ids(job.tokenizer)
    ids = [job.data.prompt_ids(job.tokenizer, prompt) for prompt in prompts]
    with autocast(job.plan), job.watchdog.watching("a sample", job.state.step):
        answers = continue_many(job.model, ids, stop_ids, most, stop, in_step=sharded)
    texts = [job.tokenizer.decode(answer) for answer in answers]
    job.abandoned = stop()
    return [] if job.abandoned else list(zip(prompts, texts, strict=True))
