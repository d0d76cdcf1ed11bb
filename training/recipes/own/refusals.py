"""Refusals of a bundle of own data: the bundle and its validation images in; the bundle with the packaged checker out.

The checker was trained on other hospitals' images. A check that refuses more than a few of the user's own is left out of the
bundle, since here it would refuse good images.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cxr_edge.bundle import STARTER, Bundle, file_ref, write_bundle
from cxr_edge.bundle.networks import Checker
from cxr_edge.compiler.samples import spread_evenly
from cxr_edge.decoding.decode import decode
from cxr_edge.screening.checker import ImageChecker
from cxr_edge.specs.checks import ImageLimits
from training.bundles.card_sections import with_section
from training.evaluation.metrics import Figure, interval, share
from training.shared_files import atomic_write, write_text

__all__ = ["OwnRefusals", "attach_packaged_checker", "refusals_sentence"]

ALLOWED = 0.02  # share of the validation images that one check may refuse
_MOST_IMAGES = 400  # of the validation patients that are checked
_ONNX = "checker.onnx"
_HEADING = "## Refusals"
_NO_LIMIT = {"too_small": ("min_side_px", 1), "blank": ("min_contrast", 0.0), "saturated": ("max_saturated", 1.0)}


@dataclass(frozen=True, kw_only=True)
class OwnRefusals:
    """Answers of the packaged checker on validation images, none of which it ought to refuse."""

    refused: Figure  # by the checks that were kept
    left_out: Mapping[str, int] = field(default_factory=dict)  # images that a check would refuse, by code


def attach_packaged_checker(bundle: Bundle, files: Sequence[Path], *, threads: int) -> OwnRefusals:
    """Put the starter's checker into `bundle`, without the checks that refuse more than 2 % of `files`, and say so in its card.

    files: images of validation patients; at most 400 of them are checked, evenly spread. One refused image leaves no check out.
    """
    starter = Bundle.open(STARTER)
    checker = starter.manifest.checker
    assert checker is not None  # of the packaged bundle
    chosen = spread_evenly(files, _MOST_IMAGES)
    codes = _codes(ImageChecker(starter, threads=threads, population="any"), chosen)
    counts = Counter(code for found in codes for code in found)
    left_out = {code: n for code, n in sorted(counts.items()) if n > max(1, ALLOWED * len(chosen))}
    refused = sum(bool(found - set(left_out)) for found in codes)
    result = OwnRefusals(refused=share(refused, len(chosen)), left_out=left_out)
    with atomic_write(bundle.root / _ONNX) as beside:
        shutil.copyfile(starter.file(checker.file), beside)
    card = bundle.file(bundle.manifest.model_card)
    section = f"{_HEADING}\n\n{refusals_sentence(result)}"
    write_text(card, with_section(card.read_text(encoding="utf-8"), section, before="## Results"))
    manifest = replace(
        bundle.manifest,
        checker=_kept(replace(checker, file=file_ref(bundle.root, _ONNX)), set(left_out)),
        model_card=file_ref(bundle.root, bundle.manifest.model_card.path),
    )
    write_bundle(bundle.root, manifest)
    return result


def refusals_sentence(found: OwnRefusals) -> str:
    """Return what the card and the page say."""
    text = (
        "Before an answer the packaged checker, which was trained on other hospitals' images, refuses what is no good frontal "
        f"chest X-ray. It refuses {interval(found.refused)} of the validation images, all of which count as good."
    )
    if not found.left_out:
        return text
    n = found.refused.n
    listed = ", ".join(f"{code} ({images} of {n})" for code, images in found.left_out.items())
    return f"{text} Checks left out, since each refuses more than {ALLOWED:.0%} of them: {listed}."


def _codes(checker: ImageChecker, files: Sequence[Path]) -> list[set[str]]:
    return [{flag.code for flag in checker.run(decode(file), None).refusals} for file in files]


def _kept(checker: Checker, left_out: set[str]) -> Checker:
    limits = {name: value for code, (name, value) in _NO_LIMIT.items() if code in left_out}
    return replace(
        checker,
        checks=tuple(check for check in checker.checks if check.code not in left_out),
        limits=ImageLimits(**{**checker.limits.as_json(), **limits}),
    )
