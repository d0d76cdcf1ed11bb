"""`build`: compile the engines of a bundle for this machine, compare them with the fp32 reference, time and select them.

A bundle and `BuildSettings` come in, a `BuildReport` comes out, and the selected engines are stored beside the bundle.
The order: check the bundle, that this machine decodes its files to the same pixels and reproduces its known answers; try every
candidate of every network; check the fastest that passed together as an ensemble, at limits moved for them; only then write.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from cxr_edge import backends, engines
from cxr_edge.backends import self_test
from cxr_edge.backends.base import Backend, CompileOptions, DeviceBackend, Engine, GpuOptions
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.decode_check import check_decoding
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.compiler import samples, store
from cxr_edge.compiler.build_lock import build_lock
from cxr_edge.compiler.calibrate import Ranges, measure_ranges
from cxr_edge.compiler.candidates import Candidate, choose_recipes
from cxr_edge.compiler.comparison import Comparison, output_comparison, segmenter_comparison
from cxr_edge.compiler.ensemble import EnsembleResult, compare_at_points
from cxr_edge.compiler.graph.simplify import simplify
from cxr_edge.compiler.image_set import ImageSet
from cxr_edge.compiler.measured import measure
from cxr_edge.compiler.output_kinds import ComparedOutput, compared_output, constant_note
from cxr_edge.compiler.parity import Limits
from cxr_edge.compiler.remembering import RememberingEngine
from cxr_edge.compiler.report import BuildReport
from cxr_edge.compiler.samples import Sample, Samples
from cxr_edge.compiler.selection import EngineSelection, select_engines
from cxr_edge.compiler.trial import BuildContext, Reference, Trial, TrialResult, run_trial
from cxr_edge.engines import MEASURED_FILE, SEGMENTER, BuildRecord, BuildSettings, EngineSet, NetworkFile
from cxr_edge.errors import BackendError, BundleError
from cxr_edge.records import Screening
from cxr_edge.screening.screener import Screener
from cxr_edge.signing.box import Box
from cxr_edge.signing.keys import PrivateKey

__all__ = ["build", "ignored_options_note", "no_progress"]

_SOURCES = {"surrogate": "gate set", "images": "gate set", "folder": "calibration folder"}
RANGES_DIR = "ranges"  # beside the backends' folders: the same scales serve every runtime


def no_progress(_: str) -> None:
    """Take a line of progress and show nothing."""


def build(
    bundle: Bundle,
    settings: BuildSettings | None = None,
    engines_dir: Path | None = None,
    *,
    backend: str = "auto",
    threads: int = 1,
    say: Callable[[str], None] = no_progress,
    locked: bool = False,
    box: Box | None = None,
) -> BuildReport:
    """Build the engines of a bundle, after any other build in the same folder.

    settings: None for the defaults. engines_dir, backend, threads: as in `engines.load`. say: takes lines of progress.
    locked: the caller has the `build_lock` of the engines folder. box: sign the engines with its key.
    Raises BackendError if nothing can run or be written here, ContractError if this machine does not decode the bundle's files to
    their pixels or does not reproduce the known answers, BundleError or InputError for unusable input. A network that ends
    without an engine raises nothing: `BuildReport.complete` is false and its rows have the reasons.
    """
    settings = settings or BuildSettings()
    check_networks(bundle)
    check_decoding(bundle)
    runtime = backends.choose(backend)
    box_key = None if box is None else box.signing_key()
    recipes = choose_recipes(settings.precision, runtime)
    root = engines.engines_root(bundle, engines_dir)
    lock = nullcontext() if locked else build_lock(root, say)
    with lock, store.scratch_folder(root / runtime.name) as scratch:
        reference = engines.reference(bundle, threads=threads)
        options = CompileOptions(threads=threads, gpu=settings.gpu, progress=say)
        images = _images(bundle, settings, reference, threads, say)
        bundle_build = _BundleBuild(
            bundle=bundle,
            settings=settings,
            root=root,
            reference=reference,
            images=images,
            network_images=images.for_networks(),
            context=BuildContext(backend=runtime, options=options, recipes=recipes, scratch=scratch, say=say),
            box_key=box_key,
        )
        return bundle_build.run()


@dataclass(frozen=True, kw_only=True)
class _BundleBuild:
    """A build in progress."""

    bundle: Bundle
    settings: BuildSettings
    root: Path  # folder of the backends' folders
    reference: EngineSet
    images: Samples
    network_images: Samples  # of them, those that single networks are compared on
    context: BuildContext
    box_key: PrivateKey | None = None  # that signs the engines; None: they are not signed
    notes: list[str] = field(default_factory=list)  # for the report
    compared: list[ComparedOutput] = field(default_factory=list)  # likewise
    remembered: dict[Path, Engine] = field(default_factory=dict)  # by file of the candidate

    def run(self) -> BuildReport:
        results = {n.name: self._trial_result(n) for n in engines.parts(self.bundle)}
        selection = select_engines(results, self._compare_ensemble, self.context.say)
        report = self._report(results, selection)
        self._write(selection, report)
        return report

    @property
    def _folder(self) -> Path:
        return self.root / self.context.backend.name

    @property
    def _limits(self) -> Limits:
        return Limits(max_loss=self.settings.max_loss)

    def _trial_result(self, network: NetworkFile) -> TrialResult:
        simplified = simplify(network.onnx)
        self._note(simplified.notes[0])
        needs_ranges = any(r.scheme for r in self.context.recipes)
        reference = Reference.run(self._reference(network), network, self.network_images.inputs(network.name))
        trial = Trial(
            network=network,
            simplified=simplified,
            reference=reference,
            ranges=self._ranges(network) if needs_ranges else None,
            compare=self._comparison(network, reference),
        )
        return run_trial(trial, self.context)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _reference(self, network: NetworkFile) -> Engine:
        loaded = (*([self.reference.segmenter] if self.reference.segmenter else []), *self.reference.members)
        return loaded[self.reference.parts.index(network.name)]

    def _comparison(self, network: NetworkFile, reference: Reference) -> Comparison:
        """Return the comparison of a network's outputs, which are of the kind that the manifest declares."""
        manifest, limits, raw = self.bundle.manifest, self._limits, reference.stacked()
        self.notes.extend(constant_note(network.name, raw))
        if network.name == SEGMENTER and manifest.segmenter is not None:
            self.compared.append(compared_output(SEGMENTER, "mask", raw, declared_by="segmenter of the bundle"))
            sizes = [(s.screening.width_px, s.screening.height_px) for s in self.network_images.items]
            return segmenter_comparison(sizes, manifest.segmenter.lung_box, limits)
        index = [m.name for m in manifest.members].index(network.name)
        kind, temperature = manifest.members[index].output, manifest.combination.member_temperatures[index]
        compared = compared_output(network.name, kind, raw, declared_by="declared by the bundle")
        self.compared.append(compared)
        findings = manifest.labels if manifest.multi_label else ()
        truth = self.network_images.truth()
        return output_comparison(compared.kinds, limits, truth=truth, temperature=temperature, findings=findings)

    def _ranges(self, network: NetworkFile) -> Ranges | None:
        """Return activation ranges measured on the user's images, or the bundle's; without these, on its gate set or None."""
        if self.settings.calibration is None:
            bundled = _bundled_ranges(self.bundle, network)
            if bundled is not None or self.bundle.manifest.gate_set is None:
                return bundled
        images = hashlib.sha256(f"{self.bundle.digest} {self.images.digest()}".encode()).hexdigest()
        cache = self.root / RANGES_DIR / f"{network.name}.json"
        cached = _cached_ranges(cache, network, images)
        if cached is not None:
            self._note("activation ranges measured on the same images by an earlier build are used again")
            return cached
        self.context.say(f"{network.name}: measuring activation ranges on {len(self.images.items)} images")
        inputs = self.images.inputs(network.name)
        measured = measure_ranges(network.onnx, inputs, source=_SOURCES[self.images.kind], inputs_sha256=images)
        cache.parent.mkdir(exist_ok=True)
        measured.write(cache)
        return measured

    def _compare_ensemble(self, candidates: Mapping[str, Candidate]) -> EnsembleResult:
        """Screen the images with these engines, move the limits for them, and compare with the reference's screenings."""
        screener = self._screener(
            samples.unchecked(self.bundle), list(map(self._remembering, self._ordered(candidates)))
        )
        after = [_screened(screener, s) for s in self.images.items]
        return compare_at_points(
            self.bundle.manifest,
            [s.screening for s in self.images.items],
            after,
            truth=self.images.truth(),
            known=self.images.known(len(self.bundle.manifest.labels)),
            limits=self._limits,
            drawn=not self.images.moves_limits,
        )

    def _ordered(self, candidates: Mapping[str, Candidate]) -> list[Candidate]:
        return [candidates[n.name] for n in engines.parts(self.bundle)]

    def _screener(self, bundle: Bundle, candidates: Sequence[Candidate]) -> Screener:
        """Return a screener of these engines, in the bundle's order, at the manifest's operating point."""
        precisions = tuple(c.recipe.name for c in candidates)
        loaded = engines.engine_set(bundle, self.context.backend, [c.engine for c in candidates], precisions)
        return Screener(bundle, loaded, threads=self.context.options.threads, whole=True)

    def _remembering(self, candidate: Candidate) -> Candidate:
        """Return a candidate whose engine runs each image once if it is of the host: ensembles differ in few networks."""
        if isinstance(self.context.backend, DeviceBackend):  # a CUDA graph of all engines is what will run
            return candidate
        engine = self.remembered.setdefault(candidate.file, RememberingEngine(candidate.engine))
        return replace(candidate, engine=engine)

    def _report(self, results: Mapping[str, TrialResult], selection: EngineSelection) -> BuildReport:
        backend, unreadable = self.context.backend, len(self.images.unreadable)
        skipped = [f"files skipped because they are not readable X-rays: {unreadable}"] if unreadable else []
        return BuildReport(
            name=self.bundle.manifest.name,
            backend=backend.name,
            versions=backend.versions(),
            threads=self.context.options.threads,
            max_loss=self.settings.max_loss,
            images=self.images.description,
            image_set=ImageSet.of(self.images, self.network_images, self.settings.max_loss),
            engines=str(self._folder),
            rows=tuple(selection.final_row(row, r) for r in results.values() for row in r.rows),
            ensemble=None if selection.ensemble is None else selection.ensemble.parity,
            operating_point=None if selection.ensemble is None else selection.ensemble.report,
            outputs=tuple(self.compared),
            notes=(*self.notes, *skipped, *ignored_options_note(backend, self.settings.gpu)),
        )

    def _write(self, selection: EngineSelection, report: BuildReport) -> None:
        """Store the selected engines and build.json; remove engines of earlier builds."""
        backend = self.context.backend
        files = store.PendingFiles(folder=self._folder, scratch=self.context.scratch)
        rows = {(r.part, r.precision): r for r in report.rows}
        for network in engines.parts(self.bundle):
            candidate = selection.candidates.get(network.name)
            precision = candidate.recipe.name if candidate else None
            if candidate is not None:
                store.save_engine(
                    candidate,
                    rows[network.name, candidate.recipe.name],
                    network,
                    files,
                    backend=backend,
                    bundle_sha256=self.bundle.digest,
                    options=self.context.options,
                )
            store.remove_other_engines(files, network.name, selected=precision, suffix=backend.suffix)
        record = BuildRecord(
            backend=backend.name,
            bundle_sha256=self.bundle.digest,
            precisions=report.precisions,
            settings=self.settings,
            operating_point=selection.ensemble.point if selection.ensemble is not None and report.complete else None,
            mode_points=selection.ensemble.mode_points if selection.ensemble is not None and report.complete else (),
            report=report.as_json(),
        )
        if report.complete:
            saved = self_test.save_self_test_engine(backend, self.context.scratch)
            files.moved.update({file.name: file for file in saved})
            files.moved[MEASURED_FILE] = self._measured(selection.candidates)
        else:
            files.removed.append(MEASURED_FILE)
        store.write_build_record(files, record)
        store.sign_files(files, record, self.box_key)
        files.place()

    def _measured(self, candidates: Mapping[str, Candidate]) -> Path:
        """Write what the new engines give and take, for the self-test. Returns the file."""
        file = self.context.scratch / MEASURED_FILE
        measure(self._screener(self.bundle, self._ordered(candidates)), threads=self.context.options.threads).write(
            file
        )
        return file


def _screened(screener: Screener, sample: Sample) -> Screening:
    """Return the screening by the engines; of engines that give none, one with NaN for the gate to refuse."""
    try:
        return screener.screen(sample.image())
    except BackendError:
        return replace(sample.screening, probabilities=(math.nan,) * len(sample.screening.labels))


def ignored_options_note(backend: Backend, gpu: GpuOptions) -> list[str]:
    """Return the report's note about GPU options given to a backend that has none, if any."""
    ignored = gpu != GpuOptions() and not backend.takes_gpu_options
    return [f"{backend.name} has no GPU options: those that were given changed nothing"] if ignored else []


def _images(
    bundle: Bundle, settings: BuildSettings, reference: EngineSet, threads: int, say: Callable[[str], None]
) -> Samples:
    """Return the images for calibration and comparison, after this machine has reproduced the known answers."""
    known = None
    if bundle.manifest.known_answers:
        say("comparing this machine with the bundle's known answers")
        known = samples.known_answers(bundle, reference, threads=threads)
        samples.check_known_answers(bundle, known)
    if settings.calibration is None:
        if bundle.manifest.gate_set is not None:
            say("running the fp32 reference on the bundle's gate set")
        gate = samples.gate_set(bundle, reference, threads=threads)
        return gate or known or samples.known_answers(bundle, reference, threads=threads)
    say(f"running the fp32 reference on images of {settings.calibration}")
    return samples.from_folder(bundle, reference, settings.calibration, threads=threads, limit=settings.images)


def _bundled_ranges(bundle: Bundle, network: NetworkFile) -> Ranges | None:
    manifest = bundle.manifest
    if network.name == SEGMENTER:
        ref = manifest.segmenter.activation_ranges if manifest.segmenter else None
    else:
        ref = next(m.activation_ranges for m in manifest.members if m.name == network.name)
    if ref is None:
        return None
    ranges = Ranges.read(bundle.file(ref))
    ranges.check(network.onnx)
    return ranges


def _cached_ranges(cache: Path, network: NetworkFile, inputs_sha256: str) -> Ranges | None:
    """Return the cached ranges if they are for this network and these images; None to measure again."""
    try:
        ranges = Ranges.read(cache) if cache.is_file() else None
    except BundleError:
        return None
    key = (network.onnx_sha256, inputs_sha256)
    return ranges if ranges is not None and (ranges.onnx_sha256, ranges.inputs_sha256) == key else None
