"""Where a build writes: a scratch folder inside the engines folder, and chosen engines moved into place in one step.

Side-cars and build.json are written here, files of earlier builds that no longer hold are removed here. A build that
is interrupted leaves either the old engines or ones that `engines.load` refuses with the command to build again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cxr_edge.backends.base import Backend, CompileOptions, DeviceBackend
from cxr_edge.compiler.candidates import NAMES, Candidate
from cxr_edge.compiler.report import Row
from cxr_edge.engines import BUILD_FILE, Part, SideCar
from cxr_edge.errors import BackendError
from cxr_edge.version import __version__

__all__ = ["keep", "remove_stale", "scratch_folder", "write_build"]


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder inside `folder`, which is made if need be: on one file system, so that moving is atomic.

    Raises BackendError if `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".building-", dir=folder)
    except OSError as error:
        raise BackendError(
            f"engines cannot be written into {folder} ({error.strerror}): give a folder that can be written with "
            f"--engines DIR, to build-engine and to screen alike"
        ) from None
    with scratch as name:
        yield Path(name)


def keep(
    candidate: Candidate,
    row: Row,
    part: Part,
    folder: Path,
    *,
    backend: Backend,
    bundle_sha256: str | None,
    options: CompileOptions,
) -> SideCar:
    """Move the chosen engine to `folder` as `<part>.<precision><suffix>` and write its side-car beside it."""
    stem = f"{part.name}.{candidate.recipe.name}"
    car = SideCar(
        part=part.name,
        precision=candidate.recipe.name,
        backend=backend.name,
        bundle_sha256=bundle_sha256,
        onnx_sha256=part.onnx_sha256,
        engine_sha256=hashlib.sha256(candidate.file.read_bytes()).hexdigest(),
        preprocess_sha256=part.preprocess.digest(),
        versions=backend.versions(),
        portable=backend.portable(options.gpu) if isinstance(backend, DeviceBackend) else (),
        threads=options.threads,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        cxr_edge=__version__,
        gate=_gate(row),
    )
    written = candidate.file.with_suffix(".json")
    car.write(written)
    os.replace(candidate.file, folder / f"{stem}{backend.suffix}")
    os.replace(written, folder / f"{stem}.json")
    return car


def _gate(row: Row) -> dict[str, Any]:
    """The figures that let an engine pass, and for a mixed one the layers that were kept in fp32."""
    figures = asdict(row.verdict) if row.verdict else {}
    kept = [name for harm in row.kept_float for name in harm.layers]
    return {**figures, "kept_float": kept} if kept else figures


def remove_stale(folder: Path, part: str, *, kept: str | None, suffix: str) -> None:
    """Remove the part's engines of other precisions than `kept` (None: all), which an earlier build may have left."""
    for name in NAMES:
        if name != kept:
            for ending in (suffix, ".json"):
                (folder / f"{part}.{name}{ending}").unlink(missing_ok=True)


def write_build(folder: Path, scratch: Path, values: Mapping[str, Any]) -> None:
    """Write build.json in one step."""
    written = scratch / BUILD_FILE
    written.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(written, folder / BUILD_FILE)
