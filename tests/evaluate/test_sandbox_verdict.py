"""Which part of a test goes into the sandbox, and which stays with the judge."""

from __future__ import annotations

import pytest

from luthier.evaluate.sandbox.verdict import BadTestError, read_tests


def items(*tests):
    return [(item.source, item.sign, item.literal) for item in read_tests(tests)]


@pytest.mark.parametrize(
    ("test", "source", "sign", "literal"),
    [
        ("assert f(3) == [1, 2]", "f(3)", "==", [1, 2]),
        ("assert [1, 2] == f(3)", "f(3)", "==", [1, 2]),
        ("assert f(3) == -1.5e3, f'told {f(3)}'", "f(3)", "==", -1500.0),
        ("assert f(3) != {'a': {1, 2}}", "f(3)", "!=", {"a": {1, 2}}),
        ("assert f(3) is None", "f(3)", "is", None),
        ("assert f(3) is not True", "f(3)", "is not", True),
        ("assert sorted(f('x'))[0] == b'\\x00'", "sorted(f('x'))[0]", "==", b"\x00"),
        ("assert (f(x) for x in [1]) == 1 + 2j", "(f(x) for x in [1])", "==", 1 + 2j),
        ("  assert f() == 1\r\n", "f()", "==", 1),
    ],
)
def test_a_literal_stays_with_the_judge(test, source, sign, literal):
    assert items(test) == [(source, sign, literal)]


@pytest.mark.parametrize(
    "test",
    [
        "assert f(1)",
        "assert not f(1)",
        "assert f(1) == g(2)",
        "assert f(1) == [g(2)]",
        "assert 1 < f(1) < 3",
        "assert f(1) == f(2) == 3",
        "assert f(1) in (1, 2)",
        "assert f(1) is 1000",
        "assert 1 == 1",
        "assert abs(f(1) - 2) < 0.01",
        "with open('x') as file:\n    assert file.read() == 'y'",
    ],
)
def test_all_else_runs_beside_the_program(test):
    assert items(test) == [(test, "", None)]


def test_statements_before_an_assert_run_before_it():
    assert items("import math", "a = 1\nb = 2\nassert f(a) == 3\nc = f(b)\nassert c > 1\nassert c < 9\nf(c)") == [
        ("import math\na = 1\nb = 2", "", None),
        ("f(a)", "==", 3),
        ("c = f(b)\nassert c > 1", "", None),
        ("assert c < 9", "", None),
        ("f(c)", "", None),
    ]


CHECK = 'M = 1\ndef check(candidate):\n    """Text."""\n    assert candidate(1) == 2\n    assert candidate([3])\n'


def test_a_check_function_that_only_asserts_is_unrolled():
    expected = [("M = 1", "", None), ("add(1)", "==", 2), ("assert add([3])", "", None)]
    assert items(CHECK + "check(add)") == expected
    assert items(CHECK, "check(add)") == expected


@pytest.mark.parametrize(
    "test",
    [
        CHECK.replace('"""Text."""', "x = 1") + "check(add)",
        CHECK.replace("candidate(1)", "[candidate(y) for y in [1]]") + "check(add)",
        CHECK.replace("(candidate)", "(candidate, more=1)") + "check(add)",
        CHECK + "check(lambda x: x)",
        CHECK + CHECK + "check(add)",
        CHECK + "check(add)\nfor g in [add]:\n    check(g)",
    ],
)
def test_other_check_functions_run_as_they_are(test):
    assert all(not sign for _, sign, _ in items(test))
    assert "def check" in read_tests([test])[0].source


@pytest.mark.parametrize(
    "tests", [[], [""], ["f(1)"], ["import math"], [CHECK], ["class T:\n    def t(self):\n        assert 1"]]
)
def test_what_cannot_fail_is_no_test(tests):
    assert read_tests(tests) == ()


@pytest.mark.parametrize("test", ["assert", "assert f( == 1", "\0", "(" * 500 + ")" * 500])
def test_what_is_not_python_is_said(test):
    with pytest.raises(BadTestError, match="test 2: "):
        read_tests(["assert f() == 1", test])


def test_tests_that_are_nested_deep_are_said_or_read():
    deep = "assert f() == " + "-" * 5000 + "1"
    with pytest.raises(BadTestError):
        read_tests([deep])


def test_values_that_are_not_plain_differ_from_every_literal():
    equal, differ = read_tests(["assert f() == 1", "assert f() != 1"])
    assert not equal.holds_for_other()
    assert differ.holds_for_other()


def test_a_contradiction_is_short():
    (item,) = read_tests(["assert f() == 7"])
    assert item.contradiction(8) == "f() gave 8, expected == 7"
    assert len(item.contradiction("x" * 10**6)) < 300
    assert item.contradiction(10**5000) == "f() gave an integer of thousands of digits, expected == 7"
