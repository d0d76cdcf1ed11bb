"""Records of what runs here: a screener in, its bundle, engines, libraries and machine out; a result in, its record out."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr_edge import _core
from cxr_edge.backends.cpu_info import instruction_sets, platform_name, processor_name
from cxr_edge.digests import sha256_file
from cxr_edge.evidence.records import (
    BundleRecord,
    DroppedRecord,
    EngineRecord,
    FailureRecord,
    InputRecord,
    LibraryRecord,
    MachineRecord,
    RunRecord,
    ScreeningRecord,
    SoftwareRecord,
)
from cxr_edge.evidence.site_key import SiteKey
from cxr_edge.names import json_name, printable
from cxr_edge.records import Failure, Screening
from cxr_edge.screening.screener import FileResult, Screener
from cxr_edge.version import __version__

__all__ = ["failure_record", "run_record", "screening_record"]

# Distributions whose code takes part in a screening; of the alternatives those that are installed.
_LIBRARIES = (
    *("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "pycuda", "opencv-python-headless", "opencv-python"),
    *("imagecodecs", "pydicom", "simplejpeg", "tifffile"),
)


def run_record(screener: Screener, *, options: Mapping[str, Any], site_key: SiteKey, signer: str) -> RunRecord:
    """Return the record of a run. options: beside the screener's own. signer: id of the key of checkpoints, or empty."""
    bundle, engines = screener.bundle, screener.engines
    digests = engines.digests if len(engines.digests) == len(engines.parts) else ("",) * len(engines.parts)
    return RunRecord(
        bundle=BundleRecord(
            name=bundle.manifest.name,
            version=bundle.manifest.version,
            sha256=bundle.digest,
            counter=getattr(bundle.manifest, "counter", 0) or 0,
        ),
        labels=bundle.manifest.labels,
        operating_point=screener.operating_point.digest(),
        backend=engines.backend,
        execution=screener.describe(),
        engines=tuple(
            EngineRecord(part=part, precision=precision, sha256=sha256)
            for part, precision, sha256 in zip(engines.parts, engines.precisions, digests, strict=True)
        ),
        versions=dict(engines.versions),
        machine=_machine(),
        software=_software(),
        options={**screener.options, **options},
        site_key=site_key.key_id,
        signer=signer,
    )


def screening_record(result: FileResult, screening: Screening, *, site_key: SiteKey, names: bool) -> ScreeningRecord:
    """Return the record of a screening. result: it is of. names: store the name of the input."""
    return ScreeningRecord(
        input=_input(result, screening.source, screening.sha256, site_key, names),
        outcome=screening.outcome,
        reason=None if screening.reason is None else screening.reason.code,
        decision=screening.decision,
        forced_decision=screening.forced_decision,
        findings=screening.findings,
        prediction_set=screening.prediction_set,
        probabilities=screening.probabilities,
        members={m.member: m.probabilities for m in screening.members},
        roi=screening.roi.as_tuple(),
        view=screening.view,
        view_estimated=screening.view_estimated,
        checks=dict(screening.checks),
        flags=tuple(flag.code for flag in screening.flags),
        times_ms={stage: round(ms, 3) for stage, ms in screening.times.by_stage().items()},
        dropped=_dropped(screening),
    )


def failure_record(result: FileResult, failure: Failure, *, site_key: SiteKey, names: bool) -> FailureRecord:
    """Return the record of a failure. Its reason is stored without the input's name."""
    reason = failure.reason
    for name in (printable(failure.source), failure.source, Path(failure.source).name):
        reason = reason.replace(name, "...") if name and not names else reason
    return FailureRecord(input=_input(result, failure.source, failure.sha256, site_key, names), error=reason)


def _input(result: FileResult, source: str, sha256: str, site_key: SiteKey, names: bool) -> InputRecord:
    image = result.image
    uid = "" if image is None else image.facts.sop_instance_uid
    return InputRecord(
        sha256=sha256,
        name=site_key.hash_name(source),
        source=json_name(source)[0] if names else None,
        uid=site_key.hash_uid(uid) if uid else None,
        format=None if image is None else image.format,
        width_px=None if image is None else image.width_px,
        height_px=None if image is None else image.height_px,
    )


def _dropped(screening: Screening) -> tuple[DroppedRecord, ...] | None:
    degraded = getattr(screening, "degraded", None)
    if degraded is None:
        return None
    return tuple(DroppedRecord(member=d.member, reason=d.reason) for d in degraded.dropped)


def _machine() -> MachineRecord:
    return MachineRecord(
        host=os.uname().nodename,
        processor=processor_name(),
        instruction_sets=" ".join(instruction_sets()),
        platform=platform_name(),
    )


@functools.cache
def _software() -> SoftwareRecord:
    found = {name: _library(name) for name in _LIBRARIES}
    return SoftwareRecord(
        cxr_edge=__version__,
        code_sha256=_code_digest(Path(__file__).parents[1]),
        core_sha256=sha256_file(Path(_core.__file__)),
        python=platform.python_version(),
        libraries={name: library for name, library in found.items() if library is not None},
    )


def _library(name: str) -> LibraryRecord | None:
    """Return version and digest of an installed package: of the digests that the installer has listed, not of the files."""
    from importlib import metadata  # which takes longer to import than to use

    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    listed = [line.rpartition(",")[0] for line in (package.read_text("RECORD") or "").splitlines()]
    own = sorted(
        entry for entry in listed if ",sha256=" in entry and not entry.startswith("..") and ".dist-info/" not in entry
    )
    digest = hashlib.sha256("\n".join(own).encode()).hexdigest() if own else ""
    return LibraryRecord(version=package.version, sha256=digest)


def _code_digest(folder: Path) -> str:
    """Return the SHA-256 over names and contents of the Python files."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
