"""The sandbox takes the strongest tier that holds, and none in silence."""

from __future__ import annotations

import json
import platform
import re
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from luthier.errors import EXIT_WRONG_REQUEST, MissingError, RunError
from luthier.evaluate.sandbox import Program, Sandbox, canaries, macos, seccomp, tiers
from luthier.evaluate.sandbox import link as link_module
from tests.evaluate.sandbox_users import ROOT, environment

GOOD = Program("def f(x): return x + 1", ("assert f(1) == 2",))
# A machine that refuses some calls, as containers do: a filter put on before the sandbox is entered.
_REFUSING = """
import json, struct, sys
from luthier.errors import LuthierError
from luthier.evaluate.sandbox import Program, Sandbox, linux, seccomp
numbers, unsafe = json.loads(sys.argv[1]), json.loads(sys.argv[2])
steps = [(0x20, 0, 0, 0)]
for number in numbers:
    steps += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050001)]
steps.append((0x06, 0, 0, 0x7fff0000))
linux.no_new_privileges()
seccomp.install(b"".join(struct.pack("<HBBI", *step) for step in steps))
try:
    with Sandbox(seconds=20.0, unsafe=unsafe) as sandbox:
        told = sandbox.run([Program("def f(x): return x + 1", ("assert f(1) == 2",))])
        print(json.dumps([sandbox.tier, sandbox.canaries, told[0].passed]))
except LuthierError as error:
    print(json.dumps([str(error), error.problems[0].code, error.exit_code]))
"""
UNSHARE, LANDLOCK = {"x86_64": 272, "aarch64": 97}, 444


def on_a_machine_that_refuses(numbers, unsafe=False):
    done = subprocess.run(
        [sys.executable, "-c", _REFUSING, json.dumps(numbers), json.dumps(unsafe)],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_container_without_user_namespaces_gets_the_next_tier():
    tier, told, passed = on_a_machine_that_refuses([UNSHARE[platform.machine()]])
    assert (tier, passed) == ("no-namespaces", True)
    assert told == dict.fromkeys(canaries.NAMES, True)


def test_where_nothing_holds_it_refuses_and_names_what_is_missing():
    text, code, exit_code = on_a_machine_that_refuses([UNSHARE[platform.machine()], LANDLOCK])
    assert (code, exit_code) == ("E-EVAL-001", EXIT_WRONG_REQUEST)
    assert "full: unshare: Operation not permitted" in text
    assert "no-namespaces: Landlock is missing" in text
    assert "--unsafe-local-execution" in text


def test_unsafe_is_taken_only_when_nothing_holds():
    tier, told, passed = on_a_machine_that_refuses([UNSHARE[platform.machine()], LANDLOCK], unsafe=True)
    assert (tier, passed) == ("unsafe", True)
    assert not any(told.values())
    with Sandbox(seconds=20.0, unsafe=True) as sandbox:
        assert sandbox.tier != "unsafe"


def test_no_tier_for_a_system_is_said(monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sys, "platform", "win32")
        assert tiers.candidates() == ()
        elsewhere.setattr(sys, "platform", "darwin")
        assert tiers.candidates() == ("macos",)
    monkeypatch.setattr(tiers, "candidates", tuple)
    with pytest.raises(MissingError, match="there is none for this system") as caught, Sandbox():
        pass
    assert caught.value.problems[0].code == "E-EVAL-001"


def test_unsafe_ends_what_a_program_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tiers, "candidates", tuple)
    mark = tmp_path / "alive"
    late = f"import os, time\nif os.fork() == 0:\n    time.sleep(0.5)\n    open({str(mark)!r}, 'w')\n"
    with Sandbox(seconds=20.0, unsafe=True) as sandbox:
        assert sandbox.run([Program(late + GOOD.code, GOOD.tests), GOOD])[0].passed
        hold = Program("import time\ntime.sleep(1)\n" + GOOD.code, GOOD.tests)
        assert sandbox.run([hold])[0].passed
    assert not mark.exists()


def test_without_walls_every_canary_gets_out(monkeypatch):
    monkeypatch.setattr(tiers, "candidates", tuple)
    monkeypatch.setenv("LUTHIER_CANARY", "x")
    with Sandbox(seconds=20.0, unsafe=True) as sandbox:
        outcome = canaries.fly(sandbox.run, 8, set())
    assert outcome.stopped == dict.fromkeys(canaries.NAMES, False)
    assert all(name in outcome.reason for name in canaries.NAMES)


def test_a_canary_that_gets_out_costs_the_tier(monkeypatch):
    monkeypatch.setitem(canaries._ATTEMPTS, "write", "def attempt(): return 'out'")
    with pytest.raises(MissingError, match="full: canaries got out: write"), Sandbox():
        pass


def test_a_tier_in_which_nothing_runs_is_not_used(monkeypatch):
    monkeypatch.setattr(tiers, "candidates", lambda: ("no-namespaces",))
    monkeypatch.setattr(
        link_module, "_BOOT", link_module._BOOT.replace("main()", "import inside.child as c; del c.run; main()")
    )
    with pytest.raises(MissingError, match="a harmless program did not pass"), Sandbox():
        pass


def test_a_sandbox_that_does_not_start_again_is_an_error(monkeypatch):
    with Sandbox(seconds=20.0) as sandbox:
        monkeypatch.setattr(link_module, "_BOOT", "raise SystemExit")
        sandbox._stop()
        with pytest.raises(RunError, match="does not start any more") as caught:
            sandbox.run([GOOD])
        assert caught.value.problems[0].code == "E-EVAL-002"


def test_walls_that_do_not_stand_any_more_are_no_verdict_on_a_program(monkeypatch):
    with Sandbox(seconds=20.0) as sandbox:
        boot = link_module._BOOT.replace("main()", "import inside.child as c; del c.run; main()")
        monkeypatch.setattr(link_module, "_BOOT", boot)
        sandbox._stop()
        with pytest.raises(RunError, match="holds no harmless program any more") as caught:
            sandbox.run([GOOD])
        assert caught.value.problems[0].code == "E-EVAL-002"


def test_a_silent_server_is_given_up(monkeypatch):
    monkeypatch.setattr(link_module, "_GRACE_SECONDS", 0.2)
    with Sandbox(seconds=1.0) as sandbox:
        monkeypatch.setattr(link_module, "_PATIENCE_SECONDS", 0.2)
        process = sandbox._link._process
        for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            member.suspend()
        assert sandbox.run([GOOD])[0].passed
        assert process.poll() is not None


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("own_mounts", [True, False])
def test_the_filter_is_a_program_that_the_kernel_takes(machine, own_mounts):
    """Sizes and jumps: every jump lands inside, and every way ends in a return."""
    program = seccomp.filter_for(machine, 1, own_mounts=own_mounts)
    steps = list(struct.iter_unpack("<HBBI", program))
    assert len(program) % 8 == 0 and 100 < len(steps) < 4096
    for place, (code, yes, no, _) in enumerate(steps):
        if code & 7 == 5:
            assert place + 1 + max(yes, no) < len(steps)
    assert steps[-1][0] == 6


def test_the_numbers_of_calls_are_those_of_this_machine():
    """Checked against the kernel's own header where it is installed."""
    header = Path(f"/usr/include/{platform.machine()}-linux-gnu/asm/unistd_64.h")
    if platform.machine() != "x86_64" or not header.exists():
        pytest.skip("no header with numbers here")
    true = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    tables = [seccomp._PLAIN, seccomp._IN_OWN_MOUNTS, seccomp._PID_OF_SELF, seccomp._ZERO_OR_SELF, *seccomp._COMMANDS]
    tables += [seccomp._CLONE, seccomp._SOCKETPAIR, *seccomp._OPEN]
    rows = [entry.split() for table in tables for entry in table.split(";")]
    assert len(rows) > 150
    assert [row for row in rows if true.get(row[0]) != row[1]] == []


def test_a_machine_without_a_table_is_told_so(monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(platform, "machine", lambda: "riscv64")
        assert "list of system calls" in tiers.missing("full")


def test_root_runs_candidates_under_a_private_uid(monkeypatch):
    with monkeypatch.context() as somebody:
        somebody.setattr("os.geteuid", lambda: 0)
        walls = [tiers.walls(tier, 1.0, 512, "") for tier in ("full", "no-namespaces")]
        somebody.setattr("os.geteuid", lambda: 12345)
        ordinary = tiers.walls("full", 1.0, 512, "")
    assert all(61184 <= wall.uid < 65520 and wall.processes == 64 for wall in walls)
    assert ordinary.uid is None


def test_walls_cross_a_command_line():
    for uid in (None, 61184):
        walls = tiers.Walls("full", 0.5, 512, uid, 64, "")
        assert tiers.Walls.from_arguments(walls.to_arguments()) == walls


def test_the_profile_of_macos_denies_first_and_quotes():
    text = macos.profile('/tmp/a "b"')
    assert text.startswith("(version 1)\n(deny default)")
    assert '(subpath "/tmp/a \\"b\\"")' in text
    assert "network" not in text
