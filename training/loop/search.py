"""Hyper-parameter search of R20: ranges and a function that scores a trial in, the best values and all scores out.

A random search, as for the paper's Table 2. The values of a trial depend only on the seed, the study (one per network) and
the trial's number, not on the machine or the time. A trial is a file of its folder once it is finished; the process that
runs it holds the file's lock, which the kernel releases with the process. So several processes, also on several machines
with one folder, share the trials, and one that a killed process held is run again by another.
"""

from __future__ import annotations

import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxr_edge.errors import InputError, OutputError
from training.loop.plan import Plan
from training.models import NetworkSpec
from training.models.custom import ACTIVATIONS
from training.parallel import world
from training.shared_files import read_json, reading, require_same_settings, try_lock, write_text

__all__ = ["FinishedTrial", "Kind", "SearchPlan", "SearchResult", "Trial", "search"]

Kind = Literal["pretrained", "custom"]


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """Size and ranges of a search; the ranges are R20's, learning rate and L2 on a logarithmic scale."""

    trials: int  # of all machines together
    epochs: int = 3  # of a trial
    momentum: tuple[float, float] = (0.85, 0.99)
    learning_rate: tuple[float, float] = (1e-9, 1e-2)
    weight_decay: tuple[float, float] = (1e-10, 1e-3)
    dropout: tuple[float, float] = (0.2, 0.6)
    optimizers: tuple[str, ...] = ("sgd", "adamw")
    activations: tuple[str, ...] = ("relu", "elu", "leaky-relu")
    storage: str | None = (
        None  # folder of the trials, which machines share; None for the search's folder in the run folder
    )

    def __post_init__(self) -> None:
        if self.trials < 1 or self.epochs < 1:
            raise InputError(f"a search has 1 or more trials and epochs, got {self.trials} and {self.epochs}")
        if self.storage is not None and "://" in self.storage:  # not printed whole: it may hold a password
            raise InputError(
                f"the search's storage is a folder that all machines share, got a database ({self.storage.partition(':')[0]}), "
                "which version 0.1 took: give a folder, or leave storage out"
            )
        highest = {"momentum": 1.0, "learning_rate": math.inf, "weight_decay": math.inf, "dropout": 1.0}
        for name, limit in highest.items():
            low, high = getattr(self, name)
            lowest_ok = low > 0 if limit == math.inf else low >= 0  # the others have a logarithmic scale
            if not (lowest_ok and low <= high < limit):
                raise InputError(f"the search's range of {name} is (low, high), low first, got {low} and {high}")
        for name, known in (("optimizers", ("sgd", "adamw")), ("activations", tuple(ACTIVATIONS))):
            values = getattr(self, name)
            if not values or not set(values) <= set(known):
                raise InputError(f"the search's {name} are one or more of {', '.join(known)}, got {values}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Hyper-parameters of one trial; None is not searched: the value of the plan or network stays."""

    number: int  # from 0, below the plan's trials
    momentum: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    dropout: float | None = None
    optimizer: str | None = None
    activation: str | None = None

    def plan(self, base: Plan) -> Plan:
        """Return `base` with the trial's values; momentum selects SGD."""
        names = ("momentum", "learning_rate", "weight_decay", "optimizer")
        values: dict[str, Any] = {n: v for n in names if (v := getattr(self, n)) is not None}
        sgd: dict[str, Any] = {"optimizer": "sgd"} if self.momentum is not None else {}
        return replace(base, **sgd, **values)

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return `spec` with the trial's values."""
        values: dict[str, Any] = {n: v for n in ("dropout", "activation") if (v := getattr(self, n)) is not None}
        return replace(spec, **values)

    def __str__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)[1:]}
        shown = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in values.items() if v is not None}
        return "  ".join([f"trial {self.number}", *(f"{k} {v}" for k, v in shown.items())])


@dataclass(frozen=True, kw_only=True)
class FinishedTrial:
    """A trial with its score, or with the reason why its training failed."""

    trial: Trial
    score: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Result of a search, the same in every process."""

    study: str
    kind: Kind
    seed: int
    best: Trial  # highest score, the first of equals
    finished: tuple[FinishedTrial, ...]  # all trials, by number

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that R20's Table 2 is written from; null is not searched."""
        return asdict(self)


def search(
    score_of: Callable[[Trial], float], plan: SearchPlan, kind: Kind, *, study: str, folder: Path, seed: int
) -> SearchResult:
    """Run trials until `plan.trials` are finished, by this process or another; all return the same result.

    score_of: score of a trial, higher is better; an exception or a non-finite score is stored as the trial's failure.
    kind: `pretrained` searches SGD's momentum, learning rate and L2; `custom` dropout, optimizer and activation.
    study: name of the folder of the trials in `folder` or the plan's storage. A stopped study resumes, with more trials if
    `plan` now has more.

    Raises InputError if all trials failed, if the study was started with another seed, kind or ranges, and under torchrun.
    """
    if world().size > 1:
        raise InputError(
            "a search does not run under torchrun: start plain processes on the same folder, each runs its own trials"
        )
    trials = _Trials(
        plan=plan, kind=kind, study=study, seed=seed, folder=(Path(plan.storage) if plan.storage else folder) / study
    )
    trials.check_settings()
    waiting = False
    while missing := trials.missing():
        if not any(trials.run(number, score_of) for number in missing):
            if not waiting:
                trials.print(f"waiting for other processes, which run the trials {', '.join(map(str, missing))}")
            waiting = True
            time.sleep(_POLL_S)
    return trials.result()


_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class _Trials:
    """The trials of a study; each is a file of `folder` once it is finished."""

    plan: SearchPlan
    kind: Kind
    study: str
    seed: int
    folder: Path

    def check_settings(self) -> None:
        """Record or compare the settings: a number determines a trial's values only if all other settings are the same."""
        given = {k: v for k, v in asdict(self.plan).items() if k not in ("trials", "storage")}
        settings = json.loads(json.dumps({"kind": self.kind, "seed": self.seed, **given}))
        file = self.folder / "settings.json"
        if file.exists():
            subject, remedy = f"the search {self.study} was started with", "use the same settings, or another name"
            require_same_settings(read_json(file), settings, subject, remedy)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(settings, indent=1) + "\n")

    def file(self, number: int) -> Path:
        return self.folder / f"trial-{number}.json"

    def missing(self) -> list[int]:
        """Return the numbers of the trials that are not finished."""
        return [number for number in range(self.plan.trials) if not self.file(number).exists()]

    def run(self, number: int, score_of: Callable[[Trial], float]) -> bool:
        """Run a trial and store its score or failure. Returns False if another process runs it."""
        with try_lock(self.file(number)) as is_locked:
            if is_locked and not self.file(number).exists():
                trial = Trial(number=number, **_sample_values(self.plan, self.kind, self.seed, self.study, number))
                finished = _finish(trial, score_of)
                result = f"score {finished.score:.4f}" if finished.reason is None else f"failed: {finished.reason}"
                if not self.file(number).exists():  # on a file system without locks another process may have been first
                    write_text(self.file(number), json.dumps(asdict(finished)) + "\n")
                self.print(f"{trial}  {result}")
            return is_locked

    def result(self) -> SearchResult:
        finished = tuple(self._read(number) for number in range(self.plan.trials))
        scored = [f for f in finished if f.score is not None]
        if not scored:
            raise InputError(
                f"all {len(finished)} trials of the search {self.study} failed, the first with {finished[0].reason!r}: "
                f"fix the cause and give the search another name"
            )
        best = max(scored, key=lambda f: (f.score, -f.trial.number))
        return SearchResult(study=self.study, kind=self.kind, seed=self.seed, best=best.trial, finished=finished)

    def _read(self, number: int) -> FinishedTrial:
        values = read_json(self.file(number))
        with reading(self.file(number)):
            return FinishedTrial(**{**values, "trial": Trial(**values["trial"])})

    def print(self, line: str) -> None:
        print(f"{self.study}: {line}", file=sys.stderr, flush=True)


def _finish(trial: Trial, score_of: Callable[[Trial], float]) -> FinishedTrial:
    try:
        score = float(score_of(trial))
    except OutputError:  # a full disk is no property of the trial
        raise
    except Exception as error:  # any failure of a training is the trial's result
        return FinishedTrial(trial=trial, reason=f"{type(error).__name__}: {error}")
    if not math.isfinite(score):
        return FinishedTrial(trial=trial, reason=f"the score is {score}")
    return FinishedTrial(trial=trial, score=score)


def _sample_values(plan: SearchPlan, kind: Kind, seed: int, study: str, number: int) -> Mapping[str, Any]:
    """Return the values of a trial from its study and number, the same as version 0.1 drew with Optuna's RandomSampler.

    Two networks sample other points, and two processes never sample the same because no number is run twice.
    """
    own_seed = int(np.random.SeedSequence([seed, zlib.crc32(study.encode()), number]).generate_state(1)[0])
    rng = np.random.RandomState(own_seed)
    if kind == "pretrained":
        return {
            "momentum": _uniform(rng, *plan.momentum),
            "learning_rate": _log_uniform(rng, *plan.learning_rate),
            "weight_decay": _log_uniform(rng, *plan.weight_decay),
        }
    if kind == "custom":
        return {
            "dropout": _uniform(rng, *plan.dropout),
            "optimizer": _choice(rng, plan.optimizers),
            "activation": _choice(rng, plan.activations),
        }
    raise InputError(f"a search is of the kind pretrained or custom, not {kind!r}")


# A range of one value takes no random number.
def _uniform(rng: np.random.RandomState, low: float, high: float) -> float:
    return low if low == high else float(rng.uniform(low, high))


def _log_uniform(rng: np.random.RandomState, low: float, high: float) -> float:
    return low if low == high else min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)


def _choice(rng: np.random.RandomState, values: tuple[str, ...]) -> str:
    return values[0] if len(values) == 1 else values[int(rng.uniform(size=len(values)).argmax())]
