"""One loop for everything that is trained: a task and a plan in, the best weights' file out; a killed run goes on.

The task knows its data, loss and score; the engine knows optimiser, schedule, bfloat16, the moving average of the weights
(which is what is scored and kept) and checkpoints. Random numbers are drawn from (seed, epoch), so that an epoch is the
same whether or not the run was killed before it. Checkpoints are state dicts, loaded with weights_only.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau
from tqdm import tqdm

from cxr_edge.errors import InputError
from training.parallel import World, everywhere, shared_model, wait, world
from training.plan import Plan
from training.shared_files import atomic_write

__all__ = ["Plan", "Task", "fit", "load_best"]


class Task(Protocol):
    """What is trained."""

    model: nn.Module
    batches_per_epoch: int

    def batches(self, epoch: int, here: World) -> Iterator[tuple[Tensor, ...]]:
        """This process's share of the batches of an epoch; the same for the same epoch."""
        ...

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor: ...

    def score(self, model: nn.Module) -> dict[str, float]:
        """Figures on validation patients; the best checkpoint has the highest `score`."""
        ...


@dataclass(kw_only=True)
class _State:
    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: MultiStepLR | ReduceLROnPlateau | None  # of `_schedule`
    epoch: int = 0
    steps: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    seconds: float = 0.0  # spent by all runs so far

    @property
    def rate(self) -> float:
        """What plateaus or steps have left of the learning rate."""
        return 1.0 if self.schedule is None else self.schedule.optimizer.param_groups[0]["lr"]

    def progress(self, plan: Plan, batches_per_epoch: int, seconds: float) -> float:
        """0 at the start, 1 at the end of the epochs or of the time, whichever is nearer."""
        by_steps = self.steps / (plan.epochs * batches_per_epoch)
        return by_steps if plan.minutes is None else max(by_steps, seconds / (60 * plan.minutes))

    def finished(self, plan: Plan, batches_per_epoch: int) -> bool:
        out_of_patience = plan.patience is not None and self.epoch - self.best_epoch >= plan.patience
        return out_of_patience or self.progress(plan, batches_per_epoch, self.seconds) >= 1


_NUMBERS = ("epoch", "steps", "best", "best_epoch", "seconds")


def fit(task: Task, plan: Plan, folder: Path, *, name: str | None = None) -> Path:
    """Train to the end, from the last finished epoch in `folder` if there is one. Returns the best weights' file.

    name: what lines and bars call it; default the folder's.
    """
    name = name or folder.name
    here = world()
    torch.set_num_threads(plan.threads)
    folder.mkdir(parents=True, exist_ok=True)
    state = _start_or_resume(task, plan, folder / "last.pt", here)
    computes, writer = shared_model(state.model, here), _curve_writer(plan, folder, here)
    while not state.finished(plan, task.batches_per_epoch):
        begin = time.monotonic()
        loss = _train_epoch(task, plan, state, computes, here, name)
        figures = _scored(task, state, here)
        better = figures["score"] > state.best
        if better:
            state.best, state.best_epoch = figures["score"], state.epoch
        if better or plan.keep == "last":
            _save({"model": state.average.state_dict()}, folder / "best.pt", here)
        _lower_rate(state, figures["score"])
        state.seconds = everywhere({"seconds": state.seconds + time.monotonic() - begin}, here)["seconds"]
        _save_state(state, folder / "last.pt", here)
        if here.first:
            _log(folder / "log.txt", name, _line(task, plan, state, loss, figures))
            _curves(writer, state.epoch, {"loss": loss, **figures})
    wait(here)
    return folder / "best.pt"


def load_best(model: nn.Module, file: Path) -> nn.Module:
    """`model` with the weights of a `best.pt`, ready to be evaluated."""
    model.load_state_dict(torch.load(file, weights_only=True, map_location="cpu")["model"])
    return model.eval()


def _train_epoch(task: Task, plan: Plan, state: _State, computes: nn.Module, here: World, name: str) -> float:
    torch.manual_seed((plan.seed * 100_003 + state.epoch) * here.size + here.rank)
    computes.train()
    begin, total = time.monotonic(), 0.0
    quiet = not (here.first and sys.stderr.isatty())
    batches = _ahead(task.batches(state.epoch, here))
    for batch in tqdm(batches, name, task.batches_per_epoch, leave=False, disable=quiet):
        seconds = state.seconds + time.monotonic() - begin
        if plan.minutes is not None:  # the clocks of several processes differ, their learning rates must not
            seconds = everywhere({"seconds": seconds}, here)["seconds"]
        progress = state.progress(plan, task.batches_per_epoch, seconds)
        for group in state.optimizer.param_groups:
            group["lr"] = _learning_rate(plan, state, progress, state.steps / task.batches_per_epoch)
        with torch.autocast(here.device.type, torch.bfloat16, enabled=plan.bfloat16):
            loss = task.loss(computes, tuple(t.to(here.device) for t in batch))
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if plan.clip_norm:
            nn.utils.clip_grad_norm_(state.model.parameters(), plan.clip_norm)
        state.optimizer.step()
        state.steps += 1
        _move_average(state, plan.ema)
        total += loss.item()
    state.epoch += 1
    if not math.isfinite(total):  # so are the weights now, and a score of such a network may still look like one
        raise InputError(f"{name}: the loss became {total} in epoch {state.epoch}: lower the learning rate")
    return total / task.batches_per_epoch


def _ahead(batches: Iterator[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """The same batches, each made by another thread while the one before it is learnt from."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _scored(task: Task, state: _State, here: World) -> dict[str, float]:
    """The average model's figures. Every process scores, so that all know the names; the first one's numbers count."""
    return everywhere(task.score(state.average), here)


def _schedule(plan: Plan) -> MultiStepLR | ReduceLROnPlateau | None:
    """What lowers the rate after epochs, on an optimizer of its own whose rate is the share that is left: the network's own
    also follows warm-up and cosine within an epoch."""
    share = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    if plan.schedule == "step":
        return MultiStepLR(share, plan.step_epochs, plan.step_factor)
    if plan.schedule == "plateau":
        least = plan.least_rate / plan.learning_rate
        # torch waits for one epoch more than its patience. No threshold: any better score counts, as for the best weights.
        patience = plan.plateau_epochs - 1
        return ReduceLROnPlateau(share, "max", plan.plateau_factor, patience, threshold=0.0, min_lr=least, eps=0.0)
    return None


def _lower_rate(state: _State, score: float) -> None:
    if isinstance(state.schedule, ReduceLROnPlateau):
        state.schedule.step(score)
    elif state.schedule is not None:
        state.schedule.optimizer.step()  # moves nothing; without it torch warns of a wrong order
        state.schedule.step()


def _learning_rate(plan: Plan, state: _State, progress: float, epochs_done: float) -> float:
    warm = min(1.0, (epochs_done + 0.02) / plan.warmup_epochs) if plan.warmup_epochs else 1.0
    if plan.schedule != "cosine":
        return plan.learning_rate * warm * state.rate
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


def _start_or_resume(task: Task, plan: Plan, file: Path, here: World) -> _State:
    model = task.model.to(here.device, memory_format=torch.channels_last)
    average = copy.deepcopy(model).eval()
    state = _State(model=model, average=average, optimizer=_optimizer(model, plan), schedule=_schedule(plan))
    wait(here)
    if file.exists():
        saved = torch.load(file, weights_only=True, map_location=here.device)
        for name in ("model", "average", "optimizer"):
            getattr(state, name).load_state_dict(saved[name])
        for name in _NUMBERS:
            setattr(state, name, saved.get(name, getattr(state, name)))
        if state.schedule is not None:
            _load_schedule(state.schedule, saved, file)
    return state


# Of the state of torch's schedules, what epochs change; the rest is the plan's.
_OF_SCHEDULE = ("last_epoch", "best", "num_bad_epochs")


def _load_schedule(schedule: MultiStepLR | ReduceLROnPlateau, saved: Mapping[str, Any], file: Path) -> None:
    if "schedule" not in saved:
        raise InputError(
            f"{file} does not say how far its schedule had come: expected a checkpoint of this version, got an earlier "
            f"one's; delete {file.parent} to train it again"
        )
    schedule.load_state_dict(saved["schedule"])
    schedule.optimizer.param_groups[0]["lr"] = saved["rate"]


def _optimizer(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim > 1 or plan.decayed == "all"]
    plain = [p for p in model.parameters() if p.ndim <= 1 and plan.decayed != "all"]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=plan.momentum, nesterov=plan.momentum > 0)
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=plan.learning_rate)


def _save_state(state: _State, file: Path, here: World) -> None:
    values = {name: getattr(state, name).state_dict() for name in ("model", "average", "optimizer")}
    numbers = {name: getattr(state, name) for name in (*_NUMBERS, "rate")}
    schedule = {} if state.schedule is None else state.schedule.state_dict()
    _save({**values, **numbers, "schedule": {k: schedule[k] for k in _OF_SCHEDULE if k in schedule}}, file, here)


def _save(values: dict[str, Any], file: Path, here: World) -> None:
    """Only the first process writes."""
    if here.first:
        with atomic_write(file) as beside:
            torch.save(values, beside)


def _line(task: Task, plan: Plan, state: _State, loss: float, figures: dict[str, float]) -> str:
    progress = state.progress(plan, task.batches_per_epoch, state.seconds)
    left = state.seconds * (1 / progress - 1) / 60
    numbers = "  ".join(f"{k} {v:.4f}" for k, v in figures.items())
    best = " *" if state.best_epoch == state.epoch else ""
    return f"epoch {state.epoch:3d}/{plan.epochs}  loss {loss:.4f}  {numbers}  {max(left, 0):.1f} min left{best}"


def _log(file: Path, name: str, line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr, flush=True)
    with file.open("a") as out:
        out.write(line + "\n")


def _curve_writer(plan: Plan, folder: Path, here: World) -> Any:
    """TensorBoard's writer, or None where the plan asks for none."""
    if not (plan.tensorboard and here.first):
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("tensorboard = true needs the package: pip install tensorboard, or set it to false") from error
    return SummaryWriter(str(folder / "tensorboard"))


def _curves(writer: Any, epoch: int, figures: dict[str, float]) -> None:
    if writer is not None:
        for name, value in figures.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()
