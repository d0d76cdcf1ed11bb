"""Runs with several training seeds: a configuration and a seed in, the configuration and run folder of that seed out.

A training seed determines initial weights, order and sampling of images, augmentation, the fits of combinations and the
search, but not the split and the folds: all seeds are evaluated on the same test images.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from cxr_edge.errors import InputError
from training.loop.plan import Plan
from training.pruning.prune import PrunePlan
from training.recipes.config import MemberPlan, RunConfig
from training.shared_files import atomic_write, exclusive_lock, read_json, reading, write_text

__all__ = ["SEEDS_BELOW", "is_finished", "networks_of", "seed_folder", "share_split", "with_seed", "write_finished"]

SEEDS_BELOW = 100_000
FINISHED = "finished.json"
_SPLIT = ("leakage.json", "leakage.md", "table.csv")  # the table last, so that a folder with a table is complete

_NETWORKS_OF = ("networks", "learners_of")  # keys of R20 and FLANNEL: the run whose trained networks are reused

Recipe = TypeVar("Recipe", bound=RunConfig)


def seed_folder(seed: int) -> str:
    """Return the name of a seed's folder in the run folder and in the results folder."""
    return f"seed-{seed}"


def with_seed(config: Recipe, seed: int) -> Recipe:
    """Return the configuration with another `training_seed` and its own name; `seed`, which splits, does not change.

    A plan with its own seed gets a new seed, distinct from those of all other plans and seeds, so that members that differ
    only in their seed stay different. Networks of another run with several seeds are reused from its run of this seed.
    """
    changed = {f.name: _with_seed(getattr(config, f.name), config.fit_seed, seed) for f in fields(config)}
    for name in _NETWORKS_OF:
        if changed.get(name) is not None:
            changed[name] = _of_seed(changed[name], seed)
    return replace(config, **{**changed, "name": f"{config.name}-{seed_folder(seed)}", "training_seed": seed})


def networks_of(config: RunConfig) -> str | None:
    """Return the run folder whose trained networks a recipe reuses, or None."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return next((values[name] for name in _NETWORKS_OF if values.get(name) is not None), None)


def _with_seed(value: Any, before: int, seed: int) -> Any:
    """Return a field of a configuration with the seed set in all its plans."""
    if isinstance(value, Plan):
        return replace(value, seed=_seed_of_plan(value.seed, before, seed))
    if isinstance(value, PrunePlan):
        return replace(value, retrain=_with_seed(value.retrain, before, seed))
    if isinstance(value, MemberPlan) and "seed" in value.plan:
        return replace(value, plan={**value.plan, "seed": _seed_of_plan(value.plan["seed"], before, seed)})
    if isinstance(value, Mapping):
        return {k: _with_seed(v, before, seed) for k, v in value.items()}
    return value


def _seed_of_plan(own: int, before: int, seed: int) -> int:
    return seed if own == before else seed + SEEDS_BELOW * (own + 1)


def _of_seed(run: str, seed: int) -> str:
    return str(Path(run) / seed_folder(seed)) if any(Path(run).glob("seed-*")) else run


def share_split(first: Path, other: Path) -> None:
    """Copy the split of one run folder to another without one, so that duplicates are searched only once for all seeds.

    Does nothing while the first folder has no split. Raises InputError if the other folder has a different split.
    """
    if other == first or not (first / "table.csv").exists():
        return
    with exclusive_lock(other / "table.csv"):
        if not (other / "table.csv").exists():
            for name in _SPLIT:
                with atomic_write(other / name) as beside:
                    shutil.copyfile(first / name, beside)
    if (other / "table.csv").read_bytes() != (first / "table.csv").read_bytes():
        raise InputError(
            f"{other} has another split than {first}, and seeds are comparable on the same test images only: give another run "
            "folder (--out), or delete the wrong one"
        )


def is_finished(config: RunConfig, out: Path, results: Path) -> bool:
    """Return whether a run finished with this configuration and all its files still exist."""
    file = out / FINISHED
    if not file.exists() or not (results / "results.json").exists():
        return False
    record = read_json(file)
    with reading(file):
        return record["config"] == _as_json(config) and all((out / name).exists() for name in record["files"])


def write_finished(config: RunConfig, out: Path) -> None:
    """Record the end of a run in its folder, for `is_finished`."""
    record = {"config": _as_json(config), "files": _files(out)}
    write_text(out / FINISHED, json.dumps(record, indent=1) + "\n")


def _as_json(config: RunConfig) -> Any:
    return json.loads(json.dumps(asdict(config)))


def _files(out: Path) -> Sequence[str]:
    files = (p.relative_to(out) for p in out.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in files if not any(part.startswith(".") for part in p.parts))
