"""Stages after R20's training: latencies measured, the bundle written and evaluated, tables and figures drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from training.pruning.prune import measure_steps
from training.recipes.page import export_bundle
from training.recipes.r20 import report
from training.recipes.r20.results import results, split_in_words
from training.recipes.r20.run import R20Run
from training.recipes.r20.stages import chosen_step, member_plan, top_members
from training.recipes.segmenter import SEGMENTER

__all__ = ["STAGES"]


def measure(run: R20Run, _: Path) -> None:
    """Measure the latency of every pruning step, one after the other; needs an otherwise idle machine."""
    c = run.config
    for member in top_members(run):
        measure_steps(run.out / "pruned" / member, c.member_spec, threads=c.threads)
    if c.prune_segmenter is not None:
        measure_steps(run.out / "pruned" / SEGMENTER, c.segmenter_spec, threads=c.threads)


def bundle(run: R20Run, folder: Path) -> None:
    """Export the pruned members, write the bundle in the run folder, and evaluate it through the deployed path."""
    c, members = run.config, top_members(run)
    plans = {m: {"multiclass": asdict(member_plan(run, m, c.multiclass)), "prune": asdict(c.prune)} for m in members}
    facts = {
        "made_by": f"training/reproduce.py r20, configuration {c.name}",
        "training": {"segmenter": asdict(c.segmenter), **plans},
    }
    networks, designs = {m: chosen_step(run, m) for m in members}, {m: _design(run, m) for m in members}
    export_bundle(run, folder, networks, designs, facts, samples=run.samples, split=split_in_words(c))


def _design(run: R20Run, member: str) -> str:
    step = chosen_step(run, member).name.removeprefix("step-").lstrip("0")
    return f"{run.config.members[member].architecture} with R20's head, pruned by APoZ in {step} steps"


def tables(run: R20Run, folder: Path) -> None:
    """Write tables, figures and results.json to `folder`."""
    found = replace(results(run), cam_agreement=report.cam_agreement(run))
    page = report.write(run, found, folder)
    print(f"wrote {page}", file=sys.stderr)


STAGES: Mapping[str, Callable[[R20Run, Path], None]] = {"measure": measure, "bundle": bundle, "tables": tables}
