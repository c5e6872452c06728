"""What a run is made of before there are weights: tokenizer, rows and the plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from luthier.config.load import Loaded
from luthier.config.plan import Memory, ModelFacts, Plan
from luthier.config.resolve import resolve
from luthier.data.largest import Largest, find_largest
from luthier.data.prepare import Prepared, Progress, prepare
from luthier.errors import MissingError, Problem
from luthier.gate.check import Subject
from luthier.machine import ranks
from luthier.machine.probe import probe, resident_gib
from luthier.model.budget import plan_passes
from luthier.model.describe import describe
from luthier.model.hub import load_config, load_tokenizer
from luthier.model.memory import forecast
from luthier.training.checkpoint import Checkpoint
from luthier.training.identity import passes_of, require_one_plan


@dataclass(frozen=True)
class Ingredients:
    """What a plan is made from, for those who go on to use it."""

    plan: Plan
    model_config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    data: Prepared
    largest: Largest

    @property
    def subject(self) -> Subject:
        """The same as the gate takes it."""
        return Subject(self.plan, self.data, self.tokenizer)


def ingredients(
    loaded: Loaded, early: Plan, checkpoint: Checkpoint | None, progress: Progress | None = None
) -> Ingredients:
    """Tokenizer, rows and the plan; no weights yet. All ranks have the same: rank 0 tokenizes, and its memory decides.

    Raises:
        MissingError: E-ENV-008 when a rank has other rows, another config or other libraries, or none of the rows.
    """
    config = early.config
    model_config, tokenizer, model_facts = ranks.all_or_none(lambda: _model_parts(early))
    data = ranks.first_on_rank_0(lambda: prepare(config, tokenizer, progress=progress))
    facts = data.facts
    if len(data.train) < ranks.world_size():
        found = f"{len(data.train):,} rows for {ranks.world_size()} ranks"
        raise MissingError(Problem("E-ENV-008", found, "start fewer processes"))
    before = loaded.record.passes if loaded.record else None
    before = passes_of(checkpoint.identity, checkpoint.path.name) if checkpoint else before
    repeats = loaded.record is not None and "training.memory_gib" not in loaded.record.changed
    if before and (before.lowered or repeats):
        passes = before
    else:  # the same micro-batches as before add up in the same order, bit for bit
        tokens = before.micro_batch_tokens if before else None
        counted = resolve(loaded, early.machine, model_facts, facts)
        passes = plan_passes(counted, model_config, resident_gib(), tokens)
        passes = replace(passes, how=before.how) if before else passes
    resolved = resolve(loaded, early.machine, model_facts, facts, passes=ranks.of_rank_0(passes))
    require_one_plan(resolved)
    largest = find_largest(data.train, data.eval, resolved, ranks.rank(), ranks.world_size())
    resolved = replace(resolved, memory=_memory(resolved, model_config, largest))
    return Ingredients(resolved, model_config, tokenizer, data, largest)


def _model_parts(early: Plan) -> tuple[PretrainedConfig, PreTrainedTokenizerBase, ModelFacts]:
    model_config = load_config(early.config.model)
    return model_config, load_tokenizer(early.config.model, model_config), describe(early.config, model_config)


def _memory(resolved: Plan, model_config: PretrainedConfig, largest: Largest) -> Memory:
    """What the run will hold: measured is the process as it is now, before the model."""
    return forecast(
        resolved,
        model_config,
        process_gib=resident_gib(),
        free_gib=(probe() if resolved.machine.is_here else resolved.machine).free_memory_gib,
        tokens=largest.tokens,
        passes=largest.most_passes,
        row_tokens=largest.usual_row_tokens,
    )
