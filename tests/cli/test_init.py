"""A config for a user's own rows: it says what the rows show, it runs, and it replaces nothing."""

from __future__ import annotations

import json

import pytest

from luthier.config.advice import FOR_A_SMALL_BASE, GOOD_START
from luthier.config.load import load
from tests.cli.support import run_here
from tests.tiny import build_tokenizer

QUESTIONS = [{"question": f"Add {n} and {n + 1}", "answer": f"{2 * n + 1}", "id": n} for n in range(30)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_what_is_written_is_read_as_meant(capsys, here, tiny_model_dir):
    write(here / "my rows.jsonl", QUESTIONS)
    result = run_here(capsys, "init", tiny_model_dir, "my rows.jsonl")
    assert result.code == 0 and result.err == ""
    assert result.out.splitlines() == [
        "written: my rows.yaml", "look at it, then: luthier plan 'my rows.yaml' --check",
        "                  luthier train 'my rows.yaml'",
        "                  luthier compare checkpoints/my-rows --tasks FILE   (questions of your own)",
    ]  # fmt: skip
    text = (here / "my rows.yaml").read_text("utf-8")
    config = load(here / "my rows.yaml").config
    (source,) = config.data.datasets
    assert (source.path, source.format) == ("my rows.jsonl", "alpaca")
    assert source.columns == {"instruction": "question", "output": "answer"}
    assert config.model.model_name_or_path == str(tiny_model_dir)
    assert (config.data.max_seq_length, config.data.val_set_size) == (512, 0.1), "the model's context; few rows"
    assert config.training.output_dir == "checkpoints/my-rows"
    assert config.evaluation.sample_prompts == ["Add 0 and 1"]
    assert "30 rows of my rows.jsonl" in text and "this tokenizer has none: Alpaca's" in text
    assert "luthier chat checkpoints/my-rows --compare" in text
    assert max(map(len, text.splitlines()[4:])) <= 160
    checked = run_here(capsys, "plan", "my rows.yaml", "--check", "max_seq_length=128")
    assert "27 rows to train on, 3 held out" in " ".join(checked.out.split())


@pytest.mark.parametrize(
    ("rows", "fits", "said"),
    [
        ([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}], "messages", "0"),
        ([{"text": "once upon a time"}], "text", "none around texts as they stand"),
        ([{"prompt": "a", "completion": "b"}], "prompt-completion", "none around texts as they stand"),
        ([{"instruction": "a", "output": "b", "prompt": "c", "completion": "d"}], "alpaca",
         "prompt-completion would fit, too"),
        ([{"instruction": "a", "output": "b", "input": "c"}], "alpaca", "so few rows: none is held out"),
    ],
)  # fmt: skip
def test_every_shape_is_known(capsys, here, tiny_model_dir, rows, fits, said):
    write(here / "r.jsonl", rows)
    assert run_here(capsys, "init", tiny_model_dir, "r.jsonl", "--out", "c.yaml").code == 0
    text = (here / "c.yaml").read_text("utf-8")
    config = load(here / "c.yaml").config
    assert config.data.datasets[0].format == fits and config.data.datasets[0].columns == {}
    assert said in text and config.data.val_set_size == 0


def test_columns_that_only_the_user_knows_are_named(capsys, here, tiny_model_dir):
    write(here / "fragen.jsonl", [{"Frage": row["question"], "Antwort": row["answer"]} for row in QUESTIONS])

    def init(*columns):
        return run_here(capsys, "init", tiny_model_dir, "fragen.jsonl", *(w for c in columns for w in ("--columns", c)))

    assert "write --columns instruction=YOUR_QUESTION --columns output=YOUR_ANSWER, or" in init().err
    assert "write --columns output=YOUR_COLUMN, or" in init("instruction=Frage").err
    assert "write --columns instruction=Frage" in init("instruction=Frag").err
    assert init("Frage").code == 2 and not (here / "fragen.yaml").exists()
    assert init("instruction=Frage", "output=Antwort").code == 0
    config = load(here / "fragen.yaml").config
    assert config.data.datasets[0].columns == {"instruction": "Frage", "output": "Antwort"}
    assert config.evaluation.sample_prompts == ["Add 0 and 1"]


def test_columns_in_capitals_are_those_that_they_look_like(capsys, here, tiny_model_dir):
    """As a spreadsheet writes them."""
    (here / "sheet.csv").write_text("\ufeffNr,Question,Answer\n1,Who?,me\n2,Where?,here\n", "utf-8")
    assert run_here(capsys, "init", tiny_model_dir, "sheet.csv").code == 0
    assert load(here / "sheet.yaml").config.data.datasets[0].columns == {"instruction": "Question", "output": "Answer"}
    assert run_here(capsys, "plan", "sheet.yaml", "--check").code == 0
    (here / "odd.csv").write_text("Frage,Antwort\nWer?,ich\n", "utf-8")
    result = run_here(capsys, "init", tiny_model_dir, "odd.csv")
    assert "E-DATA-020" in result.err and "write --columns instruction=YOUR_QUESTION" in result.err


def test_few_rows_on_a_small_base_get_steps_enough_to_learn(capsys, here, tiny_model_dir):
    write(here / "r.jsonl", QUESTIONS * 7)
    assert run_here(capsys, "init", tiny_model_dir, "r.jsonl").code == 0
    text, config = (here / "r.yaml").read_text("utf-8"), load(here / "r.yaml").config
    assert config.training.learning_rate == FOR_A_SMALL_BASE and "so small a base" in text
    assert "189 rows x 8 / 8 a step = 189 steps" in text and "4 x 2 = 8 rows a step" in text
    said = " ".join(run_here(capsys, "plan", "r.yaml").out.split())
    assert "left over" not in said and "are not seen" not in said
    assert "189 steps" in said and "every 19 steps and at the end" in said


@pytest.mark.parametrize(
    ("count", "epochs", "batch", "share"), [(30, 10, 8, 0.1), (15, 10, 8, None), (500, 3, 8, 0.1), (900, 3, 16, None)]
)
def test_epochs_and_evaluations_follow_from_the_number_of_rows(capsys, here, count, epochs, batch, share):
    write(here / "r.jsonl", (QUESTIONS * 30)[:count])
    assert run_here(capsys, "init", "meta-llama/Llama-3.2-1B", "r.jsonl").code == 0
    config = load(here / "r.yaml").config
    training = config.training
    assert (training.num_train_epochs, training.learning_rate) == (epochs, GOOD_START)
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == batch
    assert config.evaluation.eval_steps == share
    assert ("150 want more rows" in (here / "r.yaml").read_text("utf-8")) == (count < 100)


def test_pairs_get_a_config_for_dpo(capsys, here, tiny_model_dir):
    rows = [{"question": f"Add {n} and 1", "chosen": f"{n + 1}", "rejected": f"{n}"} for n in range(40)]
    write(here / "r.jsonl", rows)
    assert run_here(capsys, "init", tiny_model_dir, "r.jsonl").code == 0
    text, config = (here / "r.yaml").read_text("utf-8"), load(here / "r.yaml").config
    assert config.data.datasets[0].format == "preference"
    assert config.data.datasets[0].columns == {"prompt": "question"}
    assert (config.training.objective, config.training.learning_rate, config.dpo.beta) == ("dpo", 5e-6, 0.1)
    assert "taught with 40 pairs of r.jsonl" in text and config.evaluation.sample_prompts == ["Add 0 and 1"]
    checked = run_here(capsys, "plan", "r.yaml", "--check")
    said = " ".join(checked.out.split())
    assert checked.code == 0 and "36 pairs to train on, 4 held out" in said and "DPO with beta 0.1" in said
    assert "40 pairs x 0.9 x 1 / 16 = 2 steps" in said
    shown = run_here(capsys, "inspect", "r.yaml", "--row", "2")
    assert "pair 2, chosen" in shown.out and "pair 2, rejected" in shown.out


@pytest.mark.parametrize(
    ("objective", "rows", "code", "fix"),
    [
        ("sft", {"prompt": "Q", "chosen": "A", "rejected": "B"}, "E-DATA-028", "`training.objective: dpo`"),
        ("dpo", {"instruction": "Q", "output": "A"}, "E-DATA-029", "`training.objective: sft`"),
        ("dpo", {"chosen": "Q A", "rejected": "Q B"}, "E-DATA-039", "prompt, chosen and rejected"),
        ("dpo", {"prompt": "Q", "chosen": "A", "rejected": "A"}, "E-DATA-037", "bad_rows: drop"),
        ("dpo", {"chosen": [], "rejected": [{"role": "user", "content": "Q"}]}, "E-DATA-024", "bad_rows: drop"),
    ],
)
def test_rows_for_another_objective_are_one_error(capsys, here, tiny_model_dir, objective, rows, code, fix):
    write(here / "r.jsonl", [rows])
    config = f"model: {{model_name_or_path: {tiny_model_dir}}}\ndata: {{datasets: [r.jsonl]}}\n"
    (here / "c.yaml").write_text(config, "utf-8")
    result = run_here(capsys, "plan", "c.yaml", f"objective={objective}")
    said = " ".join(result.err.split())
    assert result.code == 2 and result.err.count("luthier explain E-") == 1 and code in said and fix in said
    assert "Traceback" not in result.err


def test_e_gate_005_one_step_by_hand_is_of_answers(capsys, here, tiny_model_dir):
    write(here / "r.jsonl", [{"prompt": f"Q{n}", "chosen": "A", "rejected": "B"} for n in range(8)])
    assert run_here(capsys, "init", tiny_model_dir, "r.jsonl").code == 0
    result = run_here(capsys, "inspect", "r.yaml", "--row", "1", "--step")
    assert result.code == 2 and "E-GATE-005" in result.err


def test_a_model_of_the_hub_need_not_be_here(capsys, here):
    write(here / "r.jsonl", QUESTIONS * 20)
    assert run_here(capsys, "init", "meta-llama/Llama-3.2-1B", "r.jsonl").code == 0
    config = load(here / "r.yaml").config
    assert (config.model.model_name_or_path, config.data.max_seq_length) == ("meta-llama/Llama-3.2-1B", 2048)
    assert config.data.val_set_size == 0.05


def test_a_template_of_its_own_is_said(capsys, here, tiny_model_dir):
    folder = here / "model"
    folder.mkdir()
    for file in tiny_model_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = build_tokenizer(folder)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    write(here / "r.jsonl", QUESTIONS)
    assert run_here(capsys, "init", "./model", "r.jsonl").code == 0
    assert "the tokenizer's own" in (here / "r.yaml").read_text("utf-8")


def test_nothing_is_replaced(capsys, here, tiny_model_dir):
    write(here / "r.jsonl", QUESTIONS)
    (here / "r.yaml").write_text("mine", "utf-8")
    (here / "gone.yaml").symlink_to(here / "nowhere.yaml")
    for options in ((), ("--out", "r.yaml"), ("--out", "gone.yaml")):
        result = run_here(capsys, "init", tiny_model_dir, "r.jsonl", *options)
        assert result.code == 2 and "E-ENV-002" in result.err and "--out FILE" in result.err
    assert (here / "r.yaml").read_text("utf-8") == "mine" and not (here / "nowhere.yaml").exists()


@pytest.mark.parametrize(
    ("model", "rows", "code"),
    [
        ("MODEL", "nothing.jsonl", "E-DATA-001"),
        ("MODEL", "empty.jsonl", "E-DATA-008"),
        ("MODEL", "odd.jsonl", "E-DATA-020"),
        ("MODEL", "broken.jsonl", "E-DATA-01"),
        ("MODEL", "later.jsonl", "later.jsonl:31"),
        ("./nothing", "r.jsonl", "E-MODEL-004"),
        ("./none", "r.jsonl", "E-MODEL-00"),
    ],
)
def test_what_cannot_be_read_is_one_error_and_no_file(capsys, here, tiny_model_dir, model, rows, code):
    write(here / "r.jsonl", QUESTIONS)
    write(here / "odd.jsonl", [{"a": 1}])
    (here / "empty.jsonl").write_text("", "utf-8")
    (here / "broken.jsonl").write_text("{no\n", "utf-8")
    write(here / "later.jsonl", QUESTIONS)
    (here / "later.jsonl").write_text((here / "later.jsonl").read_text("utf-8") + "{no\n", "utf-8")
    (here / "none").mkdir()
    result = run_here(capsys, "init", str(tiny_model_dir) if model == "MODEL" else model, rows, "--out", "c.yaml")
    assert result.code == 2 and code in result.err and "Traceback" not in result.err
    assert result.out == "" and not (here / "c.yaml").exists()
