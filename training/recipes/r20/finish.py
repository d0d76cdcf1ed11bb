"""Stages after R20's training: latencies measured, the bundle written and evaluated, tables and figures drawn."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from training.bundles.assemble import assemble
from training.evaluation.pages import results_as_markdown
from training.models import load_network
from training.pruning.prune import export_network, measure_steps
from training.recipes.r20 import report
from training.recipes.r20.results import results, split_in_words
from training.recipes.r20.run import R20Run
from training.recipes.r20.stages import chosen_step, member_plan, top_members
from training.recipes.segmenter import SEGMENTER
from training.shared_files import atomic_write, write_text

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
    c, networks = run.config, run.out / "export"
    networks.mkdir(parents=True, exist_ok=True)
    with atomic_write(networks / "segmenter.onnx") as beside:
        shutil.copyfile(run.segmenter_onnx, beside)
    for member in top_members(run):
        network, spec = load_network(chosen_step(run, member))
        export_network(network, spec, c.member_spec, networks / f"{member}.onnx")
    facts = {
        "made_by": f"training/reproduce.py r20, configuration {c.name}",
        "training": {
            "segmenter": asdict(c.segmenter),
            **{
                m: {"multiclass": asdict(member_plan(run, m, c.multiclass)), "prune": asdict(c.prune)}
                for m in top_members(run)
            },
        },
    }
    designs = {m: _design(run, m) for m in top_members(run)}
    _, evaluation = assemble(
        run.out / "bundle",
        networks,
        designs,
        run.samples,
        run.canvases,
        c,
        facts,
        preset=c.preset,
        split=split_in_words(c),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "bundle.json", json.dumps(evaluation, indent=1) + "\n")
    write_text(folder / "bundle.md", results_as_markdown(evaluation))


def _design(run: R20Run, member: str) -> str:
    step = chosen_step(run, member).name.removeprefix("step-").lstrip("0")
    return f"{run.config.members[member].architecture} with R20's head, pruned by APoZ in {step} steps"


def tables(run: R20Run, folder: Path) -> None:
    """Write tables, figures and results.json to `folder`."""
    found = {**results(run), "cam_agreement": report.cam_agreement(run)}
    page = report.write(run, found, folder)
    print(f"wrote {page}", file=sys.stderr)


STAGES: Mapping[str, Callable[[R20Run, Path], None]] = {"measure": measure, "bundle": bundle, "tables": tables}
