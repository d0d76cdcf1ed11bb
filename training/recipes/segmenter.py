"""The segmenter of a run: trained (and pruned) on its split, or taken over from a run of the same split; then frozen."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import torch

from cxr_edge.errors import InputError
from training.loop.fit import fit, load_best
from training.loop.settings import TRAINING, same_training
from training.models import NetworkSpec, build, load_network, save_network
from training.parallel import wait, world
from training.pruning.prune import best_step, export_network, prune, step_folder
from training.recipes.run import Run
from training.shared_files import atomic_write, one_at_a_time

__all__ = ["SEGMENTER", "same_split", "segment", "take_segmenter"]

SEGMENTER = "segmenter"


def take_segmenter(run: Run, other: Path) -> None:
    """Take the segmenter of another run folder, which must have been trained on the same split.

    Raises InputError where it was not, since test patients would have trained the crops. Its plan is not this run's, so how it
    was trained is not taken over to be compared.
    """
    with one_at_a_time(run.out / SEGMENTER):
        if (run.out / SEGMENTER).exists():
            return
        same_split(run, other)
        load_network(other / SEGMENTER)
        with atomic_write(run.out / SEGMENTER) as beside:
            shutil.copytree(other / SEGMENTER, beside, ignore=shutil.ignore_patterns("*.pt", TRAINING))


def same_split(run: Run, other: Path) -> None:
    """Raises InputError unless the other run folder has the same images on the same sides."""
    ours, theirs = (_sides(folder / "table.csv") for folder in (run.out, other))
    if ours != theirs:
        raise InputError(
            f"{other} has another split: what it trained may have seen our test patients; train it here instead"
        )


def _sides(table: Path) -> dict[str, str]:
    if not table.exists():
        raise InputError(f"{table} is missing: is it a run folder?")
    with table.open(newline="") as file:
        return {row.get("path") or row["key"]: row["side"] for row in csv.DictReader(file)}


def segment(run: Run) -> None:
    """Do the segmenter's stage; where several commands start on one run folder, one does it and the others wait."""
    with one_at_a_time(run.out / SEGMENTER, world()):
        _segment(run)


def _segment(run: Run) -> None:
    """Train the segmenter, prune it if asked for, export it; from then on it is frozen.

    Raises InputError where it was trained, or begun, by another plan than now.
    """
    c, folder = run.config, run.out / SEGMENTER
    spec = NetworkSpec(architecture=c.segmenter_architecture, labels=1)
    done = (folder / "network.json").exists()
    same_training(folder, c.segmenter, spec, {"segmenter_px": c.segmenter_px}, done=done)
    if not done:
        torch.manual_seed(c.segmenter.seed)
        network = build(spec)
        network = load_best(network, fit(run.segment_task(network, c.segmenter), c.segmenter, folder))
        if world().first:
            save_network(network.cpu(), spec, folder)
        wait(world())
    final = folder
    if c.prune_segmenter is not None:
        plan, pruned = c.prune_segmenter, run.out / "pruned" / SEGMENTER
        steps = prune(lambda n: run.segment_task(n, plan.retrain), folder, plan, pruned, c.segmenter_spec)
        final = step_folder(pruned, best_step(steps, tolerance=plan.tolerance))
    if world().first and not run.segmenter_onnx.exists():
        network, spec = load_network(final)
        difference = export_network(network, spec, c.segmenter_spec, run.segmenter_onnx)
        print(f"segmenter.onnx: at most {difference:.1e} from torch", file=sys.stderr)
    wait(world())
