"""Output of a build on disk: a scratch folder inside the engines folder, selected engines, side-cars and build.json.

All files are written to the scratch folder, moved into place together at the very end, and only then are the engines of
earlier builds removed. A build that ends early leaves the old engines; only a kill or a power cut between two moves may leave
a mixture, which `engines.load` refuses with the command to build again.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cxr_edge.backends.base import Backend, CompileOptions, DeviceBackend
from cxr_edge.compiler.build_lock import SCRATCH_PREFIX, mark_owner, uninterrupted, unwritable
from cxr_edge.compiler.candidates import PRECISION_NAMES, Candidate
from cxr_edge.compiler.report import Row
from cxr_edge.digests import sha256_file
from cxr_edge.engines import BUILD_FILE, BuildRecord, NetworkFile, SideCar
from cxr_edge.signing.engine_files import ENGINE_SIGNATURE, sign_engine_files
from cxr_edge.signing.keys import PrivateKey
from cxr_edge.version import __version__

__all__ = [
    "PendingFiles",
    "remove_other_engines",
    "save_engine",
    "scratch_folder",
    "sign_files",
    "write_build_record",
]


@dataclass(frozen=True, kw_only=True)
class PendingFiles:
    """Finished files of a build in its scratch folder, and what becomes of them at its end."""

    folder: Path  # of the engines
    scratch: Path
    moved: dict[str, Path] = field(default_factory=dict)  # from the scratch folder, by the name in the engines folder
    removed: list[str] = field(default_factory=list)

    def place(self) -> None:
        """Move the files into place, in the order in which they were added, and remove the others."""
        for file in self.moved.values():
            _sync(file)
        with uninterrupted():
            for name, file in self.moved.items():
                os.replace(file, self.folder / name)
            for name in self.removed:
                (self.folder / name).unlink(missing_ok=True)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Create a scratch folder inside `folder`, and `folder` itself: on one file system, so that moving is atomic.

    Raises BackendError if `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=folder)
    except OSError as error:
        raise unwritable(folder, error) from None
    with scratch as name:
        mark_owner(Path(name))
        yield Path(name)


def save_engine(
    candidate: Candidate,
    row: Row,
    network: NetworkFile,
    files: PendingFiles,
    *,
    backend: Backend,
    bundle_sha256: str | None,
    options: CompileOptions,
) -> None:
    """Add the selected engine as `<network>.<precision><suffix>`, and its side-car."""
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
    files.moved[f"{stem}{backend.suffix}"] = candidate.file
    files.moved[f"{stem}.json"] = written


def remove_other_engines(files: PendingFiles, name: str, *, selected: str | None, suffix: str) -> None:
    """Let a network's engines of other precisions than `selected` (None: all), which earlier builds have left, be removed."""
    others = [precision for precision in PRECISION_NAMES if precision != selected]
    files.removed.extend(f"{name}.{precision}{ending}" for precision in others for ending in (suffix, ".json"))


def write_build_record(files: PendingFiles, record: BuildRecord) -> None:
    """Add build.json."""
    files.moved[BUILD_FILE] = files.scratch / BUILD_FILE
    files.moved[BUILD_FILE].write_text(json.dumps(record.as_json(), indent=1) + "\n", encoding="utf-8")


def sign_files(files: PendingFiles, record: BuildRecord, key: PrivateKey | None) -> None:
    """Add the box's signature of all files that were added; without a key, let that of an earlier build be removed."""
    if key is None:
        files.removed.append(ENGINE_SIGNATURE)
        return
    data = sign_engine_files(files.moved, key, bundle_sha256=record.bundle_sha256, backend=record.backend)
    files.moved[ENGINE_SIGNATURE] = files.scratch / ENGINE_SIGNATURE
    files.moved[ENGINE_SIGNATURE].write_bytes(data)


def _sync(file: Path) -> None:
    """Wait until the file is on the disk, so that a power cut after the move finds it whole."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _gate(row: Row) -> dict[str, Any]:
    """Return the figures of the parity check, and the layers that a mixed engine has in fp32."""
    figures = asdict(row.parity) if row.parity else {}
    names = [name for s in row.fp32_layers for name in s.layers]
    return {**figures, "fp32_layers": names} if names else figures
