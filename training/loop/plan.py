"""Hyper-parameters of one training: a table of settings in, a validated `Plan` and its JSON form out.

Configurations hold plans, and folders of trained networks record theirs, so that a resumed run continues with the same
settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from cxr_edge.errors import InputError

__all__ = ["Plan", "plan_settings", "upgrade_keys"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings of one training. Raises InputError for a value out of range."""

    epochs: int
    batch: int = 32
    # `adamw`; `adam`, whose weight_decay is L2 in the gradient, as in FLANNEL's code; `sgd` with Nesterov momentum.
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = 2e-3  # at its peak
    momentum: float = 0.95  # of sgd
    weight_decay: float = 2e-2
    decayed: Literal["kernels", "all"] = (
        "kernels"  # parameters that weight_decay applies to; kernels: no biases and norms
    )
    clip_norm: float = 5.0  # maximum gradient norm of a step; 0 for no limit
    # `cosine` to nearly zero after a warm-up; `plateau` multiplies the rate by plateau_factor after plateau_epochs without a
    # better score, but not below least_rate; `step` multiplies it by step_factor after each of step_epochs; `constant`.
    schedule: Literal["cosine", "plateau", "step", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    plateau_factor: float = 0.5
    plateau_epochs: int = 3
    least_rate: float = 0.0
    step_epochs: tuple[int, ...] = ()
    step_factor: float = 0.1
    patience: int | None = None  # early stopping: epochs without a better score
    ema: float = 0.995  # decay per step of the moving average of the weights; 0 for none
    seed: int = 1
    threads: int = 2
    # torch's autocast; fp16 with a scaled loss; auto is bf16 if the GPU or CPU computes it, else fp32.
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    # Weights of the epoch with the best score, or of the last one, so that nothing is selected on validation images.
    keep: Literal["best", "last"] = "best"
    # Wall-clock budget of this training over all its runs. If the epochs do not fit, the schedule ends with the budget, so
    # that the last epochs always have a small learning rate.
    minutes: float | None = None
    accumulate: int = 1  # batches per optimizer step (gradient accumulation); batch norm still sees `batch`
    # Epochs at the start in which only the head is trained; trunk weights and norm statistics stay fixed.
    frozen_epochs: int = 0
    # Layers (`models.layers`) next to the input that are never trained: a pretrained network's first ones are general, and
    # without their gradients a step is up to three times as fast.
    frozen_layers: int = 0
    layer_decay: float = 1.0  # factor of the rate per layer, backwards from the head (`models.layers`)
    rate_decay: float = 0.0  # Keras's decay: the rate is divided by 1 + rate_decay x steps
    # Of findings that do not exclude each other: `bce`, positives weighted by number; `focal`; `asymmetric`. None is bce for
    # them, and cross entropy for labels that exclude each other, which have no other.
    loss: Literal["bce", "focal", "asymmetric"] | None = None
    mixup: float = 0.0  # alpha of the Beta distribution of a batch's mixing share; 0 for none
    cutmix: float = 0.0  # the same for CutMix; with both, half of the batches each
    workers: int = 0  # processes that create batches; 0 for a thread
    compile: bool = False  # train through torch.compile
    deterministic: bool = False  # only kernels that are reproducible to the last bit
    tensorboard: bool = False  # write curves beside the log (needs the package)
    mlflow: bool = False  # write curves to MLflow (needs the package)

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


Expected = tuple[str, Callable[[Any], bool]]  # description for messages, and the check


def _one_of(*known: str) -> Expected:
    return f"{', '.join(known[:-1])} or {known[-1]}", lambda value: value in known


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_ascending(values: Any) -> bool:
    are_integers = isinstance(values, tuple) and all(_is_integer(v) and v >= 1 for v in values)
    return are_integers and list(values) == sorted(set(values))


def _integer_from(lowest: int) -> Expected:
    return f"a whole number from {lowest}", lambda value: _is_integer(value) and value >= lowest


def _or_none(expected: Expected) -> Expected:
    return expected[0], lambda value: value is None or expected[1](value)


_FROM_0: Expected = ("0 or more", lambda value: _is_number(value) and value >= 0)
_ABOVE_0: Expected = ("above 0", lambda value: _is_number(value) and value > 0)
_BELOW_1: Expected = ("from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
_BETWEEN: Expected = ("between 0 and 1, both excluded", lambda value: _is_number(value) and 0 < value < 1)
_SWITCH: Expected = ("true or false", lambda value: isinstance(value, bool))

_EXPECTED: Mapping[str, Expected] = {
    "epochs": _integer_from(1),
    "batch": _integer_from(1),
    "optimizer": _one_of("adamw", "adam", "sgd"),
    "learning_rate": _ABOVE_0,
    "momentum": _BELOW_1,
    "weight_decay": _FROM_0,
    "decayed": _one_of("kernels", "all"),
    "clip_norm": ("0 (no limit) or more", _FROM_0[1]),
    "schedule": _one_of("cosine", "plateau", "step", "constant"),
    "warmup_epochs": _FROM_0,
    "plateau_factor": _BETWEEN,
    "plateau_epochs": _integer_from(1),
    "least_rate": _FROM_0,
    "step_epochs": ("rising whole numbers from 1", _is_ascending),
    "step_factor": _BETWEEN,
    "patience": _or_none(_integer_from(1)),
    "ema": _BELOW_1,
    "seed": _integer_from(0),
    "threads": _integer_from(1),
    "precision": _one_of("auto", "bf16", "fp16", "fp32"),
    "keep": _one_of("best", "last"),
    "minutes": _or_none(_ABOVE_0),
    "accumulate": _integer_from(1),
    "frozen_epochs": _integer_from(0),
    "frozen_layers": _integer_from(0),
    "layer_decay": ("above 0, up to 1", lambda value: _is_number(value) and 0 < value <= 1),
    "rate_decay": _FROM_0,
    "loss": _or_none(_one_of("bce", "focal", "asymmetric")),
    "mixup": _FROM_0,
    "cutmix": _FROM_0,
    "workers": _integer_from(0),
    "compile": _SWITCH,
    "deterministic": _SWITCH,
    "tensorboard": _SWITCH,
    "mlflow": _SWITCH,
}


def upgrade_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan's values with version 0.1's `bfloat16` (true or false) converted to `precision`."""
    upgraded = dict(values)
    if isinstance(upgraded.get("bfloat16"), bool):
        upgraded.setdefault("precision", "bf16" if upgraded.pop("bfloat16") else "fp32")
    return upgraded


def plan_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan's settings as JSON, with current defaults for those that its version did not know."""
    return {**asdict(Plan(epochs=1)), **upgrade_keys(values), "step_epochs": tuple(values.get("step_epochs", ()))}
