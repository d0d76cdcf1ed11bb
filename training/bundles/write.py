"""Writing of a bundle: ONNX files, validation canvases and the fitted combination in, a folder out.

Written in three steps, since predictions need a bundle to run: the draft (networks, activation ranges, combination), the
known answers (fp32 reference predictions on synthetic X-rays), the figures (test patients' metrics and the model card).
Each step leaves a bundle that opens.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from cxr_edge.bundle import MANIFEST_NAME, Bundle, file_ref, write_bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.bundle.networks import FileRef, Member, Segmenter
from cxr_edge.compiler.calibrate import Ranges, measure_ranges
from cxr_edge.compiler.decoded_files import add_decoded_files
from cxr_edge.compiler.known_answers import add_known_answers, in_turn
from cxr_edge.errors import BundleError, ContractError
from cxr_edge.ops.preprocess import Preprocessor, normalize
from cxr_edge.records import Roi
from cxr_edge.specs.budget import ErrorBudget
from cxr_edge.specs.combination import Combination, Decision
from cxr_edge.specs.degraded import DegradedMode
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.outputs import COMBINED_KINDS, OutputKind
from cxr_edge.specs.preprocess import PreprocessSpec
from training.bundles.half_weights import store_half
from training.config import BundleConfig
from training.data.canvases import Canvases
from training.data.dataset import Sample, pixels
from training.shared_files import atomic_write, write_text

__all__ = [
    "CARD",
    "INTENDED_USE",
    "FittedEnsemble",
    "add_decoded_files",
    "add_facts",
    "add_figures",
    "add_known_answers",
    "spread_over_strata",
    "withdraw",
    "write_draft",
]

CARD = "MODEL_CARD.md"
INTENDED_USE = (
    "Research use only: not a medical device, not for diagnosis or any decision about a patient. Frontal chest X-rays "
    "of the kinds listed in the model card; every answer is to be read by a physician."
)


@dataclass(frozen=True, kw_only=True)
class FittedEnsemble:
    """Ensemble settings fitted on validation patients."""

    combination: Combination
    decision: Decision
    budget: ErrorBudget | None = None  # None: every decision is an answer
    degraded: tuple[DegradedMode, ...] = ()
    lung_box: LungBoxRule | None  # None: the members' input is the full frame, and there is no segmenter
    provenance: Mapping[str, Any]  # for the manifest


def spread_over_strata(samples: Sequence[Sample], count: int, *, seed: int) -> list[int]:
    """Return indices of `count` samples (or all), taken in turn from every pair of label and source."""
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in np.random.default_rng(seed).permutation(len(samples)).tolist():
        strata[samples[i].record.label, samples[i].record.source].append(i)
    return in_turn([strata[key] for key in sorted(strata)], count)


def write_draft(
    root: Path,
    networks: Path,
    fitted: FittedEnsemble,
    config: BundleConfig,
    designs: Mapping[str, str],
    validation: Sequence[Sample],
    canvases: Canvases,
) -> Bundle:
    """Write the bundle without known answers and figures.

    networks: folder of NAME.onnx and, with a lung box, segmenter.onnx.
    designs: member -> its design in words.
    validation, canvases: samples to measure the activation ranges on, row by row; ranges in `root` that belong to the same
        network files are reused.
    """
    root.mkdir(parents=True, exist_ok=True)
    for name in (*(("segmenter",) if fitted.lung_box is not None else ()), *designs):
        with atomic_write(root / f"{name}.onnx") as beside:
            if config.half_weights and name in designs:
                onnx.save(store_half(onnx.load(networks / f"{name}.onnx")), beside)
            else:
                shutil.copyfile(networks / f"{name}.onnx", beside)
    write_text(root / CARD, "# Draft\n\nNot evaluated yet.\n")
    chosen = spread_over_strata(validation, config.range_images, seed=config.seed)
    segmenter = None
    if fitted.lung_box is not None:
        frames = (_frame(validation[i], config.segmenter_spec) for i in chosen)
        segmenter = Segmenter(
            file=file_ref(root, "segmenter.onnx"),
            preprocess=config.segmenter_spec,
            lung_box=fitted.lung_box,
            activation_ranges=_ranges(root, "segmenter", frames),
        )
    lungs = canvases.lungs[chosen]
    kind = COMBINED_KINDS[fitted.combination.activation]
    members = tuple(_member(root, name, design, config.member_spec, lungs, kind) for name, design in designs.items())
    manifest = Manifest(
        name=config.name,
        version=config.version,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        labels=config.labels,
        segmenter=segmenter,
        members=members,
        combination=fitted.combination,
        decision=fitted.decision,
        budget=fitted.budget,
        degraded=fitted.degraded,
        known_answers=(),
        model_card=file_ref(root, CARD),
        intended_use=INTENDED_USE,
        provenance={**fitted.provenance, **_tools()},
        metrics={},
    )
    return write_bundle(root, manifest)


def _member(
    root: Path, name: str, design: str, spec: PreprocessSpec, lungs: npt.NDArray[np.uint8], kind: OutputKind
) -> Member:
    inputs = (normalize(canvas, spec)[None] for canvas in lungs)
    return Member(
        name=name,
        architecture=design,
        file=file_ref(root, f"{name}.onnx"),
        preprocess=spec,
        has_cam=True,
        activation_ranges=_ranges(root, name, inputs),
        output=kind,
    )


def _frame(sample: Sample, spec: PreprocessSpec) -> npt.NDArray[np.float32]:
    image = pixels(sample.record)
    (tensor,) = Preprocessor([spec]).run([image], [Roi.full(image.shape[1], image.shape[0])])
    return tensor


def _ranges(root: Path, name: str, inputs: Iterator[npt.NDArray[np.float32]]) -> FileRef:
    file, network = root / f"{name}.ranges.json", root / f"{name}.onnx"
    if not _matches(file, network):
        measure_ranges(network, inputs, source="validation patients").write(file)
    return file_ref(root, file.name)


def _matches(file: Path, network: Path) -> bool:
    """Return whether the ranges file exists and belongs to the network file."""
    try:
        Ranges.read(file).check(network)
    except (BundleError, ContractError):
        return False
    return True


def _tools() -> dict[str, Any]:
    """Return versions, and the commit of the training code if it is a git checkout."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    ).stdout.strip()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    return {"git_commit": commit or None, "versions": versions}


def withdraw(root: Path) -> None:
    """Remove the manifest, so that what was written in `root` is no bundle; activation ranges stay for the next attempt."""
    (root / MANIFEST_NAME).unlink(missing_ok=True)


def add_facts(bundle: Bundle, facts: Mapping[str, Any]) -> Bundle:
    """Add facts to the provenance."""
    manifest = bundle.manifest
    return write_bundle(bundle.root, replace(manifest, provenance={**manifest.provenance, **facts}))


def add_figures(bundle: Bundle, metrics: Mapping[str, Any], card: str) -> Bundle:
    """Write the model card, and the figures into the manifest."""
    write_text(bundle.root / CARD, card)
    manifest = replace(bundle.manifest, metrics=dict(metrics), model_card=file_ref(bundle.root, CARD))
    return write_bundle(bundle.root, manifest)
