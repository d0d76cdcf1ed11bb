"""One loop for everything that is trained: a task and a plan in, the best weights' file out; a killed run goes on.

The task knows its data, loss and score; the engine knows bfloat16, warm-up and cosine, the moving average of the weights
(which is what is scored and kept) and checkpoints. Random numbers are drawn from (seed, epoch), so that an epoch is the
same whether or not the run was killed before it. Checkpoints are state dicts, loaded with weights_only.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Plan", "Task", "fit", "load_best"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """epochs of one training. learning_rate: at its peak, AdamW. ema: decay of the weights' moving average, a step.

    minutes: wall-clock budget of this training over all its runs, or None: where epochs do not fit, the schedule ends
    when the time does, so that the last epochs always run at a small learning rate.
    """

    epochs: int
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 2e-2
    warmup_epochs: float = 1.0
    ema: float = 0.995
    seed: int = 1
    threads: int = 2
    bfloat16: bool = True
    minutes: float | None = None


class Task(Protocol):
    """What is trained."""

    model: nn.Module
    batches_per_epoch: int

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """The batches of an epoch; the same for the same epoch."""
        ...

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor: ...

    def score(self, model: nn.Module) -> dict[str, float]:
        """Figures on validation patients; the best checkpoint has the highest `score`."""
        ...


@dataclass(kw_only=True)
class _State:
    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.AdamW
    epoch: int = 0
    steps: int = 0
    best: float = -math.inf
    seconds: float = 0.0  # spent by all runs so far

    def progress(self, plan: Plan, batches_per_epoch: int, seconds: float) -> float:
        """0 at the start, 1 at the end of the epochs or of the time, whichever is nearer."""
        by_steps = self.steps / (plan.epochs * batches_per_epoch)
        return by_steps if plan.minutes is None else max(by_steps, seconds / (60 * plan.minutes))


def fit(task: Task, plan: Plan, folder: Path) -> Path:
    """Train to the end, from the last finished epoch in `folder` if there is one. Returns the best weights' file."""
    torch.set_num_threads(plan.threads)
    folder.mkdir(parents=True, exist_ok=True)
    state = _start_or_resume(task, plan, folder / "last.pt")
    while state.progress(plan, task.batches_per_epoch, state.seconds) < 1:
        begin = time.monotonic()
        loss = _train_epoch(task, plan, state)
        figures = task.score(state.average)
        if figures["score"] > state.best:
            state.best = figures["score"]
            _save({"model": state.average.state_dict()}, folder / "best.pt")
        state.seconds += time.monotonic() - begin
        _save_state(state, folder / "last.pt")
        _log(folder / "log.txt", _line(task, plan, state, loss, figures))
    return folder / "best.pt"


def load_best(model: nn.Module, file: Path) -> nn.Module:
    """`model` with the weights of a `best.pt`, ready to be evaluated."""
    model.load_state_dict(torch.load(file, weights_only=True)["model"])
    return model.eval()


def _train_epoch(task: Task, plan: Plan, state: _State) -> float:
    torch.manual_seed(plan.seed * 100_003 + state.epoch)
    state.model.train()
    begin, total = time.monotonic(), 0.0
    for batch in task.batches(state.epoch):
        progress = state.progress(plan, task.batches_per_epoch, state.seconds + time.monotonic() - begin)
        for group in state.optimizer.param_groups:
            group["lr"] = _learning_rate(plan, progress, state.steps / task.batches_per_epoch)
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16):
            loss = task.loss(state.model, batch)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), 5.0)
        state.optimizer.step()
        state.steps += 1
        _move_average(state, plan.ema)
        total += loss.item()
    state.epoch += 1
    return total / task.batches_per_epoch


def _learning_rate(plan: Plan, progress: float, epochs_done: float) -> float:
    warm = min(1.0, (epochs_done + 0.02) / plan.warmup_epochs) if plan.warmup_epochs else 1.0
    return plan.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


@torch.no_grad()
def _move_average(state: _State, decay: float) -> None:
    # Early on the average follows closely, so that it does not drag the random start along.
    decay = min(decay, (1 + state.steps) / (10 + state.steps))
    for kept, new in zip(state.average.state_dict().values(), state.model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def _start_or_resume(task: Task, plan: Plan, file: Path) -> _State:
    model = task.model.to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=plan.learning_rate,
    )
    state = _State(model=model, average=copy.deepcopy(model).eval(), optimizer=optimizer)
    if file.exists():
        saved = torch.load(file, weights_only=True)
        for name in ("model", "average", "optimizer"):
            getattr(state, name).load_state_dict(saved[name])
        for name in ("epoch", "steps", "best", "seconds"):
            setattr(state, name, saved[name])
    return state


def _save_state(state: _State, file: Path) -> None:
    values = {name: getattr(state, name).state_dict() for name in ("model", "average", "optimizer")}
    _save({**values, **{name: getattr(state, name) for name in ("epoch", "steps", "best", "seconds")}}, file)


def _save(values: dict[str, Any], file: Path) -> None:
    """Write beside and rename, so that a kill never leaves half a checkpoint."""
    beside = file.with_suffix(".tmp")
    torch.save(values, beside)
    beside.replace(file)


def _line(task: Task, plan: Plan, state: _State, loss: float, figures: dict[str, float]) -> str:
    progress = state.progress(plan, task.batches_per_epoch, state.seconds)
    left = state.seconds * (1 / progress - 1) / 60
    numbers = "  ".join(f"{k} {v:.4f}" for k, v in figures.items())
    best = " *" if figures["score"] == state.best else ""
    return f"epoch {state.epoch:3d}/{plan.epochs}  loss {loss:.4f}  {numbers}  {max(left, 0):.1f} min left{best}"


def _log(file: Path, line: str) -> None:
    print(f"{file.parent.name}: {line}", file=sys.stderr, flush=True)
    with file.open("a") as out:
        out.write(line + "\n")
