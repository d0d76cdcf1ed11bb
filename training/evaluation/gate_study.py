"""Sets of images as gates: damaged engines and image sets in; what each set refuses, beside what held-out patients lose, out.

The rules are those of `build-engine` at its default limit: the changed network alone, and the ensemble with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from cxr_edge import engines
from cxr_edge.backends.base import CompileOptions, Engine
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.compiler.comparison import output_comparison, segmenter_comparison
from cxr_edge.compiler.ensemble import EnsembleResult, compare_at_points, manifest_point
from cxr_edge.compiler.parity import Limits, ParityResult, macro_auc
from cxr_edge.compiler.remembering import RememberingEngine
from cxr_edge.compiler.samples import ImageKind, Samples, of_images, unchecked
from cxr_edge.compiler.verdicts import Verdicts, probabilities_of
from cxr_edge.engines import SEGMENTER, EngineSet
from cxr_edge.records import Image, Screening
from cxr_edge.screening.screener import Screener
from training.evaluation.gate_damage import Damaged
from training.json_records import ROUNDED

__all__ = [
    "PHANTOMS",
    "REAL",
    "SURROGATE",
    "TEST",
    "EngineRow",
    "GateComparison",
    "GateStudy",
    "GateVerdict",
    "ImageSets",
    "rows",
    "spearman",
]

PHANTOMS, SURROGATE, REAL, TEST = "phantoms", "surrogate", "real", "test"


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """Verdict of one set of images on one engine."""

    accepted: bool
    reason: str  # the first; empty if it is accepted
    agreement: float = field(metadata=ROUNDED)  # of decisions, ties counted as the same
    mean_shift: float = field(metadata=ROUNDED)  # of the ensemble's probabilities
    max_shift: float = field(metadata=ROUNDED)
    auc_change: float = field(metadata=ROUNDED)  # against the label of the image or of the draw
    auc_change_decided: float = field(metadata=ROUNDED)  # against the reference's decisions


@dataclass(frozen=True, kw_only=True)
class EngineRow:
    """One damaged engine."""

    name: str
    verdicts: Mapping[str, GateVerdict]  # by name of the set
    # Decisions and answers of the test images that change with the limits of the manifest, and as moved on the sets.
    changed: int
    changed_moved_on_surrogate: int
    changed_moved_on_real: int


@dataclass(frozen=True, kw_only=True)
class GateStudy:
    """Results of the study."""

    bundle: str
    seed: int
    images: Mapping[str, int]  # by name of the set
    rows: tuple[EngineRow, ...]
    machine: str
    note: str = ""

    def same_verdict(self, one: str, other: str) -> tuple[int, int]:
        """Return on how many engines two sets agree, and of how many."""
        same = [row.verdicts[one].accepted == row.verdicts[other].accepted for row in self.rows]
        return sum(same), len(same)

    def values(self, name: str, figure: Callable[[GateVerdict], float]) -> npt.NDArray[np.float64]:
        """Return a figure of every engine by one set."""
        return np.array([figure(row.verdicts[name]) for row in self.rows])


@dataclass(frozen=True, kw_only=True)
class ImageSets:
    """Images of each set, and their labels."""

    images: Mapping[str, Sequence[Image]]
    truth: Mapping[str, Sequence[int | None]]


class GateComparison:
    """Compares damaged engines of one bundle on several sets of images."""

    def __init__(self, bundle: Bundle, sets: ImageSets, *, threads: int = 1) -> None:
        # Refusals are by the checker, which no damage touches.
        self.bundle = unchecked(bundle)
        reference = engines.reference(self.bundle, threads=threads)
        self._threads, self._backend = threads, OnnxRuntimeBackend()
        loaded = [*([reference.segmenter] if reference.segmenter else []), *reference.members]
        self._engines: dict[str, Engine] = {
            n: RememberingEngine(e) for n, e in zip(reference.parts, loaded, strict=True)
        }
        self._truth = sets.truth
        self._sets = {name: self._samples(name, images) for name, images in sets.images.items()}

    def _samples(self, name: str, images: Sequence[Image]) -> Samples:
        truth = self._truth[name] if name in (REAL, TEST) else [None] * len(images)
        kind = _KINDS[name]
        return of_images(self.bundle, self._set(), images, truth, name, kind=kind, threads=self._threads)

    def row(self, damaged: Damaged) -> EngineRow:
        """Compare one engine."""
        with tempfile.TemporaryDirectory(prefix="cxr-edge-") as folder:
            file = Path(folder, "damaged.onnx")
            onnx.save(damaged.model, file)
            engine = self._backend.load_reference(file, CompileOptions(threads=self._threads))
        screener = Screener(self.bundle, self._set(damaged.network, engine))
        found = {name: [screener.screen(s.image()) for s in own.items] for name, own in self._sets.items()}
        compared = {name: self._compared(name, found[name]) for name in self._sets}
        verdicts = {
            name: self._verdict(name, damaged.network, engine, compared[name].parity, found[name])
            for name in self._sets
        }
        test, after = [s.screening for s in self._sets[TEST].items], found[TEST]
        moved = {name: compared[name].point for name in (SURROGATE, REAL)}
        at = manifest_point(self.bundle.manifest)
        expected = Verdicts.made(at, test)
        return EngineRow(
            name=damaged.name,
            verdicts=verdicts,
            changed=_changed(expected, Verdicts.made(at, after)),
            changed_moved_on_surrogate=_changed(expected, Verdicts.at(moved[SURROGATE] or at, after)),
            changed_moved_on_real=_changed(expected, Verdicts.at(moved[REAL] or at, after)),
        )

    def _set(self, network: str | None = None, engine: Engine | None = None) -> EngineSet:
        own = [engine if name == network and engine is not None else e for name, e in self._engines.items()]
        return engines.engine_set(self.bundle, self._backend, own, ("fp32",) * len(own))

    def _compared(self, name: str, found: Sequence[Screening]) -> EnsembleResult:
        """Compare the ensemble, with limits moved as `build-engine` moves them on such images; on test images none is."""
        own, manifest = self._sets[name], self.bundle.manifest
        return compare_at_points(
            manifest,
            [s.screening for s in own.items],
            found,
            truth=own.truth(),
            known=own.known(len(manifest.labels)),
            limits=Limits(),
            drawn=name == TEST or not own.moves_limits,
        )

    def _verdict(
        self, name: str, network: str, engine: Engine, ensemble: ParityResult, found: Sequence[Screening]
    ) -> GateVerdict:
        own = self._sets[name]
        reasons = (*self._network(own.for_networks(), network, engine).reasons, *ensemble.reasons)
        before, after = probabilities_of([s.screening for s in own.items]), probabilities_of(found)
        decided, truth = before.argmax(axis=1), self._truth[name]
        labels = decided if None in truth else np.array(truth, np.int64)
        return GateVerdict(
            accepted=not reasons,
            reason=reasons[0] if reasons else "",
            agreement=ensemble.agreement,
            mean_shift=ensemble.mean_shift or 0.0,
            max_shift=ensemble.max_shift or 0.0,
            auc_change=(macro_auc(after, labels) or 0.0) - (macro_auc(before, labels) or 0.0),
            auc_change_decided=(macro_auc(after, decided) or 0.0) - (macro_auc(before, decided) or 0.0),
        )

    def _network(self, own: Samples, network: str, engine: Engine) -> ParityResult:
        """Compare the changed network alone."""
        output = "mask" if network == SEGMENTER else "logits"
        before, after = (
            [np.asarray(e.run({"image": x})[output][0], np.float32) for x in own.inputs(network)]
            for e in (self._engines[network], engine)
        )
        return _comparison(self.bundle.manifest, own, network)(before, after)


_KINDS: Mapping[str, ImageKind] = {PHANTOMS: "known answers", SURROGATE: "surrogate", REAL: "images", TEST: "folder"}


def _comparison(manifest: Manifest, own: Samples, network: str) -> Callable[..., ParityResult]:
    if network == SEGMENTER and manifest.segmenter is not None:
        sizes = [(s.screening.width_px, s.screening.height_px) for s in own.items]
        return segmenter_comparison(sizes, manifest.segmenter.lung_box, Limits())
    at = [m.name for m in manifest.members].index(network)
    temperature = manifest.combination.member_temperatures[at]
    return output_comparison(["softmax-logits"], Limits(), truth=own.truth(), temperature=temperature)


def _changed(expected: Verdicts, found: Verdicts) -> int:
    same = (expected.decided == found.decided).all(axis=1) & (expected.answered == found.answered)
    return int((~same).sum())


def spearman(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Return the rank correlation."""
    ranks = [np.argsort(np.argsort(x)).astype(float) for x in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def rows(comparison: GateComparison, damaged: Iterator[Damaged], say: Callable[[str], None]) -> tuple[EngineRow, ...]:
    """Compare all engines. say: takes a line of progress for each."""
    found = []
    for one in damaged:
        row = comparison.row(one)
        say(
            f"{row.name}: "
            + ", ".join(f"{k} {'accepts' if v.accepted else 'refuses'}" for k, v in row.verdicts.items())
        )
        found.append(row)
    return tuple(found)
