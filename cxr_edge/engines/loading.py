"""Loading of the engines that `build-engine` wrote: only where bundle, file and machine are those of the build.

A bundle and an engines folder come in, an `EngineSet` ready to run comes out. Every engine file has a side-car JSON with
digests, versions and the machine; a difference to this machine or this bundle is an EngineError that ends with the
command that builds the engines again. Nothing here imports onnx, since screening starts through this module.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_edge import backends
from cxr_edge.backends.base import Backend, CompileOptions, DeviceBackend, Engine, TensorInfo
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.bundle import ENGINES_DIR, PACKAGED, STARTER, Bundle
from cxr_edge.digests import sha256_file
from cxr_edge.engines.records import BUILD_FILE, BuildRecord, BuildSettings, SideCar
from cxr_edge.errors import BackendError, BundleError, ContractError, EngineError, InputError
from cxr_edge.forks import keep_in_children
from cxr_edge.records import DroppedMember
from cxr_edge.specs.budget import ErrorBudget, OperatingPoint
from cxr_edge.specs.degraded import ModePoint
from cxr_edge.specs.preprocess import PreprocessSpec

if TYPE_CHECKING:
    from cxr_edge.bundle.networks import FileRef
    from cxr_edge.gpu.interface import Device
    from cxr_edge.signing.box import Box

__all__ = [
    "SEGMENTER",
    "EngineSet",
    "NetworkFile",
    "check_files",
    "check_signature",
    "engine_set",
    "engines_root",
    "last_build_settings",
    "load",
    "parts",
    "rebuild_command",
    "reference",
]

SEGMENTER = "segmenter"  # name of the segmenter's network; no member may have it


@dataclass(frozen=True, kw_only=True)
class EngineSet:
    """Loaded engines of a bundle, in its order; of members that could not be loaded there is only the reason."""

    backend: str
    segmenter: Engine | None
    members: tuple[Engine, ...]  # those that were loaded
    parts: tuple[str, ...]  # names of the loaded networks, the segmenter first if there is one
    precisions: tuple[str, ...]  # one per loaded network
    versions: Mapping[str, str]  # of the backend
    operating_point: OperatingPoint | None = None  # of these engines; None: the manifest's decision and budget
    # SHA-256 (hexadecimal) of each engine's file, one per network; of the ONNX file for `reference`. Empty if not loaded from
    # files.
    digests: tuple[str, ...] = ()
    mode_points: tuple[ModePoint, ...] = ()  # of degraded modes with these engines; others have the manifest's
    dropped: tuple[DroppedMember, ...] = ()  # members that could not be loaded
    device: Device | None = None  # whose memory the engines can use; None if they take arrays of the host only
    folder: Path | None = None  # that they were loaded from; None: the bundle's own networks, or not from files
    box: Box | None = None  # that has signed them; None: signatures were not checked
    # Loads the same engines again, in another process; can be pickled. None if they were not loaded from a bundle.
    reload: Callable[[Bundle], EngineSet] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        keep_in_children(self)

    @property
    def member_names(self) -> tuple[str, ...]:
        """Names of the loaded members."""
        return self.parts if self.segmenter is None else self.parts[1:]

    def describe(self) -> str:
        """Return one line: `onnxruntime: segmenter uint8, a fp32`, and `; degraded: without b` if b could not be loaded."""
        engines = ", ".join(f"{part} {p}" for part, p in zip(self.parts, self.precisions, strict=True))
        missing = ", ".join(d.member for d in self.dropped)
        return f"{self.backend}: {engines}" + (f"; degraded: without {missing}" if missing else "")


@dataclass(frozen=True, kw_only=True)
class NetworkFile:
    """One network of a bundle with its required outputs."""

    name: str
    onnx: Path
    onnx_sha256: str
    preprocess: PreprocessSpec
    outputs: tuple[str, ...]


def parts(bundle: Bundle) -> tuple[NetworkFile, ...]:
    """Return the networks of a bundle: the segmenter first if there is one, then the members in order."""
    manifest, networks = bundle.manifest, []
    if manifest.segmenter is not None:
        s = manifest.segmenter
        networks.append(_network(bundle, SEGMENTER, s.file, s.preprocess, ("mask",)))
    for m in manifest.members:
        outputs = ("logits", "cam") if m.has_cam else ("logits",)
        networks.append(_network(bundle, m.name, m.file, m.preprocess, outputs))
    return tuple(networks)


def engines_root(bundle: Bundle, engines_dir: Path | None) -> Path:
    """Return the folder with one sub-folder per backend: `engines_dir`, or `engines` inside the bundle."""
    return engines_dir if engines_dir is not None else bundle.root / ENGINES_DIR


def load(
    bundle: Bundle,
    engines_dir: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    threads: int = 1,
    box: Box | None = None,
    whole: bool = False,
) -> EngineSet:
    """Load the engines that build-engine selected for `bundle`.

    A member whose engine is missing, altered or refused by the runtime is left out (`EngineSet.dropped`) if the bundle has a
    degraded mode of the others.

    engines_dir: as in `engines_root`. backend: `auto` takes the first runtime that works here and has engines. box: accept
    only engines that this box has signed, all of them. whole: never leave out a member. Raises EngineError, with the command to
    run, if there are none, or they are outdated, altered or from another machine.
    """
    if not isinstance(bundle, Bundle):
        raise InputError(f"load_engines takes an opened bundle, found {type(bundle).__name__}: pass Bundle.open(...)")
    engines_dir = None if engines_dir is None else Path(engines_dir)
    root = engines_root(bundle, engines_dir)
    rebuild_hint = "build them with\n  " + rebuild_command(bundle, engines_dir, backend, box)
    built = [name for name in backends.BACKENDS if (root / name / BUILD_FILE).is_file()]
    usable = built if backend == "auto" else [n for n in built if n == backends.get(backend).name]
    if not usable:
        raise EngineError(f"there are no engines for bundle {bundle.manifest.name!r} in {root}: {rebuild_hint}")
    signed = usable if box is None else _signed(root, usable, box, rebuild_hint)
    runtime = backends.choose(backend, among=signed, engines=root)
    folder, networks = root / runtime.name, parts(bundle)
    record = _read_record(folder, bundle, rebuild_hint)
    options = CompileOptions(threads=threads, gpu=record.settings.gpu)
    found = [_load_or_reason(folder, n, record, runtime, options, rebuild_hint) for n in networks]
    dropped = {n.name: e for n, e in zip(networks, found, strict=True) if isinstance(e, _NoEngine)}
    if dropped and (whole or not _may_lack(bundle, dropped)):
        raise next(iter(dropped.values())).error
    loaded = [e for e in found if not isinstance(e, _NoEngine)]
    again = partial(
        load,
        engines_dir=engines_dir and root.resolve(),
        backend=runtime.name,
        threads=threads,
        box=box,
        whole=whole,
    )
    return engine_set(
        bundle,
        runtime,
        [engine for engine, _ in loaded],
        tuple(record.precisions[n.name] for n in networks if n.name not in dropped),
        reload=again,
        operating_point=record.operating_point,
        mode_points=record.mode_points,
        dropped=tuple(DroppedMember(member=name, reason=e.reason) for name, e in dropped.items()),
        digests=tuple(digest for _, digest in loaded),
        folder=folder,
        box=box,
    )


def reference(bundle: Bundle, *, threads: int = 1) -> EngineSet:
    """Load the bundle's own fp32 ONNX files into ONNX Runtime: the reference that engines are compared with."""
    runtime, options = OnnxRuntimeBackend(), CompileOptions(threads=threads)
    loaded: list[Engine] = []
    networks = parts(bundle)
    for network in networks:
        engine = runtime.load_reference(network.onnx, options)
        check_signature(engine, network)
        loaded.append(engine)
    return engine_set(
        bundle,
        runtime,
        loaded,
        ("fp32",) * len(loaded),
        reload=partial(reference, threads=threads),
        digests=tuple(n.onnx_sha256 for n in networks),
    )


def engine_set(
    bundle: Bundle,
    backend: Backend,
    loaded: Sequence[Engine],
    precisions: tuple[str, ...],
    reload: Callable[[Bundle], EngineSet] | None = None,
    operating_point: OperatingPoint | None = None,
    mode_points: tuple[ModePoint, ...] = (),
    dropped: tuple[DroppedMember, ...] = (),
    digests: tuple[str, ...] = (),
    folder: Path | None = None,
    box: Box | None = None,
) -> EngineSet:
    """Return the set of `loaded` engines, one per network of `bundle` in its order, without those that were dropped.

    operating_point, mode_points: None and empty for the manifest's. digests: of the engines' files.
    """
    missing = {d.member for d in dropped}
    first = 0 if bundle.manifest.segmenter is None else 1
    return EngineSet(
        backend=backend.name,
        segmenter=loaded[0] if first else None,
        members=tuple(loaded[first:]),
        parts=tuple(n.name for n in parts(bundle) if n.name not in missing),
        precisions=precisions,
        versions=backend.versions(),
        operating_point=operating_point,
        digests=digests,
        mode_points=mode_points,
        dropped=dropped,
        device=backend.device() if isinstance(backend, DeviceBackend) else None,
        folder=folder,
        box=box,
        reload=reload,
    )


def check_files(bundle: Bundle, engines: EngineSet) -> int:
    """Return the number of engine files, after they were compared again with their side-cars, the bundle and this machine.

    With the signature of their box too, if it was checked when they were loaded. Raises EngineError, as `load` does; nothing is
    loaded. 0 for engines that are the bundle's own networks.
    """
    if engines.folder is None:
        return 0
    root = engines.folder.parent
    rebuild_hint = "build them with\n  " + rebuild_command(bundle, root, engines.backend, engines.box)
    if engines.box is not None:
        _signed(root, [engines.backend], engines.box, rebuild_hint)
    record, runtime = _read_record(engines.folder, bundle, rebuild_hint), backends.get(engines.backend)
    loaded = [network for network in parts(bundle) if network.name in engines.parts]
    for network in loaded:
        _engine_file(engines.folder, network, record, runtime, rebuild_hint)
    return len(loaded)


def rebuild_command(
    bundle: Bundle, engines_dir: Path | None = None, backend: str = "auto", box: Box | None = None
) -> str:
    """Return the exact command that builds the engines which `load` with the same arguments looks for.

    It repeats the settings of the last build there; with a box, of one that it has signed.
    """
    words = ["cxr-edge", "build-engine", STARTER if bundle.root == PACKAGED else str(bundle.root)]
    words += [] if engines_dir in (None, engines_root(bundle, None)) else ["--engines", str(engines_dir)]
    words += [] if backend == "auto" else ["--backend", backend]
    words += [] if box is None else box.cli_options()
    return shlex.join([*words, *last_build_settings(bundle, engines_dir, backend, box).cli_options()])


def last_build_settings(
    bundle: Bundle, engines_dir: Path | None, backend: str, box: Box | None = None
) -> BuildSettings:
    """Return the settings of the engines that `load` looks for, usable or not; the defaults if there are none.

    box: take them only from a build that it has signed.
    """
    root = engines_root(bundle, engines_dir)
    for name in (name for name in backends.BACKENDS if backend in ("auto", name)):
        try:
            if box is not None:
                box.check_engines(root / name, backend=name)
            return BuildRecord.read_settings(root / name / BUILD_FILE)
        except (ValueError, BundleError):
            continue
    return BuildSettings()


def check_signature(engine: Engine, network: NetworkFile) -> None:
    """Raise ContractError unless the engine takes the network's `image` and gives its outputs as float32."""
    spec = network.preprocess
    expected = TensorInfo(name="image", dtype=spec.dtype, shape=(None, *spec.tensor_shape))
    if engine.inputs != (expected,):
        raise ContractError(f"{network.name}: expected the one input {expected}, the engine has {engine.inputs}")
    outputs = {t.name: t.dtype for t in engine.outputs}
    if outputs != dict.fromkeys(network.outputs, "float32"):
        raise ContractError(
            f"{network.name}: expected the float32 outputs {list(network.outputs)}, the engine has {outputs}"
        )


def _network(bundle: Bundle, name: str, file: FileRef, spec: PreprocessSpec, outputs: tuple[str, ...]) -> NetworkFile:
    return NetworkFile(
        name=name, onnx=bundle.root / file.path, onnx_sha256=file.sha256, preprocess=spec, outputs=outputs
    )


def _signed(root: Path, built: Sequence[str], box: Box, rebuild_hint: str) -> list[str]:
    """Return the backends whose engines this box has signed. Raises EngineError with a reason if there are none."""
    signed, reasons = [], []
    for name in built:
        try:
            box.check_engines(root / name, backend=name)
            signed.append(name)
        except BundleError as error:
            reasons.append(f"the engines in {root / name} {error}")
    if not signed:
        raise EngineError(f"{'; '.join(reasons)}: {rebuild_hint}")
    return signed


def _read_record(folder: Path, bundle: Bundle, rebuild_hint: str) -> BuildRecord:
    path = folder / BUILD_FILE
    try:
        record = BuildRecord.read(path)
    except ValueError as error:
        raise EngineError(f"{path} cannot be used ({error}): {rebuild_hint}") from None
    if record.bundle_sha256 != bundle.digest:
        raise EngineError(
            f"the engines in {folder} are outdated: they were built from a bundle with digest "
            f"{record.bundle_sha256[:12]}..., {bundle.manifest.name!r} now has {bundle.digest[:12]}...; {rebuild_hint}"
        )
    if not _all_fit(record, bundle):
        raise EngineError(
            f"{path} has an operating point of other labels than {bundle.manifest.name!r}: {rebuild_hint}"
        )
    missing = [n.name for n in parts(bundle) if n.name not in record.precisions]
    if missing:
        raise EngineError(
            f"the last build in {folder} ended without an engine for {', '.join(missing)}: {rebuild_hint}"
        )
    return record


def _all_fit(record: BuildRecord, bundle: Bundle) -> bool:
    """Return whether the operating points are of the bundle's labels and of its degraded modes."""
    manifest, budgets = bundle.manifest, {mode.members: mode.budget for mode in bundle.manifest.degraded}
    return _fits(record.operating_point, manifest.labels, manifest.budget) and all(
        mode.members in budgets and _fits(mode.point, manifest.labels, budgets[mode.members])
        for mode in record.mode_points
    )


def _fits(point: OperatingPoint | None, labels: tuple[str, ...], budget: ErrorBudget | None) -> bool:
    """Return whether an operating point has thresholds of these labels, and a budget of the labels of `budget`."""
    if point is None:
        return True
    budgets = [None if b is None else set(b.labels) for b in (point.budget, budget)]
    return budgets[0] == budgets[1] and set(point.decision.thresholds) <= set(labels)


@dataclass(frozen=True, kw_only=True)
class _NoEngine:
    """A network whose engine cannot be used."""

    error: EngineError | BackendError
    reason: str  # in a clause


class _UnusableFileError(EngineError):
    """An engine file that is missing, unreadable or altered. A build for another bundle or machine is none.

    what: a clause that follows the file's name.
    """

    def __init__(self, path: Path, what: str, rebuild_hint: str) -> None:
        super().__init__(f"the engine {path.name} in {path.parent} {what}{rebuild_hint}")
        self.reason = f"its engine {path.name} {what.rstrip(' :;')}"


def _load_or_reason(
    folder: Path,
    network: NetworkFile,
    record: BuildRecord,
    runtime: Backend,
    options: CompileOptions,
    rebuild_hint: str,
) -> tuple[Engine, str] | _NoEngine:
    try:
        return _load_engine(folder, network, record, runtime, options, rebuild_hint)
    except _UnusableFileError as error:
        return _NoEngine(error=error, reason=error.reason)
    except EngineError:
        raise
    except BackendError as error:
        return _NoEngine(error=error, reason=str(error))


def _may_lack(bundle: Bundle, dropped: Mapping[str, object]) -> bool:
    """Return whether the bundle has a degraded mode without these networks, the segmenter not among them."""
    rest = tuple(m.name for m in bundle.manifest.members if m.name not in dropped)
    return SEGMENTER not in dropped and any(mode.members == rest for mode in bundle.manifest.degraded)


def _load_engine(
    folder: Path,
    network: NetworkFile,
    record: BuildRecord,
    runtime: Backend,
    options: CompileOptions,
    rebuild_hint: str,
) -> tuple[Engine, str]:
    """Return the engine, and the SHA-256 of its file."""
    file, digest = _engine_file(folder, network, record, runtime, rebuild_hint)
    engine = runtime.load(file, options)
    check_signature(engine, network)
    return engine, digest


def _engine_file(
    folder: Path, network: NetworkFile, record: BuildRecord, runtime: Backend, rebuild_hint: str
) -> tuple[Path, str]:
    """Return the file of a network's engine, and its SHA-256.

    Raises EngineError if it is altered, outdated or of another machine.
    """
    stem = f"{network.name}.{record.precisions[network.name]}"
    path = folder / f"{stem}{runtime.suffix}"
    try:
        car = SideCar.read(folder / f"{stem}.json")
        digest = sha256_file(path)
    except (OSError, ValueError) as error:
        raise _UnusableFileError(path, f"is incomplete ({_without_folder(error)}): ", rebuild_hint) from None
    if car.engine_sha256 != digest:
        altered = f"was altered: expected SHA-256 {car.engine_sha256[:12]}..., it has {digest[:12]}...; "
        raise _UnusableFileError(path, altered, rebuild_hint)
    difference = _difference(car, network, runtime.versions())
    if difference:
        raise EngineError(f"the engine {path.name} in {folder} {difference}; {rebuild_hint}")
    return path, digest


def _without_folder(error: OSError | ValueError) -> str:
    """Return the message; of the operating system's, the reason alone."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _difference(car: SideCar, network: NetworkFile, versions: Mapping[str, str]) -> str | None:
    """Return how an engine is outdated or foreign, in words that follow its name; None if it is not."""
    if (car.onnx_sha256, car.preprocess_sha256) != (network.onnx_sha256, network.preprocess.digest()):
        return f"is outdated: the network {network.name!r} or its preprocessing has changed since it was built"
    relevant = sorted({*car.versions, *versions} - set(car.portable))
    different = [k for k in relevant if car.versions.get(k) != versions.get(k)]
    if not different:
        return None
    listed = ", ".join(f"{k} {car.versions.get(k)!r} there, {versions.get(k)!r} here" for k in different)
    return f"was built on another machine or with other versions ({listed})"
