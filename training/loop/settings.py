"""How a folder's network is trained: plan and network in, a note beside the network out, or an error where it differs.

Training that was stopped goes on only as it was begun, and a network that is there counts only for the plan that made it:
networks of two plans do not compare.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cxr_edge.errors import InputError
from training.loop.plan import Plan, plan_settings
from training.models import NetworkSpec
from training.parallel import wait, world
from training.shared_files import write_text

__all__ = ["TRAINING", "same_training"]

TRAINING = "training.json"

_NO_MATTER = ("threads", "workers", "tensorboard", "mlflow")  # settings of a plan that change no weight


def same_training(folder: Path, plan: Plan, spec: NetworkSpec, others: Mapping[str, Any], *, done: bool) -> None:
    """Write the note where training is still to be done, or compare it; a network of before has no note.

    others: settings besides, as JSON. done: whether the folder's network is trained. Raises InputError where the note says
    other settings, naming each.
    """
    file = folder / TRAINING
    how = {"plan": _plan(asdict(plan)), "network": spec.as_json(), **others}
    if file.exists():
        made = json.loads(file.read_text(encoding="utf-8"))
        before, now = _settings(made), _settings(how)
        if changed := [f"{k} {before.get(k)}, not {v}" for k, v in now.items() if before.get(k) != v]:
            raise InputError(f"{folder} was trained with {'; '.join(changed)}: delete it to train it again")
    elif world().first and not done:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(how, indent=1) + "\n")
    wait(world())


def _plan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in plan_settings(values).items() if k not in _NO_MATTER}


def _settings(how: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting by its name; those that an earlier version did not know have the default, which is what it did."""
    network = {**NetworkSpec(architecture="", labels=0).as_json(), **how["network"]}
    parts = {"plan": _plan(how["plan"]), "network": network}
    named = {f"{part} {k}": v for part, values in parts.items() for k, v in values.items()}
    return json.loads(json.dumps({**named, **{k: v for k, v in how.items() if k not in parts}}))
