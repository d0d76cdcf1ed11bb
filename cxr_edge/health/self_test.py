"""Self-test: whether a bundle and its engines still do on this machine what they did when they were built.

A screener, or the paths to make one, comes in; a `SelfTestReport` of passed, failed and skipped items comes out. Nothing is
written. `cxr-edge self-test` prints it, `cxr-edge screen --self-test` refuses to screen when it fails, and a program that runs
for long calls `run` from time to time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cxr_edge import backends, engines
from cxr_edge.backends.cpu_info import processor_name
from cxr_edge.backends.self_test import run_self_test
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.decode_check import decode_results
from cxr_edge.bundle.gate_set import read_gate_set
from cxr_edge.compiler.ensemble import ensemble_parity, manifest_point
from cxr_edge.compiler.measured import known_answer_files, screen_all, screening_times_ms
from cxr_edge.compiler.parity import Limits, largest_shift
from cxr_edge.compiler.samples import KNOWN_ANSWER_TOLERANCE
from cxr_edge.compiler.verdicts import Verdicts, probabilities_of
from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.engines import BUILD_FILE, MEASURED_FILE, BuildRecord, Measured
from cxr_edge.errors import BundleError, CxrEdgeError, EngineError, InputError
from cxr_edge.health import resources
from cxr_edge.health.answers import agreement, compared, rows_of
from cxr_edge.health.checks import Finding, Item, failed, passed, run_check, skipped
from cxr_edge.health.machine import LEAST_DISK, check_memory, size_text
from cxr_edge.records import Screening
from cxr_edge.screening.gpu_self_test import kernel_failure
from cxr_edge.screening.screener import Screener
from cxr_edge.version import __version__

if TYPE_CHECKING:
    from cxr_edge.signing.box import Box

__all__ = ["ITEMS", "SelfTestOptions", "SelfTestReport", "run", "run_from"]

# In the order in which they run.
ITEMS = (
    "bundle", "signature", "engines", "runtime", "decoding", "known answers", "gate set", "timing", "memory", "disk",
    "temperature",
)  # fmt: skip

_SHOWN = 12  # digits of a digest
_BELOW_LIMIT_C = 5.0  # so close to its limit a sensor counts as too hot
_BUILD_AGAIN = "build them again with cxr-edge build-engine"
_HOST_STEPS = "preprocessing on the host"  # in the description of a GPU screener whose core has no kernels for this GPU
_MOST_C = 100.0  # of a sensor without a limit


@dataclass(frozen=True, kw_only=True)
class SelfTestOptions:
    """Settings of a self-test."""

    require_signature: bool = False  # whether the bundle's signature is checked
    trusted_keys: Path | None = None  # folder of trusted keys; None: the machine's
    state: Path | None = None  # folder of the highest counter that was accepted, which is only read; None: the user's
    gate_images: int = 40  # at most so many images of the gate set, evenly spaced
    time_factor: float = 3.0  # a screening may take so many times as long as when the engines were built

    def __post_init__(self) -> None:
        if isinstance(self.gate_images, bool) or not isinstance(self.gate_images, int) or self.gate_images < 1:
            raise InputError(f"gate_images is a whole number of 1 or more, got {self.gate_images!r}")
        if not self.time_factor >= 1:
            raise InputError(f"time_factor is a number of 1 or more, got {self.time_factor!r}")


@dataclass(frozen=True, kw_only=True)
class SelfTestReport:
    """Result of a self-test."""

    bundle: str  # name and version, or the path that cannot be opened
    digest: str  # of the bundle; empty if it cannot be opened
    engines: str  # description; empty if they cannot be loaded
    machine: str
    started: str  # ISO 8601, local time with its offset
    items: tuple[Item, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """True if no item failed; skipped ones do not count."""
        return all(item.status != "failed" for item in self.items)

    @property
    def failures(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.status == "failed")

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the report (docs/self-test.md)."""
        return {
            "passed": self.passed,
            "bundle": self.bundle,
            "digest": self.digest,
            "engines": self.engines,
            "machine": self.machine,
            "cxr_edge": __version__,
            "started": self.started,
            "seconds": round(self.seconds, 4),
            "items": [item.as_json() for item in self.items],
        }

    def lines(self) -> list[str]:
        """Return the table, line by line; the last line has the verdict."""
        rows = [line for item in self.items for line in _item_lines(item)]
        left_out = sum(item.status == "skipped" for item in self.items)
        counted = f"{len(self.items)} items" + (f", {left_out} of them skipped" if left_out else "")
        return [*rows, f"self-test: {'PASSED' if self.passed else 'FAILED'} ({counted}, {self.seconds:.1f} s)"]


def _item_lines(item: Item) -> list[str]:
    found = item.finding
    first, *rest = (found.figure or found.message).splitlines() or [""]
    lines = [f"{item.name:<14}  {found.status.upper():<7}  {first}".rstrip(), *(f"{'':27}{line}" for line in rest)]
    if found.figure and found.message:
        lines += [f"{'':27}{line}" for line in found.message.splitlines()]
    return lines


def run(screener: Screener, options: SelfTestOptions | None = None) -> SelfTestReport:
    """Test the bundle and the engines of a screener, on this machine, now. Raises nothing for what it finds.

    The files are read again from the disk, so that a later change of them is noticed.
    """
    start, started, test = perf_counter(), _now(), _SelfTest(screener, options or SelfTestOptions())
    items = tuple(run_check(name, check) for name, check in test.checks().items())
    manifest = screener.manifest
    return SelfTestReport(
        bundle=f"{manifest.name} {manifest.version}",
        digest=screener.bundle.digest,
        engines=screener.describe(),
        machine=processor_name(),
        started=started,
        items=items,
        seconds=perf_counter() - start,
    )


def run_from(
    bundle: str,
    engines_dir: Path | None = None,
    *,
    backend: str = "auto",
    threads: int = 1,
    box: Box | None = None,
    options: SelfTestOptions | None = None,
) -> tuple[SelfTestReport, Screener | None]:
    """Open the bundle, load its engines, and test them; what cannot be opened or loaded is a failed item.

    Arguments as of `Bundle.open` and `engines.load`. Returns the report and the screener, None if there could be none.
    """
    start, started, opened = perf_counter(), _now(), None
    try:
        opened = Bundle.open(bundle)
        loaded = engines.load(opened, engines_dir, backend=backend, threads=threads, box=box, whole=True)
        screener = Screener(opened, loaded, threads=threads, whole=True)
    except CxrEdgeError as error:
        seconds = perf_counter() - start
        return _unusable(bundle, opened, error, started, seconds), None
    report = run(screener, options)
    return replace(report, started=started, seconds=perf_counter() - start), screener  # with opening and loading


def _unusable(bundle: str, opened: Bundle | None, error: CxrEdgeError, started: str, seconds: float) -> SelfTestReport:
    broken = "bundle" if opened is None else "engines"
    rest = skipped(f"there is nothing to test while the {broken} cannot be used")
    findings = {name: rest for name in ITEMS} | {broken: failed(str(error))}
    if opened is not None:
        findings["bundle"] = _bundle_figure(opened)
    items = tuple(Item(name=name, finding=found, seconds=0.0) for name, found in findings.items())
    return SelfTestReport(
        bundle=str(bundle) if opened is None else f"{opened.manifest.name} {opened.manifest.version}",
        digest="" if opened is None else opened.digest,
        engines="",
        machine=processor_name(),
        started=started,
        items=items,
        seconds=seconds,
    )


class _SelfTest:
    """The checks of one run, and what several of them need."""

    def __init__(self, screener: Screener, options: SelfTestOptions) -> None:
        self._screener = screener
        self._bundle = screener.bundle
        self._engines = screener.engines
        self._options = options
        self._files: list[tuple[str, bytes]] = []

    def checks(self) -> dict[str, Callable[[], Finding]]:
        return dict(
            zip(
                ITEMS,
                (
                    self._check_bundle, self._check_signature, self._check_engines, self._check_runtime,
                    self._check_decoding, self._check_known_answers, self._check_gate_set, self._check_timing,
                    check_memory, self._check_disk, _check_temperature,
                ),
                strict=True,
            )
        )  # fmt: skip

    def _check_bundle(self) -> Finding:
        again = Bundle.open(self._bundle.root)
        if again.digest != self._bundle.digest:
            raise BundleError(
                f"the bundle in {again.root} was replaced since it was opened: expected digest "
                f"{self._bundle.digest[:_SHOWN]}..., it has {again.digest[:_SHOWN]}...; open it again"
            )
        return _bundle_figure(again)

    def _check_signature(self) -> Finding:
        own = self._options
        if not own.require_signature:
            return skipped("none is required (--require-signature)")
        from cxr_edge.signing.verify import verify_bundle

        found = verify_bundle(self._bundle, own.trusted_keys, state=own.state, record=False)
        return passed(f"signed by {found.key_name} ({found.key_id[:_SHOWN]}), counter {found.counter}")

    def _check_engines(self) -> Finding:
        engines.check_files(self._bundle, self._engines)
        return passed(self._screener.describe())

    def _check_runtime(self) -> Finding:
        """Run the two-element network, and on a GPU a kernel with a known result."""
        backend = backends.get(self._engines.backend)
        reason = run_self_test(backend, self._engines.folder)
        if reason is None and self._engines.device is not None and _HOST_STEPS not in self._screener.describe():
            reason = kernel_failure(self._engines.device)
        if reason is not None:
            raise EngineError(
                f"{backend.name} does not compute correctly here: {reason}; install it again, or try another backend"
            )
        versions = ", ".join(f"{k} {v}" for k, v in list(self._engines.versions.items())[:1])
        return passed(f"{versions}: a test network gave its known result")

    def _check_decoding(self) -> Finding:
        results = decode_results(self._bundle)
        wrong = [result for result in results if result.difference is not None]
        if wrong:
            return failed("\n".join(r.describe() for r in wrong), f"{len(wrong)} of {len(results)} files differ")
        if not results:
            return skipped("the bundle has no decoded files (python -m training.decoded_files --bundle DIR adds them)")
        return passed(f"{len(results)} files give the pixels of training, to the last bit")

    def _check_known_answers(self) -> Finding:
        answers = self._bundle.manifest.known_answers
        if not answers:
            return skipped("the bundle has no known answers")
        found = [self._screener.screen(decode_bytes(data, source=name)) for name, data in self._known()]
        expected = np.array([answer.probabilities for answer in answers], np.float32)
        measured, decides = self._measured(), self._gate_used_known_answers()
        return compared(
            found, expected, self._verdict(found, expected) if decides else "", rows_of(measured, "known_answers", len(found)),
            f"{len(found)} known answers",
        )  # fmt: skip

    def _check_gate_set(self) -> Finding:
        gate = read_gate_set(self._bundle)
        if gate is None:
            return skipped("the bundle has no gate set")
        rows = _spread(len(gate.images), self._options.gate_images)
        found = screen_all(self._screener, [gate.images[row] for row in rows])
        new = rows_of(self._measured(), "gate_set", len(gate.images))
        subset = None if new is None else new[rows]
        same = agreement(found, [gate.decisions[row] for row in rows], gate.probabilities[rows])
        needed = 1.0 if new is not None else Limits(max_loss=self._max_loss()).ensemble_agreement
        few = f"only {same:.1%} of the decisions are the reference's, at least {needed:.1%} are required"
        verdict = few if new is None and same < needed else ""
        return compared(found, gate.probabilities[rows], verdict, subset, f"{len(rows)} of {len(gate.images)} images")

    def _check_timing(self) -> Finding:
        measured = self._measured()
        if measured is None or measured.screening_ms == 0:
            return skipped(f"the engines have no time of their build ({_BUILD_AGAIN})")
        files = [data for _, data in self._known()]
        fewer = max(
            1.0, measured.threads / self._screener.threads
        )  # with fewer threads than the build it may take longer
        allowed = self._options.time_factor * fewer
        times = screening_times_ms(self._screener, files)
        if median(times) > allowed * measured.screening_ms:  # another program may have been busy for a moment
            times = min(times, screening_times_ms(self._screener, files), key=median)
        now, ratio = median(times), median(times) / measured.screening_ms
        figure = f"median of {len(times)} screenings {now:.1f} ms, {ratio:.2f} times that of the build"
        if ratio <= allowed:
            return passed(figure)
        return failed(
            f"at most {allowed:g} times is allowed, also when measured again: end other programs, check cooling and power mode, "
            "or allow more (--time-factor X)",
            figure,
        )

    def _check_disk(self) -> Finding:
        root = self._engines.folder or self._bundle.root
        folders = {"engines": root, **_temporary_folder()}
        used = {name: folder for name, folder in folders.items() if resources.writable(folder)}
        if not used:
            return skipped("no folder of engines or temporary files can be written, so none can be full")
        free = {name: resources.free_bytes(folder) for name, folder in used.items()}
        figure = ", ".join(f"{size_text(value)} free for {name}" for name, value in free.items())
        full = [f"{used[name]}" for name, value in free.items() if value < LEAST_DISK]
        if full:
            return failed(
                f"at least {size_text(LEAST_DISK)} are needed in {' and '.join(full)}: free space there", figure
            )
        return passed(figure)

    def _known(self) -> list[tuple[str, bytes]]:
        if not self._files:
            self._files = known_answer_files(self._bundle)
        return self._files

    def _measured(self) -> Measured | None:
        """Return what the build measured, or None for engines of builds that did not."""
        folder = self._engines.folder
        if folder is None or not (folder / MEASURED_FILE).is_file():
            return None
        try:
            measured = Measured.read(folder / MEASURED_FILE)
        except ValueError as error:
            raise EngineError(f"{folder / MEASURED_FILE} cannot be used ({error}): {_BUILD_AGAIN}") from None
        return measured if measured.bundle_sha256 == self._bundle.digest else None

    def _record(self) -> BuildRecord | None:
        folder = self._engines.folder
        return None if folder is None else BuildRecord.read(folder / BUILD_FILE)

    def _max_loss(self) -> float:
        record = self._record()
        return Limits().max_loss if record is None else record.settings.max_loss

    def _gate_used_known_answers(self) -> bool:
        """Return whether the gate of the build compared these engines on the known answers, and so can decide again."""
        record = self._record()
        own = record is None or record.settings.calibration is None
        return own and getattr(self._bundle.manifest, "gate_set", None) is None

    def _verdict(self, found: Sequence[Screening], expected: npt.NDArray[np.float32]) -> str:
        """Return why the gate rejects the engines on these images; empty if it passes them."""
        manifest, point = self._bundle.manifest, self._screener.operating_point
        if self._engines.folder is None:  # the fp32 networks themselves
            shift = float(largest_shift(expected, probabilities_of(found)).max())
            return "" if shift <= KNOWN_ANSWER_TOLERANCE else f"probabilities differ by {shift:.2g} from the manifest's"
        before, after = (
            Verdicts.of_probabilities(manifest_point(manifest), manifest, expected),
            Verdicts.made(point, found),
        )
        limits = Limits(max_loss=self._max_loss())
        parity = ensemble_parity(manifest, point, expected, probabilities_of(found), before, after, None, limits)
        return "; ".join(parity.reasons)


def _spread(count: int, limit: int) -> list[int]:
    """Return at most `limit` of the numbers from 0 to count - 1, evenly spaced."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, limit)).round()]


def _bundle_figure(bundle: Bundle) -> Finding:
    count = len({ref.path for _, ref in bundle.manifest.files()})
    return passed(f"{count} files unaltered, digest {bundle.digest[:_SHOWN]}")


def _temporary_folder() -> dict[str, Path]:
    """Return the folder of temporary files; none where there is none, which screening does not need."""
    try:
        return {"temporary files": Path(tempfile.gettempdir())}
    except FileNotFoundError:
        return {}


def _check_temperature() -> Finding:
    found = resources.temperatures()
    if not found:
        return skipped("no temperature can be read here, as usual in containers and virtual machines")
    worst = max(found, key=lambda t: t.celsius - (t.limit or _MOST_C))
    limit = _MOST_C if worst.limit is None else worst.limit
    slowed = resources.slowed_by()
    figure = f"{worst.name} {worst.celsius:.0f} °C, limit {limit:.0f} °C" + (
        f", slowed by {', '.join(slowed)}" if slowed else ""
    )
    if worst.celsius >= limit - _BELOW_LIMIT_C:
        return failed("too close to its limit: cool the machine, or lower its power mode", figure)
    return passed(figure)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
