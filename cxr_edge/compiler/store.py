"""Output of a build on disk: a scratch folder inside the engines folder, selected engines, side-cars and build.json.

Finished files are moved into place in one step each, and engines of earlier builds are removed. An interrupted build
leaves either the old engines or ones that `engines.load` refuses with the command to build again.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cxr_edge.backends.base import Backend, CompileOptions, DeviceBackend
from cxr_edge.compiler.candidates import PRECISION_NAMES, Candidate
from cxr_edge.compiler.report import Row
from cxr_edge.digests import sha256_file
from cxr_edge.engines import BUILD_FILE, BuildRecord, NetworkFile, SideCar
from cxr_edge.errors import BackendError
from cxr_edge.version import __version__

__all__ = ["remove_other_engines", "save_engine", "scratch_folder", "write_build_record"]


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Create a scratch folder inside `folder`, and `folder` itself: on one file system, so that moving is atomic.

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


def save_engine(
    candidate: Candidate,
    row: Row,
    network: NetworkFile,
    folder: Path,
    *,
    backend: Backend,
    bundle_sha256: str | None,
    options: CompileOptions,
) -> None:
    """Move the selected engine to `folder` as `<network>.<precision><suffix>` and write its side-car beside it."""
    stem = f"{network.name}.{candidate.recipe.name}"
    car = SideCar(
        part=network.name,
        precision=candidate.recipe.name,
        backend=backend.name,
        bundle_sha256=bundle_sha256,
        onnx_sha256=network.onnx_sha256,
        engine_sha256=sha256_file(candidate.file),
        preprocess_sha256=network.preprocess.digest(),
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


def remove_other_engines(folder: Path, name: str, *, selected: str | None, suffix: str) -> None:
    """Remove a network's engines of other precisions than `selected` (None: all) that earlier builds have left."""
    for precision in PRECISION_NAMES:
        if precision != selected:
            for ending in (suffix, ".json"):
                (folder / f"{name}.{precision}{ending}").unlink(missing_ok=True)


def write_build_record(folder: Path, scratch: Path, record: BuildRecord) -> None:
    """Write build.json in one step."""
    written = scratch / BUILD_FILE
    written.write_text(json.dumps(record.as_json(), indent=1) + "\n", encoding="utf-8")
    os.replace(written, folder / BUILD_FILE)


def _gate(row: Row) -> dict[str, Any]:
    """Return the figures of the parity check, and the layers that a mixed engine has in fp32."""
    figures = asdict(row.parity) if row.parity else {}
    names = [name for s in row.fp32_layers for name in s.layers]
    return {**figures, "fp32_layers": names} if names else figures
