"""R20's hyper-parameter search: ranges and a function that scores a trial in, the best values and all scores out.

Values are drawn at random (the paper's Table 2 came so), each trial's from the seed, the study (one per network) and its
number alone, so that it does not matter which machine tries it, or when. Every machine calls `search` on the same storage,
and a killed one may call it again: each number is tried by one process, and only by another if that one was silent for
`stale_s`.
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

__all__ = ["Finished", "Found", "Kind", "SearchPlan", "Trial", "search"]

Kind = Literal["pretrained", "custom"]


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """trials: of all machines together. epochs: of a trial. Ranges are R20's; learning rate and L2 logarithmic.

    storage: any Optuna URL (`postgresql://...`), or None for a journal file in the search's folder. stale_s: a trial whose
    process gave no sign for so long is done again by another.
    """

    trials: int
    epochs: int = 3
    momentum: tuple[float, float] = (0.85, 0.99)
    learning_rate: tuple[float, float] = (1e-9, 1e-2)
    weight_decay: tuple[float, float] = (1e-10, 1e-3)
    dropout: tuple[float, float] = (0.2, 0.6)
    optimizers: tuple[str, ...] = ("sgd", "adamw")
    activations: tuple[str, ...] = ("relu", "elu", "leaky-relu")
    storage: str | None = None
    stale_s: float = 120.0

    def __post_init__(self) -> None:
        if self.trials < 1 or self.epochs < 1 or self.stale_s <= 0:
            raise InputError(
                f"a search has 1 or more trials and epochs and stale_s above 0, got {self.trials}, {self.epochs} and "
                f"{self.stale_s}"
            )
        highest = {"momentum": 1.0, "learning_rate": math.inf, "weight_decay": math.inf, "dropout": 1.0}
        for name, limit in highest.items():
            low, high = getattr(self, name)
            lowest_ok = low > 0 if limit == math.inf else low >= 0  # the others are searched by their logarithm
            if not (lowest_ok and low <= high < limit):
                raise InputError(f"the search's range of {name} is (low, high), low first, got {low} and {high}")
        for name, known in (("optimizers", ("sgd", "adamw")), ("activations", tuple(ACTIVATIONS))):
            given = getattr(self, name)
            if not given or not set(given) <= set(known):
                raise InputError(f"the search's {name} are one or more of {', '.join(known)}, got {given}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one training tries. number: below the plan's trials. None: not searched, what the plan or network has stays."""

    number: int
    momentum: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    dropout: float | None = None
    optimizer: str | None = None
    activation: str | None = None

    def plan(self, base: Plan) -> Plan:
        """`base` with what is tried; momentum is SGD's."""
        names = ("momentum", "learning_rate", "weight_decay", "optimizer")
        tried: dict[str, Any] = {n: v for n in names if (v := getattr(self, n)) is not None}
        return replace(base, **({"optimizer": "sgd"} if self.momentum is not None else {}), **tried)

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """`spec` with what is tried."""
        tried: dict[str, Any] = {n: v for n in ("dropout", "activation") if (v := getattr(self, n)) is not None}
        return replace(spec, **tried)

    def __str__(self) -> str:
        tried = {f.name: getattr(self, f.name) for f in fields(self)[1:]}
        shown = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in tried.items() if v is not None}
        return "  ".join([f"trial {self.number}", *(f"{k} {v}" for k, v in shown.items())])


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A trial and its score, or the reason why its training failed."""

    trial: Trial
    score: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """best: the trial with the highest score, of equals the first. finished: all trials, by number."""

    study: str
    kind: Kind
    seed: int
    best: Trial
    finished: tuple[Finished, ...]

    def as_json(self) -> dict[str, Any]:
        """The JSON object that R20's Table 2 is written from; null is what was not searched."""
        return asdict(self)


def search(
    score_of: Callable[[Trial], float], plan: SearchPlan, kind: Kind, *, study: str, folder: Path, seed: int
) -> Found:
    """Try until `plan.trials` are finished, by this process or any other; all get the same answer.

    kind: `pretrained` searches SGD's momentum, learning rate and L2; `custom` dropout, optimizer and activation. score_of:
    higher is better; what it raises, or a score that is not finite, is kept as the trial's failure. study: a name within
    the storage. A study goes on where it stopped, with more trials if `plan` now has more. Raises InputError if all trials
    failed, if the study was begun with another seed, kind or ranges, and under torchrun.
    """
    if world().size > 1:
        raise InputError(
            "a search is not run by torchrun: start plain processes on the same storage, each tries its own"
        )
    board = _Board(plan, kind, study, folder, seed)
    while len(board.finished()) < plan.trials:
        board.drop_silent()
        claim = board.claim()
        if claim is None:
            time.sleep(plan.stale_s / _BEATS)
        else:
            board.try_out(*claim, score_of)
    return board.found()


# A journal file, not SQLite: its lock is a file made with O_EXCL, which network file systems keep (NFS v3 on), while
# SQLite's locks do not hold there (sqlite.org/faq.html, question 5). It is replayed whole, which hundreds of trials bear.
# A process that is killed while it holds the lock is overruled after _LOCK_S.
_JOURNAL, _LOCK_S = "search.journal", 30
# Signs of life in `stale_s`. They are counted, not dated, so that the clocks of two machines need not agree.
_BEATS = 12
_NUMBER, _BEAT, _REASON, _ASKED = "number", "beat", "reason", "asked"


class _Board:
    """Who tries what, in Optuna's storage. One number may have several of Optuna's trials, of which all but the first that
    is not lost give way; Optuna orders them the same for every process, so at most one is being tried.

    Lost is a FAIL without a reason: given way, interrupted or silent. Its number is open again.
    """

    def __init__(self, plan: SearchPlan, kind: Kind, study: str, folder: Path, seed: int) -> None:
        self.plan, self.kind, self.study, self.seed = plan, kind, study, seed
        self.ranges = _ranges(plan, kind)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.storage = _storage(plan, folder)
        optuna.create_study(storage=self.storage, study_name=study, direction="maximize", load_if_exists=True)
        self.study_id = self.storage.get_study_id_from_name(study)
        self.heard: dict[int, tuple[Any, float]] = {}
        self._same_study()

    def _same_study(self) -> None:
        """A trial's number says what it tried only while nothing else changes."""
        ranges = {f.name: getattr(self.plan, f.name) for f in fields(self.plan)}
        loose = ("trials", "storage", "stale_s")
        asked = {"kind": self.kind, "seed": self.seed, **{k: v for k, v in ranges.items() if k not in loose}}
        asked = {k: list(v) if isinstance(v, tuple) else v for k, v in asked.items()}
        before = self.storage.get_study_user_attrs(self.study_id).get(_ASKED)
        if before is None:
            self.storage.set_study_user_attr(self.study_id, _ASKED, asked)
        elif before != asked:
            said = "; ".join(f"{k} {before.get(k)}, not {v}" for k, v in asked.items() if before.get(k) != v)
            raise InputError(f"the search {self.study} was begun with {said}: ask the same, or give another name")

    def _trials(self) -> list[FrozenTrial]:
        """Of this study, in the storage's order, the lost ones left out."""
        trials = self.storage.get_all_trials(self.study_id, deepcopy=False)
        return [t for t in trials if t.state != TrialState.FAIL or _REASON in t.user_attrs]

    def _owners(self) -> dict[int, FrozenTrial]:
        """The one of Optuna's trials that counts, by number."""
        owners: dict[int, FrozenTrial] = {}
        for t in self._trials():
            owners.setdefault(t.user_attrs[_NUMBER], t)
        return {n: owners[n] for n in sorted(owners) if n < self.plan.trials}

    def finished(self) -> list[Finished]:
        return [
            Finished(trial=Trial(number=n, **t.params), score=t.value, reason=t.user_attrs.get(_REASON))
            for n, t in self._owners().items()
            if t.state.is_finished()
        ]

    def drop_silent(self) -> None:
        """Fail the running trials of processes that gave no sign for `stale_s` of our time."""
        for t in self._trials():
            beat, now = t.user_attrs[_BEAT], time.monotonic()
            if t.state.is_finished():
                continue
            if self.heard.get(t.number, (None, 0.0))[0] != beat:
                self.heard[t.number] = (beat, now)
            elif now - self.heard[t.number][1] > self.plan.stale_s:
                trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, t.number)
                if self._end(trial_id, TrialState.FAIL):
                    self._say(f"trial {t.user_attrs[_NUMBER]} is open again: its process was silent")

    def claim(self) -> tuple[int, Trial] | None:
        """The next open number for this process, as Optuna's trial and ours; None if none is open now."""
        while True:
            owners = self._owners()
            number = next((n for n in range(self.plan.trials) if n not in owners), None)
            if number is None:
                return None
            values = _drawn(self.ranges, self.seed, self.study, number)
            trial_id = self.storage.create_new_trial(self.study_id, self._running(number, values))
            if self._owners()[number].number == self.storage.get_trial_number_from_id(trial_id):
                return trial_id, Trial(number=number, **values)
            self._end(trial_id, TrialState.FAIL)  # another process was first

    def try_out(self, trial_id: int, trial: Trial, score_of: Callable[[Trial], float]) -> None:
        """Score a claimed trial and write down what came of it."""
        try:
            with self._beating(trial_id):
                score = float(score_of(trial))
            reason = None if math.isfinite(score) else f"the score is {score}"
        except Exception as error:  # whatever a training can fail with is this trial's result
            reason = f"{type(error).__name__}: {error}"
        except BaseException:
            self._end(trial_id, TrialState.FAIL)
            raise
        if reason is None:
            kept = self._end(trial_id, TrialState.COMPLETE, score=score)
        else:
            kept = self._end(trial_id, TrialState.FAIL, reason=reason)
        outcome = f"score {score:.4f}" if reason is None else f"failed: {reason}"
        self._say(f"{trial}  {outcome}{'' if kept else '  (came too late, is tried by another)'}")

    def found(self) -> Found:
        finished = tuple(self.finished())
        scored = [f for f in finished if f.score is not None]
        if not scored:
            raise InputError(
                f"all {len(finished)} trials of the search {self.study} failed, the first with {finished[0].reason!r}: "
                f"mend the cause and give the search another name"
            )
        best = max(scored, key=lambda f: (f.score, -f.trial.number))
        return Found(study=self.study, kind=self.kind, seed=self.seed, best=best.trial, finished=finished)

    def _running(self, number: int, values: Mapping[str, Any]) -> FrozenTrial:
        return create_trial(
            state=TrialState.RUNNING,
            params=dict(values),
            distributions=self.ranges,
            user_attrs={_NUMBER: number, _BEAT: 0},
        )

    def _end(self, trial_id: int, state: TrialState, *, score: float | None = None, reason: str | None = None) -> bool:
        """Write down how a trial ended. Returns False if another process has already given it up."""
        try:
            if reason is not None:
                self.storage.set_trial_user_attr(trial_id, _REASON, reason)
            self.storage.set_trial_state_values(trial_id, state, None if score is None else [score])
        except UpdateFinishedTrialError:
            return False
        return True

    @contextmanager
    def _beating(self, trial_id: int) -> Iterator[None]:
        """Signs of life from a thread of its own while the trial trains."""
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
            except Exception as error:  # a server or disk that is away for a moment must not end the training
                self._say(f"no sign of life could be written: {error}")

    def _say(self, line: str) -> None:
        print(f"{self.study}: {line}", file=sys.stderr, flush=True)


def _storage(plan: SearchPlan, folder: Path) -> BaseStorage:
    if plan.storage is None:
        folder.mkdir(parents=True, exist_ok=True)
        journal = str(folder / _JOURNAL)
        return JournalStorage(JournalFileBackend(journal, JournalFileSymlinkLock(journal, grace_period=_LOCK_S)))
    try:
        return _database(plan.storage)
    except Exception as error:
        # Neither the URL nor the driver's words are in the message: both may hold the password.
        kind = plan.storage.partition("://")[0]
        raise InputError(
            f"the search's storage ({kind}) cannot be used ({type(error).__name__}): give a URL as Optuna takes it, "
            f"such as sqlite:////folder/search.db, with its driver installed, or leave storage out for a journal file"
        ) from error


def _database(url: str) -> BaseStorage:
    try:
        return RDBStorage(url)
    except DBAPIError:  # of several processes that make the tables at once, all but one fail; then the tables are there
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


def _drawn(ranges: dict[str, BaseDistribution], seed: int, study: str, number: int) -> dict[str, Any]:
    """Return the values of a trial, from its study and number: two networks try other points, and two processes never try
    the same because no number is tried twice."""
    own = int(np.random.SeedSequence([seed, zlib.crc32(study.encode()), number]).generate_state(1)[0])
    drawer = optuna.create_study(sampler=optuna.samplers.RandomSampler(own))
    return dict(drawer.ask(ranges).params)
