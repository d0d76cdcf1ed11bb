"""Install a bundle into a box, step by step beside the version in use, and switch to it only when every step has passed.

A bundle and an `InstallRequest` come in. The steps: copy it, compare digests; build its engines, which the gate compares with the
fp32 networks; self-test; screen files with both versions and compare; switch; self-test from where it is used now. A
step that fails leaves the version that is in use, or goes back to it, and removes what was staged.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cxr_edge import engines
from cxr_edge.bundle import MANIFEST_NAME, Bundle
from cxr_edge.changes import DEFAULT_MAX_CHANGED
from cxr_edge.changes.comparison import Comparison, compare
from cxr_edge.compiler.build_bundle import build, no_progress
from cxr_edge.compiler.report import BuildReport
from cxr_edge.decoding.limits import DEFAULT_LIMITS, Limits
from cxr_edge.engines import BuildSettings, EngineSet
from cxr_edge.errors import BundleError, ContractError, CxrEdgeError, EngineError, InputError
from cxr_edge.installation import DEFAULT_KEPT, durable
from cxr_edge.installation.box import Box, Installed
from cxr_edge.installation.self_test import self_test
from cxr_edge.installation.signed import RequiredSignature
from cxr_edge.names import printable
from cxr_edge.screening.screener import Screener
from cxr_edge.version import __version__

__all__ = ["InstallRequest", "Installation", "install", "loaded", "roll_back"]

# A build holds every candidate of every network beside the selected ones until it ends.
_BUILD_FACTOR = 4


@dataclass(frozen=True, kw_only=True)
class InstallRequest:
    """Settings of an installation."""

    settings: BuildSettings = field(default_factory=BuildSettings)  # of the build
    backend: str = "auto"
    threads: int = 1
    compare: Iterable[object] | None = (
        None  # files to screen with both versions, as `screen_files` takes them; None: none
    )
    limits: Limits = DEFAULT_LIMITS  # of these files
    max_changed: float = DEFAULT_MAX_CHANGED  # largest share of these files with another verdict
    keep: int = DEFAULT_KEPT  # versions, with the one in use
    signature: RequiredSignature | None = None  # None: bundles and engines need none

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_changed <= 1.0:
            raise InputError(f"the largest share of changed verdicts is from 0 to 1, got {self.max_changed}")
        if self.keep < 1:
            raise InputError(f"1 version or more is kept, got {self.keep}")


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Result of an installation or a rollback."""

    current: Installed | None  # the version in use now; None if there is none, since a first one was refused
    previous: Installed | None  # the one that a rollback goes to
    switched: bool
    summary: str  # what was done, in one sentence
    build: BuildReport | None = None
    comparison: Comparison | None = None
    removed: tuple[str, ...] = ()  # folders of older versions

    def lines(self) -> list[str]:
        """Return the report as text."""
        gate = [] if self.build is None else [f"Gate: {self.build.images}, engines {_precisions(self.build)}"]
        compared = [] if self.comparison is None else self.comparison.lines()
        removed = [f"Removed: {', '.join(map(printable, self.removed))}"] if self.removed else []
        return [*gate, *compared, self.summary, *_state_lines(self.current, self.previous), *removed]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the report."""
        return {
            "switched": self.switched,
            "summary": self.summary,
            "current": None if self.current is None else self.current.as_json(),
            "previous": None if self.previous is None else self.previous.as_json(),
            "build": None if self.build is None else self.build.as_json(),
            "comparison": None if self.comparison is None else self.comparison.as_json(),
            "removed": list(self.removed),
        }


def install(
    source: Bundle, box: Box, request: InstallRequest | None = None, *, say: Callable[[str], None] = no_progress
) -> Installation:
    """Install `source` and switch to it. say: takes lines of progress.

    Returns without a switch if the version is in use already, and if more verdicts change than allowed. Any error of a step
    leaves the version that was in use before, and is raised again; so does InputError for a disk that is too small.
    """
    request = request or InstallRequest()
    if source.root in (box.root.resolve(), *box.root.resolve().parents):
        raise InputError(f"the box {printable(box.root)} is inside the bundle: give --into another folder")
    with box.locked():
        before = box.current()
        if before is not None and _works(box, before, source, request):
            return _result(box, f"{box.record(before)} is in use already, and its engines work: nothing to do", False)
        if request.signature is not None:
            request.signature.accept(source)
        _check_space(source, box)
        return _Staged(source=source, box=box, request=request, before=before, say=say).run()


def roll_back(
    box: Box, *, backend: str = "auto", threads: int = 1, signature: RequiredSignature | None = None
) -> Installation:
    """Switch to the version that was in use before the current one was installed, after a self-test of it.

    signature: of its bundle and engines; its counter may be lower than the one in use, and is the highest that counts then.
    Raises InputError if there is none, and the error of a self-test that fails; the version in use then stays.
    """
    with box.locked():
        previous, current = box.previous(), box.current()
        if previous is None or current is None:
            raise InputError(f"{printable(box.root)} has no version before the one in use: nothing to go back to")
        folder = box.bundle_of(previous.folder)
        check(folder, backend=backend, threads=threads, signature=signature, older=True)
        if signature is not None:  # before the switch: after a power cut, the version in use is still accepted
            signature.keep(Bundle.open(folder), older=True)
        box.switch(previous.folder)
        box.note("rolled back", version=current)
        return _result(box, f"rolled back to {previous}", True)


def check(
    folder: Path,
    *,
    backend: str = "auto",
    threads: int = 1,
    signature: RequiredSignature | None = None,
    older: bool = False,
) -> EngineSet:
    """Open a bundle, load its engines and run the self-test with them. Raises the error of what fails.

    signature: that bundle and engines need. older: the bundle may be older than what was in use.
    """
    bundle = Bundle.open(folder)
    if signature is not None:
        signature.accept(bundle, older=older)
    signer = None if signature is None else signature.signer
    found = engines.load(bundle, backend=backend, threads=threads, box=signer, whole=True)
    self_test(bundle, found, threads=threads)
    return found


def loaded(
    bundle: Bundle,
    *,
    backend: str,
    threads: int,
    say: Callable[[str], None],
    signature: RequiredSignature | None = None,
) -> EngineSet:
    """Return a bundle's engines, or its fp32 networks where they cannot be loaded, with a line of progress."""
    signer = None if signature is None else signature.signer
    try:
        return engines.load(bundle, backend=backend, threads=threads, box=signer, whole=True)
    except EngineError as error:
        name = f"{bundle.manifest.name} {bundle.manifest.version}"
        say(f"{name} is compared by its fp32 networks: {str(error).splitlines()[0]}")
        return engines.reference(bundle, threads=threads)


@dataclass(frozen=True, kw_only=True)
class _Staged:
    """An installation in progress."""

    source: Bundle
    box: Box
    request: InstallRequest
    before: str | None  # folder of the version in use
    say: Callable[[str], None]

    def run(self) -> Installation:
        manifest = self.source.manifest
        folder = self.box.new_folder(name=manifest.name, version=manifest.version, digest=self.source.digest)
        try:
            report, comparison = self._stage(folder)
            if comparison is not None and self._exceeds(comparison):
                return self._refused(folder, report, comparison)
            self._switch(folder, report.backend)
        except BaseException as error:
            self._give_up(folder, error)
            raise
        self.box.note("installed", version=folder, reason="" if comparison is None else _compared(comparison))
        if self.request.signature is not None:
            self.request.signature.keep(Bundle.open(self.box.root))
        removed = self.box.keep(self.request.keep)
        summary = f"installed {self.box.record(folder)}, in use now"
        return _result(self.box, summary, True, build=report, comparison=comparison, removed=removed)

    def _stage(self, folder: str) -> tuple[BuildReport, Comparison | None]:
        """Copy, build, self-test and compare; the version is complete then, unless too many verdicts change."""
        r, target = self.request, self.box.bundle_of(folder)
        bundle = self._copied(target)
        self.say("building its engines")
        signer = None if r.signature is None else r.signature.signer
        report = build(bundle, r.settings, backend=r.backend, threads=r.threads, say=self.say, box=signer)
        _check_gate(report)
        self.say("self-test")
        found = check(target, backend=report.backend, threads=r.threads, signature=r.signature)
        comparison = self._comparison(bundle, found)
        if not self._exceeds(comparison):
            self.box.complete(self._record(folder, bundle, found, comparison))
        return report, comparison

    def _copied(self, target: Path) -> Bundle:
        """Copy manifest, listed files and signatures; the copy's digest is the one that was accepted."""
        self.say(f"copying {self.source.manifest.name} {self.source.manifest.version}")
        for path in (MANIFEST_NAME, *sorted({ref.path for _, ref in self.source.manifest.files()})):
            durable.copy_file(self.source.root / path, target / path)
        for file in (*self.source.signature_files(), *self.source.certificate_files()):
            durable.copy_file(file, target / file.relative_to(self.source.root))
        bundle = Bundle.open(target)
        if bundle.digest != self.source.digest:
            raise BundleError(f"{printable(self.source.root)} changed while it was copied: install it again")
        return bundle

    def _comparison(self, bundle: Bundle, found: EngineSet) -> Comparison | None:
        r = self.request
        if r.compare is None:
            return None
        if self.before is None:
            self.say("no version is in use yet: nothing to compare with")
            return None
        self.say("screening the files with the old and the new version")
        old = Bundle.open(self.box.bundle_of(self.before))
        before = loaded(old, backend=r.backend, threads=r.threads, say=self.say, signature=r.signature)
        a, b = (Screener(b, e, threads=r.threads, whole=True) for b, e in ((old, before), (bundle, found)))
        comparison = compare(a, b, r.compare, limits=r.limits)
        if not comparison.compared:
            raise InputError("none of the files of --compare can be screened: give X-ray files")
        return comparison

    def _exceeds(self, comparison: Comparison | None) -> bool:
        return comparison is not None and comparison.exceeds(self.request.max_changed)

    def _refused(self, folder: str, report: BuildReport, comparison: Comparison) -> Installation:
        self.box.discard(folder)
        limit = f"at most {self.request.max_changed:.3g} was allowed"
        self.box.note("refused", version=folder, reason=f"{_compared(comparison)}; {limit}")
        summary = (
            f"NOT installed: {comparison.changed.hits} of {comparison.changed.n} verdicts change, {limit}; read the changed "
            "files, and allow more with --max-changed SHARE if that is what the new version is for"
        )
        return _result(self.box, summary, False, build=report, comparison=comparison)

    def _record(self, folder: str, bundle: Bundle, found: EngineSet, comparison: Comparison | None) -> Installed:
        return Installed(
            folder=folder,
            name=bundle.manifest.name,
            version=bundle.manifest.version,
            digest=bundle.digest,
            engines=found.describe(),
            previous=self.before,
            installed=datetime.now(timezone.utc).isoformat(),
            cxr_edge=__version__,
            compared=None if comparison is None else _compared(comparison),
        )

    def _switch(self, folder: str, backend: str) -> None:
        """Use the new version. Raises ContractError if it fails the self-test where it is used; `_give_up` then goes back."""
        self.box.switch(folder)
        try:
            check(self.box.link, backend=backend, threads=self.request.threads, signature=self.request.signature)
        except CxrEdgeError as error:
            back = "no version" if self.before is None else self.before
            raise ContractError(f"the new version failed after the switch, {back} is in use again: {error}") from None

    def _give_up(self, folder: str, error: BaseException) -> None:
        """Go back to the version of before, remove what was staged, and note it."""
        if self.box.current() == folder:
            self.box.switch(self.before)
        complete = self.box.record(folder) is not None
        with suppress(OSError):  # a full disk: the next installation removes the rest
            self.box.discard(folder)
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self.box.note("switched back" if complete else "failed", version=folder, reason=reason)


def _works(box: Box, folder: str, source: Bundle, request: InstallRequest) -> bool:
    """Return True if the version in use is this bundle, built with these settings, and passes its self-test."""
    try:
        bundle = Bundle.open(box.bundle_of(folder))
        if bundle.digest != source.digest or box.record(folder) is None:
            return False
        found = check(bundle.root, backend=request.backend, threads=request.threads, signature=request.signature)
        return engines.last_build_settings(bundle, None, found.backend) == request.settings
    except CxrEdgeError:
        return False


def _check_space(source: Bundle, box: Box) -> None:
    """Raise InputError unless the disk has room for the copy and the build, which is estimated by the networks' size."""
    files = {ref.path for _, ref in source.manifest.files()} | {MANIFEST_NAME}
    networks = sum(n.onnx.stat().st_size for n in engines.parts(source))
    needed = sum((source.root / path).stat().st_size for path in files) + _BUILD_FACTOR * networks
    free = shutil.disk_usage(box.root).free
    if free < needed:
        raise InputError(
            f"{printable(box.root)} has {free:,} bytes free, about {needed:,} are needed for the copy and the build: free "
            "space, or give --into a folder on another disk"
        )


def _check_gate(report: BuildReport) -> None:
    if report.complete:
        return
    missing = sorted({r.part for r in report.rows} - set(report.precisions))
    reasons = dict.fromkeys(r.reason for r in report.rows if r.part in missing and r.reason)
    raise EngineError(f"the gate passed no engine of {', '.join(missing)}: {'; '.join(reasons) or 'see build-engine'}")


def _precisions(report: BuildReport) -> str:
    return ", ".join(f"{part} {precision}" for part, precision in report.precisions.items())


def _compared(comparison: Comparison) -> str:
    old, changed = comparison.old, comparison.changed
    return f"of {changed.n} files {changed.hits} have another verdict than with {old.name} {old.version} ({old.digest[:12]})"


def _state_lines(current: Installed | None, previous: Installed | None) -> list[str]:
    before = "none" if previous is None else f"{previous}, which cxr-edge install --rollback goes to"
    return [f"In use: {'none' if current is None else current}", f"Before: {before}"]


def _result(
    box: Box,
    summary: str,
    switched: bool,
    *,
    build: BuildReport | None = None,
    comparison: Comparison | None = None,
    removed: tuple[str, ...] = (),
) -> Installation:
    current = box.current()
    return Installation(
        current=None if current is None else box.record(current),
        previous=box.previous(),
        switched=switched,
        summary=summary,
        build=build,
        comparison=comparison,
        removed=removed,
    )
