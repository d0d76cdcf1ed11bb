"""Hyper-parameter search: ranges and one short training a trial in, the best trial's values out (stub of the interface)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SearchPlan"]


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """trials: of all machines together. epochs: of a trial. Ranges are R20's; learning rate and L2 logarithmic."""

    trials: int
    epochs: int = 3
    momentum: tuple[float, float] = (0.85, 0.99)
    learning_rate: tuple[float, float] = (1e-9, 1e-2)
    weight_decay: tuple[float, float] = (1e-10, 1e-3)
    dropout: tuple[float, float] = (0.2, 0.6)
    optimizers: tuple[str, ...] = ("sgd", "adamw")
    activations: tuple[str, ...] = ("relu", "elu", "leaky-relu")
    storage: str | None = None
