"""Files and YAML: what is read, and one clear error for everything that is not."""

from __future__ import annotations

import os

import pytest

from luthier.config.load import load
from luthier.config.schema import Config
from luthier.config.tree import number, read_yaml, scalar, shown
from luthier.errors import ConfigError


def test_an_empty_file_is_all_defaults(write):
    for text in ("", "\n\n", "# nothing\n", "---\n", "lora:\n", "\ufefflora: {}\n"):
        loaded = load(write(text))
        assert loaded.config == Config()
        assert set(loaded.sources.values()) == {"default"}


def test_sources_name_file_and_line(write):
    path = write("\ufefflora:\n  r: 8\n\ntraining:\n  learning_rate: 1e-4\n")
    loaded = load(path, ["seed=3"])
    assert loaded.sources["lora.r"] == f"{path}:2"
    assert loaded.sources["training.learning_rate"] == f"{path}:5"
    assert loaded.sources["training.seed"] == "override"
    assert loaded.sources["lora.lora_alpha"] == "default"
    assert loaded.config.training.learning_rate == 1e-4


def test_a_config_that_ships_is_found_from_any_folder_and_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = load("configs/quickstart.yaml")
    assert ours.path.is_file() and ours.config.model.model_name_or_path.endswith("quickstart/base")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/quickstart.yaml").write_text("r: 4\n")
    assert load("configs/quickstart.yaml").config.lora.r == 4
    for name in ("configs/quickstar.yaml", "other/quickstart.yaml", f"configs/{'x' * 300}.yaml", "configs/\0.yaml"):
        with pytest.raises(ConfigError, match="E-CFG-001"):
            load(name)


def test_one_override_need_not_be_in_a_list(write):
    assert load(write(""), "lora.r=4").config.lora.r == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("5e-05", 5e-05), ("2.0e-4", 2e-4), ("2E+3", 2000.0), (".5", 0.5), ("5.", 5.0), ("-3", -3),
        ("0", 0), ("no", "no"), ("on", "on"), ("yes", "yes"), ("off", "off"), ("0777", "0777"), ("0x1F", "0x1F"),
        ("12:30:45", "12:30:45"), ("2026-11-22", "2026-11-22"), ("1_000", "1_000"), ("true", True), ("False", False),
        ("~", None), ("", None), ("null", None), ("9" * 5000, "9" * 5000), ("1e", "1e"), ("e5", "e5"),
    ],
)  # fmt: skip
def test_scalars_are_what_people_expect(text, value):
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_scalars_stay_text():
    assert read_yaml("a: '1'\nb: \"true\"\n", str).plain() == {"a": "1", "b": "true"}


def test_anchors_are_written_out():
    assert read_yaml("a: &x [1, 2]\nb: *x\n", str).plain() == {"a": [1, 2], "b": [1, 2]}


def only(problems):
    assert len(problems) == 1, problems
    return problems[0]


def test_e_cfg_001_no_such_file_names_what_is_there(tmp_path, write):
    here = write("")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "missing.yaml")
    problem = only(caught.value.problems)
    assert problem.code == "E-CFG-001"
    assert str(here) in problem.fix


def test_e_cfg_001_a_folder(tmp_path, write):
    write("")
    with pytest.raises(ConfigError, match=r"E-CFG-001.*is a folder") as caught:
        load(tmp_path)
    assert "c.yaml" in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="odd names of POSIX")
def test_e_cfg_001_a_path_that_no_system_has():
    for name in ("a\0b.yaml", "x" * 5000):
        with pytest.raises(ConfigError, match="E-CFG-001"):
            load(name)


@pytest.mark.parametrize(("raw", "line"), [(b"a: 1\nb: caf\xe9\n", 2), ("lora: {}".encode("utf-16"), 1)])
def test_e_cfg_002_not_utf8(refused, raw, line):
    problem = only(refused(raw))
    assert problem.code == "E-CFG-002"
    assert problem.where.endswith(f"c.yaml:{line}")
    assert "iconv" in problem.fix


def test_e_cfg_003_too_large(refused):
    assert only(refused(b"#" * (1024 * 1024 + 1))).code == "E-CFG-003"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("lora:\n\tr: 8\n", 2, "a tab"),
        ("lora:\n  r: [1, 2\ntraining: 3\n", 3, "column"),
        ("lora: {r: 8\n", 2, "column"),
        ('a: "open\n', 2, "column"),
        ("a: b: c\n", 1, "mapping values"),
        ("a: *nowhere\n", 1, "no anchor"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: \x07\n", 1, "\\x07"),
        ("? [a, b]\n: 1\n", 1, "not a plain word"),
        ('a: "\\UFFFFFFFF"\n', 1, "broken YAML"),
        ("a: @b\n", 1, "column 4"),
    ],
)
def test_e_cfg_004_syntax_names_the_line(refused, text, line, says):
    problem = only(refused(text))
    assert problem.code == "E-CFG-004"
    assert problem.where.endswith(f":{line}"), problem
    assert says in problem.found


@pytest.mark.parametrize("text", ["- lora\n- training\n", "just words\n", "42\n"])
def test_e_cfg_005_not_keys_and_values(refused, text):
    assert only(refused(text)).code == "E-CFG-005"


@pytest.mark.parametrize(("name", "code"), [("r.jsonl", "E-CFG-005"), ("r.CSV", "E-CFG-005"), ("r.yaml", "E-CFG-004")])
def test_e_cfg_005_rows_are_no_config(tmp_path, name, code):
    path = tmp_path / name
    path.write_text('{"instruction": "Q", "output": "A"}\n' * 2, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.code == code
    if code == "E-CFG-005":
        assert problem.found == "these are rows, not a config"
        assert problem.fix.endswith(f"`data: {{datasets: [{{path: {path}}}]}}`")


def test_e_cfg_005_a_section_that_is_a_value(refused):
    problem = only(refused("seed: 1\nlora: true\n"))
    assert (problem.code, problem.where.endswith(":2")) == ("E-CFG-005", True)
    assert problem.fix == "lora: {r: 16}"


def test_e_cfg_006_duplicate_key_names_both_lines(refused):
    problem = only(refused("lora:\n  r: 8\n  lora_alpha: 16\n  r: 32\n"))
    assert problem.code == "E-CFG-006"
    assert problem.where.endswith(":4")
    assert "c.yaml:2" in problem.found


def test_e_cfg_007_too_deep(refused):
    assert only(refused("a: " + "[" * 100_000)).code == "E-CFG-007"


def test_e_cfg_007_billion_laughs(refused):
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    assert only(refused(text)).code == "E-CFG-007"


def test_e_cfg_007_too_many_keys(refused):
    assert only(refused("\n".join(f"key{i}: 1" for i in range(501)))).code == "E-CFG-007"


def test_messages_stay_short_however_long_the_text_is(refused):
    long = "x" * 100_000
    for text in (f"{long}: 1\n", f"seed: {long}\n", f"a: !{long} b\n", f"a: *{long}\n", f"{long}: 1\n{long}: 2\n"):
        assert len(only(refused(text)).render()) < 1000


def test_e_cfg_007_an_alias_inside_itself(refused):
    assert only(refused("a: &a [*a]\n")).code == "E-CFG-007"


def test_e_cfg_016_tags(refused, tmp_path):
    marker = tmp_path / "ran"
    text = f"lora: !!python/object/apply:pathlib.Path.touch [{marker}]\n"
    assert only(refused(text)).code == "E-CFG-016"
    assert not marker.exists()
    assert only(refused("seed: !!int '3'\n")).code == "E-CFG-016"


def test_numbers_are_shown_as_people_write_them():
    assert [number(v) for v in (2e-4, 5e-5, 0.05, 3.0, 1e-8, 1.5e-4, 1e20)] == [
        "2e-4", "5e-5", "0.05", "3", "1e-8", "1.5e-4", "1e20",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [0.0007994025740810211, -0.00012345678901, 0.0012345678901, 1.2345678901e-5, 1 / 3])
def test_a_number_is_shown_with_all_of_its_digits(value):
    assert scalar(number(value)) == value


def test_nothing_dangerous_reaches_the_terminal(refused):
    problems = refused('"\\e[31mred\\u202e": 1\ntraining:\n  optim: "\\e]0;title\\a"\n')
    text = "\n".join(problem.render() for problem in problems)
    assert len(problems) == 2
    assert all(character.isprintable() or character == "\n" for character in text)
    assert shown("\x1b") == '"\\x1b"'


def test_the_room_imports_no_torch():
    import subprocess
    import sys

    code = (
        "import sys, luthier.config.load, luthier.config.resolve, luthier.config.render, luthier.config.docs\n"
        "print(sorted({'torch', 'transformers', 'peft', 'datasets', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
