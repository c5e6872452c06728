"""The verdicts of the sandbox on programs that mean no harm, and the life of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import psutil
import pytest

from luthier.evaluate.sandbox import Program, Sandbox, tiers
from luthier.evaluate.sandbox.canaries import NAMES
from tests.evaluate.sandbox_users import ROOT, environment

ADD = Program("def add(a, b):\n    return a + b", ("assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"))


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(seconds=20.0) as entered:
        yield entered


def verdict(sandbox, code, *tests):
    return sandbox.run([Program(code, tests)])[0]


def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


def open_files():
    return psutil.Process().num_fds()


def test_the_function_that_is_asked_for_may_have_the_name_of_a_builtin(sandbox):
    near, looping = "assert abs(pow(2, 3) - 8) < 1e-6", "for n in (1, 2):\n    assert operator(n + 2)"
    wrong = Program("def pow(a, b): return 0", (near,), "pow")
    right = Program("def pow(a, b): return a ** b", (near,), "pow")
    module = Program("def operator(x): return x > 2", (looping,), "operator")
    assert [told.cause for told in sandbox.run([wrong, right, module])] == ["wrong answer", "passed", "passed"]
    hidden = Program("def abs(x): return 0\ndef f(x): return x", ("assert abs(f(2) - 3) < 1e-6",), "f")
    assert sandbox.run([hidden])[0].cause == "wrong answer"


def test_exact_numbers_are_compared_as_python_does(sandbox):
    code = "from fractions import Fraction\nfrom decimal import Decimal\ndef f(x): return x"
    tests = ("assert f(Fraction(2, 2)) == 1", "assert f(Decimal('1.5')) == 1.5", "assert f(bytearray(b'a')) == b'a'",
             "assert f(set(range(3000))) is not None", "assert f({1: [2]}.items()) is not None")  # fmt: skip
    assert verdict(sandbox, code, *tests).cause == "passed"


def test_who_claims_that_the_walls_fell_has_failed_and_the_others_go_on(sandbox):
    liar = Program("import os\nos.write(3, b'W\\0\\0\\0\\0')\n" + ADD.code, ADD.tests)
    assert [told.cause for told in sandbox.run([ADD, liar, ADD])] == ["passed", "forbidden", "passed"]


def test_a_right_program_passes(sandbox):
    told = sandbox.run([ADD])[0]
    assert (told.passed, told.cause) == (True, "passed")
    assert 0 < told.seconds < 20
    assert sandbox.canaries == dict.fromkeys(NAMES, True)
    assert len(NAMES) == 8


@pytest.mark.parametrize(
    ("code", "test", "cause", "detail"),
    [
        ("def f(x):\n    return x", "assert f(2) == 3", "wrong answer", "f(2) gave 2, expected == 3"),
        (
            "def f(x):\n    return x",
            "assert f(2) > 2 or f(3) > 3",
            "wrong answer",
            "f(2) > 2 or f(3) > 3: AssertionError",
        ),
        (
            "def f(x):\n    return 1 / x",
            "assert f(0) == 1",
            "exception",
            "f(0) == 1: ZeroDivisionError: division by zero",
        ),
        ("x = 1\nraise ValueError('no')", "assert x == 1", "exception", "ValueError: no (line 2)"),
        ("def f(:", "assert f() == 1", "syntax", "SyntaxError"),
        ("def f(): pass", "assert g() == 1", "exception", "NameError: name 'g' is not defined"),
        ("def f(): pass", "assert int('x') == 1", "exception", "ValueError: invalid literal"),
        ("import numpy_of_nobody", "assert 1 == f()", "exception", "ModuleNotFoundError"),
        ("def f(): return object()", "assert f() == 1", "wrong answer", "object is not a plain value"),
        ("def f(): return 'x' * 10**9", "assert f() == 1", "memory", "MemoryError"),
        ("def f(): open('/etc/x', 'w')", "assert f() == 1", None, "Error"),
    ],
)
def test_what_went_wrong_is_named(sandbox, code, test, cause, detail):
    told = verdict(sandbox, code, test)
    assert not told.passed
    assert cause in (None, told.cause)
    assert detail in told.detail
    assert "\n" not in told.detail


def test_text_of_a_program_cannot_speak_to_a_terminal(sandbox):
    told = verdict(sandbox, "raise ValueError('\\x1b[2J\\x1b]0;owned\\x07\\u202e')", "assert 1 == f()")
    assert told.detail == "ValueError: [2J]0;owned (line 1)"


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("from collections import Counter\ndef f(t): return Counter(t)", ["assert f('aab') == {'a': 2, 'b': 1}"]),
        ("from collections import namedtuple\nP = namedtuple('P', 'x y')", ["assert P(1, 2) == (1, 2)"]),
        ("def f(): return {1: 'a'}.keys()", ["assert f() == {1}"]),
        ("def f(): return 1", ["assert f() == True", "assert f() is not True", "assert f() != 2", "assert 1 == f()"]),
        ("def f(): return None", ["assert f() is None", "assert None is f()", "assert not f()"]),
        ("def f(): return object()", ["assert f() != 1", "assert f() is not None", "assert f()"]),
        (
            "def f(x): return x",
            ["assert f(0.1 + 0.2) == 0.30000000000000004", "assert f(-0.0) == 0", "assert f(5j) == 5j"],
        ),
        ("def f(): return float('inf')", ["assert f() == 1e999"]),
        ("def f(): return '\\udc80'", ["assert f() == '\\udc80'"]),
        ("def f(): return -(10**300)", [f"assert f() == -1{'0' * 300}"]),
        ("def sum(a, b): return a + b", ["assert sum(2, 3) == 5"]),
        ("def f(x): x.append(1)", ["a = []\nf(a)", "assert a == [1]"]),
        ("count = 0\ndef f():\n    global count\n    count += 1", ["f()\nassert count == 1", "f()\nassert count > 1"]),
        ("def max(a, b): return a\ndef f(a, b): return max(a, b)", ["for _ in [1]:\n    assert f(1, 2) == 1"]),
        ("import math\ndef f(x): return math.sqrt(x)", ["assert math.isclose(f(2), 1.41421356, rel_tol=1e-6)"]),
        ("def f(x): return x", ["import math as m", "assert m.floor(f(2.5)) == 2", "assert f(m.pi) < 4"]),
        ("def f(x): return x", ["def helper(y):\n    return f(y)", "assert [helper(n) for n in (1, 2)] == [1, 2]"]),
        ("def f(n): return [f] * n", ["assert len(f(3)) == 3"]),
        ("class A:\n    def f(self): return self.__class__.__name__", ["assert A().f() == 'A'"]),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int'\n    y: 'list[int]'",
            ["assert P(1, [2]).y == [2]", "assert repr(P(1, [])) == 'P(x=1, y=[])'"],
        ),
        ("if __name__ == '__main__':\n    f(input())\ndef f(): return 1", ["assert f() == 1"]),
        (
            "import threading\ndef f():\n    a = []\n    t = threading.Thread(target=a.append, args=(1,))\n"
            "    t.start()\n    t.join()\n    return a",
            ["assert f() == [1]"],
        ),
        ("import asyncio\nasync def g(): return 3\ndef f(): return asyncio.run(g())", ["assert f() == 3"]),
        (
            "import concurrent.futures\ndef f():\n    with concurrent.futures.ThreadPoolExecutor() as pool:\n"
            "        return list(pool.map(abs, [-1]))",
            ["assert f() == [1]"],
        ),
        (
            "import sqlite3\ndef f(): return sqlite3.connect(':memory:').execute('select 1').fetchone()",
            ["assert f() == (1,)"],
        ),
        (
            "import hashlib, json, re, decimal, uuid, zoneinfo, ssl, lzma, bz2, csv, unittest\ndef f(): return 1",
            ["assert f() == 1"],
        ),
        (
            "def f():\n    with open('t.txt', 'w') as t: t.write('x')\n    return open('t.txt').read()",
            ["assert f() == 'x'"],
        ),
        (
            "import time\ndef f():\n    t = time.time()\n    time.sleep(0.01)\n    return time.time() > t",
            ["assert f() is True"],
        ),
        (
            "import random\nrandom.seed(1)\ndef f(): return sorted(random.sample(range(3), 3))",
            ["assert f() == [0, 1, 2]"],
        ),
        ("import signal\ndef f(): return signal.alarm(0)", ["assert f() == 0"]),
        (
            "import os\ndef f(): return os.getpid() > 0 and os.cpu_count() > 0 and bool(os.urandom(1))",
            ["assert f() is True"],
        ),
        (
            "def f(): return {(1, 2): {3}, 'k': [frozenset([4]), b'5', None]}",
            ["assert f()['k'][1:] == [b'5', None]", "assert f()[1, 2] == {3}"],
        ),
    ],
)
def test_ordinary_python_passes(sandbox, code, tests):
    told = verdict(sandbox, code, *tests)
    assert told.passed, told


HUMAN = '''

METADATA = {'author': 'nobody'}


def check(candidate):
    """Some text."""
    assert candidate(1) == 2
    assert candidate(-1) == 0, "Test 2"
'''


def test_a_block_with_a_check_function(sandbox):
    right, wrong = "def inc(x): return x + 1", "def inc(x): return 2"
    assert verdict(sandbox, right, HUMAN + "\ncheck(inc)").passed
    told = verdict(sandbox, wrong, HUMAN + "\ncheck(inc)")
    assert (told.cause, told.detail) == ("wrong answer", "inc(-1) gave 2, expected == 0")


@pytest.mark.parametrize("tests", [(), ("",), ("# assert f() == 2",), ("f()",), ("x = 1",), (HUMAN,)])
def test_no_test_is_a_failure(sandbox, tests):
    assert verdict(sandbox, "def f(): return 1", *tests).cause == "no tests ran"


def test_a_timeout_ends_a_program_and_leaves_the_next_alone():
    with Sandbox(seconds=0.5) as sandbox:
        began = time.monotonic()
        told = sandbox.run([Program("import time\ntime.sleep(1000)", ("assert f() == 1",))])[0]
        assert told.cause == "timeout"
        assert told.detail == "no verdict after 0.5 s"
        assert time.monotonic() - began < 8


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a way to hold processes to one core")
def test_a_busy_machine_costs_no_verdict():
    """Twelve programs of 0.25 s share one core for 3 s: longer than any of them has, but for the waiting."""
    code = "import time\nend = time.process_time() + 0.25\nwhile time.process_time() < end: pass\n" + ADD.code
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with Sandbox(seconds=2.0) as sandbox:
            told = sandbox.run([Program(code, ADD.tests)] * 12, workers=12)
    finally:
        os.sched_setaffinity(0, cores)
    assert [verdict.cause for verdict in told] == ["passed"] * 12
    assert max(verdict.seconds for verdict in told) > 2.0


def test_order_is_kept_whatever_the_workers(sandbox):
    programs = [Program(f"def f(): return {n}", (f"assert f() == {n if n % 3 else -1}",)) for n in range(30)]
    for workers in (1, 2, 5):
        assert [told.passed for told in sandbox.run(programs, workers)] == [n % 3 > 0 for n in range(30)]
    assert sandbox.run([]) == []


def test_sets_have_one_order_in_every_run(sandbox):
    code = "def f(): return ''.join(set('abcdefghij'))"
    answer = verdict(sandbox, code, "assert f() == ''").detail
    assert [verdict(sandbox, code, "assert f() == ''").detail for _ in range(3)] == [answer] * 3


def test_threads_of_the_caller_do_no_harm():
    stop, spinning = threading.Event(), []
    for _ in range(3):
        spinning.append(threading.Thread(target=stop.wait))
        spinning[-1].start()
    told = []

    def use():
        with Sandbox(seconds=20.0) as sandbox:
            told.extend(sandbox.run([ADD] * 4))

    user = threading.Thread(target=use)
    user.start()
    user.join()
    stop.set()
    assert [verdict.passed for verdict in told] == [True] * 4


HUNG = "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()\ntime.sleep(1e6)"


@pytest.mark.parametrize("tier", ["full", "no-namespaces"])
def test_nothing_is_left_behind(tier, monkeypatch, tmp_path):
    monkeypatch.setattr(tiers, "candidates", lambda: (tier,))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o755)
    hung = Program(HUNG, ("assert 1 == f()",))
    processes, files = children(), open_files()
    with Sandbox(seconds=0.7) as sandbox:
        assert [told.cause for told in sandbox.run([hung, hung, hung], workers=3)] == ["timeout"] * 3
        assert children() - processes
    assert children() - processes == set()
    assert list(tmp_path.iterdir()) == []
    assert open_files() == files
    assert sandbox.tier == tier
    with pytest.raises(AssertionError, match="enter the sandbox first"):
        sandbox.run([ADD])


def test_a_server_that_dies_is_started_again(sandbox):
    killer = threading.Timer(0.3, lambda: sandbox._link._process.kill())
    killer.start()
    slow = Program("import time\ntime.sleep(1)\n" + ADD.code, ADD.tests)
    told = sandbox.run([slow, ADD, slow, slow], workers=2)
    killer.join()
    assert [verdict.passed for verdict in told] == [True] * 4
    assert sandbox.run([ADD])[0].passed


def test_who_takes_the_server_down_twice_is_named(monkeypatch):
    with Sandbox(seconds=20.0) as sandbox:
        begin = type(sandbox._link)._begin

        def deadly(link, trial, floor):
            begin(link, trial, floor)
            if b"deadly" in trial.outgoing:
                link._process.kill()
                link._process.wait()

        monkeypatch.setattr(type(sandbox._link), "_begin", deadly)
        # It is still at work when its server ends, however late this machine lets the processes die.
        deadly_program = Program("import time\ntime.sleep(15)\ndeadly = 1", ("assert f() == 1",))
        told = sandbox.run([ADD, deadly_program, ADD])
        assert [verdict.cause for verdict in told] == ["passed", "forbidden", "passed"]
        assert told[1].detail == "the program took the server of the sandbox down with it"


_WAITING = """
import sys
from luthier.evaluate.sandbox import Program, Sandbox, tiers
tiers.candidates = lambda: (sys.argv[1],)
with Sandbox(seconds=60.0) as sandbox:
    print("ready", flush=True)
    sandbox.run([Program("import time\\ntime.sleep(1000)", ("assert f() == 1",))] * 2)
"""


@pytest.mark.parametrize("tier", ["full", "no-namespaces"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_luthier_is_the_end_of_all(how, tier, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITING, tier],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment(), "TMPDIR": str(tmp_path)},
        cwd=ROOT,
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        least = 3 + (tier == "full")
        family = wait_for(
            lambda: psutil.Process(process.pid).children(recursive=True), lambda found: len(found) >= least
        )
        assert len(family) >= least
        process.send_signal(how)
    assert wait_for(lambda: [child for child in family if alive(child)], lambda left: not left) == []
    assert wait_for(lambda: list(tmp_path.iterdir()), lambda left: not left) == []


def alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(look, enough, seconds=20.0):
    until = time.monotonic() + seconds
    while not enough(seen := look()) and time.monotonic() < until:
        time.sleep(0.02)
    return seen
