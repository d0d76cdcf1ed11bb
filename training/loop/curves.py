"""Curves of a training beside its log: an epoch's figures in, points in TensorBoard or MLflow out.

Both packages are asked for by a plan and imported then. A tracking server that goes away in the midst of a training costs the
points, not the training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from cxr_edge.errors import InputError
from training.loop.plan import Plan
from training.shared_files import write_text

__all__ = ["Curves", "curves"]

_RUN = "mlflow-run"  # in the training's folder: the run that a training which was stopped goes on with
_EXPERIMENT = "cxr-edge"


class Curves(Protocol):
    """Where figures go."""

    def add(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Note the figures of a finished epoch, counted from 1."""
        ...

    def end(self) -> None:
        """Note that the training is at its end."""
        ...


def curves(plan: Plan, folder: Path, name: str) -> list[Curves]:
    """The writers that a plan asks for. folder: of the training. name: of the run.

    Raises InputError where a package is missing, or MLflow's server does not answer.
    """
    return [
        kind(folder, name, plan) for asked, kind in ((plan.tensorboard, _TensorBoard), (plan.mlflow, _MLflow)) if asked
    ]


class _TensorBoard:
    """Events in `folder`/tensorboard."""

    def __init__(self, folder: Path, name: str, plan: Plan) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "tensorboard = true needs the package: pip install tensorboard, or set it to false"
            ) from error
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def add(self, epoch: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()


class _MLflow:
    """A run of the experiment that MLFLOW_EXPERIMENT_NAME names, or `cxr-edge`, where MLFLOW_TRACKING_URI points."""

    def __init__(self, folder: Path, name: str, plan: Plan) -> None:
        # Nothing of a training leaves the machine that the user did not send: MLflow would report its use.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise InputError(
                "mlflow = true needs the package: pip install mlflow-skinny, or set it to false"
            ) from error
        self._reported = False
        try:
            self._client = MlflowClient()
            self._run = _run(self._client, folder / _RUN, name, plan)
        except Exception as error:  # of a server, a file system or a database: MLflow's own kinds differ by store
            raise InputError(
                f"mlflow = true, and MLflow cannot begin a run: {error}. See where MLFLOW_TRACKING_URI points, or set it to false"
            ) from error

    def add(self, epoch: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._told(lambda name=name, value=value: self._client.log_metric(self._run, name, value, step=epoch))

    def end(self) -> None:
        self._told(lambda: self._client.set_terminated(self._run))

    def _told(self, tell: Callable[[], object]) -> None:
        try:
            tell()
        except Exception as error:  # as above
            if not self._reported:
                print(f"MLflow does not answer any more, the training goes on: {error}", file=sys.stderr, flush=True)
            self._reported = True


def _run(client: Any, file: Path, name: str, plan: Plan) -> str:
    """The run that `file` names, or a new one with the plan's settings."""
    if file.exists():
        return client.get_run(file.read_text(encoding="utf-8").strip()).info.run_id
    wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
    known = client.get_experiment_by_name(wanted)
    experiment = client.create_experiment(wanted) if known is None else known.experiment_id
    run = client.create_run(experiment, run_name=name).info.run_id
    for key, value in asdict(plan).items():
        client.log_param(run, key, value)
    write_text(file, run + "\n")
    return run
