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

__all__ = ["Plan", "plan_settings", "renamed"]


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
    chosen on validation images.

    accumulate: batches whose gradients make one step, as one batch of that many images would (batch norm still sees `batch`).
    precision: `bf16` or `fp16` (with a scaled loss) are torch's autocast, `fp32` is all of it, `auto` is bf16 where
    the GPU or processor computes it and fp32 elsewhere. frozen_epochs: at the start, in
    which the trunk keeps its weights and its norms their statistics, and the head alone learns. layer_decay: factor of the
    rate from layer to layer, going back from the head (`models.layers`). rate_decay: Keras's, the rate is divided by
    1 + rate_decay x steps. mixup, cutmix: alpha of the Beta distribution that a batch's share of mixed images is drawn from,
    0 for none; with both, half of the batches each. workers: processes that make batches; 0 for a thread.
    compile: train through torch.compile. deterministic: only kernels that repeat to the last bit. tensorboard, mlflow: write
    curves beside the log (each needs its package).
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
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    keep: Literal["best", "last"] = "best"
    minutes: float | None = None
    accumulate: int = 1
    frozen_epochs: int = 0
    layer_decay: float = 1.0
    rate_decay: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    workers: int = 0
    compile: bool = False
    deterministic: bool = False
    tensorboard: bool = False
    mlflow: bool = False

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


Expected = tuple[str, Callable[[Any], bool]]  # in words, and whether a value is that


def _one_of(*known: str) -> Expected:
    return f"{', '.join(known[:-1])} or {known[-1]}", lambda value: value in known


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _rises(values: Any) -> bool:
    whole = isinstance(values, tuple) and all(_is_integer(v) and v >= 1 for v in values)
    return whole and list(values) == sorted(set(values))


def _whole_from(least: int) -> Expected:
    return f"a whole number from {least}", lambda value: _is_integer(value) and value >= least


def _or_none(expected: Expected) -> Expected:
    return expected[0], lambda value: value is None or expected[1](value)


_FROM_0: Expected = ("0 or more", lambda value: _is_number(value) and value >= 0)
_ABOVE_0: Expected = ("above 0", lambda value: _is_number(value) and value > 0)
_BELOW_1: Expected = ("from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
_BETWEEN: Expected = ("between 0 and 1, both excluded", lambda value: _is_number(value) and 0 < value < 1)
_SWITCH: Expected = ("true or false", lambda value: isinstance(value, bool))

_EXPECTED: Mapping[str, Expected] = {
    "epochs": _whole_from(1),
    "batch": _whole_from(1),
    "optimizer": _one_of("adamw", "adam", "sgd"),
    "learning_rate": _ABOVE_0,
    "momentum": _BELOW_1,
    "weight_decay": _FROM_0,
    "decayed": _one_of("kernels", "all"),
    "clip_norm": ("0 (no limit) or more", _FROM_0[1]),
    "schedule": _one_of("cosine", "plateau", "step", "constant"),
    "warmup_epochs": _FROM_0,
    "plateau_factor": _BETWEEN,
    "plateau_epochs": _whole_from(1),
    "least_rate": _FROM_0,
    "step_epochs": ("rising whole numbers from 1", _rises),
    "step_factor": _BETWEEN,
    "patience": _or_none(_whole_from(1)),
    "ema": _BELOW_1,
    "seed": _whole_from(0),
    "threads": _whole_from(1),
    "precision": _one_of("auto", "bf16", "fp16", "fp32"),
    "keep": _one_of("best", "last"),
    "minutes": _or_none(_ABOVE_0),
    "accumulate": _whole_from(1),
    "frozen_epochs": _whole_from(0),
    "layer_decay": ("above 0, up to 1", lambda value: _is_number(value) and 0 < value <= 1),
    "rate_decay": _FROM_0,
    "mixup": _FROM_0,
    "cutmix": _FROM_0,
    "workers": _whole_from(0),
    "compile": _SWITCH,
    "deterministic": _SWITCH,
    "tensorboard": _SWITCH,
    "mlflow": _SWITCH,
}


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's values as written, with what version 0.1 called `bfloat16` (true or false) as `precision`."""
    now = dict(values)
    if isinstance(now.get("bfloat16"), bool):
        now.setdefault("precision", "bf16" if now.pop("bfloat16") else "fp32")
    return now


def plan_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's settings as a JSON object has them, with today's defaults for those that an earlier version did not know."""
    return {**asdict(Plan(epochs=1)), **renamed(values), "step_epochs": tuple(values.get("step_epochs", ()))}
