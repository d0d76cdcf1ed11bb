"""Search by several processes, some of which die: their trials are run again once, by another process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest

from training.loop.search import SearchPlan, SearchResult, Trial, search
from training.recipes.r20 import stages

PLAN = SearchPlan(trials=4)


def _search(folder: Path, *, study: str = "s", **changes: object) -> SearchResult:
    plan = SearchPlan(**{"trials": 4, **changes})  # type: ignore[arg-type]
    return search(lambda t: t.momentum or 0.0, plan, "pretrained", study=study, folder=folder, seed=1)


def _work(folder: Path, name: str, plan: SearchPlan, slow_s: float, results: Connection) -> None:
    """Search as on another machine: write a line to `tried` for every trial, which takes `slow_s`."""

    def score_of(trial: Trial) -> float:
        with (folder / "tried").open("a") as lines:
            lines.write(f"{name} {trial.number}\n")
        time.sleep(slow_s)
        return trial.momentum or 0.0

    results.send(search(score_of, plan, "pretrained", study="s", folder=folder, seed=1))


def _start(folder: Path, name: str, plan: SearchPlan, slow_s: float) -> tuple[BaseProcess, Connection]:
    """Start a forked search process: it does not compute with torch, and imports take seconds."""
    processes = multiprocessing.get_context("fork")
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=_work, args=(folder, name, plan, slow_s, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _tried(folder: Path) -> list[list[str]]:
    file = folder / "tried"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def _wait_until(what: object) -> None:
    deadline = time.monotonic() + 60
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_dead_processs_trial_is_run_by_one_of_two_others(tmp_path: Path) -> None:
    dying, _ = _start(tmp_path, "dead", PLAN, 3600.0)
    _wait_until(lambda: _tried(tmp_path))
    os.kill(dying.pid, signal.SIGKILL)  # type: ignore[arg-type]
    dying.join(30)
    others = [_start(tmp_path, name, PLAN, 0.2) for name in "ab"]
    found = [answer.recv() if answer.poll(60) else None for _, answer in others]
    assert found[0] == found[1] == _search(tmp_path / "alone")
    tried = _tried(tmp_path)
    assert tried[0] == ["dead", "0"]
    assert sorted(int(number) for _, number in tried[1:]) == [0, 1, 2, 3], "each once, the dead process's too"
    for process, _ in others:
        process.join(30)


def test_networks_sample_different_points(tmp_path: Path) -> None:
    """One search per network on the same storage: vgg16's first trial is not vgg19's."""
    points = [
        {(f.trial.momentum, f.trial.learning_rate) for f in _search(tmp_path, study=study).finished}
        for study in ("r20-vgg16", "r20-vgg19", "r20-vgg16")
    ]
    assert points[0] == points[2]
    assert not points[0] & points[1]


def test_two_processes_in_one_trial_have_separate_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks: the first to end deletes only its own files."""
    task = SimpleNamespace(score=lambda network: {"score": 0.5})
    run = SimpleNamespace(
        out=tmp_path,
        config=SimpleNamespace(modality=None, modality_sources=(), search=PLAN),
        init_member=lambda *_: (None, None),
        modality_target=None,
        task=lambda *_: task,
    )
    inside: list[Path] = []

    def fit(_: object, plan: object, folder: Path, **__: object) -> Path:
        inside.append(folder)
        folder.mkdir(exist_ok=True)
        (folder / "last.pt").touch()
        if len(inside) == 1:
            assert stages._trial_score(run, "vgg16", 1, Trial(number=0)) == 0.5  # type: ignore[arg-type]
        assert (folder / "last.pt").exists()
        return folder / "weights.pt"

    monkeypatch.setattr(stages, "fit", fit)
    monkeypatch.setattr(stages, "load_weights", lambda network, file: network)
    monkeypatch.setattr(stages, "_own_plan", lambda *_: SimpleNamespace(seed=1))
    monkeypatch.setattr(stages, "replace", lambda plan, **_: plan)
    monkeypatch.setattr(Trial, "plan", lambda trial, base: base)
    assert stages._trial_score(run, "vgg16", 1, Trial(number=0)) == 0.5  # type: ignore[arg-type]
    assert len(set(inside)) == 2
    assert not any(folder.exists() for folder in inside)
