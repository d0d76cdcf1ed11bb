"""Evaluate a bundle on a split: figures by label, source and subgroup, lung boxes, flags and shortcut checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.engines import EngineSet
from cxr_edge.errors import InputError
from cxr_edge.ops.combine import Combiner, decide
from cxr_edge.records import Failure, GrayPixels
from cxr_edge.screening.folder import screen_files
from cxr_edge.screening.screener import Screener
from training.config import BundleConfig
from training.data.canvases import Canvases, LungFinder
from training.data.dataset import Sample, read_all
from training.data.records import Record
from training.evaluation.metrics import Answers, Figure, auc_figure, figures, proportion
from training.evaluation.onnx_logits import member_logits
from training.evaluation.shortcuts import lungs_painted_over, source_told
from training.tasks.segment import dice, read_mask

__all__ = ["GUARDED", "PAPERS_SOURCES", "Screened", "evaluate", "safety", "screen_samples"]


GUARDED = "covid-19"


PAPERS_SOURCES = ("kcx", "ccx", "twitter")  # of both papers and of the plain classifier we compare with


@dataclass(frozen=True, kw_only=True)
class Screened:
    """What the deployed path said of N samples. probabilities: (N, K). said: (N,) label indices. members: (N, M, K).
    flags: the codes raised, a sample each."""

    samples: tuple[Sample, ...]
    probabilities: npt.NDArray[np.float64]
    said: npt.NDArray[np.int64]
    members: npt.NDArray[np.float64]
    flags: tuple[frozenset[str], ...]

    def flagged(self, code: str) -> npt.NDArray[np.bool_]:
        return np.array([code in flags for flags in self.flags], dtype=bool)

    def where(self, **wanted: object) -> npt.NDArray[np.bool_]:
        """The samples whose records have these values."""
        return np.array([all(getattr(s.record, k) == v for k, v in wanted.items()) for s in self.samples], dtype=bool)


def screen_samples(screener: Screener, samples: Sequence[Sample], *, threads: int) -> Screened:
    """Screen the samples' files. Raises InputError if one cannot be answered: figures with gaps are no figures."""
    labels = screener.manifest.labels
    found = []
    for answer in screen_files(screener, [s.record.path for s in samples], workers=threads):
        if isinstance(answer.outcome, Failure):
            raise InputError(f"{answer.outcome.source} cannot be screened: {answer.outcome.reason}")
        found.append(answer.outcome)
    return Screened(
        samples=tuple(samples),
        probabilities=np.array([s.probabilities for s in found], dtype=np.float64),
        said=np.array([labels.index(s.decision) for s in found], dtype=np.int64),
        members=np.array([[m.probabilities for m in s.members] for s in found], dtype=np.float64),
        flags=tuple(frozenset(f.code for f in s.flags) for s in found),
    )


def evaluate(
    bundle: Bundle,
    samples: Sequence[Sample],
    canvases: Canvases,
    config: BundleConfig,
    *,
    built: EngineSet | None = None,
) -> dict[str, Any]:
    """All results as one JSON object. samples, canvases: of the whole run, row by row; only test patients are judged.
    built: engines to judge beside the fp32 reference."""
    test = [i for i, s in enumerate(samples) if s.side == "test"]
    reference = engines.reference(bundle, threads=1)
    screened = screen_samples(Screener(bundle, reference), [samples[i] for i in test], threads=config.threads)
    models = _models(screened, bundle.manifest, config)
    if built is not None:
        other = screen_samples(Screener(bundle, built), screened.samples, threads=config.threads)
        models["ensemble, engines built here"] = {
            **_ensemble(other, bundle.manifest, config),
            "engines": built.describe(),
            "same_decision": proportion(int((other.said == screened.said).sum()), len(test)).as_json(),
        }
    return {
        "bundle": {"name": bundle.manifest.name, "version": bundle.manifest.version, "manifest_sha256": bundle.digest},
        "preset": bundle.manifest.provenance.get("preset", "sane"),
        "split": _split(samples),
        "seed": config.seed,
        "resamples": config.resamples,
        "labels": list(bundle.manifest.labels),
        "reference": reference.describe(),
        "sides": _sides(samples),
        "models": models,
        "sources": _sources(screened, bundle.manifest.labels),
        "safety": safety(screened, bundle.manifest.labels, config),
        "flags": _flags(screened, bundle.manifest.labels),
        "lungs": _lungs(bundle, samples, config),
        "shortcuts": _shortcuts(bundle, samples, canvases, test, screened, config),
    }


def _split(samples: Sequence[Sample]) -> str:
    """What kept the test side apart, as the samples show it."""
    test, rest = ({s.group for s in samples if (s.side == "test") is is_test} for is_test in (True, False))
    if not test & rest:
        return "test patients: of no image of theirs, nor a copy of it, was anything trained or chosen"
    return (
        f"it leaks: {len(test & rest)} of {len(test)} test patients have images, or copies of them, on the other sides"
    )


def _sides(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    return {
        side: {
            "images": sum(s.side == side for s in samples),
            "patients": len({s.group for s in samples if s.side == side}),
        }
        for side in ("train", "validation", "test")
    }


def _answers(
    screened: Screened, labels: Sequence[str], said: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]
) -> tuple[Answers, npt.NDArray[np.bool_]]:
    """The answers to images whose finding is one of the labels, and which those are."""
    known = np.array([s.record.label in labels for s in screened.samples])
    rows = np.flatnonzero(known)
    truth = np.array([labels.index(screened.samples[i].record.label) for i in rows], dtype=np.int64)
    patients = np.array([screened.samples[i].group for i in rows])
    return Answers(truth=truth, said=said[rows], probabilities=probabilities[rows], patients=patients), known


def _ensemble(screened: Screened, manifest: Manifest, config: BundleConfig) -> dict[str, Any]:
    answers, _ = _answers(screened, manifest.labels, screened.said, screened.probabilities)
    return figures(answers, manifest.labels, seed=config.seed, resamples=config.resamples)


def _models(screened: Screened, manifest: Manifest, config: BundleConfig) -> dict[str, Any]:
    labels = manifest.labels
    answers, known = _answers(screened, labels, screened.said, screened.probabilities)
    papers = np.array([s.record.source in PAPERS_SOURCES for s in screened.samples])[known]
    found = {
        "ensemble": _ensemble(screened, manifest, config),
        f"ensemble, {', '.join(PAPERS_SOURCES)} only": figures(
            answers.only(papers), labels, seed=config.seed, resamples=config.resamples
        ),
    }
    for i, member in enumerate(manifest.members):
        own = screened.members[:, i]
        alone, _ = _answers(screened, labels, own.argmax(axis=1), own)
        found[f"{member.name} alone"] = figures(alone, labels, seed=config.seed, resamples=config.resamples)
    return found


def _sources(screened: Screened, labels: Sequence[str]) -> list[dict[str, Any]]:
    """One row a source and true label: what was said of its images."""
    rows = []
    for source, label in sorted({(s.record.source, s.record.label) for s in screened.samples}):
        chosen = screened.where(source=source, label=label)
        said = np.bincount(screened.said[chosen], minlength=len(labels))
        patients = {s.group for s, c in zip(screened.samples, chosen, strict=True) if c}
        right = proportion(int(said[labels.index(label)]), int(said.sum())).as_json() if label in labels else None
        counts = dict(zip(labels, said.tolist(), strict=True))
        rows.append({"source": source, "label": label, "patients": len(patients), "said": counts, "right": right})
    return rows


def safety(screened: Screened, labels: Sequence[str], config: BundleConfig) -> dict[str, Any]:
    """How often COVID-19 is said of those who do not have it, adults before all, and how well it is told among adults."""
    accused = screened.said == labels.index(GUARDED)
    adult, normal = screened.where(adult=True), screened.where(label="normal")

    def cleared(rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return proportion(int((~accused)[rows].sum()), int(rows.sum())).as_json()

    sources = sorted({s.record.source for s, a, n in zip(screened.samples, adult, normal, strict=True) if a and n})
    return {
        "specificity_adult_normals": {
            **{source: cleared(adult & normal & screened.where(source=source)) for source in sources},
            "together": cleared(adult & normal),
        },
        "specificity_children": cleared(~adult),
        "specificity_tuberculosis": cleared(screened.where(label="tuberculosis")),
        "auc_among_adults": _covid_auc(screened, labels, adult, config).as_json(),
        "auc_among_adults_without_tuberculosis": _covid_auc(
            screened, labels, adult & ~screened.where(label="tuberculosis"), config
        ).as_json(),
    }


def _covid_auc(screened: Screened, labels: Sequence[str], rows: npt.NDArray[np.bool_], config: BundleConfig) -> Figure:
    patients = np.array([s.group for s in screened.samples])
    return auc_figure(
        screened.probabilities[rows, labels.index(GUARDED)],
        screened.where(label=GUARDED)[rows],
        patients[rows],
        seed=config.seed,
        resamples=config.resamples,
    )


def _flags(screened: Screened, labels: Sequence[str]) -> dict[str, Any]:
    answers, known = _answers(screened, labels, screened.said, screened.probabilities)
    right, uncertain = answers.said == answers.truth, screened.flagged("uncertain")[known]
    failed = screened.flagged("lung_box_failed")
    return {
        "lung_box_failed": proportion(int(failed.sum()), len(failed)).as_json(),
        "uncertain": proportion(int(uncertain.sum()), len(uncertain)).as_json(),
        "accuracy_uncertain": proportion(int(right[uncertain].sum()), int(uncertain.sum())).as_json(),
        "accuracy_others": proportion(int(right[~uncertain].sum()), int((~uncertain).sum())).as_json(),
    }


def _lungs(bundle: Bundle, samples: Sequence[Sample], config: BundleConfig) -> dict[str, Any]:
    """Dice and IoU of the segmenter on test patients with masks, at the masks' own resolution."""
    segmenter = bundle.manifest.segmenter
    if segmenter is None:
        return {}
    find_lungs = LungFinder(bundle.file(segmenter.file), segmenter.preprocess, segmenter.lung_box)
    masked = [s.record for s in samples if s.side == "test" and s.record.mask is not None]

    def measure(record: Record, image: GrayPixels) -> float:
        mask = read_mask(record, image.shape)
        probability = cv2.resize(find_lungs.mask(image), image.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return dice(probability, (mask == 255).astype(np.float32), (mask != 127).astype(np.float32))

    values = np.array(list(read_all(masked, config.threads, measure)), dtype=np.float64)
    source = np.array([r.source for r in masked])
    groups = {**{s: source == s for s in sorted(set(source.tolist()))}, "together": np.ones(len(values), dtype=bool)}
    return {
        name: {
            "images": int(rows.sum()),
            "dice": float(values[rows].mean()),
            "iou": float((values[rows] / (2 - values[rows])).mean()),
            "worst_dice": float(values[rows].min()),
        }
        for name, rows in groups.items()
        if rows.any()
    }


def _shortcuts(
    bundle: Bundle,
    samples: Sequence[Sample],
    canvases: Canvases,
    test: Sequence[int],
    screened: Screened,
    config: BundleConfig,
) -> dict[str, Any]:
    manifest = bundle.manifest
    found: dict[str, Any] = {
        "source_told": source_told(samples, canvases, seed=config.seed, resamples=config.resamples)
    }
    if manifest.segmenter is None:
        return found
    find_lungs = LungFinder(
        bundle.file(manifest.segmenter.file), manifest.segmenter.preprocess, manifest.segmenter.lung_box
    )
    painted = lungs_painted_over(samples, canvases, test, find_lungs, config.member_spec, threads=config.threads)
    files = [bundle.file(m.file) for m in manifest.members]
    logits = member_logits(files, painted, config.member_spec, threads=config.threads)
    probabilities, winners = Combiner(manifest.combination, labels=len(manifest.labels)).run(logits)
    pairs = zip(probabilities, winners, strict=True)
    said = [manifest.labels.index(decide(p, int(w), manifest.labels, manifest.decision)[0]) for p, w in pairs]
    blind = Screened(
        samples=screened.samples,
        probabilities=probabilities.astype(np.float64),
        said=np.array(said, dtype=np.int64),
        members=screened.members,
        flags=screened.flags,
    )
    adults = blind.where(adult=True)
    return {
        **found,
        "lungs_painted_over": _ensemble(blind, manifest, config),
        "lungs_painted_over_auc_among_adults": _covid_auc(blind, manifest.labels, adults, config).as_json(),
    }
