"""How one training runs: a checked `Plan` of optimizer, schedule and length in, the same values for JSON out.

Every recipe's configuration holds plans, and folders of trained networks note theirs, so that a run which was stopped goes
on as it was begun.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from cxr_edge.errors import InputError

__all__ = ["Plan", "plan_settings"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """epochs of one training. learning_rate: at its peak. optimizer: `adamw`, `adam` (weight_decay is L2 in the gradient, as
    in FLANNEL's code), or `sgd` with Nesterov's momentum. decayed: what weight_decay acts on, `kernels` (biases and norms
    not) or `all`. clip_norm: longest gradient of a step, longer ones are scaled down to it; 0 for no limit.

    schedule: `cosine` to nearly zero after a warm-up; `plateau` multiplies the rate by plateau_factor after
    plateau_epochs without a better score, but not below least_rate; `step` multiplies it by step_factor after each of
    step_epochs; `constant`. patience: stop after so many epochs without a better score, or
    None. ema: decay of the weights' moving average, a step; 0 for none. minutes: wall-clock budget of this training over
    all its runs, or None: where epochs do not fit, the schedule ends when the time does, so that the last epochs always
    run at a small learning rate. keep: the weights of the epoch with the best score, or of the last one, so that nothing is
    chosen on validation images. tensorboard: write curves beside the log (needs the package tensorboard).
    """

    epochs: int
    batch: int = 32
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    momentum: float = 0.95
    weight_decay: float = 2e-2
    decayed: Literal["kernels", "all"] = "kernels"
    clip_norm: float = 5.0
    schedule: Literal["cosine", "plateau", "step", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    plateau_factor: float = 0.5
    plateau_epochs: int = 3
    least_rate: float = 0.0
    step_epochs: tuple[int, ...] = ()
    step_factor: float = 0.1
    patience: int | None = None
    ema: float = 0.995
    seed: int = 1
    threads: int = 2
    bfloat16: bool = True
    keep: Literal["best", "last"] = "best"
    minutes: float | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.step_epochs, list):  # as TOML and JSON have it
            object.__setattr__(self, "step_epochs", tuple(self.step_epochs))
        for name, (expected, is_valid) in _EXPECTED.items():
            if not is_valid(getattr(self, name)):
                default = next(f.default for f in fields(self) if f.name == name)
                raise InputError(
                    f"{name} of a plan is {expected}, got {getattr(self, name)!r}: change it, or leave it out for {default!r}"
                )
        if self.schedule == "step" and not self.step_epochs:
            raise InputError(
                'schedule = "step" needs the epochs after which the rate is lowered, got none: '
                "give them, such as step_epochs = [150, 225]"
            )


def _one_of(*known: str) -> tuple[str, Callable[[Any], bool]]:
    return f"{', '.join(known[:-1])} or {known[-1]}", lambda value: value in known


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _rises(values: Any) -> bool:
    return isinstance(values, tuple) and all(map(_is_whole, values)) and list(values) == sorted(set(values))


# Field of a plan -> what is expected of it, and whether a value is that.
_EXPECTED: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "optimizer": _one_of("adamw", "adam", "sgd"),
    "schedule": _one_of("cosine", "plateau", "step", "constant"),
    "decayed": _one_of("kernels", "all"),
    "keep": _one_of("best", "last"),
    "clip_norm": ("0 (no limit) or more", lambda value: _is_number(value) and value >= 0),
    "plateau_factor": ("between 0 and 1, both excluded", lambda value: _is_number(value) and 0 < value < 1),
    "plateau_epochs": ("a whole number from 1", _is_whole),
    "least_rate": ("0 or more", lambda value: _is_number(value) and value >= 0),
    "step_epochs": ("rising whole numbers from 1", _rises),
    "step_factor": ("between 0 and 1, both excluded", lambda value: _is_number(value) and 0 < value < 1),
}


def plan_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's settings as a JSON object has them, with today's defaults for those that an earlier version did not know."""
    return {**asdict(Plan(epochs=1)), **values, "step_epochs": tuple(values.get("step_epochs", ()))}
