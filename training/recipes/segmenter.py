"""Segmenter stage: a run in, its segmenter trained (and pruned) and exported, or copied from a run or a bundle, out."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from cxr_edge.bundle import Bundle
from cxr_edge.errors import InputError
from training.data.canvases import LUNG_BOX
from training.data.dataset import read_table
from training.loop.fit import fit, load_weights
from training.loop.settings import TRAINING, check_same_settings
from training.models import NetworkSpec, build, load_network, save_network
from training.parallel import barrier, world
from training.pruning.prune import export_network, prune
from training.recipes.run import Run, selected_step
from training.shared_files import atomic_write, exclusive_lock

__all__ = ["SEGMENTER", "check_same_split", "copy_segmenter", "segment"]

SEGMENTER = "segmenter"


def copy_segmenter(run: Run, other: Path) -> None:
    """Copy the segmenter of another run folder with the same split.

    Raises InputError if the split differs, since the segmenter might have been trained on this run's test patients. The record
    of its training settings is not copied, because its plan may differ from this run's.
    """
    with exclusive_lock(run.out / SEGMENTER):
        if (run.out / SEGMENTER).exists():
            return
        check_same_split(run, other)
        load_network(other / SEGMENTER)
        with atomic_write(run.out / SEGMENTER) as beside:
            shutil.copytree(other / SEGMENTER, beside, ignore=shutil.ignore_patterns("*.pt", TRAINING))


def check_same_split(run: Run, other: Path) -> None:
    """Raise InputError unless the other run folder has the same images on the same sides."""
    here, there = (_sides(folder / "table.csv") for folder in (run.out, other))
    if here != there:
        raise InputError(
            f"{other} has another split: its networks may be trained on the test patients of this run; train here instead"
        )


def _sides(table: Path) -> dict[str, str]:
    if not table.exists():
        raise InputError(f"{table} is missing: is it a run folder?")
    return {path: row["side"] for path, row in read_table(table).items()}


def segment(run: Run) -> None:
    """Run the segmenter's stage; of several commands on one run folder, one runs it and the others wait."""
    with exclusive_lock(run.out / SEGMENTER, world()):
        if run.config.segmenter_of is None:
            _segment(run)
        elif world().is_main and not run.segmenter_onnx.exists():
            _take_segmenter(run, run.config.segmenter_of)
        barrier(world())


def _take_segmenter(run: Run, name: str) -> None:
    """Copy a bundle's segmenter. Raises InputError for a bundle without one, or with another input or rule of the lung box."""
    bundle = Bundle.open(name)
    found, wanted = bundle.manifest.segmenter, run.config.segmenter_spec
    if found is None or (found.preprocess, found.lung_box) != (wanted, LUNG_BOX):
        given = "has none" if found is None else f"has {found.preprocess} and {found.lung_box}"
        raise InputError(
            f"segmenter_of = {name!r}: expected a bundle whose lung segmenter has the input {wanted} and the rule {LUNG_BOX}, "
            f"this one {given}: set segmenter_px, or leave segmenter_of out to train one"
        )
    with atomic_write(run.segmenter_onnx) as beside:
        shutil.copyfile(bundle.file(found.file), beside)


def _segment(run: Run) -> None:
    """Train the segmenter, prune it if configured, export it; the exported file is never changed.

    Raises InputError if it was trained, or started, with another plan.
    """
    c, folder = run.config, run.out / SEGMENTER
    spec = NetworkSpec(architecture=c.segmenter_architecture, labels=1)
    done = (folder / "network.json").exists()
    check_same_settings(folder, c.segmenter, spec, {"segmenter_px": c.segmenter_px}, done=done)
    if not done:
        torch.manual_seed(c.segmenter.seed)
        network = build(spec)
        network = load_weights(network, fit(run.segment_task(network, c.segmenter), c.segmenter, folder))
        if world().is_main:
            save_network(network.cpu(), spec, folder)
        barrier(world())
    final = folder
    if c.prune_segmenter is not None:
        plan, pruned = c.prune_segmenter, run.out / "pruned" / SEGMENTER
        prune(lambda n: run.segment_task(n, plan.retrain), folder, plan, pruned, c.segmenter_spec)
        final = selected_step(pruned, plan)
    if world().is_main and not run.segmenter_onnx.exists():
        network, spec = load_network(final)
        difference = export_network(network, spec, c.segmenter_spec, run.segmenter_onnx)
        print(f"segmenter.onnx: relative difference to torch at most {difference:.1e}", file=sys.stderr)
    barrier(world())
