"""Shortcut probe: cheap features of images before and after preprocessing in; how well they predict label and source out.

A gradient boosting on one family of features predicts each image's class, with the images of its patient left out of the fit.
Near chance on the canvases, a family is no shortcut for a network; above chance, it may be one, or it may follow the disease:
the rows within one source, whose images come from one pipeline, tell the two apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold

from cxr_edge.errors import InputError
from training.data.dataset import Sample
from training.evaluation.metrics import Bootstrap, Figure, auc_of_ranks, bootstrap, interval, ranks
from training.evaluation.probe_features import FAMILIES, PIXELS, Families
from training.json_records import as_stored
from training.markdown import table
from training.tasks.confusion import confusion

__all__ = [
    "LEAST_IMAGES",
    "Answer",
    "ClassSize",
    "FamilyFigures",
    "Probe",
    "Question",
    "Stages",
    "answer",
    "overview",
    "probe",
    "probe_as_markdown",
    "questions",
]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Measure = Literal["AUC", "macro-AUC", "balanced accuracy"]

LEAST_IMAGES = 30  # of a class
FOLDS = 5
PIXELS_TOGETHER, ALL_TOGETHER = "pixel families together", "all together"
_BINS = 64  # values of a feature that trees separate


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Features of the same N images: family -> (N, F)."""

    before: Families  # as published
    canvases: Families  # as deployed
    augmented: Families  # canvases as a training draws them


@dataclass(frozen=True, kw_only=True)
class Question:
    """Images with a class each, which the features are to predict."""

    name: str
    measure: Measure
    rows: Indices  # (M,) of the samples
    classes: tuple[str, ...]
    true: Indices  # (M,) class indices


@dataclass(frozen=True, kw_only=True)
class FamilyFigures:
    """Figure of one family at each stage; None where its features are constant over the images, and so predict nothing."""

    before: Figure | None
    canvases: Figure | None
    augmented: Figure | None


@dataclass(frozen=True, kw_only=True)
class ClassSize:
    """Size of one class of a question."""

    images: int
    patients: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Figures of all families for one question."""

    question: str
    measure: Measure
    chance: float
    classes: Mapping[str, ClassSize]
    families: Mapping[str, FamilyFigures]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Result of the probe on the images of a run."""

    configuration: str
    preset: str
    images: int
    seed: int
    resamples: int
    folds: int = FOLDS
    least_images: int  # of a class, in each question
    answers: tuple[Answer, ...]


def questions(samples: Sequence[Sample], guard: str | None, *, least_images: int = LEAST_IMAGES) -> list[Question]:
    """Return what can be predicted: the guarded label among adults, label, source, and pairs of labels within a source.

    A class has `least_images` images or more, and a patient for each fold; a question with fewer than two such classes is left
    out. Raises InputError if none is left.
    """
    found = [
        question
        for name, measure, classes in _candidates(samples, guard)
        if (question := _question(name, measure, classes, samples, least_images)) is not None
    ]
    if not found:
        counts = Counter(f"{s.record.source}/{s.record.label}" for s in samples)
        raise InputError(
            f"expected two labels or two sources with {least_images} images of {FOLDS} patients or more each, got "
            f"{', '.join(f'{name} {n}' for name, n in sorted(counts.items())) or 'no images'}: read more collections, or lower "
            "--least-images"
        )
    return found


def _candidates(samples: Sequence[Sample], guard: str | None) -> Iterator[tuple[str, Measure, list[str]]]:
    """Yield name, measure, and the class of each sample, empty for those that are left out."""
    records = [s.record for s in samples]
    if guard is not None:
        others = f"not {guard}"
        adults = [("" if not r.adult else guard if r.label == guard else others) for r in records]
        yield f"{guard} among adults", "AUC", adults
    yield "label", "macro-AUC", [r.label for r in records]
    yield "source", "balanced accuracy", [r.source for r in records]
    for source in sorted({r.source for r in records}):
        labels = sorted({r.label for r in records if r.source == source})
        for pair in combinations(labels, 2):
            within = [r.label if r.source == source and r.label in pair else "" for r in records]
            yield f"{pair[0]} or {pair[1]} within {source}", "AUC", within


def _question(
    name: str, measure: Measure, classes: Sequence[str], samples: Sequence[Sample], least_images: int
) -> Question | None:
    images = Counter(classes)
    patients = Counter(c for c, _ in {(c, s.group) for c, s in zip(classes, samples, strict=True)})
    kept = sorted(c for c in images if c and images[c] >= least_images and patients[c] >= FOLDS)
    if len(kept) < 2:
        return None
    rows = np.array([i for i, c in enumerate(classes) if c in kept])
    return Question(
        name=name,
        measure=measure,
        rows=rows,
        classes=tuple(kept),
        true=np.array([kept.index(classes[i]) for i in rows]),
    )


def answer(question: Question, samples: Sequence[Sample], stages: Stages, draws: Bootstrap) -> Answer:
    """Return the figures of each family, and of all together, at each stage. Intervals: bootstrap of patients."""
    patients = np.array([samples[i].group for i in question.rows])
    folds = _folds(question, patients, draws.seed)
    predicted = {
        (family, stage): _out_of_fold(matrix[question.rows], question, folds, draws.seed)
        for stage in ("before", "canvases", "augmented")
        for family, matrix in _with_sums(getattr(stages, stage)).items()
    }
    figures = _figures({k: p for k, p in predicted.items() if p is not None}, question, patients, draws)
    families = (*FAMILIES, PIXELS_TOGETHER, ALL_TOGETHER)
    return Answer(
        question=question.name,
        measure=question.measure,
        chance=1 / len(question.classes) if question.measure == "balanced accuracy" else 0.5,
        classes={name: _class_size(patients[question.true == k]) for k, name in enumerate(question.classes)},
        families={
            name: FamilyFigures(
                before=figures.get((name, "before")),
                canvases=figures.get((name, "canvases")),
                augmented=figures.get((name, "augmented")),
            )
            for name in families
        },
    )


def _class_size(patients: npt.NDArray[np.str_]) -> ClassSize:
    return ClassSize(images=len(patients), patients=len(set(patients.tolist())))


def _with_sums(families: Families) -> dict[str, Floats]:
    """Return the families, and the features of several of them side by side."""
    return {
        **families,
        PIXELS_TOGETHER: np.hstack([families[name] for name in PIXELS]),
        ALL_TOGETHER: np.hstack([families[name] for name in FAMILIES]),
    }


def _folds(question: Question, patients: npt.NDArray[np.str_], seed: int) -> list[tuple[Indices, Indices]]:
    """Return the rows to fit and to predict of each fold; a patient is in one fold only."""
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(patients)), question.true, patients))


def _out_of_fold(
    features: Floats, question: Question, folds: Sequence[tuple[Indices, Indices]], seed: int
) -> Floats | None:
    """Return the probabilities (M, K) of images that the model was not fitted on; None for constant features (M, F)."""
    if (features == features[0]).all():
        return None
    codes = np.column_stack([_codes(column) for column in features.T])
    probabilities = np.zeros((len(codes), len(question.classes)))
    for fitted, tested in folds:
        model = HistGradientBoostingClassifier(
            learning_rate=0.2,
            max_iter=40,
            max_leaf_nodes=8,
            min_samples_leaf=10,
            max_bins=_BINS,
            early_stopping=False,
            class_weight="balanced",
            random_state=seed,
        ).fit(codes[fitted], question.true[fitted])
        probabilities[np.ix_(tested, model.classes_)] = model.predict_proba(codes[tested])
    return probabilities


def _codes(column: Floats) -> Floats:
    """Return a feature (M,) as numbers of at most `_BINS` intervals with about as many images each.

    scikit-learn would make them in each fit, at thirty times the cost of the fit with weighted images. No class is used here.
    """
    values = np.unique(column)
    if len(values) > _BINS:
        values = np.unique(np.quantile(column, np.arange(1, _BINS) / _BINS))
    return np.searchsorted(values, column).astype(np.float64)


def _figures(
    predicted: Mapping[tuple[str, str], Floats],
    question: Question,
    patients: npt.NDArray[np.str_],
    draws: Bootstrap,
) -> dict[tuple[str, str], Figure]:
    """Return the figure of each array of probabilities, all with the same draws of patients."""
    if not predicted:
        return {}
    true, count = question.true, len(question.classes)
    if question.measure == "balanced accuracy":
        decided = [p.argmax(axis=1) for p in predicted.values()]
        found = bootstrap(lambda w: np.array([_mean_recall(d, true, count, w) for d in decided]), patients, draws)
    else:
        # Of two classes, both have the same AUC.
        ranked = [[(k, ranks(p[:, k])) for k in range(count if count > 2 else 1)] for p in predicted.values()]
        found = bootstrap(lambda w: np.array([_mean_auc(r, true, w) for r in ranked]), patients, draws)
    return dict(zip(predicted, found, strict=True))


def _mean_recall(decided: Indices, true: Indices, count: int, weights: Floats | None) -> float:
    """Return the balanced accuracy; NaN if a class is absent from a draw."""
    counts = confusion(true, decided, count, weights)
    images = counts.sum(axis=1)
    recall = np.divide(np.diag(counts), images, out=np.full(count, np.nan), where=images > 0)
    return float(recall.mean())


def _mean_auc(ranked: Sequence[tuple[int, Indices]], true: Indices, weights: Floats | None) -> float:
    return float(np.mean([auc_of_ranks(r, true == k, weights) for k, r in ranked]))


def probe(
    samples: Sequence[Sample],
    stages: Stages,
    draws: Bootstrap,
    *,
    guard: str | None,
    configuration: str,
    preset: str,
    least_images: int = LEAST_IMAGES,
) -> Probe:
    """Answer all questions that the images allow. guard: the guarded label. Raises InputError if there are none."""
    found = Probe(
        configuration=configuration,
        preset=preset,
        images=len(samples),
        seed=draws.seed,
        resamples=draws.resamples,
        least_images=least_images,
        answers=tuple(answer(q, samples, stages, draws) for q in questions(samples, guard, least_images=least_images)),
    )
    return as_stored(found)


def overview(found: Probe) -> str:
    """Return a table with a row per question: all families together at each stage."""
    rows = [
        [
            a.question,
            sum(c.images for c in a.classes.values()),
            a.measure,
            f"{a.chance:.2f}",
            *_cells(a.families[ALL_TOGETHER]),
        ]
        for a in found.answers
    ]
    return table(["question", "images", "measure", "chance", *_COLUMNS], rows)


_COLUMNS = ("before", "canvases", "augmented canvases")


def _cells(row: FamilyFigures) -> list[str]:
    return ["constant" if figure is None else interval(figure) for figure in (row.before, row.canvases, row.augmented)]


def probe_as_markdown(found: Probe) -> str:
    """Return the page of `training.probe`."""
    sections = [
        f"# Shortcut probe: {found.configuration}",
        _preamble(found),
        "## All families together",
        overview(found),
        "The stated view is in all three columns, though a network sees it in the pixels at most; `pixel families "
        "together` below leaves out what a canvas does not hold.",
        *(part for a in found.answers for part in _section(a)),
        "## Families",
        "\n".join(f"- **{name}**: {features}." for name, features in FAMILIES.items()),
    ]
    return "\n\n".join(sections) + "\n"


def _preamble(found: Probe) -> str:
    return (
        "How well do size, compression, view, sharpness, border, corner letters and histogram alone predict label and "
        "source? **Before**: the decoded image as published. **Canvases**: the lung box, as deployed. **Augmented "
        "canvases**: one of each image, as training draws them. Near chance, a family is no shortcut; above it, the family "
        "may be one, or follow the disease or the age: the questions within one source, whose images come from one "
        f"pipeline, separate the two. {found.images} images; preset `{found.preset}`; seed {found.seed}. Gradient boosting "
        f"(scikit-learn), classes of equal weight, {found.folds}-fold cross-validation by patients; classes with fewer "
        f"than {found.least_images} images or {found.folds} patients are left out. Intervals are 95 %, by bootstrap of "
        f"patients ({found.resamples} draws), without the spread of the fit. Macro-AUC: mean over the classes, each "
        "against the rest. `constant`: the same for all images, which predicts nothing. Generated by `training/probe.py`; "
        "do not edit."
    )


def _section(a: Answer) -> tuple[str, str, str]:
    counts = "; ".join(f"{name}: {c.images} images of {c.patients} patients" for name, c in a.classes.items())
    return (
        f"## {a.question[0].upper()}{a.question[1:]}",
        f"{a.measure[0].upper()}{a.measure[1:]}; chance is {a.chance:.2f}. {counts}.",
        table(["family", *_COLUMNS], ([name, *_cells(row)] for name, row in a.families.items())),
    )
