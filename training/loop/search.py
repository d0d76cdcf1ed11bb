"""Hyper-parameter search of R20: ranges and a function that scores a trial in, the best values and all scores out.

A random search, as for the paper's Table 2. The values of a trial depend only on the seed, the study (one per network) and
the trial's number, not on the machine or the time. Every machine calls `search` on the same storage, also again after a
kill: a number is run by one process, and by another only if the first sent no heartbeat for `stale_s`.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import DBAPIError

from cxr_edge.errors import InputError
from training.loop.plan import Plan
from training.models import NetworkSpec
from training.models.custom import ACTIVATIONS
from training.parallel import world
from training.shared_files import require_same_settings

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
    storage: str | None = None  # any Optuna URL (`postgresql://...`); None for a journal file in the search's folder
    stale_s: float = 120.0  # a trial without a heartbeat for so long is run again by another process

    def __post_init__(self) -> None:
        if self.trials < 1 or self.epochs < 1 or self.stale_s <= 0:
            raise InputError(
                f"a search has 1 or more trials and epochs and stale_s above 0, got {self.trials}, {self.epochs} and "
                f"{self.stale_s}"
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
    study: a name within the storage. A stopped study resumes, with more trials if `plan` now has more.

    Raises InputError if all trials failed, if the study was started with another seed, kind or ranges, and under torchrun.
    """
    if world().size > 1:
        raise InputError(
            "a search does not run under torchrun: start plain processes on the same storage, each runs its own trials"
        )
    queue = _TrialQueue(plan, kind, study, folder, seed)
    while len(queue.finished()) < plan.trials:
        queue.expire_stale()
        claim = queue.claim()
        if claim is None:
            time.sleep(plan.stale_s / _BEATS)
        else:
            queue.run_trial(*claim, score_of)
    return queue.result()


# A journal file, not SQLite: its lock is a file made with O_EXCL, which network file systems keep (NFS v3 on), while
# SQLite's locks do not work there (sqlite.org/faq.html, question 5). Every read replays the full journal, which is fast
# enough for hundreds of trials. The lock of a killed process is ignored after _LOCK_S.
_JOURNAL, _LOCK_S = "search.journal", 30
# Heartbeats per `stale_s`. They are counted, without timestamps, so that the clocks of two machines need not agree.
_BEATS = 12
_NUMBER, _BEAT, _REASON, _SETTINGS = "number", "beat", "reason", "asked"


class _TrialQueue:
    """Shared queue of trials in Optuna's storage.

    A number may have several of Optuna's trials: the first valid one owns it and the others are failed. Optuna orders them
    the same for every process, so at most one runs. A FAIL without a reason (duplicate, interrupted or stale) is not valid:
    its number is free again.
    """

    def __init__(self, plan: SearchPlan, kind: Kind, study: str, folder: Path, seed: int) -> None:
        self.plan, self.kind, self.study, self.seed = plan, kind, study, seed
        self.ranges = _ranges(plan, kind)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.storage = _storage(plan, folder)
        optuna.create_study(storage=self.storage, study_name=study, direction="maximize", load_if_exists=True)
        self.study_id = self.storage.get_study_id_from_name(study)
        self.last_beats: dict[int, tuple[Any, float]] = {}  # Optuna's trial number -> last heartbeat, when it was seen
        self._check_settings()

    def _check_settings(self) -> None:
        """Record or compare the settings: a number determines a trial's values only if all other settings are the same."""
        ranges = {f.name: getattr(self.plan, f.name) for f in fields(self.plan)}
        ignored = ("trials", "storage", "stale_s")
        settings = {"kind": self.kind, "seed": self.seed, **{k: v for k, v in ranges.items() if k not in ignored}}
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
        before = self.storage.get_study_user_attrs(self.study_id).get(_SETTINGS)
        if before is None:
            self.storage.set_study_user_attr(self.study_id, _SETTINGS, settings)
        else:
            subject, remedy = f"the search {self.study} was started with", "use the same settings, or another name"
            require_same_settings(before, settings, subject, remedy)

    def _trials(self) -> list[FrozenTrial]:
        """Return the valid trials of this study, in the storage's order."""
        trials = self.storage.get_all_trials(self.study_id, deepcopy=False)
        return [t for t in trials if t.state != TrialState.FAIL or _REASON in t.user_attrs]

    def _owners(self) -> dict[int, FrozenTrial]:
        """Return number -> Optuna's trial that owns it."""
        owners: dict[int, FrozenTrial] = {}
        for t in self._trials():
            owners.setdefault(t.user_attrs[_NUMBER], t)
        return {n: owners[n] for n in sorted(owners) if n < self.plan.trials}

    def finished(self) -> list[FinishedTrial]:
        return [
            FinishedTrial(trial=Trial(number=n, **t.params), score=t.value, reason=t.user_attrs.get(_REASON))
            for n, t in self._owners().items()
            if t.state.is_finished()
        ]

    def expire_stale(self) -> None:
        """Fail the running trials of processes without a heartbeat for `stale_s`, by this process's clock."""
        for t in self._trials():
            beat, now = t.user_attrs[_BEAT], time.monotonic()
            if t.state.is_finished():
                continue
            if self.last_beats.get(t.number, (None, 0.0))[0] != beat:
                self.last_beats[t.number] = (beat, now)
            elif now - self.last_beats[t.number][1] > self.plan.stale_s:
                trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, t.number)
                if self._end(trial_id, TrialState.FAIL):
                    self._print(f"trial {t.user_attrs[_NUMBER]} is free again: its process sent no heartbeat")

    def claim(self) -> tuple[int, Trial] | None:
        """Claim the next free number. Returns Optuna's trial id and the trial, or None if no number is free."""
        while True:
            owners = self._owners()
            number = next((n for n in range(self.plan.trials) if n not in owners), None)
            if number is None:
                return None
            values = _sample_values(self.ranges, self.seed, self.study, number)
            trial_id = self.storage.create_new_trial(self.study_id, self._running(number, values))
            if self._owners()[number].number == self.storage.get_trial_number_from_id(trial_id):
                return trial_id, Trial(number=number, **values)
            self._end(trial_id, TrialState.FAIL)  # another process was first

    def run_trial(self, trial_id: int, trial: Trial, score_of: Callable[[Trial], float]) -> None:
        """Run a claimed trial and store its score or failure."""
        try:
            with self._heartbeat(trial_id):
                score = float(score_of(trial))
            reason = None if math.isfinite(score) else f"the score is {score}"
        except Exception as error:  # any failure of a training is the trial's result
            reason = f"{type(error).__name__}: {error}"
        except BaseException:
            self._end(trial_id, TrialState.FAIL)
            raise
        if reason is None:
            is_stored = self._end(trial_id, TrialState.COMPLETE, score=score)
        else:
            is_stored = self._end(trial_id, TrialState.FAIL, reason=reason)
        result = f"score {score:.4f}" if reason is None else f"failed: {reason}"
        self._print(f"{trial}  {result}{'' if is_stored else '  (too late, run by another process)'}")

    def result(self) -> SearchResult:
        finished = tuple(self.finished())
        scored = [f for f in finished if f.score is not None]
        if not scored:
            raise InputError(
                f"all {len(finished)} trials of the search {self.study} failed, the first with {finished[0].reason!r}: "
                f"fix the cause and give the search another name"
            )
        best = max(scored, key=lambda f: (f.score, -f.trial.number))
        return SearchResult(study=self.study, kind=self.kind, seed=self.seed, best=best.trial, finished=finished)

    def _running(self, number: int, values: Mapping[str, Any]) -> FrozenTrial:
        return create_trial(
            state=TrialState.RUNNING,
            params=dict(values),
            distributions=self.ranges,
            user_attrs={_NUMBER: number, _BEAT: 0},
        )

    def _end(self, trial_id: int, state: TrialState, *, score: float | None = None, reason: str | None = None) -> bool:
        """Store the end of a trial. Returns False if another process has already expired it."""
        try:
            if reason is not None:
                self.storage.set_trial_user_attr(trial_id, _REASON, reason)
            self.storage.set_trial_state_values(trial_id, state, None if score is None else [score])
        except UpdateFinishedTrialError:
            return False
        return True

    @contextmanager
    def _heartbeat(self, trial_id: int) -> Iterator[None]:
        """Send heartbeats from a thread while the trial runs."""
        over = threading.Event()
        thread = threading.Thread(target=self._beat, args=(trial_id, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _beat(self, trial_id: int, over: threading.Event) -> None:
        beat = 0
        while not over.wait(self.plan.stale_s / _BEATS):
            beat += 1
            try:
                self.storage.set_trial_user_attr(trial_id, _BEAT, beat)
            except UpdateFinishedTrialError:
                return
            except Exception as error:  # a server or disk that is unavailable for a moment must not end the training
                self._print(f"the heartbeat could not be written: {error}")

    def _print(self, line: str) -> None:
        print(f"{self.study}: {line}", file=sys.stderr, flush=True)


def _storage(plan: SearchPlan, folder: Path) -> BaseStorage:
    if plan.storage is None:
        folder.mkdir(parents=True, exist_ok=True)
        journal = str(folder / _JOURNAL)
        return JournalStorage(JournalFileBackend(journal, JournalFileSymlinkLock(journal, grace_period=_LOCK_S)))
    try:
        return _database(plan.storage)
    except Exception as error:
        # Neither the URL nor the driver's message is printed: both may contain the password.
        kind = plan.storage.partition("://")[0]
        raise InputError(
            f"the search's storage ({kind}) cannot be used ({type(error).__name__}): give a URL as Optuna takes it, "
            f"such as sqlite:////folder/search.db, with its driver installed, or leave storage out for a journal file"
        ) from error


def _database(url: str) -> BaseStorage:
    try:
        return RDBStorage(url)
    except DBAPIError:  # of several processes that create the tables at once, all but one fail; then the tables exist
        time.sleep(1.0)
        return RDBStorage(url)


def _ranges(plan: SearchPlan, kind: Kind) -> dict[str, BaseDistribution]:
    if kind == "pretrained":
        return {
            "momentum": FloatDistribution(*plan.momentum),
            "learning_rate": FloatDistribution(*plan.learning_rate, log=True),
            "weight_decay": FloatDistribution(*plan.weight_decay, log=True),
        }
    if kind == "custom":
        return {
            "dropout": FloatDistribution(*plan.dropout),
            "optimizer": CategoricalDistribution(plan.optimizers),
            "activation": CategoricalDistribution(plan.activations),
        }
    raise InputError(f"a search is of the kind pretrained or custom, not {kind!r}")


def _sample_values(ranges: dict[str, BaseDistribution], seed: int, study: str, number: int) -> dict[str, Any]:
    """Return the values of a trial from its study and number.

    Two networks sample other points, and two processes never sample the same because no number is run twice.
    """
    own_seed = int(np.random.SeedSequence([seed, zlib.crc32(study.encode()), number]).generate_state(1)[0])
    sampler_study = optuna.create_study(sampler=optuna.samplers.RandomSampler(own_seed))
    return dict(sampler_study.ask(ranges).params)
