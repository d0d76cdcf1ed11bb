"""`build`: from a bundle to the engines of this machine, checked against the fp32 reference and timed.

A `BuildRequest` comes in, a `BuildReport` goes out, and the chosen engines lie beside the bundle. The order: check the
bundle and that this machine computes what training did; try every candidate of every part; put the fastest that passed
together and judge the set as a whole; only then write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr_edge import backends, engines
from cxr_edge.backends import self_test
from cxr_edge.backends.base import Backend, CompileOptions, DeviceBackend, GpuOptions
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.compiler import samples, store
from cxr_edge.compiler.calibrate import Ranges, measure_ranges
from cxr_edge.compiler.candidates import PRECISION_CHOICES, Candidate, PrecisionChoice, choose_recipes
from cxr_edge.compiler.graph.simplify import simplify
from cxr_edge.compiler.parity import Limits, ParityResult, compare_member, compare_segmenter, compare_ensemble
from cxr_edge.compiler.report import BuildReport, Row
from cxr_edge.compiler.samples import IMAGE_LIMIT, Samples
from cxr_edge.compiler.trial import Comparison, TrialResult, BuildContext, Trial, run_trial
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import SEGMENTER, BuildSettings, EngineSet, NetworkFile, BuildRecord
from cxr_edge.errors import BundleError, InputError
from cxr_edge.screening.screener import Screener

__all__ = ["BuildRequest", "build", "options_note", "silent", "softmax"]

Chosen = dict[str, Candidate]

RANGES_DIR = "ranges"  # beside the backends' folders: scales serve every runtime


def silent(_: str) -> None:
    """A `say` for those who want no progress."""


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build. engines_dir: None for the bundle's own. calibration: a folder of X-rays, or None for the bundle's
    activation ranges and known answers. image_limit: how many of them to use at most. gpu: for runtimes that have such.
    """

    bundle: Bundle
    engines_dir: Path | None = None
    backend: str = "auto"
    precision: PrecisionChoice = "auto"
    calibration: Path | None = None
    threads: int = 1
    max_loss: float = 0.01
    image_limit: int = IMAGE_LIMIT
    gpu: GpuOptions = field(default_factory=GpuOptions)

    def __post_init__(self) -> None:
        if self.precision not in PRECISION_CHOICES:
            raise InputError(f"precision is one of {', '.join(PRECISION_CHOICES)}, got {self.precision!r}")
        if not 0.0 < self.max_loss <= 1.0:
            raise InputError(f"max_loss is a share above 0 and at most 1, got {self.max_loss}")
        if self.image_limit < 1:
            raise InputError(f"the image limit must be 1 or more, got {self.image_limit}")


def build(request: BuildRequest, say: Callable[[str], None] = silent) -> BuildReport:
    """Build the engines of a bundle.

    say: takes lines of progress. Raises BackendError if nothing can run or be written here, ContractError if this
    machine does not compute what training did, BundleError or InputError for unusable input. A part that ends without
    an engine raises nothing: `BuildReport.complete` is false and its rows say why.
    """
    bundle = request.bundle
    check_networks(bundle)
    backend = backends.choose(request.backend)
    wanted = choose_recipes(request.precision, backend)
    root = engines.engines_root(bundle, request.engines_dir)
    folder = root / backend.name
    with store.scratch_folder(folder) as scratch:
        reference = engines.reference(bundle, threads=request.threads)
        images = _images(request, reference, say)
        options = CompileOptions(threads=request.threads, gpu=request.gpu, progress=say)
        tools = BuildContext(backend=backend, options=options, choose_recipes=wanted, scratch=scratch, say=say)
        build_of_parts = _Parts(request, reference, images, tools, root)
        outcomes = {part.name: build_of_parts.outcome(part) for part in engines.parts(bundle)}
        chosen, whole = _choose(request, backend, images, outcomes, say)
        report = _report(request, backend, images, folder, outcomes, chosen, whole, build_of_parts.notes)
        _write(request, backend, folder, scratch, chosen, report)
    return report


class _Parts:
    """Runs the trial of each part with what they share."""

    def __init__(self, request: BuildRequest, reference: EngineSet, images: Samples, tools: BuildContext, root: Path) -> None:
        self._request, self._images, self._tools, self._root = request, images, tools, root
        loaded = (*([reference.segmenter] if reference.segmenter else []), *reference.members)
        self._references = dict(zip(reference.parts, loaded, strict=True))
        self._limits = Limits(max_loss=request.max_loss)
        self.notes: dict[str, None] = {}

    def outcome(self, part: NetworkFile) -> TrialResult:
        simplified = simplify(part.onnx)
        self.notes[simplified.notes[0]] = None
        ranges = self._ranges(part) if any(r.scheme for r in self._tools.recipes) else None
        trial = Trial(
            part=part,
            simplified=simplified,
            reference=self._references[part.name],
            ranges=ranges,
            output="mask" if part.name == SEGMENTER else "logits",
            inputs=self._images.batches(part.name),
            judge=self._judge(part),
        )
        return run_trial(trial, self._tools)

    def _judge(self, part: NetworkFile) -> Comparison:
        manifest = self._request.bundle.manifest
        if part.name == SEGMENTER and manifest.segmenter is not None:
            rule = manifest.segmenter.lung_box
            sizes = [(s.screening.width_px, s.screening.height_px) for s in self._images.items]
            return lambda a, b: compare_segmenter([m[0] for m in a], [m[0] for m in b], sizes, rule, self._limits)
        index = [m.name for m in manifest.members].index(part.name)
        temperature = manifest.combination.member_temperatures[index]
        truth = self._images.truth()
        return lambda a, b: compare_member(softmax(a, temperature), softmax(b, temperature), truth, self._limits)

    def _ranges(self, part: NetworkFile) -> Ranges | None:
        """Measured on the user's images, or taken from the bundle, or None."""
        if self._request.calibration is None:
            return _bundled_ranges(self._request.bundle, part)
        wanted = hashlib.sha256(f"{self._request.bundle.digest} {self._images.digest()}".encode()).hexdigest()
        cache = self._root / RANGES_DIR / f"{part.name}.json"
        found = _cached_ranges(cache, part, wanted)
        if found is not None:
            self.notes["activation ranges of these very images were already measured and are used again"] = None
            return found
        self._tools.say(f"{part.name}: measuring activation ranges on {len(self._images.items)} images")
        measured = measure_ranges(
            part.onnx, self._images.batches(part.name), source="calibration folder", inputs_sha256=wanted
        )
        cache.parent.mkdir(exist_ok=True)
        measured.write(cache)
        return measured


def softmax(logits: Sequence[npt.NDArray[np.float32]], temperature: float) -> npt.NDArray[np.float64]:
    """One member's probabilities (images, labels) from its logits (labels) an image."""
    scaled = np.stack(logits).astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _images(request: BuildRequest, reference: EngineSet, say: Callable[[str], None]) -> Samples:
    """The images of the gate, after the bundle's known answers have proved this machine."""
    bundle = request.bundle
    known = None
    if bundle.manifest.known_answers:
        say("comparing this machine with the bundle's known answers")
        known = samples.known_answers(bundle, reference, threads=request.threads)
        samples.check_known_answers(bundle, known)
    if request.calibration is None:
        return known or samples.known_answers(bundle, reference, threads=request.threads)
    say(f"running the fp32 reference on images of {request.calibration}")
    return samples.from_folder(
        bundle, reference, request.calibration, threads=request.threads, limit=request.image_limit
    )


def _bundled_ranges(bundle: Bundle, part: NetworkFile) -> Ranges | None:
    manifest = bundle.manifest
    if part.name == SEGMENTER:
        ref = manifest.segmenter.activation_ranges if manifest.segmenter else None
    else:
        ref = next(m.activation_ranges for m in manifest.members if m.name == part.name)
    if ref is None:
        return None
    ranges = Ranges.read(bundle.file(ref))
    ranges.check(part.onnx)
    return ranges


def _cached_ranges(cache: Path, part: NetworkFile, inputs_sha256: str) -> Ranges | None:
    """The cache, if it is for this network and these images; anything else in its place is measured anew."""
    try:
        ranges = Ranges.read(cache) if cache.is_file() else None
    except BundleError:
        return None
    fits = ranges is not None and (ranges.onnx_sha256, ranges.inputs_sha256) == (part.onnx_sha256, inputs_sha256)
    return ranges if fits else None


def _choose(
    request: BuildRequest, backend: Backend, images: Samples, outcomes: dict[str, TrialResult], say: Callable[[str], None]
) -> tuple[Chosen, ParityResult | None]:
    """The fastest candidate of each part, such that the set passes as a whole.

    While it does not, the part that gains least by its choice steps back, as `_retreat` says.
    """
    chosen = {name: o.passed[0] for name, o in outcomes.items() if o.passed}
    if len(chosen) < len(outcomes):
        return chosen, None
    while True:
        say("judging the chosen engines together")
        whole = _judge_set(request, backend, images, chosen)
        if whole.passed:
            return chosen, whole
        retreats = {name: next_ for name, o in outcomes.items() if (next_ := _retreat(o, chosen[name]))}
        if not retreats:
            return {}, whole
        least = min(retreats, key=lambda name: _gain_ms(outcomes[name], chosen[name], retreats[name]))
        chosen[least] = retreats[least]


def _judge_set(request: BuildRequest, backend: Backend, images: Samples, chosen: Chosen) -> ParityResult:
    bundle = request.bundle
    names = [p.name for p in engines.parts(bundle)]
    precisions = tuple(chosen[n].recipe.name for n in names)
    candidate = engines.engine_set(bundle, backend, [chosen[n].engine for n in names], precisions)
    screener = Screener(bundle, candidate, threads=request.threads)
    after = [screener.screen(decode(s.path)) for s in images.items]
    before = [s.screening for s in images.items]
    return compare_ensemble(before, after, images.truth(), Limits(max_loss=request.max_loss))


def _retreat(outcome: TrialResult, candidate: Candidate) -> Candidate | None:
    """What to take in the place of `candidate`: fp32, or where that did not pass, the next fastest; None if none is left."""
    fp32 = next((c for c in outcome.passed if c.recipe.kind == "fp32"), None)
    if fp32 is not None:
        return None if candidate is fp32 else fp32
    slower = outcome.passed[outcome.passed.index(candidate) + 1 :]
    return slower[0] if slower else None


def _gain_ms(outcome: TrialResult, candidate: Candidate, retreat: Candidate) -> float:
    p50 = {r.precision: r.timing.p50_ms for r in outcome.rows if r.timing}
    return p50[retreat.recipe.name] - p50[candidate.recipe.name]


def _rejected(outcome: TrialResult, kept: Candidate) -> list[str]:
    """The names of the candidates that were chosen before `kept` and stepped back from."""
    names: list[str] = []
    candidate: Candidate | None = outcome.passed[0]
    while candidate is not None and candidate is not kept:
        names.append(candidate.recipe.name)
        candidate = _retreat(outcome, candidate)
    return names


def _report(
    request: BuildRequest,
    backend: Backend,
    images: Samples,
    folder: Path,
    outcomes: dict[str, TrialResult],
    chosen: Chosen,
    whole: ParityResult | None,
    notes: dict[str, None],
) -> BuildReport:
    rows = [_final(row, outcomes[row.part], chosen, whole) for o in outcomes.values() for row in o.rows]
    more = [f"files left out because they are no readable X-rays: {len(images.refused)}"] if images.refused else []
    return BuildReport(
        name=request.bundle.manifest.name,
        backend=backend.name,
        versions=backend.versions(),
        threads=request.threads,
        max_loss=request.max_loss,
        images=images.description,
        engines=str(folder),
        rows=tuple(rows),
        whole=whole,
        notes=(*notes, *more, *options_note(backend, request.gpu)),
    )


def options_note(backend: Backend, gpu: GpuOptions) -> list[str]:
    """What to say of options that were given to a backend without such."""
    idle = gpu != GpuOptions() and not backend.takes_gpu_options
    return [f"{backend.name} has no GPU options: those that were given changed nothing"] if idle else []


def _final(row: Row, outcome: TrialResult, chosen: Chosen, whole: ParityResult | None) -> Row:
    """The row with its last status: kept, or passed and why it was not kept."""
    if row.status != "passed":
        return row
    kept = chosen.get(row.part)
    if kept is None:
        reason = "the engines together did not pass" if whole is not None and not whole.passed else row.reason
        return replace(row, status="refused" if whole is not None else "passed", reason=reason)
    if kept.recipe.name == row.precision:
        return replace(row, status="kept")
    if row.precision in _rejected(outcome, kept):
        return replace(row, status="refused", reason="the engines together did not pass with it")
    return row


def _write(
    request: BuildRequest, backend: Backend, folder: Path, scratch: Path, chosen: Chosen, report: BuildReport
) -> None:
    rows = {(r.part, r.precision): r for r in report.rows}
    for part in engines.parts(request.bundle):
        candidate = chosen.get(part.name)
        precision = candidate.recipe.name if candidate else None
        if candidate is not None:
            store.save_engine(
                candidate,
                rows[part.name, candidate.recipe.name],
                part,
                folder,
                backend=backend,
                bundle_sha256=request.bundle.digest,
                options=CompileOptions(threads=request.threads, gpu=request.gpu),
            )
        store.remove_stale(folder, part.name, kept=precision, suffix=backend.suffix)
    selection = BuildRecord(
        backend=backend.name,
        bundle_sha256=request.bundle.digest,
        precisions=report.precisions,
        asked=BuildSettings(
            precision=request.precision,
            calibration=request.calibration,
            max_loss=request.max_loss,
            gpu=request.gpu,
        ),
        report=report.as_json(),
    )
    if report.complete and isinstance(backend, DeviceBackend):  # whose compilers need seconds even for that
        self_test.save_self_test_engine(backend, folder)
    store.write_build_record(folder, scratch, selection.as_json())
