"""Models from disk, one after the other: each is asked, its answers judged; tuned ones stand beside their base.

    evaluate_model   one model: its scores on each set, and what it lost on general text
    compare_models   each tuned model beside its base, asked in the same words
    sandbox_for      where answers are run, if any are

Answers are kept as they come (`answers`), so what was stopped goes on, and nothing is asked twice; a model whose
answers are all known is not loaded. Not covered: several devices; one model is in memory at a time (two after full
fine-tuning).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from luthier.config.values import packaged
from luthier.errors import DataError, LuthierError, ModelError, Problem
from luthier.evaluate.answers import Answers, Say, hashed
from luthier.evaluate.candidate import Asked, Candidate
from luthier.evaluate.compare import Comparison, compare, corrected, sets_as_dicts
from luthier.evaluate.forgetting import Forgetting, Passages, forgotten, losses
from luthier.evaluate.pairs import Pairs, check_pairs, pairs_of
from luthier.evaluate.sandbox import Sandbox
from luthier.evaluate.score import MAX_NEW_TOKENS, Rate, Runner, Scores, Settings, as_dict, score, system_of, unanswered
from luthier.evaluate.tasks import TaskSet
from luthier.generate.load import final_folder
from luthier.generate.plain import is_run
from luthier.generate.system import check_system
from luthier.generate.weights import Base
from luthier.version import __version__


@dataclass(frozen=True)
class Options:
    """How models are asked and judged.

    Attributes:
        sandbox: Runs the answers' code; None will do where all answers are texts (`sandbox_for`).
        max_new_tokens: Longest answer.
        samples: Answers to each task.
        temperature: 0 is greedy.
        seed: Of a temperature above 0.
        prompt: `auto` (in its chat template where a model has one), `template` or `completion`.
        passages: General text that is read; None: none.
        fresh: Ask again what was answered before.
        say: Told how far it is.
        system: The system message of tasks that have none of their own, empty for none; None: that of the run, in its
            chat template.
        pairs: Whether pairs are to be made of the answers: it is then seen to before the first that they can.
    """

    sandbox: Runner | None
    max_new_tokens: int = MAX_NEW_TOKENS
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    prompt: str = "auto"
    passages: Passages | None = None
    fresh: bool = False
    say: Say = lambda what, done, total: None
    system: str | None = None
    pairs: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What one model reached.

    Attributes:
        model: As the user wrote it.
        base_name: What it was trained from; empty where it says nothing of that.
        settings: How it was asked.
        scores: On each set.
        ks: For which k pass@k is told.
        forgetting: On general text; None: not measured.
    """

    model: str
    base_name: str
    settings: Settings
    scores: tuple[tuple[TaskSet, Scores], ...]
    ks: tuple[int, ...] = (1,)
    forgetting: Forgetting | None = None

    def as_dict(self) -> dict[str, Any]:
        """Everything that was asked, answered and measured, in plain values for a JSON file."""
        return {
            "luthier": __version__,
            "model": self.model,
            "base_model": self.base_name,
            "prompt_style": self.settings.style,
            "settings": asdict(self.settings),
            "tasks": sets_as_dicts([one for one, _ in self.scores]),
            "forgetting": self.forgetting and self.forgetting.as_dict(),
            "scores": {one.name: {"pass_at": self._rates(scores), **as_dict(scores)} for one, scores in self.scores},
        }

    def _rates(self, scores: Scores) -> dict[str, dict[str, Any]]:
        return {str(k): asdict(scores.pass_at(k)) for k in self.ks}

    def rate(self, tasks: str, k: int = 1) -> Rate:
        """pass@k on a set, with its interval.

        Raises:
            DataError: E-EVAL-021, no such set was asked.
        """
        for one, scores in self.scores:
            if one.name == tasks:
                return scores.pass_at(k)
        asked = ", ".join(one.name for one, _ in self.scores)
        raise DataError(Problem("E-EVAL-021", f"{tasks!r} was not asked", f"name one that was: {asked}"))

    def pairs(self, per_task: int = 1) -> Pairs:
        """Preference pairs: of each task's answers one that passed and one that failed; see `evaluate.pairs`.

        Raises:
            ModelError: E-EVAL-031, one answer to a task, greedy ones, or none in a chat template.
        """
        return pairs_of(self.scores, per_task)


@dataclass
class _Session:
    """What is known of each model while a command runs."""

    options: Options
    sets: Sequence[TaskSet]
    _known: dict[str, Answers] = field(default_factory=dict)
    _scores: dict[tuple[str, Settings], list[Scores]] = field(default_factory=dict)

    def answers(self, asked: Asked) -> Answers:
        about = asked.about
        key = hashed(about)
        if key not in self._known:
            self._known[key] = Answers(about, self.options.fresh)
        return self._known[key]

    def settings(self, candidate: Candidate) -> Settings:
        o, style = self.options, candidate.style(self.options.prompt)
        system = (candidate.system if style == "template" else "") if o.system is None else o.system
        return Settings(style, o.max_new_tokens, o.samples, o.temperature, o.seed, system)

    def scores(self, asked: Asked, settings: Settings, who: str) -> list[Scores]:
        """On each set; runs on one base that ask in the same words share its scores."""
        key = hashed(asked.about), settings
        if key not in self._scores:
            self._scores[key] = self._scored(asked, settings, who)
        return self._scores[key]

    def _scored(self, asked: Asked, settings: Settings, who: str) -> list[Scores]:
        answers, found = self.answers(asked), []
        if any(unanswered(one.tasks, settings, answers) for one in self.sets):
            self._check_systems(asked, settings)
        for one in self.sets:
            where = f"{who}: " if len(self.sets) == 1 else f"{who}: {one.name}, "

            def tell(what: str, done: int, total: int, where: str = where) -> None:
                self.options.say(f"{where}{what}", done, total)

            found.append(score(asked, one.tasks, self.options.sandbox, settings, answers=answers, progress=tell))
        return found

    def _check_systems(self, asked: Asked, settings: Settings) -> None:
        """Load it, and see whether its template has a place for the system messages that it will be asked with."""
        tuned = asked.candidate.loaded()
        own = {task.system: "the tasks' system" for one in self.sets for task in one.tasks if task.system}
        used = {system_of(task, settings) for one in self.sets for task in one.tasks}
        for system in sorted(used) if settings.style == "template" else ():
            check_system(tuned, system, own.get(system, "--system"))

    def forgetting(self, tuned: Asked, base: Asked | None) -> Forgetting | None:
        passages = self.options.passages
        if passages is None:
            return None
        after, before = losses(tuned, passages, self.answers(tuned)), None
        if base is not None:
            with suppress(ModelError):  # a model trained in full needs no base, except for this
                before = losses(base, passages, self.answers(base))
        return forgotten(passages, after, before)

    def candidate(self, name: str, base: str | None, beside: bool = False) -> Candidate:
        candidate = Candidate(name, base, lambda: self.options.say(f"{name}: loading", 0, 0), beside)
        candidate.check_trained_on()
        return candidate


@contextmanager
def sandbox_for(sets: Sequence[TaskSet], unsafe: bool) -> Iterator[Sandbox | None]:
    """The sandbox; None where every answer is compared as a text, so that nothing here has to hold a program.

    Raises:
        MissingError: E-EVAL-001, none holds.
    """
    if all(task.expected for one in sets for task in one.tasks):
        yield None
        return
    with Sandbox(unsafe=unsafe) as sandbox:
        yield sandbox


def evaluate_model(
    model: str, sets: Sequence[TaskSet], options: Options, *, base: str | None = None, ks: Sequence[int] = (1,)
) -> Evaluation:
    """Ask one model everything.

    Args:
        model: Output folder of a run, a model's folder, or its name on the hub.
        sets: What it is asked.
        options: How.
        base: Where the run's base model is, when it is not where it was in training.
        ks: For which k pass@k is wanted; at most `options.samples`.

    Raises:
        ModelError: It cannot be loaded or asked so; E-EVAL-026 when pass@k cannot be estimated, E-EVAL-031 when pairs
            are wanted and cannot come out.
    """
    check_samples(options.samples, options.temperature, ks)
    session = _Session(options, sets)
    candidate = session.candidate(model, base)
    settings, tuned = session.settings(candidate), Asked(candidate)
    if options.pairs:
        check_pairs(settings)
    beside = Asked(candidate, as_base=True) if candidate.origin.name else None
    scores = session.scores(tuned, settings, model)
    forgetting = session.forgetting(tuned, beside)
    name = candidate.origin.name
    candidate.close()
    return Evaluation(model, name, settings, tuple(zip(sets, scores, strict=True)), tuple(ks), forgetting)


def compare_models(
    models: Sequence[str], sets: Sequence[TaskSet], options: Options, *, base: str | None = None
) -> Iterator[Comparison]:
    """Each tuned model beside its base, on each set; `corrected` takes care of several.

    Args:
        models: `RUN...`, each beside its own base; or `BASE TUNED...` where the first was trained from nothing that is
            known: a plain model, or a run that started from scratch. All are then put beside it.
        sets: What both are asked.
        options: How.
        base: The same as BASE. A run that was trained on something else keeps its own base under its adapter.

    Raises:
        ModelError: E-MODEL-012 and others of loading; E-EVAL-023 when a run has no base, E-EVAL-025 when the base reads
            other tokens.
    """
    if base is None and len(models) > 1 and not _has_base(models[0]):
        base, models = models[0], models[1:]
    base = str(final_folder(packaged(base))) if base is not None and is_run(packaged(base)) else base
    if base is None:
        for model in models:
            final_folder(packaged(model))
    session = _Session(options, sets)
    candidates = [session.candidate(model, base, beside=True) for model in models]
    for candidate in candidates:  # a misspelt last one is found before the first is asked for minutes
        candidate.check_base()
    for candidate in candidates:
        tuned, beside = Asked(candidate), Asked(candidate, as_base=True)
        settings = session.settings(candidate)
        before = session.scores(beside, settings, f"base of {candidate.name}")
        after = session.scores(tuned, settings, candidate.name)
        forgetting = session.forgetting(tuned, beside)
        origin = candidate.origin
        candidate.close()
        for one, old, new in zip(sets, before, after, strict=True):
            yield compare(old, new, one, candidate.name, origin.name, origin.numbers, forgetting)


def _has_base(name: str) -> bool:
    """Whether it is a run that says what it was trained from."""
    return is_run(packaged(name)) and bool(Base.of(final_folder(packaged(name))).name)


def compare_all(
    models: Sequence[str], sets: Sequence[TaskSet], options: Options, *, base: str | None = None
) -> tuple[list[Comparison], LuthierError | None]:
    """All of `compare_models`, corrected for their number; what stopped it does not lose the ones before it.

    Returns:
        The comparisons, and the error after them.
    """
    found: list[Comparison] = []
    failure = None
    try:
        for comparison in compare_models(models, sets, options, base=base):
            found.append(comparison)
    except LuthierError as error:
        failure = error
    return corrected(found), failure


def check_samples(samples: int, temperature: float, ks: Sequence[int]) -> None:
    """Whether pass@k can be estimated from so many answers.

    Raises:
        ModelError: E-EVAL-026.
    """
    found = ""
    if samples > 1 and temperature == 0:
        found = f"{samples} greedy answers to a task are {samples} times the same one"
    if max(ks) > samples:
        found = f"pass@{max(ks)} from {samples} answer{'s' * (samples > 1)} to a task"
    if found:
        fix = f"write --samples {max(samples, *ks, 2)} --temperature 0.8"
        raise ModelError(Problem("E-EVAL-026", found, fix))
