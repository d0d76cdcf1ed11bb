"""One loop for everything that is trained: a task and a plan in, the best weights' file out; a killed run goes on.

The task knows its data, loss and score; the engine knows the plan: optimizer, schedule, precision, the moving average of the
weights (which is what is scored and kept) and checkpoints. Random numbers are drawn from (seed, epoch), so that an epoch is
the same whether or not the run was killed before it. Checkpoints are state dicts, loaded with weights_only.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.amp import GradScaler
from tqdm import tqdm

from cxr_edge.errors import InputError
from training.loop.batches import Batch, Batches, ahead, in_groups
from training.loop.curves import curves
from training.loop.optimizer import RateSchedule, optimizer_of, rate_at, set_rate
from training.loop.plan import Plan
from training.models.layers import freeze_trunk
from training.parallel import World, computes_bfloat16, everywhere, shared_model, wait, world
from training.shared_files import atomic_write

__all__ = ["Plan", "Task", "fit", "load_best"]


class Task(Protocol):
    """What is trained."""

    model: nn.Module
    batches_per_epoch: int

    def batches(self, epoch: int, here: World) -> Batches:
        """This process's share of the batches of an epoch, made when asked for; the same for the same epoch and number."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor: ...

    def score(self, model: nn.Module) -> dict[str, float]:
        """Figures on validation patients; the best checkpoint has the highest `score`."""
        ...


@dataclass(kw_only=True)
class _State:
    model: nn.Module
    average: ModelEmaV3
    optimizer: torch.optim.Optimizer
    schedule: RateSchedule
    scaler: GradScaler  # of fp16's loss; does nothing for other precisions
    steps_per_epoch: int
    epoch: int = 0
    steps: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    seconds: float = 0.0  # spent by all runs so far

    def progress(self, plan: Plan, seconds: float) -> float:
        """0 at the start, 1 at the end of the epochs or of the time, whichever is nearer."""
        by_steps = self.steps / (plan.epochs * self.steps_per_epoch)
        return by_steps if plan.minutes is None else max(by_steps, seconds / (60 * plan.minutes))

    def finished(self, plan: Plan) -> bool:
        out_of_patience = plan.patience is not None and self.epoch - self.best_epoch >= plan.patience
        return out_of_patience or self.progress(plan, self.seconds) >= 1


_NUMBERS = ("epoch", "steps", "best", "best_epoch", "seconds")
# timm's warm-up of the average: after n steps its decay is at most (n + 1) / (n + 10), so that it does not drag the random
# start along. timm counts from two steps on.
_WARM_UP = {"use_warmup": True, "warmup_gamma": 9.0, "warmup_power": 1.0}


def fit(task: Task, plan: Plan, folder: Path, *, name: str | None = None) -> Path:
    """Train to the end, from the last finished epoch in `folder` if there is one. Returns the best weights' file.

    name: what lines and bars call it; default the folder's. Raises InputError where the plan asks for what the network or
    this machine has not.
    """
    name = name or folder.name
    here = world()
    torch.set_num_threads(plan.threads)
    folder.mkdir(parents=True, exist_ok=True)
    with _repeatable(plan):
        _fit(task, plan, folder, name, here)
    wait(here)
    return folder / "best.pt"


def _fit(task: Task, plan: Plan, folder: Path, name: str, here: World) -> None:
    state = _start_or_resume(task, plan, folder / "last.pt", here)
    writers = curves(plan, folder, name) if here.first else []
    computes: nn.Module | None = None
    while not state.finished(plan):
        begin = time.monotonic()
        if computes is None or state.epoch == plan.frozen_epochs:
            computes = _computes(state, plan, here)
        loss = _train_epoch(task, plan, state, computes, here, name)
        figures = _scored(task, plan, state, here)
        better = figures["score"] > state.best
        if better:
            state.best, state.best_epoch = figures["score"], state.epoch
        if better or plan.keep == "last":
            _save({"model": state.average.module.state_dict()}, folder / "best.pt", here)
        state.schedule.after_epoch(figures["score"])
        state.seconds = everywhere({"seconds": state.seconds + time.monotonic() - begin}, here)["seconds"]
        _save_state(state, folder / "last.pt", here)
        if here.first:
            _log(folder / "log.txt", name, _line(plan, state, loss, figures))
            for writer in writers:
                writer.add(state.epoch, {"loss": loss, **figures})
    for writer in writers:
        writer.end()


def load_best(model: nn.Module, file: Path) -> nn.Module:
    """`model` with the weights of a `best.pt`, ready to be evaluated."""
    model.load_state_dict(torch.load(file, weights_only=True, map_location="cpu")["model"])
    return model.eval()


@contextmanager
def _repeatable(plan: Plan) -> Iterator[None]:
    """torch's deterministic kernels while a plan that asks for them trains."""
    before = torch.are_deterministic_algorithms_enabled()
    if plan.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may not, and torch refuses
        torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if plan.deterministic and "deterministic" in str(error):
            raise InputError(
                f"deterministic = true, and a layer has no such kernel: {error}. Set it to false"
            ) from error
        raise
    finally:
        torch.use_deterministic_algorithms(before)


def _computes(state: _State, plan: Plan, here: World) -> nn.Module:
    """What computes the loss from now on: the network, shared and compiled; made anew when the trunk is no longer frozen."""
    if plan.frozen_epochs:
        freeze_trunk(state.model, _is_frozen(plan, state))
    shared = shared_model(state.model, here)
    return torch.compile(shared) if plan.compile else shared  # type: ignore[return-value]


def _is_frozen(plan: Plan, state: _State) -> bool:
    return state.epoch < plan.frozen_epochs


def _train_epoch(task: Task, plan: Plan, state: _State, computes: nn.Module, here: World, name: str) -> float:
    torch.manual_seed((plan.seed * 100_003 + state.epoch) * here.size + here.rank)
    computes.train()
    if _is_frozen(plan, state):
        freeze_trunk(state.model, True)
    begin, total = time.monotonic(), 0.0
    quiet = not (here.first and sys.stderr.isatty())
    batches = ahead(task.batches(state.epoch, here), plan.workers)
    shown = tqdm(batches, name, task.batches_per_epoch, leave=False, disable=quiet)
    for group in in_groups(iter(shown), plan.accumulate):
        seconds = state.seconds + time.monotonic() - begin
        if plan.minutes is not None:  # the clocks of several processes differ, their learning rates must not
            seconds = everywhere({"seconds": seconds}, here)["seconds"]
        set_rate(state.optimizer, _rate(plan, state, seconds))
        total += _gradients(task, plan, state, computes, group, here)
        _step(plan, state)
    state.epoch += 1
    if not math.isfinite(total):  # so are the weights now, and a score of such a network may still look like one
        raise InputError(f"{name}: the loss became {total} in epoch {state.epoch}: lower the learning rate")
    return total / task.batches_per_epoch


def _rate(plan: Plan, state: _State, seconds: float) -> float:
    epochs_done = state.steps / state.steps_per_epoch
    progress = state.progress(plan, seconds)
    return rate_at(plan, progress=progress, epochs_done=epochs_done, steps=state.steps, left=state.schedule.left)


def _gradients(
    task: Task, plan: Plan, state: _State, computes: nn.Module, group: Sequence[Batch], here: World
) -> float:
    """Add up the gradients of a group of batches, as of one batch. Returns the sum of their losses."""
    total = 0.0
    for number, batch in enumerate(group, 1):
        # Gradients cross the processes once, with the last batch.
        apart = computes.no_sync() if here.size > 1 and number < len(group) else nullcontext()  # type: ignore[operator]
        with apart:
            with _autocast(plan, here):
                loss = task.loss(computes, tuple(t.to(here.device, non_blocking=True) for t in batch))
            state.scaler.scale(loss / len(group)).backward()
        total += loss.item()
    return total


def _step(plan: Plan, state: _State) -> None:
    if plan.clip_norm:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), plan.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.steps += 1
    state.average.update(state.model, step=state.steps + 2)


def _autocast(plan: Plan, here: World) -> torch.autocast:
    kind = torch.float16 if plan.precision == "fp16" else torch.bfloat16
    half = plan.precision in ("bf16", "fp16") or (plan.precision == "auto" and computes_bfloat16(here.device))
    return torch.autocast(here.device.type, kind, enabled=half)


def _scored(task: Task, plan: Plan, state: _State, here: World) -> dict[str, float]:
    """The average model's figures. Every process scores, so that all know the names; the first one's numbers count."""
    with _autocast(plan, here):
        return everywhere(task.score(state.average.module), here)


def _start_or_resume(task: Task, plan: Plan, file: Path, here: World) -> _State:
    model = task.model.to(here.device, memory_format=torch.channels_last)
    state = _State(
        model=model,
        average=ModelEmaV3(model, decay=plan.ema, **_WARM_UP),
        optimizer=optimizer_of(model, plan),
        schedule=RateSchedule(plan),
        scaler=GradScaler(here.device.type, enabled=plan.precision == "fp16"),
        steps_per_epoch=math.ceil(task.batches_per_epoch / plan.accumulate),
    )
    wait(here)
    if file.exists():
        _load_state(state, torch.load(file, weights_only=True, map_location=here.device), file)
    return state


def _load_state(state: _State, saved: dict[str, Any], file: Path) -> None:
    state.model.load_state_dict(saved["model"])
    state.average.module.load_state_dict(saved["average"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.scaler.load_state_dict(saved.get("scaler", {}))
    for name in _NUMBERS:
        setattr(state, name, saved.get(name, getattr(state, name)))
    if state.schedule.lowers:
        if "schedule" not in saved:
            raise InputError(
                f"{file} does not say how far its schedule had come: expected a checkpoint of this version, got an earlier "
                f"one's; delete {file.parent} to train it again"
            )
        state.schedule.load(saved["schedule"], saved["rate"])


def _save_state(state: _State, file: Path, here: World) -> None:
    values = {
        "model": state.model.state_dict(),
        "average": state.average.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "schedule": state.schedule.state(),
        "rate": state.schedule.left,
    }
    _save({**values, **{name: getattr(state, name) for name in _NUMBERS}}, file, here)


def _save(values: dict[str, Any], file: Path, here: World) -> None:
    """Only the first process writes."""
    if here.first:
        with atomic_write(file) as beside:
            torch.save(values, beside)


def _line(plan: Plan, state: _State, loss: float, figures: dict[str, float]) -> str:
    progress = state.progress(plan, state.seconds)
    left = state.seconds * (1 / progress - 1) / 60
    numbers = "  ".join(f"{k} {v:.4f}" for k, v in figures.items())
    best = " *" if state.best_epoch == state.epoch else ""
    return f"epoch {state.epoch:3d}/{plan.epochs}  loss {loss:.4f}  {numbers}  {max(left, 0):.1f} min left{best}"


def _log(file: Path, name: str, line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr, flush=True)
    with file.open("a") as out:
        out.write(line + "\n")
