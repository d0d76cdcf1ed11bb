"""Trainings in processes of their own: several at a time, messages and logs, failures, and the end of a parent."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cxr_edge.errors import BackendError, CxrEdgeError, InputError
from training.recipes.own import jobs
from training.recipes.own.jobs import Job, run_jobs

WORKER = "tests.doubles.own_worker"


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_WORKER", WORKER)


def _run(names: Sequence[str], out: Path, processes: int = 2) -> None:
    made = [Job(name=name) for name in names]
    run_jobs(
        made, out, processes=processes, threads=1, minutes=3.0, here=lambda job: (out / f"{job.name}.here").touch()
    )


def test_all_jobs_run_and_their_messages_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(["a", "b", "c"], tmp_path)
    assert sorted(p.stem for p in tmp_path.glob("*.done")) == ["a", "b", "c"]
    assert (tmp_path / "log" / "b.txt").read_text() == "b, folder: epoch 1/1  loss 0.5\n"
    error = capsys.readouterr().err
    assert "b: epoch 1/1  loss 0.5\n" in error
    assert "done; 3 of 3 trainings, about 0.0 min left of this stage" in error
    assert "done; 1 of 3 trainings, about 2.0 min left of this stage" in error


def test_one_process_trains_here(tmp_path: Path) -> None:
    _run(["a", "b"], tmp_path, processes=1)
    assert sorted(p.stem for p in tmp_path.glob("*.here")) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("invalid", InputError, "invalid: the canvases are missing: run the stages in order"),
        ("defect", BackendError, "the training of defect ended with status 7: its messages are in"),
    ],
)
def test_a_failure_ends_the_others(name: str, kind: type[CxrEdgeError], message: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(kind, match=message):
        _run(["endless", name, "never"], tmp_path)
    assert time.monotonic() - begin < 60, "the other process was ended, not waited for"
    assert not (tmp_path / "endless.done").exists()
    assert not (tmp_path / "never.done").exists()


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-m", WORKER, str(tmp_path), "--name", "endless"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        assert worker.stdin is not None
        while not (tmp_path / "endless.started").exists():
            assert worker.poll() is None
            time.sleep(0.02)
        worker.stdin.close()  # as the kernel does when the parent is killed
        assert worker.wait(timeout=30) == 1


def test_titles() -> None:
    assert Job(name="plain", fold="1-Mill").title == "plain without 1-Mill"
    assert Job(name="lite0", candidate="plain").arguments == ["--name", "lite0", "--fold", "", "--candidate", "plain"]
