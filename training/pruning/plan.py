"""Settings of iterative pruning: values of a configuration in, a validated plan out, and its record in a folder of steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cxr_edge.errors import InputError
from training.loop.plan import Plan, plan_settings
from training.parallel import world
from training.shared_files import read_json, reading, require_same_settings, write_text

__all__ = ["PrunePlan", "check_same_plan"]

PLAN = "plan.json"
_RANKINGS = ("apoz", "latency", "taylor", "magnitude")
_ENDS = ("until", "macs", "milliseconds", "tolerance")  # settings that may change from run to run


@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """Settings of iterative pruning. Raises InputError for values that cannot work."""

    step: float = 0.02  # share of the original channels that each step removes
    until: float = 0.5  # share of the original channels that all steps remove together
    # `global` ranks all channels together (R20's code, and its Table 6), `layer` removes the share per layer (R20's text)
    scope: Literal["global", "layer"] = "global"
    # `apoz`: share of zeros; `latency`: share of zeros times the measured milliseconds of a channel. For networks without exact
    # zeros, `taylor`: weight times gradient on training batches; `magnitude`: size of the weights
    ranking: Literal["apoz", "latency", "taylor", "magnitude"] = "apoz"
    exclude: tuple[str, ...] = ()  # modules (by name, * matches any part) that keep all channels
    # A layer shrinks at most this many times as fast as all together; 0 for no limit, as R20: then a global ranking may
    # leave a layer with one channel, and the network with no capacity there.
    ahead: float = 2.0
    multiple_of: int = 1  # channel counts stay a multiple of this
    macs: float | None = None  # stop at this share of the unpruned network's MACs
    milliseconds: float | None = None  # stop at this share of the unpruned network's latency
    tolerance: float = 0.0  # the smallest step with a validation score this close to the best is selected
    retrain: Plan = field(default_factory=lambda: Plan(epochs=32, patience=5, schedule="plateau"))  # after each step

    def __post_init__(self) -> None:
        if self.ahead and self.ahead < 1:
            raise InputError(f"ahead is 1 or more, or 0 for no limit, got {self.ahead}")
        if not 0 < self.step <= self.until < 1:
            raise InputError(f"pruning needs 0 < step <= until < 1, got step {self.step} and until {self.until}")
        if self.ranking not in _RANKINGS or self.scope not in ("global", "layer") or self.multiple_of < 1:
            raise InputError(
                f"pruning has the scope global or layer, the ranking {', '.join(_RANKINGS)} and a multiple of 1 or more; got "
                f"{self.scope!r}, {self.ranking!r}, {self.multiple_of}"
            )
        if isinstance(self.exclude, str):
            raise InputError(
                f'exclude of pruning is a list of module names, got {self.exclude!r}: give ["{self.exclude}"]'
            )

    @property
    def by_zeros(self) -> bool:
        """True if channels are ranked by their zeros, so that only networks with exact zeros can be pruned."""
        return self.ranking in ("apoz", "latency")


def check_same_plan(plan: PrunePlan, folder: Path) -> None:
    """Record the settings of the steps, or compare them with the recorded ones; where pruning ends may change."""
    file, settings = folder / PLAN, {k: v for k, v in asdict(plan).items() if k not in _ENDS}
    if world().is_main:
        if file.exists():
            recorded = read_json(file)
            with reading(file):
                before = _named(recorded)
            require_same_settings(before, _named(settings), f"the steps in {folder} were pruned with", "delete them")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(settings, indent=1) + "\n")


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return setting name -> value, the retraining's settings each by its own name. Version 0.1 had no `exclude`."""
    retrain = {f"retrain {k}": v for k, v in plan_settings(settings["retrain"]).items()}
    named = {"exclude": (), **{k: v for k, v in settings.items() if k != "retrain"}, **retrain}
    as_json: dict[str, Any] = json.loads(json.dumps(named))
    return as_json
