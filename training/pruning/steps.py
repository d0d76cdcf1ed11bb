"""Pruning steps on disk: a folder in, its finished steps out, each a folder `step-NN` with a network and its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cxr_edge.errors import BundleError, InputError
from training.shared_files import read_json, reading, write_text

__all__ = ["STEP", "Step", "best_step", "numbered_folder", "read_step", "step_folder", "steps_of", "write_step"]

STEP = "step.json"  # the last file of a finished step


@dataclass(frozen=True, kw_only=True)
class Step:
    """A network after a pruning step."""

    number: int  # 0: the unpruned network
    channels: int  # left in all prunable layers
    parameters: int
    macs: int  # per image
    figures: Mapping[str, float]  # on validation, of the best epoch
    milliseconds: float | None = None  # per image through ONNX Runtime; None: not measured

    @property
    def score(self) -> float:
        return self.figures["score"]

    @property
    def line(self) -> str:
        """The step in one line of a log."""
        return (
            f"step {self.number:2d}  {self.channels} channels  {self.parameters:,} parameters  {self.macs / 1e6:.1f} million "
            f"MACs  score {self.score:.4f}"
        )


def steps_of(folder: Path) -> list[Step]:
    """Return the finished steps in a folder of `prune`, in order."""
    return [read_step(path) for path in sorted(folder.glob("step-*")) if (path / STEP).exists()]


def best_step(steps: Sequence[Step], *, tolerance: float = 0.0) -> Step:
    """Return the last pruned step with a validation score within `tolerance` of the best of them."""
    pruned = [s for s in steps if s.number > 0]
    if not pruned:
        raise InputError("there is no pruned step to select: run the pruning first")
    best = max(s.score for s in pruned)
    return [s for s in pruned if s.score >= best - tolerance][-1]


def step_folder(folder: Path, step: Step) -> Path:
    """Return the folder of a step's network."""
    return numbered_folder(folder, step.number)


def numbered_folder(folder: Path, number: int) -> Path:
    """Return the folder of a step by its number."""
    return folder / f"step-{number:02d}"


def read_step(path: Path) -> Step:
    """Read the step in its folder. Raises BundleError if it is not finished, or damaged."""
    remedy = f"delete {path} and start the same command again, which makes the step again"
    try:
        values = read_json(path / STEP, remedy)
        with reading(path / STEP, remedy):
            return Step(**values)
    except InputError as error:
        raise BundleError(f"{path} holds no finished pruning step: {error}") from error


def write_step(step: Step, path: Path) -> None:
    """Write the step's figures in its folder, which ends it."""
    write_text(path / STEP, json.dumps(asdict(step), indent=1) + "\n")
