"""Runs until a deadline: their order, what is late, errors, and a forked child."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

from cxr_edge.backends.base import Interruption
from cxr_edge.screening.deadline import Call, Deadline, TimedRuns


def call(name: str, seconds: float = 0.0, *, log: list[str] | None = None, heed: bool = True) -> Call[str]:
    """Return a call that takes so long, or ends early when that is requested."""

    def run(interruption: Interruption) -> str:
        if log is not None:
            log.append(f"start {name}")
        stop = threading.Event()
        interruption.on_request(stop.set)
        if heed:
            stop.wait(seconds)
        else:
            time.sleep(seconds)
        if log is not None:
            log.append(f"end {name}")
        return name.upper()

    return Call(name=name, run=run)


def test_runs_are_made_one_after_the_other() -> None:
    log: list[str] = []
    ended = TimedRuns().run([call(n, 0.01, log=log) for n in "abc"], Deadline(5_000))
    assert ended.results == {"a": "A", "b": "B", "c": "C"}
    assert log == ["start a", "end a", "start b", "end b", "start c", "end c"]
    assert (ended.errors, ended.late) == ({}, {})


def test_one_that_takes_longer_than_its_share_does_not_hold_up_the_others() -> None:
    log: list[str] = []
    ended = TimedRuns().run([call("a", 0.25, log=log), call("b", log=log), call("c", log=log)], Deadline(600))
    assert ended.results == {"a": "A", "b": "B", "c": "C"}, "it ends before the deadline, beside the others"
    assert log.index("end c") < log.index("end a")


def test_what_has_not_ended_is_late_and_its_end_is_requested() -> None:
    log: list[str] = []
    start = time.perf_counter()
    ended = TimedRuns().run([call("a", 5, log=log), call("b", log=log)], Deadline(60))
    assert time.perf_counter() - start < 0.3
    assert ended.results == {"b": "B"}
    assert ended.late == {"a": "it had not ended at the deadline"}
    wait_for(lambda: "end a" in log)


def test_a_deadline_that_has_passed_starts_nothing() -> None:
    log: list[str] = []
    ended = TimedRuns().run([call("a", log=log)], Deadline(-1))
    assert ended.late == {"a": "the deadline came before its turn"}
    assert log == []


def test_errors_are_results() -> None:
    def fail(_: Interruption) -> str:
        raise ValueError("broken")

    ended = TimedRuns().run([Call(name="a", run=fail), call("b")], Deadline(5_000))
    assert [str(e) for e in ended.errors.values()] == ["broken"]
    assert ended.results == {"b": "B"}


def test_a_run_that_does_not_end_is_the_only_one_of_its_name() -> None:
    runs = TimedRuns()
    assert runs.run([call("a", 0.2, heed=False)], Deadline(20)).late == {"a": "it had not ended at the deadline"}
    assert runs.run([call("a")], Deadline(20)).late == {"a": "its run for an earlier image has not ended yet"}
    wait_for(lambda: runs.run([call("a")], Deadline(1_000)).results == {"a": "A"})


def test_an_action_that_is_added_late_is_called_at_once() -> None:
    interruption, found = Interruption(), []
    interruption.on_request(lambda: found.append("before"))
    interruption.request()
    interruption.on_request(lambda: found.append("after"))
    interruption.request()
    assert found == ["before", "after"]


FORK = """
import os
from cxr_edge.screening.deadline import Call, Deadline, TimedRuns
def answer():
    return TimedRuns().run([Call(name="a", run=lambda _: 1)], Deadline(5000)).results
assert answer() == {"a": 1}
child = os.fork()
if child == 0:
    os._exit(0 if answer() == {"a": 1} else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_has_threads_of_its_own() -> None:
    run = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "0\n"


EXIT = """
import time
from cxr_edge.screening.deadline import Call, Deadline, TimedRuns
def slow(_):
    time.sleep(0.2)
    print("ended", flush=True)
TimedRuns().run([Call(name="a", run=slow)], Deadline(20))
"""


def test_the_end_of_the_process_waits_a_little_for_late_runs() -> None:
    run = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=60, check=True)
    assert (run.stdout, run.stderr) == ("ended\n", "")


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.perf_counter() + 2
    while not holds():
        assert time.perf_counter() < end
        time.sleep(0.005)
