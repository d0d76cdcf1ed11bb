"""The whole way from own images to a bundle: a request in; a run folder with bundle, pages and figures out, stage by stage.

config.toml is written when source and plan are settled, and from then on a run is gone on with; each later stage keeps what it
finished, so that a killed run starts again at its last finished epoch.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cxr_edge.bundle import Bundle
from cxr_edge.cli.output import print_message, print_results
from cxr_edge.errors import InputError
from cxr_edge.specs.combination import Combination
from training.data.dataset import prepare
from training.data.own.collection import records_of
from training.ensembles.fit import fit
from training.evaluation.finding_results import FindingsEvaluation
from training.evaluation.results import Evaluation
from training.json_records import read_json, write_json
from training.recipes.members import StarterRun, assemble_members, export_members
from training.recipes.own.folds import choose_folds
from training.recipes.own.jobs import Job, run_jobs
from training.recipes.own.left_out import LeftOutSites, as_terminal_lines, left_out_sites
from training.recipes.own.pages import RunFacts, card_words, ensemble_auc, page
from training.recipes.own.presets import PRESETS
from training.recipes.own.refusals import OwnRefusals, attach_packaged_checker
from training.recipes.own.request import Request
from training.recipes.own.run import OwnRun, Settings
from training.recipes.own.segmenter import choose_segmenter
from training.recipes.own.start import Started, start_or_resume
from training.recipes.own.understand import Understood
from training.recipes.run import PREDICTIONS, SampleLogits
from training.shared_files import try_lock, write_text

__all__ = ["train"]

_LEAST_CHOOSING = 200  # validation images by which a combination is chosen
_SITES, _RESULTS, _REFUSALS, _PAGE = "sites.json", "results.json", "refusals.json", "index.md"


def train(
    request: Request, out: Path, *, threads: int, repeated: Settings | None = None, below_floor: bool = False
) -> None:
    """Train, or go on with, the run of `out`.

    threads: to use. repeated: contents of another run's config.toml, whose epochs and members are trained. below_floor: write the
    bundle although a watched group is below its floor.
    Raises InputError for a source that cannot be trained, for a folder of another run, and for a group below its floor.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        started = start_or_resume(request, out, threads, repeated)
        run = _cut(OwnRun(started.settings.tables, out, threads=threads), started.understood)
        sites = _train_networks(run, started)
        facts = _facts(run, started, sites)
        results = _bundle(run, facts, "" if sites is None else sites.chosen, below_floor=below_floor)
        write_text(out / _PAGE, page(results, facts, _refusals(run)))
        print_results("\n".join(_ending(run, results, sites)))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    with try_lock(out / "train") as locked:
        if not locked:
            raise InputError(f"{out} is being trained by another process: wait for it, or give another --out")
        yield


def _cut(run: OwnRun, understood: Understood) -> OwnRun:
    """Split, take or train the segmenter, and cut the lung boxes. Returns the run with the segmenter that was taken."""
    first = run.first
    print_message("stage: split and lung boxes")
    settings = first.split_settings
    prepare(run.out, run.out, settings, threads=run.threads, same=understood.same_pictures)
    first.check_tasks()
    cut = OwnRun(choose_segmenter(run), run.out, threads=run.threads)
    _ = cut.first.canvases
    return cut


def _train_networks(run: OwnRun, started: Started) -> LeftOutSites | None:
    """Train networks without sites, then members. With one candidate, whose choice is known, all are trained together."""
    plan = started.plan
    start = partial(run_jobs, out=run.out, processes=plan.processes, threads=plan.threads, here=run.train)
    members = list(run.first.config.members)
    if run.tables.sites is None:
        print_message("stage: members")
        start([Job(name=name) for name in members], minutes=plan.of("members"))
        return None
    config = run.sites.config
    left_out = [Job(name=candidate, fold=fold) for candidate in config.variants for fold in config.folds]
    only = next(iter(config.variants)) if len(config.variants) == 1 else ""
    together = [Job(name=name, candidate=only) for name in members] if only else []
    print_message(f"stage: left-out sites{' and members' if only else ''}")
    names = ("left-out sites", "members") if only else ("left-out sites",)
    start([*left_out, *together], minutes=plan.of(*names))
    sites = left_out_sites(run.sites)
    write_json(run.out / _SITES, sites)
    print_results("\n".join(["", *as_terminal_lines(sites), ""]))
    if not only:
        print_message(f"stage: members, as {sites.chosen}")
        start([Job(name=name, candidate=sites.chosen) for name in members], minutes=plan.of("members"))
    return sites


def _facts(run: OwnRun, started: Started, sites: LeftOutSites | None) -> RunFacts:
    records = records_of(started.understood.data)
    preset = PRESETS[started.settings.request.preset]
    folds = choose_folds(records, run.first.config.labels, most=preset.sites)
    members = run.first.config.members
    return RunFacts(
        understood=started.understood,
        sites=sites,
        not_left_out=folds.reason,
        epochs=", ".join(
            f"{name} ({m.train.epochs} epochs{', pruned' if m.prune else ''})" for name, m in members.items()
        ),
    )


def _bundle(run: OwnRun, facts: RunFacts, candidate: str, *, below_floor: bool) -> Evaluation | FindingsEvaluation:
    """Write the bundle, unless it is finished. Returns its results."""
    if not ((run.out / _RESULTS).exists() and (run.out / "bundle").exists()):
        print_message("stage: bundle")
        members = run.members(candidate)
        members.below_floor = below_floor
        export_members(members)
        assemble_members(members, _provenance(run, facts), card_words(facts), _combination(members))
    if run.first.config.multi_label:
        return read_json(FindingsEvaluation, run.out / _RESULTS)
    return read_json(Evaluation, run.out / _RESULTS)


def _refusals(run: OwnRun) -> OwnRefusals:
    """Put the packaged checker into the bundle, unless it is there. Returns what it says of validation images."""
    file = run.out / _REFUSALS
    bundle = Bundle.open(run.out / "bundle")
    if bundle.manifest.checker is None or not file.exists():
        print_message("stage: refusals")
        files = [s.record.path for s in run.first.samples if s.side == "validation"]
        write_json(file, attach_packaged_checker(bundle, files, threads=run.threads))
    return read_json(OwnRefusals, file)


def _combination(run: StarterRun) -> Combination | None:
    """Return the members' calibrated average if there are too few validation images to choose a combination by them.

    Stacking looked best out of fold on 79 images (log loss 0.24) and was the worst on test patients (1.24, each member 0.5).
    """
    if run.config.multi_label:
        return None  # `multi_label.choose_combination` has its own least number
    parts = [SampleLogits.load(run.train_member(name) / PREDICTIONS) for name in run.config.members]
    rows = parts[0].rows
    true = run.truth(rows, run.config.target)
    fitted = run.side_mask("validation", rows) & (true >= 0)
    if fitted.sum() >= _LEAST_CHOOSING:
        return None
    logits = np.ascontiguousarray(np.stack([p.logits[fitted] for p in parts], axis=1))
    return fit("average", logits, true[fitted], seed=run.config.fit_seed)


def _provenance(run: OwnRun, facts: RunFacts) -> dict[str, Any]:
    own = facts.understood
    sites = facts.sites
    return {
        "made_by": "cxr-edge train",
        "licences": "a matter of who owns the images",
        "data": "An image of no named patient counts as a patient of its own.",
        "images_left_out": own.left_out,
        "images_without_patient": own.unnamed,
        "left_out_sites": None if sites is None else {"worst_auroc": sites.best.worst, "mean_auroc": sites.best.mean},
        "candidate": None if sites is None else sites.chosen,
    }


def _ending(run: OwnRun, results: Evaluation | FindingsEvaluation, sites: LeftOutSites | None) -> list[str]:
    """Return what was made and the next two commands."""
    bundle, area = run.out / "bundle", ensemble_auc(results)
    worst = (
        "no site could be left out"
        if sites is None
        else f"AUROC {sites.best.worst:.3f} at the worst site that trained nothing"
    )
    test = [s for s in run.first.samples if s.side == "test"]
    image = test[0].record.path if test else Path("IMAGE")
    return [
        f"{bundle}: {worst}; {area.value:.3f} on {results.sides['test'].patients} test patients of the sites that trained it",
        f"results: {run.out / _PAGE}; model card: {bundle / 'MODEL_CARD.md'}",
        "next:",
        f"  cxr-edge build-engine {shlex.quote(str(bundle))}",
        f"  cxr-edge screen {shlex.quote(os.path.relpath(image))} --bundle {shlex.quote(str(bundle))}",
    ]
