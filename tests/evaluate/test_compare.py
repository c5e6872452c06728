"""Two models on the same tasks: what changed, and the sentence about it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from luthier.evaluate.compare import compare, corrected, record
from luthier.evaluate.page import page
from luthier.evaluate.sandbox import Verdict
from luthier.evaluate.score import Outcome, Scores, Settings
from luthier.evaluate.screen import PLAIN_WIDTH, show, show_summary, telling
from luthier.evaluate.statistics import mcnemar, newcombe, wilson
from luthier.evaluate.tasks import Task, TaskSet, spread
from luthier.events.console import open_console

TASKS = tuple(Task(f"t{i}", "odd" if i % 2 else "even", f"Write f{i}", ("assert f()",)) for i in range(20))


def scores(passed, answer="def f():\n    return 1"):
    """A model that passes these tasks and no others."""
    verdicts = {True: Verdict(True, "passed", "", 0.1), False: Verdict(False, "wrong answer", "", 0.1)}
    outcomes = tuple(Outcome(t.task_id, t.split, answer, verdicts[t.task_id in passed]) for t in TASKS)
    return Scores(outcomes, "full", Settings(), 1.0, 2.0)


def names(*numbers):
    return {f"t{n}" for n in numbers}


SET = TaskSet("quickstart", TASKS)
NAMES = (SET, "runs/a", "small", "float32")
BETTER = compare(scores(names(0, 1)), scores(names(0, *range(2, 12))), *NAMES)
WORSE = compare(scores(names(*range(10))), scores(names(0, 1)), *NAMES)
SAME = compare(scores(names(0, 1, 2)), scores(names(1, 2, 3)), *NAMES)


def test_gained_lost_and_the_numbers_beside_them():
    change = BETTER.overall
    assert change.gained == tuple(f"t{i}" for i in range(2, 12)) and change.lost == ("t1",)
    assert (change.base.share, change.tuned.share) == (0.1, 0.55)
    assert (change.base.low, change.base.high) == wilson(2, 20)
    assert change.difference == pytest.approx(0.45)
    both = round(20 * change.base.share) - 1
    assert (change.low, change.high) == newcombe(both, 10, 1, 9 - both)
    assert change.p == mcnemar(10, 1) < 0.05
    assert change.better and not change.worse


def test_each_split_by_itself():
    even, odd = BETTER.splits
    assert (even.split, even.base.tasks, odd.split, odd.base.tasks) == ("even", 10, "odd", 10)
    assert even.gained == ("t2", "t4", "t6", "t8", "t10") and even.lost == ()
    assert odd.lost == ("t1",)
    assert even.p == mcnemar(5, 0)


def test_worse_is_said_only_when_it_is_significant():
    assert WORSE.overall.worse and not WORSE.overall.better
    slightly = compare(scores(names(*range(5))), scores(names()), SET)
    assert slightly.overall.p == mcnemar(0, 5) > 0.05
    assert not slightly.overall.worse and not SAME.overall.worse and not SAME.overall.better


def test_the_verdict_has_every_number_once():
    text = BETTER.verdict
    assert text.startswith(
        "On 20 tasks (quickstart; greedy, one answer a task, asked in its chat template, judged by running it), "
        "fine-tuning raised"
    )
    assert "from 10.0% (95 % CI 2.8% to 30.1%) to 55.0% (95 % CI 34.2% to 74.2%): +45.0 points" in text
    assert "exact McNemar p = 0.012, 10 tasks gained, 1 lost" in text
    assert "fine-tuning lowered pass@1" in WORSE.verdict
    assert "no effect of fine-tuning on pass@1 was shown" in SAME.verdict and "+0.0 points" in SAME.verdict
    assert "p < 0.001" in compare(scores(names()), scores(names(*range(20))), SET).verdict


def of_first(count, before, after):
    """Two models on the first tasks alone."""
    base, tuned = (scores(passed) for passed in (before, after))
    few = (replace(one, outcomes=one.outcomes[:count]) for one in (base, tuned))
    return compare(*few, TaskSet("few", TASKS[:count]))


def test_so_few_tasks_that_none_could_show_an_effect_are_not_called_no_effect():
    five = of_first(5, names(), names(*range(5)))
    assert five.overall.low > 0 and five.overall.p == 0.0625
    assert five.conclusion == "too few tasks" and "no effect" not in five.verdict
    assert five.verdict.startswith("On 5 tasks (few; ") and "too few to show any effect of fine-tuning" in five.verdict
    assert five.verdict.endswith("p below 0.05 takes at least 6 tasks that change, all in one direction: ask more.")
    six = of_first(6, names(), names(*range(6)))
    assert six.conclusion == "better" and six.verdict.endswith("lost).")
    assert of_first(6, names(), names()).conclusion == "no effect shown", "six that change would have shown one"


def test_beside_other_comparisons_it_takes_more_tasks_where_they_show_nothing():
    six = of_first(6, names(), names(*range(6)))
    with_none = corrected([six, SAME])[0]
    assert with_none.conclusion == "too few tasks" and "takes at least 7 tasks" in with_none.verdict
    with_some = corrected([six, compare(scores(names()), scores(names(*range(20))), *NAMES)])[0]
    assert with_some.conclusion == "better" and with_some.needed == 6


def test_an_interval_without_0_beside_a_p_that_decides_otherwise_is_explained():
    few_changed = of_first(20, names(), names(*range(5)))
    assert few_changed.overall.low > 0 and few_changed.conclusion == "no effect shown"
    assert few_changed.verdict.endswith("p below 0.05, which decides, takes at least 6 tasks that change, all in one "
                                        "direction.")  # fmt: skip
    uneven = of_first(20, names(0, 1), names(*range(2, 11)))
    assert uneven.overall.low > 0 and uneven.overall.p > 0.05
    assert "The interval leaves out 0, but p decides, the stricter of the two" in uneven.verdict
    plain = of_first(20, names(*range(8)), names(*range(4, 13)))
    assert plain.overall.low < 0 < plain.overall.high and plain.verdict.endswith("4 lost).")


def test_a_limit_keeps_the_share_of_each_split():
    tasks = [Task(str(i), "a" if i < 60 else "b", "x", ("assert f()",)) for i in range(90)]
    few = spread(tasks, 30)
    assert [sum(t.split == split for t in few) for split in "ab"] == [20, 10]
    assert few == spread(tasks, 30) and spread(tasks, None) == spread(tasks, 500) == tuple(tasks)


def test_several_comparisons_have_a_line_each(tmp_path):
    with (tmp_path / "out").open("w") as file:
        show_summary(open_console(Console(file=file), plain_width=PLAIN_WIDTH), corrected([BETTER, WORSE, SAME]))
    lines = (tmp_path / "out").read_text().splitlines()
    assert [line.rstrip().rsplit("  ", 1)[-1] for line in lines[2:]] == ["better", "worse", "no effect shown"]
    assert re.search(r"^runs/a +quickstart +10.0 +55.0 +\+45.0 \(\+16 to \+66\) +0.023 ", lines[2])
    html = page(corrected([BETTER, SAME]), 0)
    assert html.index("no effect shown") < html.index("<h2>") and page([BETTER], 0).index("<table>") > 0


# Screen --------------------------------------------------------------------------------------------------------------


def shown(comparison, tmp_path, width=None, samples=3):
    """What is printed, on a terminal of a width or into a file."""
    with (tmp_path / "out").open("w") as file:
        console = Console(file=file, width=width, force_terminal=True, highlight=False) if width else Console(file=file)
        show(open_console(console, plain_width=PLAIN_WIDTH), comparison, samples)
    return (tmp_path / "out").read_text()


def test_a_file_gets_plain_lines_with_all_numbers(tmp_path):
    text = shown(BETTER, tmp_path)
    assert "\x1b" not in text and not set("━─│┃╭") & set(text)
    even = r"^even +10 +10.0 \(2 to 40\) +60.0 \(31 to 83\) +\+50.0 \(\+8 to \+75\) +5 +0 +0.062$"
    assert re.search(even, text, re.M)
    assert re.search(r"^all +20 .* 10 +1 +0.012$", text, re.M)
    assert re.search(r"^gained 10 +t2, t3, ", text, re.M) and re.search(r"^lost 1 +t1$", text, re.M)
    assert "float32, the same for both" in text
    assert re.search(r"^sandbox +full \(held all 8 attempts to get out\)$", text, re.M)
    verdict = text[text.index("On 20 tasks") :].splitlines()
    assert " ".join(verdict) == BETTER.verdict and max(map(len, verdict)) <= PLAIN_WIDTH


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_fits_the_terminal_with_every_number(tmp_path, width):
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown(BETTER, tmp_path, width)).splitlines()
    table = [line.rstrip() for line in lines if re.match(r" ?(even|odd|all) ", line)]
    assert len(table) == 3 and all(len(line) <= width for line in table)
    numbers = ["20", "10.0", "55.0", "+45.0 (+16 to +66)", "10", "1", "0.012"]
    assert re.search(" .*".join(map(re.escape, numbers)), table[-1]) and "\u2026" not in "".join(table)
    assert ("(3 to 30)" in table[-1]) == (width >= 100)


def test_lines_that_go_on_hang_below_their_text(tmp_path):
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown(BETTER, tmp_path, 50, samples=0))
    labels = {line[:9].strip() for line in text[text.index("syntax") : text.index("gained")].splitlines()}
    assert labels <= {"syntax", "base", "tuned", "weights", "asked", "general", "sandbox", ""} and "" in labels


def test_a_narrow_terminal_breaks_numbers_and_loses_none(tmp_path):
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown(BETTER, tmp_path, 50, samples=0))
    assert "\u2026" not in text and max(map(len, text.splitlines()[2:9])) <= 50


def test_shown_answers_are_a_gained_a_lost_and_an_unchanged_one(tmp_path):
    text = shown(BETTER, tmp_path)
    assert re.findall(r"^(t\d+)  Write", text, re.M) == ["t2", "t1", "t0"]
    assert re.findall(r"^(t\d+)  Write", shown(BETTER, tmp_path, samples=0), re.M) == []
    assert len(re.findall(r"^(t\d+)  Write", shown(BETTER, tmp_path, samples=99), re.M)) == 20


def test_nothing_hostile_reaches_the_terminal(tmp_path):
    evil = "\x1b]0;x\x07[bold]a[/bold]\u202eb\x9b2J"
    bad = scores(names(0), answer=evil)
    tasks = TaskSet(evil, (Task("t0", "even", f"Write {evil}", ("assert f()",)), *TASKS[1:]))
    hostile = compare(bad, bad, tasks, f"run{evil}", evil, "float32")
    text = shown(hostile, tmp_path, 100)
    assert not {"\x07", "\u202e", "\x9b"} & set(text) and "\x1b]" not in text
    assert "[bold]a[/bold]" in text
    html = page([hostile], 3)
    assert not {"\x07", "\u202e", "\x9b", "\x1b"} & set(html) and r"\u202e" in html


def test_the_page_holds_everything_and_runs_nothing():
    script = scores(names(0), answer="<script>alert(1)</script>\n\tx = '&'")
    html = page([BETTER, compare(script, script, TaskSet("<b>", TASKS), "<i>", "b", "float32")], 4)
    assert "<script" not in html and "<b>" not in html and "<i>" not in html and "&lt;script&gt;" in html
    assert "default-src &#x27;none&#x27;" in html or "default-src 'none'" in html
    assert not re.search(r"(src|href)=|@import|url\(", html)
    assert BETTER.verdict.replace("'", "&#x27;") in html and "prefers-color-scheme: dark" in html
    for words in ("+45.0 (+16 to +66)", "gained 10", "t2, t3, ", "lost 1", "Write f2", "assert f()"):
        assert words in html
    assert html.count('<div class="sides">') == 8
    for tag in ("div", "table", "tr", "td", "dl", "pre", "span", "details"):
        assert len(re.findall(rf"<{tag}[ >]", html)) == html.count(f"</{tag}>"), tag


def test_of_several_comparisons_at_once_each_needs_more():
    one, two = corrected([BETTER, SAME])
    assert one.overall.corrected == pytest.approx(2 * BETTER.overall.p) and one.overall.better
    assert two.overall.corrected == 1 and two.at_once == 2
    many = corrected([BETTER, *[SAME] * 4])
    assert many[0].overall.p < 0.05 < many[0].overall.corrected and not many[0].overall.better
    assert "with Holm's correction for 5 comparisons p = 0.059" in many[0].verdict
    assert corrected([BETTER]) == [BETTER] and corrected([]) == []


def test_progress_into_a_file_is_a_line_for_each_stage(tmp_path):
    with (tmp_path / "err").open("w") as file, telling(Console(file=file)) as say:
        say("[red]run: loading", 0, 0)
        for done in range(1, 9):
            say("run: answers", done, 8)
    lines = (tmp_path / "err").read_text().splitlines()
    assert lines == ["[red]run: loading", "run: answers 1 of 8", "run: answers 8 of 8"]


def test_the_record_holds_everything():
    content = json.loads(json.dumps(record([BETTER]), allow_nan=False))
    (one,) = content["comparisons"]
    assert one["changes"][0]["gained"] == list(BETTER.overall.gained) and one["changes"][1]["split"] == "even"
    assert one["verdict"] == BETTER.verdict
    assert len(one["base"]["outcomes"]) == len(one["tuned"]["outcomes"]) == content["tasks"][0]["count"] == 20
    assert content["tasks"][0]["asked"][0]["tests"] == ["assert f()"] and len(content["tasks"][0]["sha256"]) == 64
