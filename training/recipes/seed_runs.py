"""One recipe trained with several seeds: a configuration and a seed in, the seed's own configuration and run folder out.

A seed changes what training draws (initial weights, order and drawing of images, augmentation, the fits of combinations,
the search), and neither the split nor the folds: all seeds are judged on the same test images.
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
from training.shared_files import atomic_write, one_at_a_time, write_text

__all__ = ["SEEDS_BELOW", "is_finished", "networks_of", "note_finished", "seed_folder", "share_split", "with_seed"]

SEEDS_BELOW = 100_000
FINISHED = "finished.json"
_SPLIT = ("leakage.json", "leakage.md", "table.csv")  # the table last: what it stands for is then complete

_NETWORKS_OF = ("networks", "learners_of")  # of R20 and of FLANNEL: a run whose trained networks are taken

Recipe = TypeVar("Recipe", bound=RunConfig)


def seed_folder(seed: int) -> str:
    """What a seed's folder is called, in the run folder and in the results folder."""
    return f"seed-{seed}"


def with_seed(config: Recipe, seed: int) -> Recipe:
    """The configuration with another `training_seed`, and a name of its own; `seed`, which splits, stays.

    A plan that has a seed of its own gets one that it shares with no other plan and no other seed, so that members which
    differ in their seed alone stay different. Networks of another run that was trained with several seeds are taken from
    its run of this seed.
    """
    changed = {f.name: _reseeded(getattr(config, f.name), config.fit_seed, seed) for f in fields(config)}
    for name in _NETWORKS_OF:
        if changed.get(name) is not None:
            changed[name] = _of_seed(changed[name], seed)
    return replace(config, **{**changed, "name": f"{config.name}-{seed_folder(seed)}", "training_seed": seed})


def networks_of(config: RunConfig) -> str | None:
    """The run folder whose trained networks a recipe takes, or None."""
    known = {f.name: getattr(config, f.name) for f in fields(config)}
    return next((known[name] for name in _NETWORKS_OF if known.get(name) is not None), None)


def _reseeded(value: Any, before: int, seed: int) -> Any:
    """A field of a configuration with the seed in all plans that it holds."""
    if isinstance(value, Plan):
        return replace(value, seed=_seed_of_plan(value.seed, before, seed))
    if isinstance(value, PrunePlan):
        return replace(value, retrain=_reseeded(value.retrain, before, seed))
    if isinstance(value, MemberPlan) and "seed" in value.plan:
        return replace(value, plan={**value.plan, "seed": _seed_of_plan(value.plan["seed"], before, seed)})
    if isinstance(value, Mapping):
        return {k: _reseeded(v, before, seed) for k, v in value.items()}
    return value


def _seed_of_plan(own: int, before: int, seed: int) -> int:
    return seed if own == before else seed + SEEDS_BELOW * (own + 1)


def _of_seed(run: str, seed: int) -> str:
    return str(Path(run) / seed_folder(seed)) if any(Path(run).glob("seed-*")) else run


def share_split(first: Path, other: Path) -> None:
    """Copy the split of one run folder to another one that has none; nothing where the first has none yet.

    Equal images are searched once for all seeds. Raises InputError where the other folder has another split.
    """
    if other == first or not (first / "table.csv").exists():
        return
    with one_at_a_time(other / "table.csv"):
        if not (other / "table.csv").exists():
            for name in _SPLIT:
                with atomic_write(other / name) as beside:
                    shutil.copyfile(first / name, beside)
    if (other / "table.csv").read_bytes() != (first / "table.csv").read_bytes():
        raise InputError(
            f"{other} has another split than {first}, and seeds compare on the same test images only: give another run "
            "folder (--out), or delete the one that is wrong"
        )


def is_finished(config: RunConfig, out: Path, results: Path) -> bool:
    """Whether a run came to its end with this configuration, and all its files are still there."""
    file = out / FINISHED
    if not file.exists() or not (results / "results.json").exists():
        return False
    made = json.loads(file.read_text(encoding="utf-8"))
    return made["config"] == _as_json(config) and all((out / name).exists() for name in made["files"])


def note_finished(config: RunConfig, out: Path) -> None:
    """Note in the run folder what `is_finished` asks."""
    note = {"config": _as_json(config), "files": _files(out)}
    write_text(out / FINISHED, json.dumps(note, indent=1) + "\n")


def _as_json(config: RunConfig) -> Any:
    return json.loads(json.dumps(asdict(config)))


def _files(out: Path) -> Sequence[str]:
    found = (p.relative_to(out) for p in out.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))
