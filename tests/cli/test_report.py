"""`luthier report`: the page lies where it should, of a real run too, and what is wrong is one error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from luthier.events.durations import duration
from luthier.events.read import read
from luthier.events.types import Evaluated, MemoryForecast, RunFinished, TimeForecast
from tests.cli.support import run_here, write_config
from tests.report.reading import insist_safe, plain, rows
from tests.report.runs import logs, plan_of, started, write_events
from tests.tiny import build_model, write_rows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.slow
def test_a_real_run(tmp_path, monkeypatch, capsys):
    from luthier import api

    monkeypatch.chdir(tmp_path)
    build_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl", 64)
    config = write_config(tmp_path / "c.yaml", Path("model"), Path("rows.jsonl"), Path("out"), max_steps=6)
    keys = ["val_set_size=8", "eval_steps=3", "sample_prompts=[Add]", "sample_max_new_tokens=4", "rehearsal=true"]
    for _ in api.train(config, keys):
        pass
    done = run_here(capsys, "report", "out")
    assert (done.code, done.out) == (0, "report: out/report.html\n")
    html = Path("out/report.html").read_text("utf-8")
    insist_safe(html)
    words, told = plain(html), rows(html)
    events = [event for event, _ in read("out/events.jsonl")]
    for event in events:
        match event:
            case Evaluated():
                assert f"<title>step {event.step}: {event.eval_loss:.4f}</title>" in html
            case MemoryForecast():
                assert any(row[0].startswith("memory, before") and row[1] == f"{event.gib:.2f} GiB" for row in told)
            case RunFinished():
                assert any(row[0] == "time, after 20 steps" for row in told)
            case TimeForecast():
                expected = duration(event.remaining_seconds)
                assert any(row[:2] == ("time, before step 1", expected) for row in told)
    record = yaml.safe_load(Path("out/plan.yaml").read_text())
    assert record["record"]["inputs"]["base"]["model.safetensors"] in words
    assert ("training.learning_rate", "0.002", "2e-4", f"{config}:{line_of(config, 'learning_rate')}") in told
    assert {row[0] for row in told if len(row) == 3} >= set(record["decided"]) | set(record["derived"])
    assert all(row[2] for row in told if row[0] in record["decided"]), "each decision has its reason"
    assert "It is of one piece" in words and "luthier train --from out/plan.yaml" in words


def line_of(config, key):
    return next(n for n, line in enumerate(config.read_text().splitlines(), 1) if line.strip().startswith(key))


def test_several_runs_and_a_folder_of_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("sweep/a", "sweep/b"):
        write_events(tmp_path / name, started(plan_of()), logs(1, 9))
    assert run_here(capsys, "report", "sweep").out == "report: sweep/report.html\n"
    assert run_here(capsys, "report", "sweep/a", "sweep/b").out == "report: report.html\n"
    assert Path("report.html").read_text() == Path("sweep/report.html").read_text()
    assert "<h1>2 runs</h1>" in Path("report.html").read_text()


def test_secrets_do_not_get_onto_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_API_KEY", "a-secret-that-nobody-knows")
    run = write_events(tmp_path / "run", started(plan_of(), name="a-secret-that-nobody-knows"), logs(1, 9))
    assert run_here(capsys, "report", run, "--out", tmp_path / "r.html").code == 0
    html = (tmp_path / "r.html").read_text()
    assert "a-secret-that-nobody-knows" not in html and "MY_API_KEY" in html


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], "E-RUN-005", "there is no such log"),
        (["empty"], "E-RUN-005", "nothing in it is a log"),
        (["run", "empty"], "E-RUN-005", "nothing in it is a log"),
        (["c.yaml"], "E-RUN-005", "a config is not a log"),
        (["run", "--out", "nowhere/r.html"], "E-ENV-002", "no folder that you may write to"),
        (["run", "--out", "empty"], "E-ENV-002", "it is a folder"),
        (["run", "--results", "nowhere.json"], "E-RUN-007", "cannot read nowhere.json"),
    ],
)
def test_what_is_wrong_is_one_error_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    write_events(tmp_path / "run", started(plan_of()), logs(1, 9))
    (tmp_path / "empty").mkdir()
    done = run_here(capsys, "report", *arguments)
    assert done.code == 2 and code in done.err and words in done.err and "Traceback" not in done.err
    assert list(tmp_path.rglob("*.html")) == list(tmp_path.rglob("*.part")) == []


def test_it_imports_no_torch(tmp_path):
    run = write_events(tmp_path / "run", started(plan_of()), logs(1, 9))
    code = (
        "import sys\nfrom luthier.cli.main import main\n"
        f"try:\n    main(['report', {str(run)!r}])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'matplotlib', 'textual'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
