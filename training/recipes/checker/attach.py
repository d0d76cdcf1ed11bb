"""Put a finished checker into a bundle: a bundle and a checker's run in; the same bundle with the checker, a new version, out.

Nothing else of the bundle changes: networks, combination, decision and known answers stay as they are, byte by byte.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.bundle.networks import Checker
from cxr_edge.errors import InputError
from cxr_edge.specs.checks import Check, ImageLimits
from training.bundles.card_sections import with_section
from training.json_records import read_json
from training.recipes.checker.measure import RefusalResults
from training.recipes.checker.pages import card_section
from training.recipes.checker.run import CHECKER_SPEC, ONNX, RESULTS, SCORES
from training.shared_files import atomic_write, write_text

__all__ = ["attach_checker", "next_version"]

_HEADING = "## Refusals"


def attach_checker(root: Path, run: Path, *, version: str | None = None) -> Bundle:
    """Add the checker of the run folder `run` to the bundle in `root`, or replace the one that it has.

    version: text of the bundle's new version; None raises the second number of the present one.
    Raises InputError for a run that is not finished, BundleError for a folder that is no bundle.
    """
    bundle = Bundle.open(root)
    results = read_json(RefusalResults, run / RESULTS)
    manifest = bundle.manifest
    new = next_version(manifest.version) if version is None else version
    if any(ref.path == ONNX and key != "checker.file" for key, ref in manifest.files()):
        raise InputError(f"the bundle in {root} has another network in {ONNX}: give the member another name")
    with atomic_write(bundle.root / ONNX) as beside:
        shutil.copyfile(run / ONNX, beside)
    card = bundle.file(manifest.model_card)
    write_text(card, _with_section(card.read_text(encoding="utf-8"), manifest, new, card_section(results)))
    return write_bundle(
        bundle.root,
        replace(
            manifest,
            version=new,
            checker=_checker(bundle.root, results),
            model_card=file_ref(bundle.root, manifest.model_card.path),
            provenance={**manifest.provenance, "checker": _provenance(results)},
        ),
    )


def next_version(version: str) -> str:
    """Return `2.1.0` for `2.0.0`. Raises InputError for a version of another form."""
    match = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?", version)
    if match is None:
        raise InputError(f"the bundle has version {version!r}, which has no second number to raise: give --version")
    return f"{match[1]}.{int(match[2]) + 1}{'.0' if match[3] else ''}"


def _checker(root: Path, results: RefusalResults) -> Checker:
    return Checker(
        file=file_ref(root, ONNX),
        preprocess=CHECKER_SPEC,
        scores=SCORES,
        checks=tuple(Check(**asdict(check)) for check in results.checks),
        limits=ImageLimits(**asdict(results.image_limits)),
    )


def _provenance(results: RefusalResults) -> dict[str, Any]:
    return {
        "made_by": "training/checker.py",
        "seed": results.seed,
        "limits": "chosen on good frontal images of validation patients, of which a code may refuse these shares",
        "allowed": dict(results.allowed),
    }


def _with_section(card: str, manifest: Manifest, version: str, section: str) -> str:
    """Return the model card with the section on refusals before its results, and the new version in its title."""
    title = f"# Model card: {manifest.name} "
    card = card.replace(f"{title}{manifest.version}\n", f"{title}{version}\n", 1)
    return with_section(card, f"{_HEADING}\n\n{section.strip()}", before="## Results")
