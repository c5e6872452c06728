"""What each verb prints and the code it exits with; nothing is trained here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import yaml

from luthier.cli.topics import MEANT
from luthier.config.glossary import TERMS
from luthier.config.keys import keys
from luthier.config.record import seal
from luthier.doctor import RULES
from luthier.errors import CODES
from luthier.events.line import format_line, parse_line
from luthier.events.numbers import NUMBERS
from luthier.events.types import Evaluated, Log, Machine, RunFinished, Timing
from luthier.gate.gate import BY_NAME
from luthier.monitor.dashboard.metrics import METRICS
from luthier.monitor.dashboard.watching import Watch
from luthier.version import __version__
from tests.cli.support import LUTHIER, ROOT, environment, process, run_here, write_config
from tests.events.stream import finished, log, started, whole_run
from tests.monitor.dash import write

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "numpy", "pandas")
LONG = "x" * 300


@pytest.fixture
def config(tiny_model_dir, alpaca_file, tmp_path):
    return write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out")


def test_help_names_every_verb(capsys):
    result = run_here(capsys, "--help")
    assert result.code == 0
    for verb in ("train", "plan", "schema", "explain", "--version"):
        assert verb in result.out


def test_without_a_verb_the_help_is_shown(capsys):
    result = run_here(capsys)
    assert result.code == 2
    assert "Commands" in result.out and "Traceback" not in result.err


def test_version(capsys):
    result = run_here(capsys, "--version")
    assert (result.code, result.out.strip()) == (0, f"luthier {__version__}")


def test_help_of_train_names_every_option_and_an_example(capsys):
    result = run_here(capsys, "train", "--help")
    assert result.code == 0
    for words in ("--resume", "--overwrite", "--allow-changes", "--plain", "KEY=VALUE", "luthier train configs/"):
        assert words in result.out


@pytest.mark.parametrize("arguments", [("trian",), ("train", "--resum"), ("explain", "a", "b")])
def test_what_is_not_understood_is_a_wrong_request(capsys, arguments):
    result = run_here(capsys, *arguments)
    assert result.code == 2
    assert result.err and "Traceback" not in result.err


@pytest.mark.parametrize("arguments", [("train", "--overwrit"), ("generate", "run", "--lr=1"), ("train", "--resume")])
def test_what_is_meant_as_an_option_is_no_key(capsys, arguments):
    result = run_here(capsys, *arguments)
    assert result.code == 2 and "E-CFG" not in result.err
    assert "No such option" in result.err or "requires an argument" in result.err


def test_schema_is_valid_json_with_every_section(capsys):
    result = run_here(capsys, "schema")
    assert result.code == 0
    schema = json.loads(result.out)
    assert {
        "model",
        "quantization",
        "lora",
        "data",
        "training",
        "dpo",
        "evaluation",
        "checkpointing",
        "logging",
    } == set(schema["properties"])


@pytest.mark.parametrize("topic", ["E-CFG-001", "e-model-002"])
def test_explain_a_code(capsys, topic):
    result = run_here(capsys, "explain", topic)
    assert result.code == 0
    code = topic.upper()
    assert result.out.startswith(f"{code}  {CODES[code].title}\n")
    assert ".." not in result.out
    assert CODES[code].text in " ".join(result.out.split())
    assert max(map(len, result.out.splitlines())) <= 100


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_an_explanation_that_reads_well(code):
    explanation = CODES[code]
    assert explanation.title and not explanation.title.endswith(".")
    assert len(explanation.text) > 60 and explanation.text.endswith((".", ")", "`"))
    assert explanation.why and "\n" not in explanation.why


def test_explain_alone_lists_every_key(capsys):
    result = run_here(capsys, "explain")
    assert result.code == 0
    assert [name for name in keys() if f"  {name.partition('.')[2]} " not in result.out] == []
    assert max(map(len, result.out.splitlines())) <= 100
    assert result.out.splitlines()[-1].endswith("luthier explain topics")
    assert "a doctor's rule" in run_here(capsys, "explain", "topics").out


def test_explain_a_key(capsys):
    result = run_here(capsys, "explain", "learning_rate")
    assert result.code == 0
    assert "section training" in result.out and "2e-4" in result.out


def test_explain_something_that_does_not_exist(capsys):
    result = run_here(capsys, "explain", "learning_rat")
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith('luthier explain: nothing is called "learning_rat"; did you mean "learning_rate"?\n')


@pytest.mark.parametrize(
    ("topic", "listing"), [("E-CFG-999", "E-"), ("nothing-of-that-kind", "topics"), ("gradien_normm", "topics")]
)
def test_an_unknown_topic_is_told_what_is_near_and_where_all_are_listed(capsys, topic, listing):
    result = run_here(capsys, "explain", topic)
    assert result.code == 2 and not result.out
    said, more = result.err.splitlines()
    assert len(said) <= 140 and said.count('"') <= 2 * 4
    assert more == f"All that there are: luthier explain {listing}"
    for near in re.findall(r'"([^"]+)"', said.partition("did you mean")[2]):
        assert run_here(capsys, "explain", near).code == 0, near


def test_all_topics_are_listed(capsys):
    result = run_here(capsys, "explain", "topics")
    assert result.code == 0 and max(map(len, result.out.splitlines())) <= 100
    topics = {"learning_rate", "E-CFG-003", "eval_loss", "perplexity", *(rule.name for rule in RULES), *BY_NAME}
    assert topics <= {*re.findall(r"[\w-]+", result.out)}


@pytest.mark.parametrize("word", [*MEANT, "OOM", "pad token"])
def test_words_that_people_type_lead_to_the_right_texts(capsys, word):
    result = run_here(capsys, "explain", word)
    assert result.code == 0 and not result.err
    for topic in MEANT["_".join(word.lower().split())]:
        told = run_here(capsys, "explain", topic)
        assert told.code == 0 and told.out.strip() in result.out


def test_a_key_is_explained_in_a_run(capsys, tmp_path):
    run = ROOT / "tests" / "monitor" / "runs" / "by_heart"
    told = " ".join(run_here(capsys, "explain", "r", run).out.split())
    assert told.startswith("r (section lora)") and re.search(r"In by_heart \(Luthier events.jsonl\) it is \d+\.", told)
    rate, both = (" ".join(run_here(capsys, "explain", word, run).out.split()) for word in ("lr", "learning_rate"))
    assert "it is 0.002" in rate
    assert "it is 0.002" in both and "learning_rate (number of the log)" in both and "of the highest so far" in both
    speed = run_here(capsys, "explain", "speed", run).out
    assert speed.count("In by_heart") == 2
    nan = run_here(capsys, "explain", "nan", run)
    assert nan.code == 2 and nan.err.startswith('luthier explain: "nan" is no key and no number of a log')
    (tmp_path / "training.log").write_text("{'loss': 1.2, 'epoch': 0.1}\n", "utf-8")
    foreign = run_here(capsys, "explain", "r", tmp_path / "training.log")
    assert foreign.code == 0 and "this log does not tell it" in foreign.out


def test_where_a_value_of_a_run_came_from(capsys, tmp_path):
    copied = shutil.copytree(ROOT / "tests" / "monitor" / "runs" / "by_heart", tmp_path / "run")
    sources = {
        "lora.r": "configs/x.yaml:22",
        "model.dtype": "default",
        "training.learning_rate": "override",
        "training.packing": "default",
    }
    record = {"config": {}, "sources": sources, "decided": ["training.packing"]}
    (copied / "plan.yaml").write_text(seal(yaml.safe_dump(record)), "utf-8")
    for key, words in (
        ("r", ", from configs/x.yaml:22."),
        ("dtype", ", the default."),
        ("lr", ", from the command line."),
        ("packing", ", as the plan worked it out."),
    ):
        for path in (copied, copied / "events.jsonl"):
            assert words in " ".join(run_here(capsys, "explain", key, path).out.split())
    (copied / "plan.yaml").write_text("no: record\n", "utf-8")
    assert " it is " in run_here(capsys, "explain", "r", copied).out


@pytest.mark.parametrize("begin", ["E-", "e-ckpt"])
def test_codes_are_listed_by_how_they_begin(capsys, begin):
    result = run_here(capsys, "explain", begin)
    listed = [line.split()[0] for line in result.out.splitlines()]
    assert result.code == 0 and listed == sorted(code for code in CODES if code.startswith(begin.upper()))


@pytest.mark.parametrize(
    ("number", "words"), [("loss", "minus the logarithm"), ("eval_loss", "held out (val_set_size)")]
)
def test_a_number_of_the_log_is_explained(capsys, number, words):
    result = run_here(capsys, "explain", number)
    assert result.code == 0 and result.out.startswith(f"{number} (number of the log)\n")
    assert words in result.out.replace("\n", " ") and "More: docs/concepts/loss.md" in result.out


def test_every_number_that_a_log_has_is_explained(capsys):
    """The keys of the lines of training.log, and the fields of the events."""
    events = [
        *whole_run(),
        replace(finished(), predicted_runtime=9.0),
        Timing(100, *[0.1] * 6),
        Machine(100, *[50.0] * 9),
    ]
    keys = {key for event in events for key in parse_line(format_line(event) or "") or {}}
    assert {"loss", "eta_seconds", "eval_runtime", "train_loss", "predicted_runtime"} <= keys
    told = (Log, Timing, Machine, Evaluated, RunFinished)
    keys |= {field.name for kind in told for field in fields(kind) if field.type not in ("bool", "str")}
    keys -= {"status"}
    assert keys <= {*NUMBERS}
    for key in keys:
        assert f"{key} (number of the log)" in run_here(capsys, "explain", key).out
        assert not NUMBERS[key].page or (ROOT / "docs" / NUMBERS[key].page).is_file()


def test_a_number_is_explained_in_a_run(capsys):
    run = ROOT / "tests" / "monitor" / "runs" / "by_heart"
    loss = " ".join(run_here(capsys, "explain", "loss", run).out.split())
    watched = Watch([run])
    watched.settle()
    assert (
        f"In by_heart (Luthier events.jsonl): {METRICS['loss'].answer.here(watched.scene().run)} Single lines" in loss
    )
    for key, event in (("train_loss", "run_finished"), ("eval_runtime", "evaluated"), ("optimizer_seconds", "timing")):
        records = map(json.loads, (run / "events.jsonl").read_text("utf-8").splitlines())
        value = [record for record in records if record["event"] == event][-1][key]
        assert f"Here it is {value:.6g}, at step 150." in run_here(capsys, "explain", key, run).out
    for key in NUMBERS:
        assert "In by_heart (Luthier events.jsonl): " in run_here(capsys, "explain", key, run / "events.jsonl").out


def test_what_cannot_be_looked_up_in_a_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run lies
    word = run_here(capsys, "explain", "held", tmp_path)
    assert word.code == 2 and word.err.startswith('luthier explain: "held" is no key and no number of a log')
    assert run_here(capsys, "explain", "held", "out").out.startswith("held out (word)")
    for path in (tmp_path, tmp_path / "nowhere", ROOT / "configs" / "quickstart.yaml"):
        nothing = run_here(capsys, "explain", "loss", path)
        assert nothing.code == 2 and "E-RUN-005" in nothing.err and "luthier explain loss checkpoints" in nothing.err
    for name in "ab":
        shutil.copytree(ROOT / "tests" / "monitor" / "runs" / "by_heart", tmp_path / "runs" / name)
    several = run_here(capsys, "explain", "loss", tmp_path / "runs")
    assert several.code == 2 and "a folder of 2 runs" in several.err and "luthier explain loss " in several.err


@pytest.mark.parametrize(
    ("topic", "heads"),
    [
        ("dtype", ["dtype (section model)", "dtype  The device"]),
        ("vocabulary", ["vocabulary  Every token", "token (word)"]),
        ("learning_rate", ["learning_rate (section training)", "learning_rate (number of the log)"]),
        ("epoch", ["epoch (number of the log)", "epoch (word)"]),
        ("packing", ["packing (section training)", "packing (word)"]),
    ],
)
def test_all_that_is_called_so_is_told(capsys, topic, heads):
    out = run_here(capsys, "explain", topic).out
    found = [out.find(head) for head in heads]
    assert -1 not in found and found == sorted(found)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("Perplexity", "e to the power of the loss"),
        ("held-out", "kept from training"),
        ("validation set", "kept from training"),
        ("epochs", "One pass over all rows"),
        ("overfit", "remembers rows"),
        ("learning rate", "section training"),
        ("packing", "Each row sees only itself"),
        ("pissa", "the strongest directions"),
        ("rsLoRA", "the square root of its rank"),
        ("DoRA", "length and the direction"),
        ("sandbox", "the tier with all walls"),
        ("sweep", "ended early"),
        ("fp16", "above 65,504 they overflow"),
        ("top-p", "so many that their probabilities add up to p"),
    ],
)
def test_a_word_is_explained(capsys, word, words):
    result = run_here(capsys, "explain", word)
    assert result.code == 0 and words in result.out.replace("\n", " ")


@pytest.mark.parametrize(("slip", "meant"), [("perplexty", "perplexity"), ("loss-stick", "loss-stuck"), ("eos", "")])
def test_a_slip_in_any_topic_is_seen(capsys, slip, meant):
    result = run_here(capsys, "explain", slip)
    assert (f'did you mean "{meant}"' in result.err) if meant else result.code == 0


def test_what_the_glossary_points_to_is_there(capsys):
    names = [name for term in TERMS.values() for name in term.also]
    assert len(names) == len({*names} - {*TERMS})
    for term in TERMS.values():
        assert not term.page or (ROOT / "docs" / term.page).is_file(), term.page
        for topic in term.see:
            assert run_here(capsys, "explain", topic).code == 0, topic


@pytest.mark.parametrize("arguments", [("--help",), ("schema",), ("explain", "lora"), ("train", "missing.yaml")])
def test_light_commands_import_nothing_heavy(arguments, tmp_path):
    program = (
        "import sys, luthier.cli.main as m\n"
        "try: m.main(sys.argv[1:])\n"
        f"except SystemExit: sys.exit(','.join(n for n in {HEAVY} if n in sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-300:]


# Plan ----------------------------------------------------------------------------------------------------------------


def test_the_headline_config_offline_says_what_is_missing_and_what_runs_now(capsys, monkeypatch, tmp_path):
    """From another folder and without arguments: the default config of this source tree is found."""
    monkeypatch.chdir(tmp_path)
    result = run_here(capsys, "plan")
    assert result.code == 2
    assert "meta-llama/Llama-3.2-1B, frozen in 4-bit nf4" in result.out
    assert "4 x 4 accumulation x 1 device = 16 examples a step" in result.out
    assert "unknown until the rows are counted" in result.out
    assert "In the way:" in result.err
    assert "E-MODEL-001" in result.err and "hf download meta-llama/Llama-3.2-1B" in result.err
    assert "E-DATA-002" in result.err and "--repo-type dataset" in result.err, "rows are looked for, too"
    assert "luthier quickstart" in result.err
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == [], "a plan writes nothing"


@pytest.mark.parametrize(
    ("name", "rows", "code"),
    [("row.jsonl", "", "E-DATA-001"), ("rows.jsonl", "", "E-DATA-008"), ("rows.jsonl", '{"a" 1}\n', "E-DATA-010")],
    ids=["misspelt", "empty", "a missing colon"],
)
def test_a_plan_whose_rows_cannot_be_read(capsys, tiny_model_dir, tmp_path, name, rows, code):
    (tmp_path / "rows.jsonl").write_text(rows)
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, tmp_path / name, tmp_path / "out")
    result = run_here(capsys, "plan", config)
    assert result.code == 2
    assert result.err.startswith(f"\nIn the way:\n\n{code}")
    assert "32,768 trained parameters" in result.out and "LlamaForCausalLM" in result.out
    assert "Every value" not in result.out and len(result.out.splitlines()) < 30


def test_a_plan_says_once_what_is_wrong_with_several_rows(capsys, tiny_model_dir, tmp_path):
    rows = [json.dumps({"instruction": f"Say {n}", "output": "x" * (n % 2)}) for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, tmp_path / "rows.jsonl", tmp_path / "out")
    result = run_here(capsys, "plan", config)
    assert result.code == 2 and result.err.count("E-DATA-024  ") == 3 and result.err.count("  fix   ") == 1


def test_a_plan_shows_its_arithmetic(capsys, monkeypatch, config, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = run_here(capsys, "plan", config.name, "val_set_size=4", "lora.r=8")
    assert result.code == 0
    assert "64 rows - 4 held out = 60; 60 x 3 / 16 = 11 steps." in result.out
    trained = "LoRA of rank 8, scale 4, on all-linear; 16,384 trained parameters (14 % of base and adapter)."
    assert trained in " ".join(result.out.split())
    assert re.search(r"learning_rate +\S+ +c\.yaml:\d+", result.out), "values say where they come from"
    assert re.search(r"val_set_size +4 +override", result.out)
    assert result.err == ""
    assert max(map(len, result.out.replace(str(tmp_path), "").splitlines())) <= 100
    assert not (tmp_path / "out").exists()


def test_output_can_be_piped_into_head(tmp_path):
    command = f"{' '.join(LUTHIER)} schema | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_a_terminal_without_utf8_gets_escapes(tmp_path):
    result = process("train", "моё.yaml", cwd=tmp_path, PYTHONIOENCODING="latin-1:strict")
    assert result.code == 2
    assert "\\u043c\\u043e\\u0451.yaml: no such file" in result.err


def test_shipped_configs_are_understood(capsys):
    configs = sorted((ROOT / "configs").glob("*.yaml"))
    assert configs
    for path in configs:
        result = run_here(capsys, "plan", path)
        assert "What will happen" in result.out, result.err
        assert result.code in (0, 2) and "E-CFG" not in result.err


# Wrong requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.yaml"], "E-CFG-001", "missing.yaml"),
        (["CONFIG", "learning_rat=1"], "E-CFG-008", "learning_rate"),
        (["CONFIG", "learning_rate"], "E-CFG-014", "learning_rate"),
        (["CONFIG", "learning_rate=fast"], "E-CFG-010", "learning_rate"),
        (["CONFIG", "model_name_or_path=./nothing"], "E-MODEL-004", "./nothing"),
        (["CONFIG", "load_in_4bit=true", "finetuning_type=full"], "E-CFG-020", "finetuning_type"),
        (["CONFIG", "--resume", "nowhere"], "E-CKPT-001", "nowhere"),
        (["lora.rr=" + "1" * 300], "E-CFG-008", "lora.rr"),
        (["CONFIG", "--learning_rate=1e-4"], "E-CFG-014", "without dashes: learning_rate=1e-4"),
        (["CONFIG", "--lr", "1e-4"], "E-CFG-014", "without dashes: lr=1e-4"),
        (["--lora-r", "8", "CONFIG"], "E-CFG-014", "without dashes: lora_r=8"),
        (["CONFIG", "--training.learning_rat=1"], "E-CFG-014", "without dashes: learning_rate=1"),
        (["--bf16", "CONFIG"], "E-CFG-014", "without dashes: bf16=true"),
        (["--config", "CONFIG"], "E-CFG-014", "the config is the first argument"),
        (["-c"], "E-CFG-014", "the config is the first argument"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "plan"])
def test_a_wrong_request_is_one_screen_and_code_2(capsys, monkeypatch, config, tmp_path, verb, arguments, code, words):
    if verb == "plan" and "--resume" in arguments:
        pytest.skip("plan resumes nothing")
    monkeypatch.chdir(tmp_path)
    result = run_here(capsys, verb, *[config if a == "CONFIG" else a for a in arguments])
    assert result.code == 2
    assert code in result.err and words in result.err
    assert f"luthier explain {code}" in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "luthier-error.log").exists()


@pytest.mark.parametrize("arguments", [["evaluate", LONG], ["report", LONG], ["init", LONG, "rows.jsonl"]])
def test_a_name_that_is_too_long_for_the_system_is_one_screen_and_code_2(capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Add", "output": "+"}\n')
    result = run_here(capsys, *arguments)
    assert result.code == 2 and "E-CFG-015" in result.err and "name" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_loss_of_pairs_is_explained_as_what_it_is(capsys, tmp_path):
    both = " ".join(run_here(capsys, "explain", "loss").out.split())
    assert "at each token of the answer" in both and "Of training on pairs (objective: dpo)" in both
    line = replace(log(10, 0.5), reward_chosen=0.1, reward_rejected=-0.4, reward_margin=0.5, reward_accuracy=0.75)
    path = write(tmp_path / "events.jsonl", [replace(started(), plan={}), line])
    here = " ".join(run_here(capsys, "explain", "loss", path).out.split())
    assert "chance" in here and "token of the answer" not in here
    assert "Here it is 0.1, at step 10." in run_here(capsys, "explain", "rewards/chosen", path).out
    assert "Here it is 75% of the pairs" in " ".join(
        run_here(capsys, "explain", "rewards/accuracies", path).out.split()
    )


@pytest.mark.parametrize("word", ["dpo", "preference", "chosen", "reference model", "margin", "reward", "accuracy"])
def test_words_of_preferences_lead_somewhere(capsys, word):
    result = run_here(capsys, "explain", word)
    assert result.code == 0 and "concepts/preferences.md" in result.out


def test_a_word_that_is_none_of_an_options_is_told_the_one_that_was_meant(capsys):
    for arguments, meant in (
        (("export", "run", "--to", "gguff"), "gguf"),
        (("launch", "c.yaml", "--on", "slrum"), "slurm"),
        (("evaluate", "run", "--prompt", "templte"), "template"),
    ):
        result = run_here(capsys, *arguments)
        said = " ".join(result.err.replace("│", "").split())
        assert result.code == 2 and f"Did you mean '{meant}'?" in said and "Value error" not in said, said
    result = run_here(capsys, "launch", "c.yaml", "--on", "xyz")
    assert result.code == 2 and "'xyz' is not one of" in result.err and "mean" not in result.err


@pytest.mark.parametrize(("path", "verb"), [("training/train.py", "train"), ("utils/gpu_monitor.py", "gpu")])
def test_a_launcher_names_a_command_that_can_be_typed(path, verb):
    done = subprocess.run([sys.executable, ROOT / "src" / path, "--nope"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"Usage: luthier {verb} " in done.stderr and f"Try 'luthier {verb} -h'" in done.stderr
