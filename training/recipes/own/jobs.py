"""Trainings of a run in processes of their own: jobs in, their networks in the run folder out, several at a time.

On a CPU, processes of one thread each train faster than one process with all threads. A process ends when its parent does,
also by SIGKILL, because it waits for the end of its standard input; the same command then goes on from the last finished epochs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from cxr_edge.cli.output import print_message
from cxr_edge.errors import BackendError, InputError
from training.shared_files import write_text

__all__ = ["Job", "end_with_parent", "run_jobs"]

_WORKER = "training.recipes.own.work"
_INVALID = 2  # exit status of a worker whose inputs cannot be used


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: of a member, or of a candidate without a site."""

    name: str  # member
    fold: str = ""  # left out, of candidate `name`; empty for a member
    candidate: str = ""  # whose settings train a member

    @property
    def title(self) -> str:
        """Name in messages and of its log."""
        return f"{self.name} without {self.fold}" if self.fold else self.name

    @property
    def arguments(self) -> list[str]:
        """Arguments of the worker."""
        return ["--name", self.name, "--fold", self.fold, "--candidate", self.candidate]


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    *,
    processes: int,
    threads: int,
    minutes: float,
    here: Callable[[Job], None],
) -> None:
    """Run all jobs, `processes` at a time with `threads` threads each, and print their progress.

    minutes: that they take by the plan. here: runs a job in this process, if there is one process. Raises InputError and
    BackendError of the first job that failed; the others are ended.
    """
    progress = _Progress(len(jobs), minutes)
    if processes == 1 or len(jobs) == 1:
        for job in jobs:
            here(job)
            progress.done(job)
        return
    started = _Started()
    with ThreadPoolExecutor(processes) as pool:
        futures = {pool.submit(_run, job, out, threads, started): job for job in jobs}
        try:
            for future in as_completed(futures):
                future.result()
                progress.done(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            started.end()
            raise


class _Started:
    """Processes that run, to be ended together with those that are just being started."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self._lock, self._ended = threading.Lock(), False

    def add(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.append(process)
            if self._ended:
                process.kill()

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for process in self._processes:
                process.kill()


class _Progress:
    def __init__(self, count: int, minutes: float) -> None:
        self._count, self._minutes, self._done, self._begin = count, minutes, 0, time.monotonic()

    def done(self, job: Job) -> None:
        self._done += 1
        spent = (time.monotonic() - self._begin) / 60
        share = self._done / self._count
        left = max(0.0, (1 - share) * max(self._minutes, spent / share))
        print_message(
            f"{job.title}: done; {self._done} of {self._count} trainings, about {left:.1f} min left of this stage"
        )


def _run(job: Job, out: Path, threads: int, started: _Started) -> None:
    """Run a job in a process, repeat its messages and keep them in OUT/log."""
    command = [sys.executable, "-m", _WORKER, str(out), *job.arguments, "--threads", str(threads)]
    # A session of its own: Ctrl-C ends the parent, which ends it.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    ) as process:
        started.add(process)
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            print_message(_titled(line.rstrip("\n"), job.title))
        status = process.wait()
    log = out / "log" / f"{job.title.replace(' ', '-')}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    write_text(log, "".join(lines))
    if status == _INVALID:
        raise InputError(f"{job.title}: {lines[-1].strip() if lines else 'no message'}")
    if status:
        raise BackendError(f"the training of {job.title} ended with status {status}: its messages are in {log}")


def _titled(line: str, title: str) -> str:
    """Return a line of the training's log with the job's title in place of the folder's name."""
    _, mark, figures = line.partition(": epoch ")
    return f"{title}: epoch {figures}" if mark else line


def end_with_parent() -> None:
    """End this process, a worker, as soon as its parent has ended."""

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would be held when the interpreter ends
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
