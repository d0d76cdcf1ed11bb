"""Start of a run on own data: a request in; images, time plan and config.toml out, or those of a run that is gone on with."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cxr_edge.cli.output import print_message, print_results
from cxr_edge.errors import InputError
from cxr_edge.version import __version__
from training.data.findings import FRONTAL_VIEWS, projection
from training.data.own.collection import records_of
from training.data.records import Record
from training.data.splits import SHARES
from training.json_records import read_json, write_json
from training.parallel import world
from training.recipes.own.configure import Epochs, Tables, has_imagenet, make_tables, members_config
from training.recipes.own.folds import choose_folds
from training.recipes.own.plan import Machine, TimePlan, Work, fit_epochs, plan_lines, time_plan
from training.recipes.own.presets import FROM_SCRATCH, PRESETS
from training.recipes.own.request import Request
from training.recipes.own.run import CONFIG, Settings
from training.recipes.own.segmenter import segmenter_epochs
from training.recipes.own.speed import decoding_s, measure, measure_segmenter
from training.recipes.own.understand import Understood, load_understood, understand
from training.recipes.own.usable import labels_of
from training.shared_files import require_same_settings

__all__ = ["Started", "start_or_resume"]

_PLAN = "plan.json"
_LEAST_MASKS = 40  # training images with a lung mask, to train a segmenter
_SHARE = 0.25  # of the budget that a segmenter may take
_NO_TIME = "a segmenter trained on the lung masks would take {:.0f} of {:.0f} minutes: the packaged one is taken (or give --time)"


@dataclass(frozen=True, kw_only=True)
class Started:
    """A run whose source and plan are settled."""

    settings: Settings
    understood: Understood
    plan: TimePlan


def start_or_resume(request: Request, out: Path, threads: int, repeated: Settings | None) -> Started:
    """Return the settings of a run, its images and its plan. Arguments and errors as of `flow.train`."""
    if not (out / CONFIG).exists():
        return _start(request, out, threads, repeated)
    settings = Settings.read(out / CONFIG)
    remedy = "repeat the first command, or give another --out"
    require_same_settings(_shown(settings.request), _shown(request), f"{out} was started with", remedy)
    if repeated is not None and repeated.tables != settings.tables:
        raise InputError(f"{out} was started with other tables than the given configuration has: {remedy}")
    print_message(f"{out}: going on with the run that was started here; its source is not read again")
    understood = load_understood(out)
    plan = read_json(TimePlan, out / _PLAN)
    print_results("\n".join(["", *plan_lines(plan, datetime.now(), resumed=True)]))
    return Started(settings=settings, understood=understood, plan=plan)


def _shown(request: Request) -> dict[str, Any]:
    """Return the settings for a message."""
    return {name: value or "none" for name, value in request.as_table().items()}


def _start(request: Request, out: Path, threads: int, repeated: Settings | None) -> Started:
    """Read and check the source, plan, and write config.toml."""
    if foreign := [name for name in ("table.csv", "bundle", "canvases.npz") if (out / name).exists()]:
        raise InputError(f"{out} holds {', '.join(foreign)} of another run, without {CONFIG}: give another --out")
    understood = understand(request, out, threads=threads)
    records, labels = records_of(understood.data), labels_of(understood.data)
    _check_guard(request.guard, labels, multi_label=not understood.data.exclusive)
    preset = PRESETS[request.preset]
    if not has_imagenet():
        print_message(f"note: {FROM_SCRATCH}")
    make = partial(_tables, request, out.resolve().name, labels, records)
    first = make(Epochs(share=0.0)) if repeated is None else _checked(repeated, labels, records)
    work, machine = _work(records, first), _machine(first, records, threads)
    spent = understood.seconds / 60
    budget = request.minutes or preset.minutes
    if repeated is None and (minutes := time_plan(first, work, machine, budget).of("segmenter")) > _SHARE * budget:
        print_message(f"note: {_NO_TIME.format(minutes, budget)}")
        make, machine = partial(make, own_segmenter=False), replace(machine, segmenter=0.0)
    tables = first if repeated is not None else fit_epochs(make, work, machine, budget - spent)
    plan = time_plan(tables, work, machine, budget)
    print_results("\n".join(["", *plan_lines(plan, datetime.now(), spent_minutes=spent), ""]))
    write_json(out / _PLAN, plan)
    settings = Settings(request=request, tables=tables, versions=_versions())
    settings.write(out / CONFIG)
    return Started(settings=settings, understood=understood, plan=plan)


def _check_guard(guard: str, labels: tuple[str, ...], *, multi_label: bool) -> None:
    if guard and multi_label:
        raise InputError(
            f"--guard {guard} limits the false alarms of one label among labels that exclude each other, and these images have "
            "several findings, each with a threshold of its own: leave --guard out"
        )
    if guard and guard not in labels:
        raise InputError(f"--guard {guard} is none of the labels {', '.join(labels)}: name one of these")


def _tables(
    request: Request,
    name: str,
    labels: tuple[str, ...],
    records: list[Record],
    epochs: Epochs,
    *,
    own_segmenter: bool = True,
) -> Tables:
    preset, masks = PRESETS[request.preset], _masks(records)
    return make_tables(
        preset,
        epochs,
        name=name,
        labels=labels,
        sites=choose_folds(records, labels, most=preset.sites).sites,
        multi_label=records[0].findings is not None,
        guard=request.guard,
        seed=request.seed,
        epoch_images=min(preset.epoch_images, max(256, round(SHARES["train"] * len(records)))),
        segmenter_epochs=segmenter_epochs(masks)
        if own_segmenter and preset.own_segmenter and masks >= _LEAST_MASKS
        else 0,
        by_view=all(projection(r.view) in FRONTAL_VIEWS for r in records),
    )


def _masks(records: list[Record]) -> int:
    """Return the number of training images with a lung mask, about."""
    return round(SHARES["train"] * sum(r.mask is not None for r in records))


def _checked(repeated: Settings, labels: tuple[str, ...], records: list[Record]) -> Tables:
    """Return the tables of a configuration that fit the data. Raises InputError for other labels or sites."""
    tables = repeated.tables
    wanted = tuple(tables.training["labels"])
    if set(wanted) != set(labels):
        raise InputError(
            f"the configuration is for the labels {', '.join(wanted)}, the source has {', '.join(labels)}: change one of them"
        )
    named = {site for fold in (tables.sites or {}).get("folds", {}).values() for site in fold}
    if missing := sorted(named - {r.source for r in records}):
        raise InputError(f"the configuration leaves out the sites {', '.join(missing)}, which the source does not have")
    return tables


def _work(records: list[Record], tables: Tables) -> Work:
    n, sites = len(records), Counter(r.source for r in records)
    folds = {} if tables.sites is None else tables.sites["folds"]
    return Work(
        images=n,
        trained=round(SHARES["train"] * n),
        validated=round(SHARES["validation"] * n),
        tested=round(SHARES["test"] * n),
        masks=_masks(records),
        site_images={fold: sum(sites[site] for site in left_out) for fold, left_out in folds.items()},
    )


def _machine(tables: Tables, records: list[Record], threads: int) -> Machine:
    """Measure this machine: one process trains on a GPU, as many as there are threads and networks on a CPU."""
    config = members_config(tables, _first_candidate(tables), threads=1)
    networks = len(config.members) + (0 if tables.sites is None else len(tables.sites["folds"]))
    processes = 1 if world().device.type == "cuda" else min(threads, networks)
    own = max(1, threads // processes)
    print_message("measuring the speed of this machine")
    return Machine(
        processes=processes,
        threads=own,
        decoding_s=decoding_s(records, threads),
        speeds={name: measure(config, name, processes=processes, threads=own) for name in config.members},
        segmenter=measure_segmenter(config, threads=threads).train if config.segmenter_of is None else 0.0,
    )


def _first_candidate(tables: Tables) -> str:
    return "" if tables.sites is None else str(next(iter(tables.sites["variants"])))


def _versions() -> dict[str, str]:
    return {"cxr-edge": __version__, "python": platform.python_version(), "torch": torch.__version__}
