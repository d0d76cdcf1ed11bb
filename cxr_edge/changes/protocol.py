"""Modification Protocol: the tests that a new bundle has to pass before it is used, with their limits, and on which images.

A bundle, its gate's settings and the images come in, a `Protocol` comes out. The numbers are those that the tests use.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.compiler.operating_point import LEAST_NEAR
from cxr_edge.compiler.parity import MIN_IMAGES_FOR_AUC, SAME_BOX_IOU, TIE, Limits
from cxr_edge.compiler.samples import KNOWN_ANSWER_TOLERANCE
from cxr_edge.engines import BuildRecord, BuildSettings

__all__ = ["Protocol", "Test", "protocol"]

_WIDTH = 120


@dataclass(frozen=True, kw_only=True)
class Test:
    """One test and what passes it."""

    name: str
    passes: str


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The tests in the order in which they run."""

    images: str  # that the gate compares on, in words
    settings: str  # of the build, as options
    tests: tuple[Test, ...]
    results: tuple[str, ...] = ()  # of the engines that the new bundle has here, one sentence a backend

    def lines(self) -> list[str]:
        """Return the protocol as text."""
        width = max(len(test.name) for test in self.tests) + 4
        lines = textwrap.wrap(f"The gate compares engines on {self.images}; its settings: {self.settings}.", _WIDTH)
        for test in self.tests:
            first = f"  {test.name}".ljust(width)
            lines += textwrap.wrap(first + test.passes, _WIDTH, subsequent_indent=" " * width)
        lines += ["The first two were checked for this plan; the others run where the bundle is installed."]
        return [*lines, *(line for result in self.results for line in textwrap.wrap(result, _WIDTH))]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def protocol(
    manifest: Manifest, settings: BuildSettings, *, images: str, max_changed: float, built: Sequence[BuildRecord] = ()
) -> Protocol:
    """Return the protocol of `build-engine` and `install` for a bundle.

    images: those of the gate, in words. max_changed: of `install --compare`. built: records of the bundle's own engines.
    """
    options = " ".join(settings.cli_options()) or "defaults"
    tests = (
        *_bundle_tests(manifest),
        *_engine_tests(manifest, Limits(max_loss=settings.max_loss)),
        *_install_tests(max_changed),
    )
    return Protocol(images=images, settings=options, tests=tests, results=tuple(map(_result, built)))


def _bundle_tests(manifest: Manifest) -> Iterator[Test]:
    yield Test(name="files", passes="SHA-256 of every file as in the manifest; no unknown, missing or repeated key")
    yield Test(
        name="networks",
        passes="inputs, outputs and the digest of the preprocessing in each ONNX file as in the manifest",
    )
    known = len(manifest.known_answers)
    reproduced = f"probabilities of {known} drawn images within {KNOWN_ANSWER_TOLERANCE:g} of the manifest's"
    yield Test(
        name="known answers",
        passes=f"fp32 networks on the target machine: {reproduced}" if known else "the bundle has none",
    )


def _engine_tests(manifest: Manifest, limits: Limits) -> Iterator[Test]:
    network, ensemble = (
        f"{limits.network_agreement:.1%} of the images",
        f"{limits.ensemble_agreement:.1%} of the images",
    )
    if manifest.segmenter is not None:
        masks = f"mean overlap of the masks {limits.mask_iou:.3f} or more"
        yield Test(name="segmenter", passes=f"same lung box (overlap {SAME_BOX_IOU:g} or more) on {network}; {masks}")
    subject = "state of each finding" if manifest.multi_label else "top label"
    raw = f"raw outputs off by {limits.output_change:.2g} of their variation or less"
    yield Test(name="each member", passes=f"same {subject} as its fp32 network on {network}; {_shifts(limits)}; {raw}")
    answers = "" if manifest.budget is None else f", and answered or not as by them on {ensemble}"
    tie = f"where no probability changes by more than {TIE:g}, it is a tie"
    yield Test(
        name="all engines together",
        passes=f"same decision as the fp32 networks on {ensemble}{answers}; {_shifts(limits)}; {tie}",
    )
    yield Test(
        name="limits of engines",
        passes="moved by the median change of the log odds of the images near them, if there are "
        f"{LEAST_NEAR} or more with a common direction (sign test, 1 in 100), and no more images then change sides; "
        "never on drawn images",
    )


def _shifts(limits: Limits) -> str:
    return (
        f"probabilities changed by at most {limits.mean_shift:.3g} in the mean and {limits.max_shift:.3g} in any image; "
        f"AUC lost at most {limits.max_loss:.3g} (from {MIN_IMAGES_FOR_AUC} images on)"
    )


def _install_tests(max_changed: float) -> Iterator[Test]:
    yield Test(
        name="self-test",
        passes="cxr-edge install: the built engines reproduce the known answers as far as the gate allows, before and after the "
        "switch; else the old version stays, or is used again",
    )
    yield Test(
        name="old against new",
        passes=f"cxr-edge install --compare: the verdict changes on {max_changed:.1%} of the given files or less; else no switch",
    )


def _result(record: BuildRecord) -> str:
    """Return the gate's verdict on built engines, as their record has it."""
    report, engines = record.report, ", ".join(f"{part} {precision}" for part, precision in record.precisions.items())
    together = report.get("ensemble")
    if not isinstance(together, dict):
        return f"Engines of {record.backend} built here ({engines}): not all networks have one."
    found = f"same decision on {together['agreement']:.1%} of {together['images']} images"
    shift = together["max_shift"]
    largest = "" if shift is None else f", largest change of a probability {shift:.3f}"
    passed = "failed: " + "; ".join(together["reasons"]) if together["reasons"] else "passed"
    return f"Engines of {record.backend} built here ({engines}), on {report.get('images')}: {found}{largest}; {passed}."
