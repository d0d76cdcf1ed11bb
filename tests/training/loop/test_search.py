"""Search: R20's ranges, one total over resumes, processes and kills, stored failures, the best score."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
import zlib
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_edge.errors import InputError, OutputError
from tests.builders.damage import DAMAGES
from tests.builders.two_processes import MeanTask
from training.loop.fit import fit
from training.loop.plan import Plan
from training.loop.search import Kind, SearchPlan, SearchResult, Trial, search
from training.models import NetworkSpec, build

PLAN = SearchPlan(trials=5)


def _search(folder: Path, trials: int = 5, *, kind: Kind = "pretrained", score_of=lambda t: t.momentum) -> SearchResult:
    return search(score_of, replace(PLAN, trials=trials), kind, study="s", folder=folder, seed=1)


def _work(folder: Path, name: str, plan: SearchPlan, slow_s: float, results: Connection) -> None:
    """Search as on another machine: write a line to `tried` for every trial, which takes `slow_s`."""

    def score_of(trial: Trial) -> float:
        with (folder / "tried").open("a") as out:
            out.write(f"{name} {trial.number} {trial.momentum}\n")
        time.sleep(slow_s)
        return trial.momentum

    results.send(search(score_of, plan, "pretrained", study="s", folder=folder, seed=1))


class _Worker:
    """A separate search process; forked, since it does not compute with torch and imports take seconds."""

    def __init__(self, folder: Path, name: str, trials: int, slow_s: float) -> None:
        processes = multiprocessing.get_context("fork")
        self._answer, theirs = processes.Pipe(duplex=False)
        plan = replace(PLAN, trials=trials)
        self.process = processes.Process(target=_work, args=(folder, name, plan, slow_s, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def found(self) -> SearchResult:
        found = self._answer.recv() if self._answer.poll(30) else None
        self.process.join(30)
        assert self.process.exitcode == 0
        return found

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(30)


def _tried(folder: Path) -> list[list[str]]:
    file = folder / "tried"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def _wait_for_a_trial(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while not _tried(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_values_are_in_the_ranges_of_the_paper(tmp_path: Path) -> None:
    found = _search(tmp_path, 40)
    trials = [f.trial for f in found.finished]
    assert [t.number for t in trials] == list(range(40))
    assert all(0.85 <= t.momentum <= 0.99 for t in trials)
    for name, low, high in (("learning_rate", 1e-9, 1e-2), ("weight_decay", 1e-10, 1e-3)):
        logs = [math.log10(getattr(t, name)) for t in trials]
        assert all(math.log10(low) <= v <= math.log10(high) for v in logs)
        middle = (math.log10(low) + math.log10(high)) / 2
        assert 8 < sum(v < middle for v in logs) < 32, "half of the draws lie below the middle of the logarithm"
    assert len({t.momentum for t in trials}) == 40
    assert all(t.dropout is t.optimizer is t.activation is None for t in trials)


def test_the_custom_network_has_its_own_ranges(tmp_path: Path) -> None:
    found = _search(tmp_path, 30, kind="custom", score_of=lambda t: t.dropout)
    trials = [f.trial for f in found.finished]
    assert all(0.2 <= t.dropout <= 0.6 for t in trials)
    assert {t.optimizer for t in trials} == {"sgd", "adamw"}
    assert {t.activation for t in trials} == {"relu", "elu", "leaky-relu"}
    assert all(t.momentum is t.learning_rate is t.weight_decay is None for t in trials)


def test_the_best_score_wins_and_the_result_is_json(tmp_path: Path) -> None:
    found = _search(tmp_path)
    assert found.best.momentum == max(f.trial.momentum for f in found.finished)
    assert all(f.score == f.trial.momentum for f in found.finished)
    values = json.loads(json.dumps(found.as_json()))
    assert values["best"]["number"] == found.best.number
    assert len(values["finished"]) == 5
    assert values["finished"][0]["trial"]["dropout"] is None


def test_the_first_of_equal_scores_is_best(tmp_path: Path) -> None:
    assert _search(tmp_path, score_of=lambda t: 1.0).best.number == 0


def test_a_stopped_search_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _search(tmp_path, 3)
    assert len(capsys.readouterr().err.splitlines()) == 3
    calls: list[int] = []
    more = _search(tmp_path, 6, score_of=lambda t: calls.append(t.number) or t.momentum)
    assert calls == [3, 4, 5]
    assert more.finished[:3] == first.finished
    again = _search(tmp_path, 6, score_of=lambda t: pytest.fail("all are done"))
    assert again == more
    assert _search(tmp_path / "other", 6) == more, "a trial's values depend on its number only"


def test_an_interrupted_trial_is_free_at_once(tmp_path: Path) -> None:
    def interrupted(trial: Trial) -> float:
        if trial.number == 2:
            raise KeyboardInterrupt
        return trial.momentum

    with pytest.raises(KeyboardInterrupt):
        _search(tmp_path, score_of=interrupted)
    assert _search(tmp_path) == _search(tmp_path / "straight")


def test_processes_share_the_trials(tmp_path: Path) -> None:
    found = [w.found() for w in [_Worker(tmp_path, name, 12, 0.1) for name in "ab"]]
    tried = _tried(tmp_path)
    assert sorted(int(number) for _, number, _ in tried) == list(range(12)), "each once, none twice"
    assert {name for name, _, _ in tried} == {"a", "b"}, "both took part"
    assert len({momentum for _, _, momentum in tried}) == 12, "no two drew the same"
    assert found[0] == found[1] == _search(tmp_path / "alone", 12)


def test_a_killed_process_blocks_no_other(tmp_path: Path) -> None:
    killed = _Worker(tmp_path, "killed", 4, 3600.0)
    _wait_for_a_trial(tmp_path)
    killed.kill()
    calls: list[int] = []
    found = _search(tmp_path, 4, score_of=lambda t: calls.append(t.number) or t.momentum)
    assert calls == [0, 1, 2, 3], "its trial, too"
    assert found == _search(tmp_path / "straight", 4)


def test_a_slow_trial_is_not_run_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = _Worker(tmp_path, "slow", 2, 1.0)
    _wait_for_a_trial(tmp_path)
    calls: list[int] = []
    found = _search(tmp_path, 2, score_of=lambda t: calls.append(t.number) or t.momentum)
    assert calls == [1]
    assert slow.found() == found
    assert capsys.readouterr().err.count("s: waiting for other processes, which run the trials 0") == 1


def test_without_locks_the_first_result_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks two processes may run a trial: all read the result of the first to end."""
    monkeypatch.setattr("training.loop.search.try_lock", lambda file: nullcontext(True))
    first: list[SearchResult] = []

    def score_of(trial: Trial) -> float:
        first.append(_search(tmp_path, 1, score_of=lambda t: 0.5))
        return 0.9

    assert _search(tmp_path, 1, score_of=score_of) == first[0]
    assert first[0].finished[0].score == 0.5


def test_a_failed_trial_does_not_stop_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def score_of(trial: Trial) -> float:
        if trial.number == 1:
            raise RuntimeError("out of memory")
        return math.nan if trial.number == 3 else trial.momentum

    found = _search(tmp_path, score_of=score_of)
    assert [f.reason for f in found.finished] == [
        None,
        "RuntimeError: out of memory",
        None,
        "the score is nan",
        None,
    ]
    assert [f.score is None for f in found.finished] == [False, True, False, True, False]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("s: trial 1  momentum 0.")
    assert lines[1].endswith("failed: RuntimeError: out of memory")
    assert _search(tmp_path, score_of=lambda t: pytest.fail("a failure is a result")) == found


def test_a_training_that_diverges_is_a_failed_trial(tmp_path: Path) -> None:
    """With the real loop: a network with NaN weights would predict labels and get a score."""

    def score_of(trial: Trial) -> float:
        task = MeanTask()
        if trial.number == 0:
            task.loss = lambda model, batch: model(batch[0]).mean() * math.inf  # type: ignore[method-assign]
        plan = trial.plan(Plan(epochs=1, batch=4, threads=1, precision="fp32"))
        fit(task, plan, tmp_path / f"trial-{trial.number}")
        return 0.5

    found = _search(tmp_path, 2, score_of=score_of)
    assert found.best.number == 1
    assert found.finished[0].reason is not None
    assert "the loss became" in found.finished[0].reason
    assert found.finished[0].reason.endswith("in epoch 1: lower the learning rate")
    assert not (tmp_path / "trial-0" / "weights.pt").exists()


def test_a_search_with_failures_only_raises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all 5 trials of the search s failed, the first with 'the score is nan'"):
        _search(tmp_path, score_of=lambda t: math.nan)


def test_a_study_with_other_settings_raises(tmp_path: Path) -> None:
    _search(tmp_path)
    with pytest.raises(InputError, match=r"seed 1, not 2"):
        search(lambda t: 0.0, PLAN, "pretrained", study="s", folder=tmp_path, seed=2)
    with pytest.raises(InputError, match=r"kind pretrained, not custom"):
        search(lambda t: 0.0, PLAN, "custom", study="s", folder=tmp_path, seed=1)
    other = search(lambda t: 0.5, PLAN, "custom", study="another", folder=tmp_path, seed=2)
    assert other.best.number == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trials": 0}, "1 or more trials"),
        ({"learning_rate": (0.0, 1e-2)}, "range of learning_rate"),
        ({"momentum": (0.99, 0.85)}, "range of momentum"),
        ({"optimizers": ("adam",)}, "optimizers are one or more of sgd, adamw"),
        ({"activations": ()}, "activations are one or more of relu, elu, leaky-relu"),
    ],
)
def test_an_invalid_search_plan_raises(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(PLAN, **wrong)  # type: ignore[arg-type]


def test_a_database_of_version_0_1_is_refused_without_its_password() -> None:
    with pytest.raises(InputError, match=r"got a database \(postgresql\), .* give a folder") as error:
        replace(PLAN, storage="postgresql://me:secret@host/db")
    assert "secret" not in str(error.value)


def test_machines_share_a_folder(tmp_path: Path) -> None:
    plan = replace(PLAN, storage=str(tmp_path / "shared"))
    found = search(lambda t: 0.5, plan, "pretrained", study="s", folder=tmp_path / "a", seed=1)
    other = search(lambda t: pytest.fail("done"), plan, "pretrained", study="s", folder=tmp_path / "b", seed=1)
    assert found == other
    assert not (tmp_path / "a").exists()


def test_the_values_are_those_of_version_0_1(tmp_path: Path) -> None:
    """Which drew them with Optuna 5.0's RandomSampler; a range of one value takes no random number."""
    expected = [
        {"momentum": 0.862278806925168, "learning_rate": 6.203704778246163e-08, "weight_decay": 1.9539574463108904e-09},
        {"momentum": 0.9334450774803469, "learning_rate": 0.0005265567863889498, "weight_decay": 8.79331907112039e-06},
    ]
    trials = [f.trial for f in _search(tmp_path / "a", 2).finished]
    assert [{k: getattr(t, k) for k in expected[0]} for t in trials] == expected
    own = [f.trial for f in _search(tmp_path / "b", 2, kind="custom", score_of=lambda t: t.dropout).finished]
    assert [(t.dropout, t.optimizer, t.activation) for t in own] == [
        (0.23508230550048018, "sgd", "relu"),
        (0.4384145070867056, "sgd", "leaky-relu"),
    ]
    relu = replace(PLAN, trials=2, momentum=(0.9, 0.9), activations=("relu",))
    fixed = search(lambda t: 0.5, relu, "pretrained", study="s", folder=tmp_path / "c", seed=1).finished[0].trial
    rng = np.random.RandomState(np.random.SeedSequence([1, zlib.crc32(b"s"), 0]).generate_state(1)[0])
    assert fixed.momentum == 0.9
    assert fixed.learning_rate == math.exp(rng.uniform(math.log(1e-9), math.log(1e-2)))


def test_a_full_disk_is_no_result_of_a_trial(tmp_path: Path) -> None:
    def full(trial: Trial) -> float:
        raise OutputError("the disk is full")

    with pytest.raises(OutputError):
        _search(tmp_path, score_of=full)
    assert _search(tmp_path) == _search(tmp_path / "straight")


@pytest.mark.parametrize("name", ["settings.json", "trial-3.json"])
def test_a_damaged_file_of_a_search_is_named_and_made_again(name: str, tmp_path: Path) -> None:
    found, file = _search(tmp_path), tmp_path / "s" / name
    whole = file.read_bytes()
    for damage in DAMAGES.values():
        file.write_bytes(damage(whole))
        with pytest.raises(InputError, match=rf"{name} cannot be read, .*: delete it and start the same command again"):
            _search(tmp_path)
    file.unlink()
    assert _search(tmp_path) == found
    assert file.read_bytes() == whole


def test_a_trial_changes_only_its_own_values() -> None:
    base, spec = Plan(epochs=7), NetworkSpec(architecture="custom", labels=2)
    of_sgd = Trial(number=0, momentum=0.9, learning_rate=1e-3, weight_decay=1e-6)
    assert of_sgd.plan(base) == Plan(epochs=7, optimizer="sgd", momentum=0.9, learning_rate=1e-3, weight_decay=1e-6)
    assert of_sgd.network(spec) == spec
    of_custom = Trial(number=0, dropout=0.3, optimizer="adamw", activation="elu")
    assert of_custom.plan(base) == base
    assert of_custom.network(spec) == replace(spec, dropout=0.3, activation="elu")


@pytest.mark.parametrize("activation", ["relu", "elu", "leaky-relu"])
def test_the_custom_network_takes_the_activation(activation: str) -> None:
    spec = NetworkSpec(architecture="custom", labels=2, activation=activation)
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec
    network = build(spec).eval()
    with torch.no_grad():
        maps = network.trunk(torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert bool((maps == 0).any()) == (activation == "relu")


def test_other_networks_keep_relu() -> None:
    with pytest.raises(InputError, match="only the custom CNN"):
        build(NetworkSpec(architecture="plain", labels=2, activation="elu"))
    with pytest.raises(InputError, match="no activation 'tanh'"):
        build(NetworkSpec(architecture="custom", labels=2, activation="tanh"))
