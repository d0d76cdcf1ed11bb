"""Recorded training settings of a folder: plan and network spec in, `training.json` beside the network out.

A training is resumed only with the settings it was started with, and an existing network is used only for the plan that
trained it, because networks of two plans are not comparable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.loop.plan import Plan, plan_settings
from training.models import NetworkSpec
from training.parallel import barrier, world
from training.shared_files import read_json, reading, require_same_settings, write_text

__all__ = ["TRAINING", "check_same_settings"]

TRAINING = "training.json"

_IGNORED = ("threads", "workers", "tensorboard", "mlflow")  # settings of a plan without influence on the weights


def check_same_settings(folder: Path, plan: Plan, spec: NetworkSpec, others: Mapping[str, Any], *, done: bool) -> None:
    """Record the settings before a training, or compare them with the recorded ones.

    others: further settings, as JSON. done: whether the folder's network is trained; one of an old version has no record.
    Raises InputError that names every setting that differs.
    """
    file = folder / TRAINING
    settings = {"plan": _plan(asdict(plan)), "network": spec.as_json(), **others}
    if file.exists():
        recorded = read_json(file)
        with reading(file):
            before = _named(recorded)
        require_same_settings(before, _named(settings), f"{folder} was trained with", "delete it to train it again")
    elif world().is_main and not done:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(settings, indent=1) + "\n")
    barrier(world())


def _plan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in plan_settings(values).items() if k not in _IGNORED}


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return setting name -> value; settings that an earlier version did not know get the default, which it used."""
    network = {**NetworkSpec(architecture="", labels=0).as_json(), **settings["network"]}
    parts = {"plan": _plan(settings["plan"]), "network": network}
    named = {f"{part} {k}": v for part, values in parts.items() for k, v in values.items()}
    as_json: dict[str, Any] = json.loads(json.dumps({**named, **{k: v for k, v in settings.items() if k not in parts}}))
    return as_json
