"""Models that were not trained here: loaded as they are, and gone on from."""

from __future__ import annotations

import json
import shutil

import pytest

from luthier.errors import ModelError
from luthier.generate.load import load
from luthier.generate.plain import is_run, load_any
from tests.generate.support import train_tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
TEXTS = ["def add(a, b):\n", "for i in", "Below is an instruction that describes a task.\n\n"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("plain") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file)
    return folder


@pytest.fixture(scope="module")
def plain(tiny_model_dir):
    return load_any(tiny_model_dir)


def test_what_is_a_run_and_what_is_a_model(run, tiny_model_dir):
    assert is_run(run) and is_run(run / "final_model")
    assert not is_run(tiny_model_dir) and not is_run("org/model") and not is_run("nowhere")
    assert load_any(run).base == load(run).base


def test_a_plain_model_goes_on_as_its_own_tokenizer_and_stops_say(plain):
    assert plain.stop_ids == (1,) and plain.base.name == ""
    written = plain.complete_many(TEXTS, (), 12)
    assert written == [plain.complete(text, 12) for text in TEXTS]
    assert len(set(written)) == 3 and all(written)


def test_an_answer_ends_before_the_first_stop_text_wherever_tokens_end(plain):
    """A stop may lie in the middle of a token, or across several; the text before it is kept to the letter."""
    free = plain.complete_many(TEXTS, (), 12)
    for start in range(1, 8):
        stop = free[0][start : start + 3]
        expected = [text[: text.index(stop)] if stop in text else text for text in free]
        assert plain.complete_many(TEXTS, ("never there", stop), 12) == expected
        assert expected[0] != free[0]


def test_stopping_early_writes_less(plain):
    stop = plain.complete_many(TEXTS[:1], (), 12)[0][:3]
    assert "\ufffd" not in stop
    passes = []
    with plain.model.register_forward_hook(lambda *passed: passes.append(1)):
        plain.complete_many(TEXTS[:1], (stop,), 200)
    assert 1 <= len(passes) < 12, "one for each token"


CLOCK = "{{ strftime_now('%d %b %Y %H:%M:%S') }}{% for m in messages %}{{ m.content }}{% endfor %}"


def test_a_template_has_no_clock(run, tiny_model_dir, tmp_path):
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    foreign = shutil.copytree(run / "final_model", tmp_path / "adapter")
    for folder in (model, foreign):
        (folder / "chat_template.jinja").write_text(CLOCK)
        tuned = load_any(folder)
        assert tuned.tokenizer.decode(tuned.prompt_ids("hi")).endswith("26 Jul 2024 00:00:00hi")
        (folder / "chat_template.jinja").write_text(CLOCK.replace("'%d %b %Y %H:%M:%S'", "'%d' + '%b'"))
        with pytest.raises(ModelError) as caught:
            load_any(folder)
        assert caught.value.problems[0].code in ("E-MODEL-004", "E-MODEL-012")
        assert "the template reads the clock" in caught.value.problems[0].found


def test_a_base_that_is_given_answers_in_its_place(run, tiny_model_dir, plain):
    tuned = load_any(tiny_model_dir, base=str(tiny_model_dir))
    with tuned.as_base():
        assert tuned.complete(TEXTS[0], 12) == plain.complete(TEXTS[0], 12)
    with pytest.raises(ModelError) as caught, plain.as_base():
        pass
    assert caught.value.problems[0].code == "E-EVAL-023"


def test_a_misspelt_folder_is_answered_with_the_one_that_is_there(tiny_model_dir):
    with pytest.raises(ModelError) as caught:
        load_any(f"{tiny_model_dir}s")
    problem = caught.value.problems[0]
    assert (problem.code, problem.fix) == ("E-MODEL-001", f"did you mean {tiny_model_dir}?")


def test_models_that_cannot_be_used(tmp_path, tiny_model_dir):
    with pytest.raises(ModelError) as caught:
        load_any("nowhere")
    assert caught.value.problems[0].code == "E-MODEL-001" and "'nowhere'" in caught.value.problems[0].found
    broken = shutil.copytree(tiny_model_dir, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError) as caught:
        load_any(broken)
    assert caught.value.problems[0].code == "E-MODEL-004"
    endless = shutil.copytree(tiny_model_dir, tmp_path / "endless")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        content = json.loads((endless / name).read_text())
        (endless / name).write_text(json.dumps({k: v for k, v in content.items() if not k.startswith("eos_token")}))
    with pytest.raises(ModelError) as caught:
        load_any(endless)
    assert caught.value.problems[0].code == "E-MODEL-004" and "no token that ends" in caught.value.problems[0].found
