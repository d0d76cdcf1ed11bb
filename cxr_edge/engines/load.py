"""Engines on disk beside their bundle: what each was built from and on, and loading them only where that still holds.

A bundle and the folder that `build-engine` wrote come in, an `EngineSet` ready to run goes out. Every engine file has a
side-car JSON with digests, versions and the machine; a difference to this machine or this bundle is a `BackendError`
that ends with the command that builds the engines anew. Nothing here imports onnx: screening starts through it.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_edge import backends
from cxr_edge.backends.base import Backend, CompileOptions, DeviceBackend, Engine, TensorInfo
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.bundle import ENGINES_DIR, PACKAGED, STARTER, Bundle
from cxr_edge.engines.records import BUILD_FILE, Asked, Selection, SideCar
from cxr_edge.errors import ContractError, EngineError
from cxr_edge.specs.preprocess import PreprocessSpec

if TYPE_CHECKING:
    from cxr_edge.gpu.interface import Device

__all__ = [
    "SEGMENTER",
    "EngineSet",
    "Part",
    "check_signature",
    "engine_set",
    "engines_root",
    "last_asked",
    "load",
    "parts",
    "rebuild_command",
    "reference",
]

SEGMENTER = "segmenter"  # the segmenter's part name; no member may be called so


@dataclass(frozen=True, kw_only=True)
class EngineSet:
    """Loaded engines of a bundle, in its order.

    parts: their names, the segmenter first if there is one; precisions: one a part. versions: of the backend. device:
    the one whose memory the engines can use, None if they take arrays of the host only.
    """

    backend: str
    segmenter: Engine | None
    members: tuple[Engine, ...]
    parts: tuple[str, ...]
    precisions: tuple[str, ...]
    versions: Mapping[str, str]
    device: Device | None = None

    def describe(self) -> str:
        """One line: `onnxruntime: segmenter uint8, a fp32`."""
        each = ", ".join(f"{part} {p}" for part, p in zip(self.parts, self.precisions, strict=True))
        return f"{self.backend}: {each}"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network of a bundle. outputs: those it must have."""

    name: str
    onnx: Path
    onnx_sha256: str
    preprocess: PreprocessSpec
    outputs: tuple[str, ...]


def parts(bundle: Bundle) -> tuple[Part, ...]:
    """The networks of a bundle: the segmenter first if there is one, then the members in order."""
    manifest, found = bundle.manifest, []
    if manifest.segmenter is not None:
        s = manifest.segmenter
        found.append(_part(bundle, SEGMENTER, s.file.path, s.file.sha256, s.preprocess, ("mask",)))
    for m in manifest.members:
        outputs = ("logits", "cam") if m.has_cam else ("logits",)
        found.append(_part(bundle, m.name, m.file.path, m.file.sha256, m.preprocess, outputs))
    return tuple(found)


def engines_root(bundle: Bundle, engines_dir: Path | None) -> Path:
    """The folder with one sub-folder a backend: `engines_dir`, or `engines` inside the bundle."""
    return engines_dir if engines_dir is not None else bundle.root / ENGINES_DIR


def load(bundle: Bundle, engines_dir: Path | None = None, *, backend: str = "auto", threads: int = 1) -> EngineSet:
    """The engines that build-engine chose for `bundle`, loaded.

    engines_dir: as in `engines_root`. backend: `auto` takes the first runtime that works here and has engines. Raises
    EngineError if there are none, or they are outdated, altered or from another machine: with the command to run.
    """
    root = engines_root(bundle, engines_dir)
    again = "build them with\n  " + rebuild_command(bundle, engines_dir, backend)
    built = [name for name in backends.BACKENDS if (root / name / BUILD_FILE).is_file()]
    if not built if backend == "auto" else backends.get(backend).name not in built:
        raise EngineError(f"there are no engines for bundle {bundle.manifest.name!r} in {root}: {again}")
    runtime = backends.choose(backend, among=built, engines=root)
    folder = root / runtime.name
    selection = _selection(folder, bundle, again)
    options = CompileOptions(threads=threads, gpu=selection.asked.gpu)
    versions = runtime.versions()
    loaded = [_load_part(folder, part, selection, runtime, versions, options, again) for part in parts(bundle)]
    return engine_set(bundle, runtime, loaded, tuple(selection.precisions[p.name] for p in parts(bundle)))


def reference(bundle: Bundle, *, threads: int = 1) -> EngineSet:
    """The bundle's own fp32 ONNX files through ONNX Runtime: what every engine is compared with."""
    runtime, options = OnnxRuntimeBackend(), CompileOptions(threads=threads)
    loaded: list[Engine] = []
    for part in parts(bundle):
        engine = runtime.load_reference(part.onnx, options)
        check_signature(engine, part)
        loaded.append(engine)
    return engine_set(bundle, runtime, loaded, ("fp32",) * len(loaded))


def engine_set(bundle: Bundle, backend: Backend, loaded: Sequence[Engine], precisions: tuple[str, ...]) -> EngineSet:
    """The set of `loaded` engines, one a part of `bundle` in its order."""
    first = 0 if bundle.manifest.segmenter is None else 1
    return EngineSet(
        backend=backend.name,
        segmenter=loaded[0] if first else None,
        members=tuple(loaded[first:]),
        parts=tuple(p.name for p in parts(bundle)),
        precisions=precisions,
        versions=backend.versions(),
        device=backend.device() if isinstance(backend, DeviceBackend) else None,
    )


def rebuild_command(bundle: Bundle, engines_dir: Path | None = None, backend: str = "auto") -> str:
    """The exact command that builds the engines which `load` with the same arguments looks for.

    What the last build there was asked for is asked for again.
    """
    words = ["cxr-edge", "build-engine", STARTER if bundle.root == PACKAGED else str(bundle.root)]
    words += [] if engines_dir in (None, engines_root(bundle, None)) else ["--engines", str(engines_dir)]
    words += [] if backend == "auto" else ["--backend", backend]
    return shlex.join([*words, *last_asked(bundle, engines_dir, backend).words()])


def last_asked(bundle: Bundle, engines_dir: Path | None, backend: str) -> Asked:
    """What the build of the engines that `load` looks for was asked for, usable or not; the defaults if none is."""
    root = engines_root(bundle, engines_dir)
    names = [name for name in backends.BACKENDS if backend in ("auto", name)]
    for path in (root / name / BUILD_FILE for name in names):
        try:
            return Selection.read(path).asked
        except ValueError:
            continue
    return Asked()


def check_signature(engine: Engine, part: Part) -> None:
    """Raise ContractError unless the engine takes the part's `image` and gives its outputs as float32."""
    wanted = TensorInfo(name="image", dtype=part.preprocess.dtype, shape=(None, *part.preprocess.tensor_shape))
    if engine.inputs != (wanted,):
        raise ContractError(f"{part.name}: expected the one input {wanted}, the engine has {engine.inputs}")
    given = {t.name: t.dtype for t in engine.outputs}
    if given != dict.fromkeys(part.outputs, "float32"):
        raise ContractError(f"{part.name}: expected the float32 outputs {list(part.outputs)}, the engine has {given}")


def _part(bundle: Bundle, name: str, path: str, sha256: str, spec: PreprocessSpec, outputs: tuple[str, ...]) -> Part:
    return Part(name=name, onnx=bundle.root / path, onnx_sha256=sha256, preprocess=spec, outputs=outputs)


def _selection(folder: Path, bundle: Bundle, again: str) -> Selection:
    path = folder / BUILD_FILE
    try:
        selection = Selection.read(path)
    except ValueError as error:
        raise EngineError(f"{path} cannot be used ({error}): {again}") from None
    if selection.bundle_sha256 != bundle.digest:
        raise EngineError(
            f"the engines in {folder} are outdated: they were built from a bundle with digest "
            f"{selection.bundle_sha256[:12]}..., {bundle.manifest.name!r} now has {bundle.digest[:12]}...; {again}"
        )
    missing = [p.name for p in parts(bundle) if p.name not in selection.precisions]
    if missing:
        raise EngineError(f"the last build in {folder} ended without an engine for {', '.join(missing)}: {again}")
    return selection


def _load_part(
    folder: Path,
    part: Part,
    selection: Selection,
    runtime: Backend,
    versions: Mapping[str, str],
    options: CompileOptions,
    again: str,
) -> Engine:
    stem = f"{part.name}.{selection.precisions[part.name]}"
    path = folder / f"{stem}{runtime.suffix}"
    try:
        car = SideCar.read(folder / f"{stem}.json")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        raise EngineError(f"the engine {path.name} in {folder} is incomplete ({error}): {again}") from None
    difference = _difference(car, part, versions, digest)
    if difference:
        raise EngineError(f"the engine {path.name} in {folder} {difference}; {again}")
    engine = runtime.load(path, options)
    check_signature(engine, part)
    return engine


def _difference(car: SideCar, part: Part, versions: Mapping[str, str], engine_sha256: str) -> str | None:
    """How an engine is altered, outdated or foreign, in words that follow its name; None if it is none of these."""
    if car.engine_sha256 != engine_sha256:
        return f"was altered: expected SHA-256 {car.engine_sha256[:12]}..., it has {engine_sha256[:12]}..."
    if (car.onnx_sha256, car.preprocess_sha256) != (part.onnx_sha256, part.preprocess.digest()):
        return f"is outdated: the network {part.name!r} or its preprocessing has changed since it was built"
    counting = sorted({*car.versions, *versions} - set(car.portable))
    different = [k for k in counting if car.versions.get(k) != versions.get(k)]
    if not different:
        return None
    said = ", ".join(f"{k} {car.versions.get(k)!r} there, {versions.get(k)!r} here" for k in different)
    return f"was built on another machine or with other versions ({said})"
