"""Learning curves: the figures of each epoch in, points in TensorBoard or MLflow out.

Both packages are optional and imported only if a plan enables them. If the tracking server fails during a training, points
are lost and the training continues.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cxr_edge.errors import InputError
from training.loop.plan import Plan
from training.shared_files import reading, write_text

__all__ = ["Curves", "curves"]

_RUN = "mlflow-run"  # file in the training's folder: id of the run, which a resumed training continues
_EXPERIMENT = "cxr-edge"


class Curves(Protocol):
    """Writer of an epoch's figures."""

    def add(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Write the figures of a finished epoch, counted from 1."""
        ...

    def end(self) -> None:
        """Close the writer at the end of the training."""
        ...


def curves(plan: Plan, folder: Path, name: str) -> list[Curves]:
    """Return the writers that a plan enables. folder: of the training. name: of the run.

    Raises InputError if a package is missing or MLflow's server does not respond.
    """
    kinds = ((plan.tensorboard, _TensorBoard), (plan.mlflow, _MLflow))
    return [kind(folder, name, plan) for is_enabled, kind in kinds if is_enabled]


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
    """A run at MLFLOW_TRACKING_URI, of the experiment MLFLOW_EXPERIMENT_NAME (default `cxr-edge`)."""

    def __init__(self, folder: Path, name: str, plan: Plan) -> None:
        # MLflow would report its use; no data leaves the machine unless the user sends it.
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
        except InputError:
            raise
        except Exception as error:  # of a server, a file system or a database: the types differ by store
            raise InputError(
                f"mlflow = true, and MLflow cannot start a run: {error}. Check MLFLOW_TRACKING_URI, or set it to false"
            ) from error

    def add(self, epoch: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._send(partial(self._client.log_metric, self._run, name, value, step=epoch))

    def end(self) -> None:
        self._send(lambda: self._client.set_terminated(self._run))

    def _send(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # as above
            if not self._reported:
                print(f"MLflow does not respond any more, the training continues: {error}", file=sys.stderr, flush=True)
            self._reported = True


def _run(client: Any, file: Path, name: str, plan: Plan) -> str:
    """Return the id of the run that `file` names, or of a new one with the plan's settings."""
    if file.exists():
        with reading(file):
            recorded = file.read_text(encoding="utf-8").strip()
            if not (recorded and recorded.isprintable()):
                raise ValueError("no id of a run")
        existing_run: str = client.get_run(recorded).info.run_id
        return existing_run
    experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
    existing = client.get_experiment_by_name(experiment_name)
    experiment = client.create_experiment(experiment_name) if existing is None else existing.experiment_id
    run: str = client.create_run(experiment, run_name=name).info.run_id
    for key, value in asdict(plan).items():
        client.log_param(run, key, value)
    write_text(file, run + "\n")
    return run
