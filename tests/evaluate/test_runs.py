"""Models from disk: what their answers depend on, and who is compared with whom."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.metadata import version

import pytest

import luthier
from luthier.errors import DataError, ModelError
from luthier.evaluate import candidate
from luthier.evaluate.candidate import Asked, Candidate
from luthier.evaluate.matching import Expected
from luthier.evaluate.runs import Options, compare_models, evaluate_model, sandbox_for
from luthier.evaluate.sandbox import Sandbox
from luthier.evaluate.tasks import Task, TaskSet
from luthier.export.run import Options as ExportOptions
from luthier.export.run import merge_run
from luthier.generate.load import load
from luthier.generate.system import first_turn
from luthier.generate.weights import Base
from tests.evaluate.support import write_tasks
from tests.generate.support import train_tiny
from tests.tiny import build_model, build_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SET = TaskSet("two", (Task("a", "", "Write add", ("assert add()",)), Task("b", "", "Write sum", ("assert sum()",))))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file)
    return folder


@pytest.fixture(scope="module")
def options():
    with Sandbox(unsafe=True) as sandbox:
        yield Options(sandbox, max_new_tokens=8)


def answers_of(scores):
    return [outcome.answer for outcome in scores.outcomes]


def test_a_run_answers_as_it_does_when_loaded_and_so_does_its_base(run, options):
    (one,) = compare_models([str(run)], [SET], options)
    tuned, questions = load(run), [task.instruction for task in SET.tasks]
    assert answers_of(one.tuned) == tuned.generate_many(questions, 8)
    with tuned.as_base():
        assert answers_of(one.base) == tuned.generate_many(questions, 8)
    assert answers_of(one.base) != answers_of(one.tuned)
    assert one.tuned.settings.style == one.base.settings.style == "template"


def test_a_run_on_rows_that_are_final_text_is_asked_with_the_text_alone(tiny_model_dir, tmp_path, options):
    rows = write_tasks(tmp_path / "rows.jsonl", *({"prompt": f"{n}: ", "completion": str(n)} for n in range(40)))
    train_tiny(tmp_path / "run", tiny_model_dir, rows, {"training": {"max_steps": 2}, "evaluation": {"eval_steps": 2}})
    merge_run(tmp_path / "run", None, None, ExportOptions(), lambda words: None)
    tuned = load(tmp_path / "run")
    assert tuned.prompt_ids("7: ") == tuned.tokenizer("7: ").input_ids
    for name in ("run", "run/merged"):
        assert evaluate_model(str(tmp_path / name), [SET], options).scores[0][1].settings.style == "completion"
        with pytest.raises(ModelError, match="E-EVAL-027"):
            Candidate(str(tmp_path / name)).style("template")


def test_a_first_model_that_is_no_run_is_the_base_of_the_others(run, tiny_model_dir, tmp_path, options):
    moved = shutil.copytree(tiny_model_dir, tmp_path / "moved")
    (own,) = compare_models([str(run)], [SET], options)
    one, two = compare_models([str(moved), str(run), str(run / "final_model")], [SET], options)
    assert one.base_name == two.base_name == str(moved) and own.base_name == str(tiny_model_dir)
    assert answers_of(one.base) == answers_of(own.base) and answers_of(one.tuned) == answers_of(own.tuned)
    assert one.base.remembered == 2, "the same weights, tokens and template under another name: known from before"


def test_a_run_beside_another_base_keeps_its_own(run, tiny_model_dir, tmp_path, options):
    other = tmp_path / "other"
    build_model(other, initializer_range=0.2)
    (own,) = compare_models([str(run)], [SET], options)
    (beside,) = compare_models([str(run)], [SET], options, base=str(other))
    assert answers_of(beside.tuned) == answers_of(own.tuned) and beside.base_name == str(other)
    questions = [task.instruction for task in SET.tasks]
    tuned = load(run)
    tuned.beside = Base(str(other), dtype="float32")
    with tuned.as_base():
        assert answers_of(beside.base) == tuned.generate_many(questions, 8) != answers_of(own.base)
    with pytest.raises(ModelError, match="E-MODEL-017"):
        evaluate_model(str(run), [SET], options, base=str(other))


def test_e_model_017_a_base_that_was_replaced_is_refused_though_all_answers_are_known(
    tiny_model_dir, alpaca_file, tmp_path, options
):
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    train_tiny(tmp_path / "run", base, alpaca_file, {"training": {"max_steps": 2}, "evaluation": {"eval_steps": 2}})
    build_model(base, initializer_range=0.2)
    mark = tmp_path / "run" / "final_model" / "luthier.json"
    written = json.loads(mark.read_text())
    mark.write_text(json.dumps(written | {"base_files": {}}))
    list(compare_models([str(tmp_path / "run")], [SET], options))
    mark.write_text(json.dumps(written))
    with pytest.raises(ModelError, match="E-MODEL-017"):
        list(compare_models([str(tmp_path / "run")], [SET], options))


def test_a_run_from_scratch_in_front_is_the_base_of_the_others(tiny_model_dir, alpaca_file, tmp_path, options):
    short = {"training": {"max_steps": 2}, "evaluation": {"eval_steps": 2}}
    scratch = {**short, "training": {"max_steps": 2, "finetuning_type": "full"}, "model": {"from_scratch": True}}
    train_tiny(tmp_path / "base", tiny_model_dir, alpaca_file, scratch)
    train_tiny(tmp_path / "run", tmp_path / "base" / "final_model", alpaca_file, short)
    (own,) = compare_models([str(tmp_path / "run")], [SET], options)
    for name in ("base", "base/final_model"):
        (one,) = compare_models([str(tmp_path / name), str(tmp_path / "run")], [SET], options)
        assert one.base_name == str(tmp_path / "base" / "final_model")
        assert answers_of(one.base) == answers_of(own.base) and answers_of(one.tuned) == answers_of(own.tuned)


def test_two_plain_models_are_compared_in_the_same_tokens(tiny_model_dir, tmp_path, options):
    build_model(tmp_path / "other", initializer_range=0.2)
    (one,) = compare_models([str(tiny_model_dir), str(tmp_path / "other")], [SET], options)
    assert one.run == str(tmp_path / "other") and one.tuned.settings.style == "completion"
    alone = evaluate_model(str(tiny_model_dir), [SET], options)
    assert answers_of(alone.scores[0][1]) == answers_of(one.base) != answers_of(one.tuned)


def test_e_eval_025_a_base_with_other_tokens(run, tiny_model_dir, tmp_path, options):
    other = shutil.copytree(tiny_model_dir, tmp_path / "other")
    build_tokenizer(other, vocab_size=300)
    content = json.loads((other / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    first, second = list(vocab)[10:12]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        list(compare_models([str(other), str(run)], [SET], options))
    assert caught.value.problems[0].code == "E-EVAL-025"


def test_a_prompt_can_be_chosen(run, tiny_model_dir, options):
    completion = Options(options.sandbox, 8, prompt="completion")
    evaluation = evaluate_model(str(run), [SET], completion)
    tuned = load(run)
    expected = tuned.complete_many(
        ['"""\nWrite add\n"""\n', '"""\nWrite sum\n"""\n'], SET.tasks[0].as_completion.stops, 8
    )
    assert answers_of(evaluation.scores[0][1]) == expected
    assert evaluation.as_dict()["prompt_style"] == "completion"
    with pytest.raises(ModelError) as caught:
        evaluate_model(str(tiny_model_dir), [SET], Options(options.sandbox, 8, prompt="template"))
    assert caught.value.problems[0].code == "E-EVAL-027"


def test_what_python_asks_for_in_vain_is_said(tiny_model_dir):
    with pytest.raises(ModelError, match=r'E-EVAL-027.*"chat" is no way'):
        luthier.score(tiny_model_dir, prompt="chat", unsafe=True)
    with pytest.raises(ModelError, match=r"E-MODEL-012.*no model is named"):
        luthier.compare()


@pytest.mark.parametrize(("samples", "temperature", "ks"), [(4, 0.0, [1]), (4, 0.8, [5]), (1, 0.0, [10])])
def test_e_eval_026_what_cannot_be_estimated(options, samples, temperature, ks):
    with pytest.raises(ModelError) as caught:
        evaluate_model("nowhere", [SET], Options(options.sandbox, 8, samples, temperature), ks=ks)
    assert caught.value.problems[0].code == "E-EVAL-026"


def test_drawn_answers_differ_and_their_seed_repeats_them(tiny_model_dir, options):
    drawn = Options(options.sandbox, 8, samples=3, temperature=2.0, fresh=True)
    first, again = (evaluate_model(str(tiny_model_dir), [SET], drawn, ks=[1, 3]).scores[0][1] for _ in range(2))
    assert len(first.outcomes) == 6 and len(set(answers_of(first))) == 6
    assert answers_of(first) == answers_of(again) and again.remembered == 0


# Answers that are texts, and system messages --------------------------------------------------------------------------

SYSTEM = "Be a poet."


def texts(**changes):
    """Tasks whose answers are compared, not run."""
    return tuple(Task(name, "", f"Write {name}", (), expected=Expected(("add",)), **changes) for name in ("add", "sum"))


def test_no_sandbox_is_started_where_all_answers_are_texts(run, options, monkeypatch):
    monkeypatch.setattr(Sandbox, "__enter__", lambda self: pytest.fail("a sandbox was started"))
    with sandbox_for([TaskSet("t", texts())], False) as none:
        (one,) = compare_models([str(run)], [TaskSet("t", texts())], replace(options, sandbox=none))
    assert none is None and one.tuned.tier == "" and one.tuned.valid_syntax is None
    assert "judged by comparing its text" in one.verdict
    with pytest.raises(pytest.fail.Exception), sandbox_for([TaskSet("t", texts()), SET], False):
        pass


def test_a_set_of_both_kinds_is_judged_in_both_ways(run, options):
    mixed = TaskSet("m", (texts()[0], *SET.tasks, texts()[1]))
    scores = evaluate_model(str(run), [mixed], options).scores[0][1]
    assert [outcome.is_text for outcome in scores.outcomes] == [True, False, False, True] and scores.tier
    assert [outcome.task_id for outcome in scores.outcomes] == ["add", "a", "b", "sum"]
    assert scores.judged == "judged by running it or comparing its text"
    both = {outcome.verdict.cause for outcome in scores.outcomes[::3]}
    assert both == {"wrong answer"} and scores.valid_syntax is not None


def with_system(run, folder, system):
    """A copy of a run that says it was trained with this message."""
    file = shutil.copytree(run, folder) / "final_model" / "luthier.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "system": system}))
    return str(folder)


def test_both_are_asked_with_the_system_message_of_the_training(run, tmp_path, options):
    name, tuned = with_system(run, tmp_path / "run", SYSTEM), load(run)
    questions = [first_turn(task.instruction, SYSTEM) for task in SET.tasks]
    (one,) = compare_models([name], [SET], options)
    assert answers_of(one.tuned) == tuned.generate_many(questions, 8)
    with tuned.as_base():
        assert answers_of(one.base) == tuned.generate_many(questions, 8)
    assert one.tuned.settings.system == one.base.settings.system == SYSTEM
    assert f'in its chat template, with the system message "{SYSTEM}"' in one.verdict
    (none,) = compare_models([name], [SET], replace(options, system=""))
    (plain,) = compare_models([str(run)], [SET], options)
    assert answers_of(none.tuned) == answers_of(plain.tuned) != answers_of(one.tuned)
    assert none.base.remembered == 0 and plain.tuned.remembered == 2, "one prompt, known by one key"
    (again,) = compare_models([name], [SET], options)
    assert again.tuned.remembered == again.base.remembered == 2
    completion = evaluate_model(name, [SET], replace(options, prompt="completion")).settings
    assert completion.system == "", "a text to go on from has no messages"


def test_a_tasks_own_system_message_wins(run, tmp_path, options):
    name, tuned = with_system(run, tmp_path / "run", SYSTEM), load(run)
    tasks = (
        texts()[0],
        *texts(system="Be kind.")[1:],
        Task("c", "", "Write c", (), expected=Expected(("c",)), system=""),
    )
    scores = evaluate_model(name, [TaskSet("t", tasks)], replace(options, sandbox=None)).scores[0][1]
    asked = [first_turn("Write add", SYSTEM), first_turn("Write sum", "Be kind."), first_turn("Write c")]
    assert answers_of(scores) == tuned.generate_many(asked, 8)
    given = evaluate_model(name, [TaskSet("t", tasks)], replace(options, sandbox=None, system="Be brief."))
    asked[0] = first_turn("Write add", "Be brief.")
    assert answers_of(given.scores[0][1]) == tuned.generate_many(asked, 8) and given.scores[0][1].remembered == 2
    assert given.as_dict()["settings"]["system"] == "Be brief."


def test_as_texts_to_go_on_from_they_stand_as_they_are(run, options):
    tasks = (*texts(), *texts(system="Be kind."), Task("n", "", "1+1=", (), expected=Expected(("2",), "number")))
    tasks = tuple(replace(task, task_id=str(number)) for number, task in enumerate(tasks))
    how = replace(options, sandbox=None, prompt="completion")
    tuned, found = load(run), evaluate_model(str(run), [TaskSet("t", tasks)], how).scores[0][1]
    prompts = ["Write add", "Write sum", "Be kind.\n\nWrite add", "Be kind.\n\nWrite sum"]
    assert answers_of(found) == [
        *tuned.complete_many(prompts, ("\n",), 8),
        *tuned.complete_many(["1+1="], ("\n\n",), 8),
    ]


def test_e_eval_029_a_task_with_a_system_message_that_the_template_has_no_place_for(run, tmp_path, options):
    single = shutil.copytree(run / "final_model", tmp_path / "single")
    (single / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}:")
    for tasks, given, where in (
        (texts(system="Be kind."), None, "the tasks' system"),
        (texts(), "Be kind.", "--system"),
    ):
        with pytest.raises(ModelError, match="E-EVAL-029") as caught:
            evaluate_model(str(single), [TaskSet("t", tasks)], replace(options, sandbox=None, system=given))
        assert caught.value.problems[0].where == where
    assert evaluate_model(str(single), [TaskSet("t", texts())], replace(options, sandbox=None)).scores


# What answers depend on -----------------------------------------------------------------------------------------------


def abouts(name, base=None):
    asked = Candidate(str(name), base)
    return Asked(asked).about, Asked(asked, as_base=True).about


def test_whatever_changes_an_answer_changes_what_it_is_known_by(run, tiny_model_dir, tmp_path):
    tuned, base = abouts(run)
    assert tuned != base and abouts(run / "final_model") == (tuned, base), "a path is not what an answer depends on"
    for name, change in (("adapter_model.safetensors", 1), ("chat_template.jinja", 2), ("generation_config.json", 2),
                         ("luthier.json", 2)):  # fmt: skip
        copy = shutil.copytree(run / "final_model", tmp_path / name)
        content = (copy / name).read_bytes()
        if name == "luthier.json":
            content = json.dumps({**json.loads(content), "dtype": "bfloat16"}).encode()
        (copy / name).write_bytes(content if name == "luthier.json" else content + b" ")
        changed = [now != before for now, before in zip(abouts(copy), (tuned, base), strict=True)]
        assert changed == [True, change == 2], name
    other = shutil.copytree(tiny_model_dir, tmp_path / "base")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    assert all(now != before for now, before in zip(abouts(run, str(other)), (tuned, base), strict=True))


def test_another_way_of_writing_and_other_libraries_are_other_answers(run, monkeypatch):
    before = abouts(run)
    for about in before:
        assert {about[library] for library in ("peft", "bitsandbytes")} == {version("peft"), version("bitsandbytes")}
    monkeypatch.setattr(candidate, "WRITING_VERSION", candidate.WRITING_VERSION + 1)
    assert all(now != then for now, then in zip(abouts(run), before, strict=True))


def test_nothing_is_loaded_where_all_is_known(run, options):
    heard = []
    telling = Options(options.sandbox, 8, say=lambda *told: heard.append(told[0]))
    list(compare_models([str(run)], [SET], telling))
    assert heard.count(f"{run}: loading") == 1
    heard.clear()
    (one,) = compare_models([str(run)], [SET], telling)
    assert f"{run}: loading" not in heard and one.base.remembered == one.tuned.remembered == 2


def test_names_of_what_comes_with_luthier():
    base = Candidate("luthier:quickstart/base")
    assert base.has_template and not base.is_run and Asked(base).about["weights"]


# From Python ----------------------------------------------------------------------------------------------------------


def test_one_call_scores_and_one_compares(run, tmp_path):
    write_tasks(tmp_path / "tasks.jsonl", {"instruction": "Write add", "tests": ["assert add()"]})
    how = {"tasks": str(tmp_path / "tasks.jsonl"), "max_new_tokens": 8, "unsafe": True}
    evaluation = luthier.score(run, **how)
    assert evaluation.rate(how["tasks"]).tasks == 1 and evaluation.forgetting.base is not None
    with pytest.raises(DataError, match="E-EVAL-021  'task' was not asked"):
        evaluation.rate("task")
    (one,) = luthier.compare(run, **how)
    assert answers_of(one.tuned) == answers_of(evaluation.scores[0][1]) and one.tuned.remembered == 1
    assert one.conclusion == "too few tasks" and "On 1 task (" in one.verdict
    with pytest.raises(ModelError):
        luthier.compare(run, "nowhere", **how)
