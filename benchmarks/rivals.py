"""Benchmark of trainers: the same table of images, the same site left out, the same minutes, for this project and its rivals.

    python -m benchmarks.rivals TABLE --positive tuberculosis --left-out montgomery --minutes 10

TABLE has the columns path, label, patient and site. Copies of some training images are planted among them under other patients'
names, slightly cropped, as copies in public collections are; every second one has the wrong label.
Every program runs in its own process, one after the other, with what its quick start tells a person to do; a rival that another
environment holds is named by `--python NAME=PYTHON`. The log of each is searched for what it says of the planted copies.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.left_out import Row, figures, link_images, plant, predictions_of_screenings, read_rows
from benchmarks.harness.script import Benchmark, make_parser
from cxr_edge.cli.arguments import at_least_one
from cxr_edge.errors import InputError
from cxr_edge.names import path_argument
from training.evaluation.metrics import Figure, interval
from training.json_records import write_json
from training.markdown import table
from training.models.imagenet import weights_file
from training.models.networks import NetworkSpec
from training.shared_files import write_text

__all__ = ["BENCHMARK", "TRAINERS", "Result", "Trainer", "main"]

BENCHMARK = Benchmark(name="rivals", position=170, needs_engines=False, only_if_named=True)

OURS = "cxr-edge"
_SCRIPTS = Path(__file__).parent / "trainers"
_LITE0 = "tf_efficientnet_lite0"
_VALIDATION = 0.1  # of the training images, drawn image by image, as the rivals' quick starts do
_WORDS = ("leak", "duplicate", "same picture", "same image", "copies", "copy of")


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A program that trains. Its steps are what a person does between the table and a prediction."""

    name: str
    script: str | None  # below `trainers`; None: this project's commands
    steps: tuple[str, ...]


TRAINERS = (
    Trainer(
        name=OURS,
        script=None,
        steps=(
            "cxr-edge train TABLE --out RUN --time MINUTES",
            "cxr-edge build-engine RUN/bundle",
            "cxr-edge screen FOLDER",
        ),
    ),
    Trainer(
        name="timm",
        script="timm_loop.py",
        steps=(
            "write dataset, transforms, loop, schedule, evaluation and prediction (about 80 lines of Python)",
            "run it",
        ),
    ),
    Trainer(
        name="ultralytics",
        script="ultralytics_cls.py",
        steps=("sort images into train/LABEL and val/LABEL", "YOLO(...).train(data=...)", "YOLO(...).predict(...)"),
    ),
    Trainer(
        name="autogluon",
        script="autogluon_images.py",
        steps=(
            "read the table with pandas",
            "MultiModalPredictor(label=...).fit(table)",
            "predictor.predict_proba(...)",
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of one program on the left-out site; None where it did not run."""

    name: str
    steps: tuple[str, ...]
    seconds: float
    auc: Figure | None
    sensitivity: Figure | None
    specificity: Figure | None
    reported: tuple[str, ...]  # lines of its log on copies or leaks
    failed: str = ""  # reason


def main(argv: Sequence[str] | None = None) -> int:
    """Run every program, write DIR/rivals.json and rivals.md. Return 2 for a table that cannot be used."""
    args = _parser().parse_args(argv)
    try:
        rows = read_rows(args.table)
        inside, outside = [r for r in rows if r.site != args.left_out], [r for r in rows if r.site == args.left_out]
        _check(inside, outside, args)
        inside = plant(inside, args.planted, args.out / "planted")
        results = [_run(trainer, inside, outside, args) for trainer in TRAINERS if trainer.name in args.only]
    except InputError as error:
        print(f"rivals: {error}", file=sys.stderr)
        return 2
    facts = {
        "left_out": args.left_out, "positive": args.positive, "minutes": args.minutes, "threads": os.cpu_count(),
        "training_images": len(inside), "planted": args.planted, "measured_images": len(outside),
    }  # fmt: skip
    write_json(args.out / "rivals.json", {"settings": facts, "results": [asdict(r) for r in results]})
    page = as_markdown(results, facts)
    write_text(args.out / "rivals.md", page)
    print(page)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    parser.add_argument("table", type=path_argument, help="CSV with path, label, patient, site")
    parser.add_argument("--positive", required=True, metavar="LABEL", help="label whose AUC is measured")
    parser.add_argument("--left-out", required=True, metavar="SITE", help="site that no program may train on")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="of each program (%(default)s)")
    parser.add_argument(
        "--planted",
        type=at_least_one,
        default=10,
        metavar="N",
        help="copies of training images, cropped (%(default)s)",
    )
    names = [t.name for t in TRAINERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help="programs to run (all)")
    parser.add_argument(
        "--python",
        nargs="+",
        type=_pair,
        default=[],
        metavar="NAME=PYTHON",
        help="interpreter of a program's environment",
    )
    parser.add_argument("--out", type=path_argument, default=Path("build/rivals"), help="folder (default: %(default)s)")
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, python = text.partition("=")
    if not equals or name not in [t.name for t in TRAINERS]:
        raise argparse.ArgumentTypeError(f"expected NAME=PYTHON with one of {[t.name for t in TRAINERS]}, got {text!r}")
    return name, python


def _check(inside: Sequence[Row], outside: Sequence[Row], args: argparse.Namespace) -> None:
    for where, rows in ((f"site {args.left_out}", outside), ("other sites", inside)):
        labels = {r.label for r in rows}
        if args.positive not in labels or len(labels) != 2:
            raise InputError(
                f"the {where} has the labels {sorted(labels)}: expected {args.positive} and one more, in a column `label`, with "
                "the site in a column `site`"
            )


def _run(trainer: Trainer, inside: Sequence[Row], measured: Sequence[Row], args: argparse.Namespace) -> Result:
    folder = args.out / trainer.name
    folder.mkdir(parents=True, exist_ok=True)
    log, start = folder / "log.txt", time.monotonic()
    print(f"{trainer.name}: {args.minutes:g} minutes, log in {log}", file=sys.stderr, flush=True)
    with log.open("w", encoding="utf-8") as output:
        if trainer.script is None:
            failed = _ours(folder, inside, measured, args, output)
        else:
            failed = _rival(trainer.script, folder, inside, measured, args, dict(args.python).get(trainer.name), output)
    seconds = time.monotonic() - start
    none: dict[str, Figure | None] = dict.fromkeys(("auc", "sensitivity", "specificity"))
    found = none if failed else figures(folder / "predictions.csv", measured, args.positive)
    return Result(
        name=trainer.name, steps=trainer.steps, seconds=seconds, reported=_reported(log), failed=failed, **found
    )  # fmt: skip


def _ours(folder: Path, inside: Sequence[Row], measured: Sequence[Row], args: argparse.Namespace, output: Any) -> str:
    """Train, build and screen with this project's commands. Returns the reason for a failure, or nothing."""
    source = folder / "table.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient", "site"])
        writer.writerows([r.path, r.label, r.patient, r.site] for r in inside)
    command = [sys.executable, "-c", "import sys; from cxr_edge.cli import main; sys.exit(main())"]
    bundle, engines, table = folder / "run" / "bundle", folder / "engines", folder / "screened.csv"
    images = folder / "images"
    link_images(measured, images)
    commands = (
        [*command, "train", str(source), "--out", str(folder / "run"), "--time", f"{args.minutes:g}m"],
        [*command, "build-engine", str(bundle), "--engines", str(engines)],
        [*command, "screen", str(images), "--bundle", str(bundle), "--engines", str(engines), "--csv"],
    )
    for line in commands:
        target = table.open("w", encoding="utf-8") if line[3] == "screen" else output
        status = subprocess.run(line, stdout=target, stderr=output, check=False).returncode
        if status:
            return f"{line[3]} ended with status {status}"
    predictions_of_screenings(table, measured, folder / "predictions.csv")
    return ""


def _rival(
    script: str,
    folder: Path,
    inside: Sequence[Row],
    measured: Sequence[Row],
    args: argparse.Namespace,
    python: str | None,
    output: Any,
) -> str:
    order = np.random.default_rng(0).permutation(len(inside))
    validating = set(order[: round(_VALIDATION * len(inside))].tolist())
    spec = NetworkSpec(architecture=f"timm:{_LITE0}", labels=2, head_maps=0)
    sides = {
        name: [[r.path, r.label] for i, r in enumerate(inside) if (i in validating) is (name == "validation")]
        for name in ("train", "validation")
    }
    job = {
        **sides, "predict": [r.path for r in measured], "labels": sorted({r.label for r in inside}), "minutes": args.minutes,
        "threads": os.cpu_count(), "side_px": 128, "folder": os.path.abspath(folder), "network": _LITE0,
        "weights": str(weights_file("package", spec)) if script == "timm_loop.py" else None,
        "predictions": os.path.abspath(folder / "predictions.csv"),
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    line = [python or sys.executable, str(_SCRIPTS / script), str(folder / "job.json")]
    try:
        status = subprocess.run(line, stdout=output, stderr=output, check=False).returncode
    except OSError as error:
        return f"{line[0]} cannot be started: {error.strerror}"
    return f"ended with status {status}: see its log" if status else ""


def _reported(log: Path) -> tuple[str, ...]:
    """Return the lines of a log that speak of copies or leaks."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(line.strip()[:200] for line in lines if any(word in line.lower() for word in _WORDS))[:5]


def as_markdown(results: Sequence[Result], facts: Mapping[str, Any]) -> str:
    """Return the page."""
    site = facts["left_out"]
    rows = [
        (
            r.name, interval(r.auc), interval(r.sensitivity), interval(r.specificity), f"{r.seconds / 60:.1f}",
            str(len(r.steps)), "; ".join(r.reported) or "nothing", r.failed or "",
        )
        for r in results
    ]  # fmt: skip
    head = ("program", "AUC", "sensitivity", "specificity", "minutes", "steps", "reported of the copies", "failed")
    steps = "\n".join(f"- {r.name}: {'; '.join(r.steps)}" for r in results)
    return (
        f"# Trainers side by side\n\nMade by `python -m benchmarks.rivals`. {facts['training_images']} training images, of which "
        f"{facts['planted']} are cropped copies of others under other patients' names, every second with the wrong label. "
        f"Figures on {facts['measured_images']} images of {site}, which nobody trained on: {facts['positive']} against the rest, "
        f"95 % intervals (AUC by patient). {facts['minutes']:g} minutes for each on {facts['threads']} cores; a rival decides at "
        f"0.5, this project by its bundle.\n\n{table(head, rows)}\n\n"
        f"What a person does:\n\n{steps}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
