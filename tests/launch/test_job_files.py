"""Job files, by the parsers of those who read them: bash, shellcheck, the schema of Kubernetes, the loader of sky."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import socket
import subprocess

import pytest
import yaml

from luthier.config.load import load
from luthier.errors import EXIT_FAILED, EXIT_WRONG_REQUEST, ConfigError
from luthier.launch.job import SCHEDULERS, Job, name_of, read_gpus
from luthier.launch.write import render
from tests.cli.support import run_here

HOSTILE = 'data.datasets=[{path: "a b\'; touch pwned; $(touch pwned) {{ 7*7 }} é.jsonl"}]'
SHAPES = [{}, {"nodes": 2, "gpus": 4}, {"gpus": 0}]
OPTIONS = {"slurm": {"time": "1-12:00:00", "partition": "gpu"}, "kubernetes": {"image": "me/luthier:1"}}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my config.yaml"
    path.write_text("# mine, {{ 7*7 }} é\r\ntraining:\n    output_dir: Out_1\n    num_train_epochs: 1\n\n", "utf-8")
    return path


def text_of(on, config, overrides=(), **changes):
    shape = {"gpu_type": "H100"} if on == "skypilot" else {}
    loaded = load(config, overrides)
    return render(Job(on, loaded, tuple(overrides), name_of(loaded), **{**OPTIONS.get(on, {}), **shape, **changes}))


@pytest.mark.parametrize("shape", SHAPES)
def test_slurm_by_bash_and_shellcheck(config, shape, tmp_path):
    path = tmp_path / "job.sbatch"
    path.write_text(text_of("slurm", config, [HOSTILE], gpu_type="H100", **shape))
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "--severity=warning", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    lines = path.read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])  # Slurm would not read them
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:TERM@180", "#SBATCH --time=1-12:00:00"} <= {*lines}
    gpus = [line for line in lines if "--gpus-per-node" in line]
    assert gpus == {0: [], 4: ["#SBATCH --gpus-per-node=H100:4"]}.get(
        shape.get("gpus"), ["#SBATCH --gpus-per-node=H100:1"]
    )


def run_line(text):
    """What a shell would make of the command that ends in `--resume auto`."""
    start = text.index("-m luthier.machine.torchrun")
    return shlex.split(text[start : text.index("--resume auto") + len("--resume auto")].replace("\\\n", " "))


@pytest.mark.parametrize("on", ["slurm", "skypilot"])
def test_what_the_user_wrote_is_one_word_for_the_shell(on, config):
    words = run_line(text_of(on, config, [HOSTILE, "output_dir=elsewhere"]))
    assert words[words.index("train") + 1] == {"slurm": str(config), "skypilot": config.name}[on]
    assert HOSTILE in words
    where = [word for word in words if "output_dir" in word]
    assert where == {"slurm": ["output_dir=elsewhere"], "skypilot": ["training.output_dir=/checkpoints/run"]}[on]
    assert words[-2:] == ["--resume", "auto"]


def expanded(word):
    """As Kubernetes does with a command: `$$` is one dollar, and `$(NAME)` a variable."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda found: "$" if found[0] == "$$" else "me", word)


@pytest.mark.parametrize("shape", SHAPES)
def test_kubernetes_by_its_own_schema(config, shape):
    overrides = [HOSTILE, "data.prompt_template=$$ $(USER)"]
    documents = list(yaml.safe_load_all(text_of("kubernetes", config, overrides, **shape)))
    kinds = [document["kind"] for document in documents]
    assert kinds == ["ConfigMap", "PersistentVolumeClaim", *["Service"] * (shape.get("nodes", 1) > 1), "Job"]
    assert documents[0]["data"]["config.yaml"] == config.read_text("utf-8").replace("\r\n", "\n").strip("\n") + "\n"
    job = documents[-1]["spec"]
    command = [expanded(word) for word in job["template"]["spec"]["containers"][0]["command"]]
    assert HOSTILE in command and "data.prompt_template=$$ $(USER)" in command
    assert job["podFailurePolicy"]["rules"][1] == {
        "action": "Ignore",
        "onExitCodes": {"operator": "In", "values": [75]},
    }
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # or there may be no podFailurePolicy
    schema = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for document in documents:
        schema.validate(document, schema.latest_version(), strict=True)
    job["podFailurePolicy"]["rules"][1]["onExitCode"] = {}
    with pytest.raises(schema.ValidationError):
        schema.validate(documents[-1], schema.latest_version(), strict=True)


def test_kubernetes_with_a_claim_that_is_there(config):
    documents = list(yaml.safe_load_all(text_of("kubernetes", config, storage="mine")))
    assert [document["kind"] for document in documents] == ["ConfigMap", "Job"]
    volumes = documents[-1]["spec"]["template"]["spec"]["volumes"]
    assert volumes[1]["persistentVolumeClaim"] == {"claimName": "mine"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("storage", ["", "s3://mine", "mine"])
def test_skypilot_as_yaml_and_by_its_own_loader(config, shape, storage):
    content = yaml.safe_load(text_of("skypilot", config, [HOSTILE], storage=storage, image="me/luthier:1", **shape))
    assert content["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    bucket = {"mode": "MOUNT_CACHED"} | (
        {"source": storage} if "://" in storage else {"name": storage or content["name"]}
    )
    assert re.fullmatch(r"luthier-out-1-[0-9a-f]{8}", content["name"])
    assert content["file_mounts"] == {"/checkpoints": bucket}
    sky = pytest.importorskip("sky", reason="skypilot is not installed")
    if not storage.startswith("s3"):  # it would look whether that bucket is there
        assert sky.Task.from_yaml_config(content).num_nodes == shape.get("nodes", 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_ray_is_python(config, shape):
    tree = ast.parse(text_of("ray", config, [HOSTILE], **shape))
    values = {ast.unparse(n.targets[0]): ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)}
    assert values["TRAIN"] == ["-m", "luthier", "train", config.name, HOSTILE, "--resume", "auto"]
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not {"luthier-out-1", 29500} & constants  # two jobs on the same machines meet apart
    assert values["(NODES, GPUS, PROCESSES)"] == (
        shape.get("nodes", 1), shape.get("gpus", 1), max(1, shape.get("gpus", 1))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("on", "changes", "said"),
    [
        ("ray", {"time": "1:00:00"}, "slurm takes it"),
        ("slurm", {"image": "x"}, "skypilot or kubernetes takes it"),
        ("kubernetes", {"image": ""}, "kubernetes needs --image"),
        ("skypilot", {"gpu_type": ""}, "--gpus-per-node H100:1"),
        ("ray", {"gpu_type": "H100"}, "say the kind in the written file"),
        ("slurm", {"time": "soon"}, "--time 12:00:00"),
        ("slurm", {"partition": "a\n#SBATCH --uid=0"}, "is no name"),
        ("kubernetes", {"image": "a b"}, "is no name"),
    ],
)
def test_e_launch_001_an_option_that_does_not_fit(config, on, changes, said):
    with pytest.raises(ConfigError, match="E-LAUNCH-001") as caught:
        text_of(on, config, **changes)
    assert said in str(caught.value)


@pytest.mark.parametrize("on", ["skypilot", "ray"])
def test_e_launch_001_a_config_that_is_not_in_the_folder_that_is_copied(config, tmp_path, monkeypatch, on):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    with pytest.raises(ConfigError, match="E-LAUNCH-001") as caught:
        text_of(on, "../my config.yaml")
    assert f"{on} copies the folder {tmp_path / 'sub'}" in str(caught.value)
    assert str(config) in text_of("slurm", config)


def test_runs_that_are_others_share_no_storage(config, tmp_path, monkeypatch):
    """Buckets have one name for everybody in the world, and a claim or a bucket holds one run."""

    def name(*overrides):
        content = yaml.safe_load(text_of("skypilot", config, overrides))
        job = list(yaml.safe_load_all(text_of("kubernetes", config, overrides)))[-1]
        assert content["file_mounts"]["/checkpoints"]["name"] == job["metadata"]["name"] == content["name"]
        assert len(content["name"]) <= 50
        return content["name"]

    names = {name(), name("lora.r=4"), name("output_dir=" + "x" * 90)}
    assert name() in names
    with monkeypatch.context() as patched:
        patched.setattr(socket, "gethostname", lambda: "another")
        names.add(name())
    config.write_text(config.read_text("utf-8").replace("epochs: 1", "epochs: 2"), "utf-8")
    names.add(name())
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    names.add(Job("slurm", load(config), (), "luthier-out-1").own_name)
    assert len(names) == 6


def test_numbers_of_gpus():
    assert read_gpus("4") == ("", 4)
    assert read_gpus("H100-SXM:8") == ("H100-SXM", 8)
    for text in ("four", "4:H100", "-1", "H100:", "1234"):
        with pytest.raises(ConfigError, match="E-LAUNCH-001"):
            read_gpus(text)


@pytest.mark.parametrize(
    ("folder", "name"), [("a/Out_1", "luthier-out-1"), ("..", "luthier-run"), ("x" * 90, "luthier-" + "x" * 42)]
)
def test_a_name_for_every_scheduler(config, folder, name):
    assert name_of(load(config, [f"output_dir={folder}"])) == name


@pytest.mark.parametrize("on", SCHEDULERS)
def test_e_launch_002_the_command_is_not_here(capsys, config, tmp_path, monkeypatch, on):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    options = {"kubernetes": ["--image", "x"], "skypilot": ["--gpus-per-node", "L4:1"]}.get(on, [])
    done = run_here(capsys, "launch", config, "--on", on, *options, "--submit")
    assert done.code == EXIT_WRONG_REQUEST and "E-LAUNCH-002" in done.err
    assert (tmp_path / f"luthier-out-1{SCHEDULERS[on].ending}").is_file()  # it can be taken elsewhere


def test_e_launch_003_an_edited_file_is_left_alone(capsys, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("launch", config, "--on", "slurm", "--output", "job")
    assert run_here(capsys, *command).out == "written   job\nsubmit    sbatch job\n"
    assert run_here(capsys, *command).code == 0  # the same again
    (tmp_path / "job").write_text("mine")
    done = run_here(capsys, *command)
    assert done.code == EXIT_WRONG_REQUEST and "E-LAUNCH-003" in done.err
    assert (tmp_path / "job").read_text() == "mine"
    assert run_here(capsys, *command, "--overwrite").code == 0
    assert (tmp_path / "job").read_text() != "mine"


def test_e_launch_004_the_scheduler_says_no(capsys, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run_here(capsys, "launch", config, "--on", "slurm", "--submit")
    assert done.code == EXIT_FAILED and "E-LAUNCH-004" in done.err and "exit code 3" in done.err


def test_a_wrong_config_is_said_before_a_job_waits_for_hours(capsys, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_here(capsys, "launch", config, "learning_rte=1", "--on", "slurm")
    assert done.code == EXIT_WRONG_REQUEST and 'did you mean "learning_rate"' in done.err
    done = run_here(capsys, "launch", config, "--on", "slurm", "--output", tmp_path / "no" / "job")
    assert done.code == EXIT_WRONG_REQUEST and "E-ENV-002" in done.err


@pytest.mark.parametrize(
    ("on", "stays"), [("slurm", []), ("kubernetes", [0, 1, 2]), ("skypilot", [1, 2]), ("ray", [1, 2])]
)
def test_files_that_do_not_travel_with_the_job_are_named(capsys, config, tmp_path, monkeypatch, on, stays):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    files = ["rows.jsonl", "../more.jsonl", str(tmp_path / "base")]
    for name in files:
        (here / name).touch()
    config = shutil.copy(config, here)
    rows = f"data.datasets=[{{path: {files[0]}}}, {{path: {files[1]}}}, {{path: owner/hub}}]"
    options = {"kubernetes": ["--image", "x"], "skypilot": ["--gpus-per-node", "L4:1"]}.get(on, [])
    command = ("launch", config, rows, f"model_name_or_path={files[2]}", "--on", on, *options)
    said = run_here(capsys, *command).out.splitlines()[2:]
    assert [line.partition(", ")[0] for line in said] == [
        f"missing   {files[i]}" for i in sorted(stays, key=[2, 0, 1].index)
    ]
    own = run_here(
        capsys, "launch", config, "model_name_or_path=luthier:quickstart/base", "--on", on, *options, "--overwrite"
    )
    assert "missing" not in own.out and own.code == 0
