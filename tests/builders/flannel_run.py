"""A FLANNEL run on synthetic records, with stored logits of learners and a baseline, so that no network is trained."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.training.data.test_splits import record
from training.data.dataset import Sample
from training.ensembles.neural_weights import FitPlan
from training.recipes.config import MemberPlan
from training.recipes.flannel.config import FlannelConfig
from training.recipes.flannel.run import FlannelRun
from training.recipes.flannel.stages import AUGMENTED
from training.recipes.run import PREDICTIONS, SampleLogits

LABELS = ("covid-19", "viral", "bacterial", "normal")
LEARNERS = ("densenet", "resnet", "vgg")
BASELINE = "covid-net"
FOLDS = 3
COPIES = 2
VIEWS = ("AP", "PA", "AP Supine")

Logits = npt.NDArray[np.float32]
# Run, fold and name of a network -> its logits (N, labels).
MakeLogits = Callable[[FlannelRun, int, str], Logits]


def sample(i: int, patient: str, label: str, source: str, view: str, *, test: bool, group: str | None = None) -> Sample:
    """Return one image; its group is its patient by default."""
    image = replace(record(f"{source}/{patient}", i, label=label, source=source), view=view)
    return Sample(record=image, group=group or image.patient, side="test" if test else "train")


def make_samples() -> list[Sample]:
    """Return 149 images in random order: 120 of Table 1, 7 of its collections that are not evaluated, 22 of other collections.

    One of the last 22 shares a group with a patient of Table 1.
    """
    samples = []
    for p in range(60):
        source = "ccx" if p % 3 == 0 else "kcx"
        samples += [
            sample(2 * p + j, f"p{p}", LABELS[p % 4], source, VIEWS[(p + j) % 3], test=p % 5 == 4) for j in (0, 1)
        ]
    samples += [sample(120 + k, f"o{k}", "other", "ccx", "PA", test=k == 0) for k in range(4)]
    samples += [sample(124 + k, f"l{k}", "covid-19", "ccx", "L", test=k == 0) for k in range(3)]
    for k in range(16):
        label, group = ("normal", "tuberculosis")[k % 2], "ccx/p0" if k == 0 else None
        samples.append(sample(127 + k, f"s{k}", label, "shenzhen", "PA", test=k % 4 == 3, group=group))
    samples += [sample(143 + k, f"t{k}", "covid-19", "twitter", "unknown", test=k % 3 == 2) for k in range(6)]
    random.Random(0).shuffle(samples)
    return samples


def flannel_run(out: Path, **changes: Any) -> FlannelRun:
    """Return a run of these samples with three learners, a baseline and three folds; no network is trained."""
    plan = MemberPlan(architecture="narrow-vgg", head_maps=0, dropout=0.0)
    settings: dict[str, Any] = {
        "learners": dict.fromkeys(LEARNERS, plan), "baselines": {BASELINE: plan}, "folds": FOLDS, "copies": COPIES,
        "fit": FitPlan(epochs=4, learning_rate=2e-2), "resamples": 20, **changes,
    }  # fmt: skip
    run = FlannelRun(FlannelConfig(name="made", **settings), Path("nowhere"), out)
    run.__dict__["samples"] = make_samples()
    return run


def truth_of(run: FlannelRun) -> npt.NDArray[np.int64]:
    """Return the label indices of all samples; -1 for samples without a label of the task."""
    return run.truth(run.all_rows, run.config.target)


def informative_logits(run: FlannelRun, fold: int, name: str) -> Logits:
    """Return twice the one-hot truth plus noise of the network; only noise for samples without a label."""
    labels, truth = len(run.config.labels), truth_of(run)
    noise = np.random.default_rng([fold, len(name), ord(name[0])]).normal(0, 1.0, (len(truth), labels))
    return (2 * np.eye(labels)[truth] * (truth >= 0)[:, None] + noise).astype(np.float32)


def traceable_logits(run: FlannelRun, fold: int, name: str) -> Logits:
    """Return logits that identify network and image: fold, index of the learner, row, 0."""
    index = [*run.config.networks].index(name)
    return np.array([[fold, index, row, 0] for row in run.all_rows], dtype=np.float32)


def with_predictions(run: FlannelRun, make_logits: MakeLogits = informative_logits) -> FlannelRun:
    """Write predictions of all networks to the run folder, in preset `code` also of augmented copies; return the run."""
    for fold in range(run.config.folds):
        rows = np.tile(others_by_hand(run, fold), run.config.copies)
        for name in run.config.networks:
            folder, logits = run.fold(fold).folder(name), make_logits(run, fold, name)
            folder.mkdir(parents=True)
            SampleLogits(rows=run.all_rows, logits=logits).save(folder / PREDICTIONS)
            if run.config.preset == "code" and name in run.config.learners:
                # Copies differ by a quarter in the last column.
                copy = np.repeat(np.arange(run.config.copies), len(rows) // run.config.copies)[:, None]
                last = np.arange(logits.shape[1]) == logits.shape[1] - 1
                SampleLogits(rows=rows, logits=(logits[rows] + 0.25 * copy * last).astype(np.float32)).save(
                    folder / AUGMENTED
                )
    return run


def others_by_hand(run: FlannelRun, fold: int) -> list[int]:
    """Return the rows of Table 1's training images in other folds."""
    return [
        i
        for i, s in enumerate(run.samples)
        if s.side == "train"
        and run.fold_of[i] != fold
        and s.record.source in ("ccx", "kcx")
        and s.record.view in VIEWS
        and s.record.label in run.config.labels
    ]
