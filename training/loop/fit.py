"""Training loop: a task and a plan in, a file of trained weights out; a killed run resumes at the last finished epoch.

The task provides data, loss and score. The loop applies the plan: optimizer, schedule, precision, moving average of the
weights (which is evaluated and saved) and checkpoints. Random numbers are drawn from (seed, epoch), so that an epoch is the
same whether or not the run was killed before it.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.amp import GradScaler
from tqdm import tqdm

from cxr_edge.errors import InputError
from training.loop.batches import Batch, Batches, chunks, prefetch
from training.loop.checkpoints import LAST, PREVIOUS, load_checkpoint, save_checkpoint
from training.loop.cpu_speed import DepthwiseInFp32, keep_freed_memory
from training.loop.curves import curves
from training.loop.optimizer import RateSchedule, build_optimizer, learning_rate_at, set_learning_rate
from training.loop.plan import Plan
from training.models.layers import freeze_layers, freeze_trunk
from training.parallel import World, barrier, broadcast, computes_bfloat16, world, wrap_ddp
from training.shared_files import reading

__all__ = ["WEIGHTS", "Plan", "Task", "fit", "load_weights"]

WEIGHTS = "weights.pt"  # in the folder of a training: the selected weights
_OLD_WEIGHTS = "best.pt"  # name of WEIGHTS in version 0.1


class Task(Protocol):
    """A network with its data, loss and validation score."""

    model: nn.Module
    batches_per_epoch: int

    def batches(self, epoch: int, process: World) -> Batches:
        """Return this process's share of the batches of an epoch, created on access; the same for the same epoch and index."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor: ...

    def score(self, model: nn.Module) -> dict[str, float]:
        """Return figures on validation patients; the best checkpoint has the highest `score`."""
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
        """Return the progress from 0 to 1, by epochs or by the time budget, whichever is further."""
        by_steps = self.steps / (plan.epochs * self.steps_per_epoch)
        return by_steps if plan.minutes is None else max(by_steps, seconds / (60 * plan.minutes))

    def finished(self, plan: Plan) -> bool:
        out_of_patience = plan.patience is not None and self.epoch - self.best_epoch >= plan.patience
        return out_of_patience or self.progress(plan, self.seconds) >= 1


_NUMBERS = ("epoch", "steps", "best", "best_epoch", "seconds")
# timm's warm-up of the average: after n steps its decay is at most (n + 1) / (n + 10), so that the random initial weights
# have no lasting weight in it. timm counts from two steps on.
_WARM_UP = {"use_warmup": True, "warmup_gamma": 9.0, "warmup_power": 1.0}


def fit(task: Task, plan: Plan, folder: Path, *, name: str | None = None) -> Path:
    """Train to the end, resuming at the last finished epoch in `folder`. Returns the file of the selected weights.

    name: in log lines and progress bars; default: the folder's. Raises InputError if the network or this machine does not
    support a setting of the plan.
    """
    name = name or folder.name
    process = world()
    torch.set_num_threads(plan.threads)
    keep_freed_memory()
    folder.mkdir(parents=True, exist_ok=True)
    with _deterministic_kernels(plan), _compilation(plan):
        _fit(task, plan, folder, name, process)
    barrier(process)
    return _weights_file(folder)


def _fit(task: Task, plan: Plan, folder: Path, name: str, process: World) -> None:
    state = _start_or_resume(task, plan, folder, process)
    writers = curves(plan, folder, name) if process.is_main else []
    trained: nn.Module | None = None  # the network, wrapped and compiled
    while not state.finished(plan):
        begin = time.monotonic()
        if trained is None or state.epoch == plan.frozen_epochs:
            trained = _wrap(state, plan, process)
        loss = _train_epoch(task, plan, state, trained, process, name)
        figures = _evaluate(task, plan, state, process)
        if not math.isfinite(figures["score"]):  # no comparison with it holds, so that no weights would be saved
            raise InputError(
                f"{name}: the score became {figures['score']} in epoch {state.epoch}: lower the learning rate"
            )
        better = figures["score"] > state.best
        if better:
            state.best, state.best_epoch = figures["score"], state.epoch
        if better or plan.keep == "last":
            _save_weights(state, folder, process)
        state.schedule.after_epoch(figures["score"])
        state.seconds = broadcast({"seconds": state.seconds + time.monotonic() - begin}, process)["seconds"]
        _save_state(state, folder, process)
        if process.is_main:
            _log(folder / "log.txt", name, _line(plan, state, loss, figures))
            for writer in writers:
                writer.add(state.epoch, {"loss": loss, **figures})
    for writer in writers:
        writer.end()


def load_weights(model: nn.Module, file: Path) -> nn.Module:
    """Load the weights of a file that `fit` returned into `model` and set it to evaluation mode.

    Raises InputError if the file is damaged, or of another network.
    """
    values = load_checkpoint(file)
    with reading(file):
        model.load_state_dict(values["model"])
    return model.eval()


def _weights_file(folder: Path) -> Path:
    """Return the file of the selected weights; a training finished by version 0.1 has the old name."""
    current, old = folder / WEIGHTS, folder / _OLD_WEIGHTS
    return old if old.exists() and not current.exists() else current


@contextmanager
def _deterministic_kernels(plan: Plan) -> Iterator[None]:
    """Use torch's deterministic kernels during the block if the plan enables them."""
    before = torch.are_deterministic_algorithms_enabled()
    if plan.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it, and torch raises without it
        torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if plan.deterministic and "deterministic" in str(error):
            raise InputError(
                f"deterministic = true, and a layer has no deterministic kernel: {error}. Set it to false"
            ) from error
        raise
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def _compilation(plan: Plan) -> Iterator[None]:
    """Raise InputError if the plan compiles the network and the compiler fails."""
    try:
        yield
    except RuntimeError as error:
        if plan.compile and isinstance(error, torch._dynamo.exc.BackendCompilerFailed):
            raise InputError(
                f"compile = true, and torch.compile failed: {_cause(error)}. Install a C++ compiler (g++); if one is "
                "installed, delete the folder of compiled code (TORCHINDUCTOR_CACHE_DIR, else torchinductor_USER among temporary "
                "files), in which a killed compilation may have left part of a file; or set compile to false"
            ) from error
        raise


def _cause(error: Exception) -> str:
    """Return kind and first line of what the compiler raised."""
    cause = getattr(error, "inner_exception", error)
    line = next((line.strip() for line in str(cause).splitlines() if line.strip()), "no reason given")
    return f"{type(cause).__name__}: {line}"


def _wrap(state: _State, plan: Plan, process: World) -> nn.Module:
    """Wrap the network for several processes and compile it; called again when the trunk is no longer frozen."""
    if plan.frozen_epochs:
        freeze_trunk(state.model, _is_frozen(plan, state))
    if plan.frozen_layers:
        freeze_layers(state.model, plan.frozen_layers)
    wrapped = wrap_ddp(state.model, process)
    return torch.compile(wrapped) if plan.compile else wrapped  # type: ignore[return-value]


def _is_frozen(plan: Plan, state: _State) -> bool:
    return state.epoch < plan.frozen_epochs


def _train_epoch(task: Task, plan: Plan, state: _State, trained: nn.Module, process: World, name: str) -> float:
    torch.manual_seed((plan.seed * 100_003 + state.epoch) * process.size + process.rank)
    trained.train()
    if _is_frozen(plan, state):
        freeze_trunk(state.model, True)
    if plan.frozen_layers:
        freeze_layers(state.model, plan.frozen_layers)
    begin, total = time.monotonic(), 0.0
    is_hidden = not (process.is_main and sys.stderr.isatty())
    batches = prefetch(task.batches(state.epoch, process), plan.workers)
    progress_bar = tqdm(batches, name, task.batches_per_epoch, leave=False, disable=is_hidden)
    for group in chunks(iter(progress_bar), plan.accumulate):
        seconds = state.seconds + time.monotonic() - begin
        if plan.minutes is not None:  # clocks differ between processes, learning rates must not
            seconds = broadcast({"seconds": seconds}, process)["seconds"]
        set_learning_rate(state.optimizer, _rate(plan, state, seconds))
        total += _accumulate_gradients(task, plan, state, trained, group, process)
        _step(plan, state)
    state.epoch += 1
    if not math.isfinite(total):  # the weights are not finite either, and their score may look valid
        raise InputError(f"{name}: the loss became {total} in epoch {state.epoch}: lower the learning rate")
    return total / task.batches_per_epoch


def _rate(plan: Plan, state: _State, seconds: float) -> float:
    epochs_done = state.steps / state.steps_per_epoch
    progress = state.progress(plan, seconds)
    return learning_rate_at(
        plan, progress=progress, epochs_done=epochs_done, steps=state.steps, factor=state.schedule.factor
    )


def _accumulate_gradients(
    task: Task, plan: Plan, state: _State, trained: nn.Module, group: Sequence[Batch], process: World
) -> float:
    """Accumulate the gradients of a group of batches, as of one batch. Returns the sum of their losses."""
    total = 0.0
    for number, batch in enumerate(group, 1):
        # Gradients are averaged over the processes once, with the last batch.
        context = trained.no_sync() if process.size > 1 and number < len(group) else nullcontext()  # type: ignore[operator]
        with context:
            with _autocast(plan, process):
                loss = task.loss(trained, tuple(t.to(process.device, non_blocking=True) for t in batch))
            state.scaler.scale(loss / len(group)).backward()  # type: ignore[no-untyped-call]  # torch has no types here
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


@contextmanager
def _autocast(plan: Plan, process: World) -> Iterator[None]:
    """Compute the block in the plan's precision."""
    device = process.device.type
    kind = torch.float16 if plan.precision == "fp16" else torch.bfloat16
    half = plan.precision in ("bf16", "fp16") or (plan.precision == "auto" and computes_bfloat16(process.device))
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device, kind, enabled=half))
        if half and device == "cpu" and not plan.compile:
            stack.enter_context(DepthwiseInFp32())
        yield


def _evaluate(task: Task, plan: Plan, state: _State, process: World) -> dict[str, float]:
    """Return the figures of the averaged weights. Every process evaluates, so that all know the names; rank 0's values count."""
    with _autocast(plan, process):
        return broadcast(task.score(state.average.module), process)


def _start_or_resume(task: Task, plan: Plan, folder: Path, process: World) -> _State:
    model = task.model.to(process.device).to(memory_format=torch.channels_last)
    state = _State(
        model=model,
        average=ModelEmaV3(model, decay=plan.ema, **_WARM_UP),
        optimizer=build_optimizer(model, plan),
        schedule=RateSchedule(plan),
        scaler=GradScaler(process.device.type, enabled=plan.precision == "fp16"),
        steps_per_epoch=math.ceil(task.batches_per_epoch / plan.accumulate),
    )
    barrier(process)
    # A kill between the two renames of a save, or a person who deleted a damaged file, leaves the previous one only.
    file = next((f for f in (folder / LAST, folder / PREVIOUS) if f.exists()), None)
    if file is not None:
        remedy = _remedy(file)
        saved = load_checkpoint(file, device=process.device, remedy=remedy)
        if _has_weights(saved, plan, folder, process):
            _load_state(state, saved, file, remedy)
        elif process.is_main:
            (folder / LAST).unlink(missing_ok=True)
            (folder / PREVIOUS).unlink(missing_ok=True)
    return state


def _remedy(file: Path) -> str:
    """Return what to do about a damaged checkpoint: go on from the one before it if that is whole."""
    again = f"delete the checkpoints of {file.parent} (*.pt) and start the same command again, which trains it again"
    previous = file.with_name(PREVIOUS)
    if file == previous or not previous.exists():
        return again
    try:
        epoch = load_checkpoint(previous)["epoch"]
    except (InputError, KeyError):
        return again
    return f"delete it and start the same command again, which goes on from {PREVIOUS}, of epoch {epoch}"


def _has_weights(saved: dict[str, Any], plan: Plan, folder: Path, process: World) -> bool:
    """Return whether the selected weights of a checkpoint exist; write them if the checkpoint holds them itself.

    Else the training begins again, as if there was no checkpoint. Raises InputError if they are damaged.
    """
    file = _weights_file(folder)
    if file.exists():
        load_checkpoint(file)
    elif "average" in saved and (plan.keep == "last" or saved.get("best_epoch") == saved.get("epoch")):
        _save({"model": saved["average"]}, folder / WEIGHTS, process)
    elif process.is_main:
        print(f"{file} is missing: trained again from the first epoch", file=sys.stderr, flush=True)
    has_weights = file.exists() if process.is_main else False
    return broadcast({"has weights": float(has_weights)}, process)["has weights"] == 1


def _load_state(state: _State, saved: dict[str, Any], file: Path, remedy: str) -> None:
    with reading(file, remedy):
        state.model.load_state_dict(saved["model"])
        state.average.module.load_state_dict(saved["average"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.scaler.load_state_dict(saved.get("scaler", {}))
        for name in _NUMBERS:
            setattr(state, name, saved.get(name, getattr(state, name)))
    if state.schedule.is_active:
        if "schedule" not in saved:
            raise InputError(
                f"{file} does not hold the state of the learning-rate schedule: expected a checkpoint of this version, got "
                f"one of an earlier version; delete {file.parent} to train it again"
            )
        with reading(file, remedy):
            state.schedule.load(saved["schedule"], saved["rate"])


def _save_weights(state: _State, folder: Path, process: World) -> None:
    _save({"model": state.average.module.state_dict()}, folder / WEIGHTS, process)


def _save_state(state: _State, folder: Path, process: World) -> None:
    values = {
        "model": state.model.state_dict(),
        "average": state.average.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "schedule": state.schedule.state(),
        "rate": state.schedule.factor,
    }
    numbers = {name: getattr(state, name) for name in _NUMBERS}
    _save({**values, **numbers}, folder / LAST, process, keep_as=folder / PREVIOUS)


def _save(values: dict[str, Any], file: Path, process: World, *, keep_as: Path | None = None) -> None:
    """Write a checkpoint, from the main process only."""
    if process.is_main:
        save_checkpoint(values, file, keep_as=keep_as)


def _line(plan: Plan, state: _State, loss: float, figures: dict[str, float]) -> str:
    progress = state.progress(plan, state.seconds)
    minutes_left = state.seconds * (1 / progress - 1) / 60
    numbers = "  ".join(f"{k} {v:.4f}" for k, v in figures.items())
    best = " *" if state.best_epoch == state.epoch else ""
    return (
        f"epoch {state.epoch:3d}/{plan.epochs}  loss {loss:.4f}  {numbers}  {max(minutes_left, 0):.1f} min left{best}"
    )


def _log(file: Path, name: str, line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr, flush=True)
    with file.open("a") as out:
        out.write(line + "\n")
