"""Programs that abuse the sandbox or try to pass without being right: each must fail, with a cause among those named.

Run by `sandbox_storm`. `ANSWER` is a number that no program can compute and that its judge alone knows.
"""

ANSWER = 918273645546372819
EXPECT = (f"assert f() == {ANSWER}",)
GENERAL = ("assert f() > 5 and f() < 6",)
ANY = frozenset()

# name: (code, tests, causes; none named: any but passed)
SLOW = {
    "loop for ever": ("while True: pass", EXPECT, {"timeout"}),
    "sleep for ever": ("import time; time.sleep(1e6)", EXPECT, {"timeout"}),
    "sleep in the test": ("import time\ndef f(): time.sleep(1e6)", EXPECT, {"timeout"}),
    "refuse to end": (
        "import signal, time\n"
        "for n in range(1, 65):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "while True:\n"
        "    try: time.sleep(1e6)\n"
        "    except BaseException: pass",
        EXPECT,
        {"timeout"},
    ),
    "print for ever": ("while True: print('x' * 100000)", EXPECT, {"timeout"}),
    "a lock for ever": ("import threading; l = threading.Lock(); l.acquire(); l.acquire()", EXPECT, {"timeout"}),
    "threads for ever": (
        "import threading, time\n"
        "for _ in range(8): threading.Thread(target=time.sleep, args=(1e6,)).start()\n"
        "def f(): threading.Event().wait()",
        EXPECT,
        {"timeout"},
    ),
    "stop itself": (
        "import os, signal, time; os.kill(os.getpid(), signal.SIGSTOP); time.sleep(1e6)",
        EXPECT,
        {"timeout"},
    ),
    "hang up and stay": ("import os, time; os.close(3); time.sleep(1e6)", EXPECT, {"timeout"}),
    "steal the questions": ("import os\nwhile os.read(3, 100): pass\n", EXPECT, {"timeout"}),
}

END = {
    "exit at once": ("import os; os._exit(0)", EXPECT, {"exception"}),
    "exit in the test": ("import os\ndef f(): os._exit(0)", EXPECT, {"exception"}),
    "exit politely": ("import sys; sys.exit(0)", EXPECT, {"exception"}),
    "exit politely in the test": ("import sys\ndef f(): sys.exit(0)", EXPECT, {"exception"}),
    "exit from a thread": (
        "import os, threading, time; threading.Timer(0.05, os._exit, [0]).start(); time.sleep(5)",
        EXPECT,
        {"exception"},
    ),
    "interrupt": ("raise KeyboardInterrupt", EXPECT, {"exception"}),
    "abort": ("import os; os.abort()", EXPECT, {"exception"}),
    "segfault": ("import ctypes; ctypes.string_at(1)", EXPECT, {"exception"}),
    "kill itself": ("import os; os.kill(os.getpid(), 9)\ndef f(): return 0", EXPECT, {"memory", "wrong answer"}),
    "a signal without a name": (
        "import os; os.kill(os.getpid(), 40)\ndef f(): return 0",
        EXPECT,
        {"exception", "wrong answer"},
    ),
    "a call of another kind of machine": (
        "import ctypes, platform\n"
        "if platform.machine() != 'x86_64': raise PermissionError\n"
        "ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39))",
        EXPECT,
        {"forbidden"},
    ),
    "a call for 32 bits": (
        "import ctypes, mmap, platform\n"
        "if platform.machine() != 'x86_64': raise PermissionError\n"
        "code = bytes.fromhex('b814000000cd80c3')\n"
        "page = mmap.mmap(-1, 4096, prot=7); page.write(code)\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()",
        EXPECT,
        {"forbidden"},
    ),
    "recursion": ("def f(): return f()", EXPECT, {"exception"}),
    "recursion without a limit": (
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n def __repr__(s): return repr(s)\ndef f(): repr(A())",
        EXPECT,
        {"exception", "memory"},
    ),
    "much memory": ("def f(): return 'x' * 10**10", EXPECT, {"memory"}),
    "more and more memory": ("def f():\n a = []\n while True: a.append(bytes(1 << 20))", EXPECT, {"memory"}),
    "brackets": ("(" * 100000, EXPECT, {"syntax"}),
    "minus signs": ("x = " + "-" * 200000 + "1", EXPECT, ANY),
    "a null byte": ("x = '\0'", EXPECT, {"syntax"}),
    "half a character": ("x = '\udc80'", EXPECT, {"syntax"}),
    "no Python": ("Certainly! Here is the code:", EXPECT, {"syntax"}),
    "a program that asks": ("def f(): return int(input())", EXPECT, {"exception"}),
    "an error that cannot be told": (
        "class E(Exception):\n def __str__(self): raise self\ndef f(): raise E",
        EXPECT,
        {"exception"},
    ),
    "an error that tells too much": ("def f(): raise ValueError('x' * 10**7)", EXPECT, {"exception"}),
    "an error that speaks to the terminal": ("raise ValueError('\\x1b[2J\\x1b]0;owned\\x07')", EXPECT, {"exception"}),
    "the network": ("import socket\ndef f(): return socket.socket()", EXPECT, {"forbidden"}),
    "a process": ("import subprocess\ndef f(): return subprocess.run(['ls'])", EXPECT, {"forbidden"}),
    "no function": ("", EXPECT, {"exception"}),
    "nothing asked": ("def f(): return 1", (), {"no tests ran"}),
    "nothing that could fail": ("def f(): return 1", ("f()", "x = 1", "# assert False"), {"no tests ran"}),
    "a check that nobody calls": ("def f(): return 1", ("def check(g):\n    assert g() == 2",), {"no tests ran"}),
    "a test that is no Python": ("def f(): return 1", ("assert f( == 1",), {"syntax"}),
}

FILL = {
    "a full disk": (
        "def f():\n for n in range(100):\n  with open(f'{n}', 'wb') as file: file.write(bytes(1 << 20))",
        EXPECT,
        {"exception", "forbidden"},
    ),
    "a disk of small files": (
        "import time\ndef f():\n for n in range(200000): open(f'{n}', 'w').write('x')\n time.sleep(5)",
        EXPECT,
        {"exception", "forbidden"},
    ),
    "files that are removed but open": (
        "import os\ndef f():\n held = []\n while True:\n"
        "  held.append(open('x', 'wb')); held[-1].write(bytes(1 << 20)); held[-1].flush(); os.unlink('x')",
        EXPECT,
        {"exception", "forbidden"},
    ),
    "a file without a name": (
        "import os\ndef f():\n held = []\n while True:\n"
        "  held.append(os.open('.', os.O_TMPFILE | os.O_RDWR)); os.write(held[-1], bytes(1 << 20))",
        EXPECT,
        {"exception", "forbidden"},
    ),
}

FORGE = {
    "print that it passed": ("print('PASSED', 'OK', 0)\ndef f(): return 0", EXPECT, {"wrong answer"}),
    "always equal": (
        "class A:\n def __eq__(s, o): return True\n__hash__ = None\ndef f(): return A()",
        EXPECT,
        {"wrong answer"},
    ),
    "an int that is always equal": (
        "class A(int):\n def __eq__(s, o): return True\n __hash__ = int.__hash__\ndef f(): return A(3)",
        EXPECT,
        {"wrong answer"},
    ),
    "a str that is always equal": (
        "class A(str):\n def __eq__(s, o): return True\n __hash__ = str.__hash__\ndef f(): return A('no')",
        ("assert f() == 'yes'",),
        {"wrong answer"},
    ),
    "a list that lies": (
        "class A(list):\n def __iter__(s): return iter([1, 2])\n def __len__(s): return 2\n"
        " def __eq__(s, o): return True\ndef f(): return A([7])",
        ("assert f() == [1, 2]",),
        {"wrong answer"},
    ),
    "a dict that lies": (
        "class A(dict):\n def items(s): return {1: 2}.items()\n def __eq__(s, o): return True\ndef f(): return A()",
        ("assert f() == {1: 2}",),
        {"wrong answer"},
    ),
    "a class that says it is int": (
        "class A:\n __class__ = int\n def __int__(s): return 5\n def __eq__(s, o): return True\ndef f(): return A()",
        ("assert f() == 5",),
        {"wrong answer"},
    ),
    "a float for a text": ("def f(): return 5.0", ("assert f() == '5.0'",), {"wrong answer"}),
    "a one for True": ("def f(): return 1", ("assert f() is True",), {"wrong answer"}),
    "not None": ("def f(): return 0", ("assert f() is None",), {"wrong answer"}),
    "a tuple for a list": ("def f(): return (1, 2)", ("assert f() == [1, 2]",), {"wrong answer"}),
    "not a number": ("def f(): return float('nan')", ("assert f() == 1.0",), {"wrong answer"}),
    "a huge text": ("def f(): return 'x' * 10**8", EXPECT, {"wrong answer"}),
    "a huge number": ("def f(): return 1 << 10**8", EXPECT, {"wrong answer"}),
    "a number too long to print": ("def f(): return 10**20000", EXPECT, {"wrong answer"}),
    "a huge list": ("def f(): return [0] * 10**7", EXPECT, {"wrong answer"}),
    "a list in itself": ("def f():\n a = []\n a.append(a)\n return a", EXPECT, {"wrong answer"}),
    "a list that doubles": ("def f():\n a = []\n for _ in range(60): a = [a, a]\n return a", EXPECT, {"wrong answer"}),
    "a deep list": ("def f():\n a = []\n for _ in range(10**5): a = [a]\n return a", EXPECT, {"wrong answer"}),
    "keys that collide": ("def f(): return {n * (2**61 - 1) for n in range(1900)}", EXPECT, {"wrong answer"}),
    "too many keys": ("def f(): return set(range(50000))", EXPECT, {"wrong answer"}),
    "a generator": ("def f(): yield 1", EXPECT, {"wrong answer"}),
    "a function": ("def f(): return f", EXPECT, {"wrong answer"}),
    "look for the answer in memory": (
        "import gc, sys\n"
        "def f():\n"
        " for o in gc.get_objects():\n"
        "  for r in [o, *gc.get_referents(o)]:\n"
        "   if type(r) is int and r > 10**17 and r < 10**18 and r % 1000 == 819: return r\n"
        "   if type(r) is str and '9182' + '73645' in r: return 'seen'\n"
        " frame = sys._getframe()\n"
        " while frame:\n"
        "  for v in [*frame.f_locals.values(), *frame.f_globals.values()]:\n"
        "   if type(v) in (bytes, str, bytearray) and ('9182' + '73645') in str(v): return 'seen'\n"
        "  frame = frame.f_back",
        EXPECT,
        {"wrong answer"},
    ),
    "answer before the question": (
        "import os, struct\n"
        "def frame(k, p=b''): return k + struct.pack('<I', len(p)) + p\n"
        "os.write(3, frame(b'A') + frame(b'V', bytes(16) + b'T') + frame(b'A', bytes(16)))\n"
        "def f(): return 0",
        EXPECT,
        {"wrong answer", "forbidden"},
    ),
    "claim every statement": (
        "import os, struct\n"
        "for _ in range(5): os.write(3, b'A' + struct.pack('<I', 16) + bytes(16))\n"
        "def f(): return 0",
        GENERAL,
        {"forbidden"},
    ),
    "write to every file": (
        "import os\n"
        "for n in range(64):\n"
        "    try: os.write(n, b'A\\0\\0\\0\\0' + b'A\\x10\\0\\0\\0' + bytes(16))\n"
        "    except OSError: pass\n"
        "def f(): return 0",
        GENERAL,
        {"forbidden"},
    ),
    "a frame without an end": (
        "import os\nos.write(3, b'V\\xff\\xff\\xff\\xff')\ndef f(): return 0",
        EXPECT,
        {"forbidden"},
    ),
    "noise": ("import os\nos.write(3, os.urandom(100000))\ndef f(): return 0", EXPECT, ANY),
    "claim and exit": (
        "import os\ndef f():\n os.write(3, b'A\\x10\\0\\0\\0' + bytes(16)); os._exit(0)",
        GENERAL,
        {"forbidden"},
    ),
    "no exec": ("import builtins\nbuiltins.exec = lambda *a: None\ndef f(): return 0", GENERAL, {"wrong answer"}),
    "no compile": (
        "import builtins\nbuiltins.compile = lambda *a, **k: 'True'\ndef f(): return 0",
        GENERAL,
        {"wrong answer"},
    ),
    "no errors": ("import builtins\nbuiltins.AssertionError = int\ndef f(): return 0", GENERAL, {"wrong answer"}),
    "everything is small": (
        "def abs(x): return 0\ndef f(): return 9",
        ("assert abs(f() - 1) < 1e-6",),
        {"wrong answer"},
    ),
    "everything is small everywhere": (
        "import builtins\nbuiltins.abs = lambda x: 0\ndef f(): return 9",
        ("assert abs(f() - 1) < 1e-6",),
        {"wrong answer"},
    ),
    "everything is close": (
        "import math\nmath.isclose = lambda *a, **k: True\ndef f(): return 9",
        ("import math\nassert math.isclose(f(), 1.0)",),
        {"wrong answer"},
    ),
    "another math": (
        "import sys, types\nm = types.ModuleType('math'); m.isclose = lambda *a, **k: True; sys.modules['math'] = m\n"
        "def f(): return 9",
        ("import math\nassert math.isclose(f(), 1.0)",),
        {"wrong answer"},
    ),
    "all is any": (
        "def all(x): return True\ndef f(): return 9",
        ("assert all(f() == n for n in (1, 2))",),
        {"wrong answer"},
    ),
    "jump over the test": (
        "import sys\n"
        "def trace(frame, event, arg):\n"
        " if frame.f_code.co_filename == '<test>': raise SystemExit\n"
        " return trace\n"
        "sys.settrace(trace)\ndef f(): return 0",
        GENERAL,
        {"wrong answer"},
    ),
    "a check that is replaced": (
        "def check(g): pass\ndef f(): return 0",
        ("def check(g):\n    for _ in range(2):\n        assert g() == 1\ncheck(f)",),
        {"wrong answer"},
    ),
    "the program's name": ("import sys; sys.modules.clear()\ndef f(): return 0", EXPECT, {"wrong answer"}),
}

ABUSES = {**END, **FILL, **FORGE}
