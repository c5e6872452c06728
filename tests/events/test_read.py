import json

from luthier.events.read import read
from luthier.events.record import to_record
from luthier.events.sinks.jsonl import JsonlSink
from luthier.events.types import Log, Notice, Resumed, RunStarted
from tests.events.stream import evaluated, finished, log, started, whole_run


def write_attempts(path, *attempts):
    for attempt in attempts:
        sink = JsonlSink(path)
        for event in attempt:
            sink.write(event)
        sink.close()


def steps(path):
    return [event.step for event, _ in read(path) if isinstance(event, Log)]


def test_a_file_comes_back_whole(tmp_path):
    path = tmp_path / "events.jsonl"
    write_attempts(path, whole_run())
    assert [repr(event) for event, _ in read(path)] == [repr(event) for event in whole_run()]  # nan is not itself


def test_steps_that_were_taken_again_are_told_once(tmp_path):
    path = tmp_path / "events.jsonl"
    first = [started(), *(log(step, 9.0) for step in (10, 20, 30, 40)), evaluated(40, 9.0)]
    second = [started(20), Resumed(step=20, path="checkpoint-20"), log(30, 1.0), log(40, 1.0)]
    third = [started(30), log(40, 0.5), finished()]
    write_attempts(path, first, second, third)
    told = [event for event, _ in read(path)]
    assert [(event.step, event.loss) for event in told if isinstance(event, Log)] == [
        (10, 9.0),
        (20, 9.0),
        (30, 1.0),
        (40, 0.5),
    ]
    assert evaluated(40, 9.0) not in told
    assert sum(isinstance(event, RunStarted) for event in told) == 3


def test_a_run_that_goes_back_takes_its_own_steps_again(tmp_path):
    path = tmp_path / "events.jsonl"
    bad = [started(), *(log(step, 9.0) for step in (10, 20, 30)), evaluated(30, 9.0)]
    write_attempts(path, [*bad, Resumed(20, "checkpoint-20"), log(30, 1.0)])
    told = [event for event, _ in read(path)]
    assert [(event.step, event.loss) for event in told if isinstance(event, Log)] == [(10, 9.0), (20, 9.0), (30, 1.0)]
    assert evaluated(30, 9.0) not in told


def test_a_run_from_the_start_replaces_everything(tmp_path):
    path = tmp_path / "events.jsonl"
    write_attempts(path, [started(), log(10), finished()], [started(), log(20)])
    assert [event for event, _ in read(path)] == [started(), log(20)]


def test_what_an_attempt_says_before_it_starts_stays(tmp_path):
    path = tmp_path / "events.jsonl"
    warning = Notice(severity="warning", text="a key has no effect")
    write_attempts(path, [started(), log(10)], [warning, started(), log(20)])
    assert [event for event, _ in read(path)] == [warning, started(), log(20)]


def test_junk_and_a_torn_end_are_passed_over(tmp_path):
    path = tmp_path / "events.jsonl"
    line = json.dumps(to_record(log(10), time=1.0, attempt="a")).encode()
    junk = [
        b"",
        b"\xff\xfe",
        b"[1]",
        b'"log"',
        b"{}",
        b"[" * 100_000,
        b'{"event": 3}',
        b'{"step": 9' + b"9" * 5000 + b"}",
    ]
    path.write_bytes(b"\n".join([line, *junk, line]) + b"\n" + line[:20])
    assert steps(path) == [10, 10]
    path.write_bytes(line)
    assert steps(path) == [10]
