"""A system message that all rows of the training have is asked with, everywhere, unless somebody says otherwise."""

from __future__ import annotations

import json
import shutil

import pytest

from luthier.errors import LuthierError
from luthier.events.types import Notice, Sampled
from luthier.export.run import Options, merge_run
from luthier.generate.chat import Chat
from luthier.generate.choosing import Sampling
from luthier.generate.load import load, load_several
from luthier.generate.system import first_turn
from luthier.serve.models import load_models
from luthier.training import milestones, samples
from luthier.verify.merge import _same_ids
from tests.cli.support import run_here
from tests.generate.support import train_tiny

SYSTEM = "You are a terse librarian."
QUESTIONS = [f"Where is book {number}?" for number in range(40)]
SHORT = {"training": {"max_steps": 4}, "data": {"val_set_size": 4}}


def rows(path, systems):
    """Conversations, each with its system message; None: without one."""
    lines = []
    for number, question in enumerate(QUESTIONS):
        system = systems[number % len(systems)]
        before = [{"role": "system", "content": system}] if system else []
        turns = [
            *before,
            {"role": "user", "content": question},
            {"role": "assistant", "content": f"On shelf {number}."},
        ]
        lines.append(json.dumps({"messages": turns}))
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model_dir):
    """The run's folder, what it said, the prompts of its samples, and its rows."""
    folder, asked, kept = tmp_path_factory.mktemp("system"), [], []
    once, final = samples.continue_many, milestones.save_final

    def heard(model, prompts, *how, **options):
        asked.extend(list(ids) for ids in prompts)
        return once(model, prompts, *how, **options)

    def saved(job, *others, **options):
        train = job.data.train
        kept.extend(train.members(index)[0].input_ids.tolist() for index in range(len(train)))
        return final(job, *others, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "continue_many", heard)
        patch.setattr(milestones, "save_final", saved)
        wanted = {"evaluation": {"sample_prompts": QUESTIONS[:3], "sample_steps": [0], "sample_max_new_tokens": 4}}
        events = train_tiny(folder / "run", tiny_model_dir, rows(folder / "rows.jsonl", [SYSTEM]), {**SHORT, **wanted})
    return folder / "run", events, asked, kept


def begin(kept, ids):
    """How many rows of the training begin with these tokens."""
    return sum(row[: len(ids)] == ids for row in kept)


def test_generation_asks_in_the_tokens_that_the_rows_began_with(trained):
    run, _, _, kept = trained
    assert json.loads((run / "final_model" / "luthier.json").read_text())["system"] == SYSTEM
    tuned = load(run)
    assert tuned.system == SYSTEM and len(kept) == 36
    prompts = [tuned.prompt_ids(question) for question in QUESTIONS]
    assert f'{{"role": "system", "content": {SYSTEM!r}}}, ' in (run / "final_model" / "README.md").read_text()
    assert sum(begin(kept, ids) for ids in prompts) == 36, "each row begins with the prompt of its question"
    assert all(SYSTEM in tuned.tokenizer.decode(ids) for ids in prompts)
    assert begin(kept, tuned.prompt_ids(first_turn(QUESTIONS[0]))) == 0, "without it none does"


def test_samples_during_the_training_are_asked_in_them_too(trained):
    run, events, asked, _ = trained
    assert asked == [load(run).prompt_ids(question) for question in QUESTIONS[:3]] * 2
    assert sum(isinstance(event, Sampled) for event in events) == 6
    told = [event.text for event in events if isinstance(event, Notice) and "one system message" in event.text]
    assert told == [f'all rows have one system message; samples and final_model are asked with it: "{SYSTEM}"']


@pytest.mark.parametrize("systems", [[None], [SYSTEM, None], [SYSTEM, "Be kind."]])
def test_rows_with_several_or_none_change_nothing(tmp_path, tiny_model_dir, systems):
    events = train_tiny(tmp_path / "run", tiny_model_dir, rows(tmp_path / "rows.jsonl", systems), SHORT)
    assert json.loads((tmp_path / "run" / "final_model" / "luthier.json").read_text())["system"] is None
    tuned = load(tmp_path / "run")
    assert tuned.system == "" and tuned.prompt_ids("Add") == tuned.prompt_ids(first_turn("Add"))
    assert not any(isinstance(event, Notice) and "one system message" in event.text for event in events)


def test_a_chat_begins_with_it_unless_another_is_given(trained):
    tuned = load(trained[0])
    for given, used in ((None, SYSTEM), ("", ""), ("Be kind.", "Be kind.")):
        chat = Chat(tuned, sampling=Sampling(4), system=given)
        assert chat._messages("tuned", "Add") == first_turn("Add", used)
    chat = Chat(tuned, ("base", "tuned"), Sampling(4))
    for speaker in ("base", "tuned"):
        chat.answer(speaker, "Add", lambda piece: None)
        assert [turn["role"] for turn in chat._messages(speaker, "More")] == ["system", "user", "assistant", "user"]


def test_generate_says_and_takes_what_it_asks_with(trained, capsys):
    tuned, told = load(trained[0]), []
    for options in ([], ["--system", ""], ["--system", "Be kind."]):
        result = run_here(capsys, "generate", trained[0], "Add", "--json", "--max-new-tokens", 4, *options)
        told.append(json.loads(result.out))
    assert [one["system"] for one in told] == [SYSTEM, None, "Be kind."]
    lengths = [len(tuned.prompt_ids(first_turn("Add", system))) for system in (SYSTEM, "", "Be kind.")]
    assert [one["answers"][0]["prompt_tokens"] for one in told] == lengths


def test_a_server_begins_conversations_with_it_that_have_none(trained):
    run, mine = str(trained[0]), [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Add"}]
    models = load_models({"run": run})
    for served in models.values():
        ids = served.tuned.prompt_ids
        assert served.chat_ids(first_turn("Add")) == ids(first_turn("Add", SYSTEM))
        assert served.chat_ids(mine) == ids(mine)
    assert len(models) == 2, "the run, and its base"
    for given in ("", "Be kind."):
        served = load_models({"run": run}, system=given)["run"]
        assert served.chat_ids(first_turn("Add")) == served.tuned.prompt_ids(first_turn("Add", given))


def test_runs_on_one_base_each_have_their_own(trained, tmp_path, tiny_model_dir):
    train_tiny(tmp_path / "other", tiny_model_dir, rows(tmp_path / "rows.jsonl", ["Be kind."]), SHORT)
    one, other = load_several([trained[0], tmp_path / "other"])
    assert (one.system, other.system) == (SYSTEM, "Be kind.") and one.model is other.model


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_merged_run_keeps_it(trained, tmp_path):
    folder = merge_run(trained[0], tmp_path / "merged", None, Options(), lambda words: None).folder
    assert load(folder).system == SYSTEM
    assert all(_same_ids(load(trained[0]), folder))


def test_e_model_012_a_message_that_is_no_text(trained, tmp_path):
    folder = shutil.copytree(trained[0] / "final_model", tmp_path / "damaged")
    written = json.loads((folder / "luthier.json").read_text())
    (folder / "luthier.json").write_text(json.dumps({**written, "system": ["no"]}))
    with pytest.raises(LuthierError, match="E-MODEL-012"):
        load(folder)
