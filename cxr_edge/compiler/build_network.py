"""`build_network`: compile the engine of a single ONNX file with a preprocessing spec, without a bundle.

For a network in development: the same candidates, parity check and timing as in a bundle. Without a bundle there are no
known answers, labels or lung box: each image is used in full, and without images the comparison runs on random noise,
which the report states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr_edge import backends
from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.bundle.onnx_activation import Activation
from cxr_edge.bundle.onnx_check import check_network, read_model
from cxr_edge.bundle.onnx_signature import Shape
from cxr_edge.compiler import store
from cxr_edge.compiler.build_bundle import ignored_options_note, no_progress
from cxr_edge.compiler.build_lock import build_lock
from cxr_edge.compiler.calibrate import measure_ranges
from cxr_edge.compiler.candidates import choose_recipes
from cxr_edge.compiler.comparison import Comparison, output_comparison, segmenter_comparison
from cxr_edge.compiler.graph.simplify import simplify
from cxr_edge.compiler.output_kinds import ComparedOutput, compared_output, constant_note
from cxr_edge.compiler.parity import Limits
from cxr_edge.compiler.report import BuildReport
from cxr_edge.compiler.samples import image_paths, spread_evenly
from cxr_edge.compiler.trial import BuildContext, Reference, Trial, run_trial
from cxr_edge.decoding.decode import decode
from cxr_edge.digests import sha256_file
from cxr_edge.engines import BuildSettings, NetworkFile
from cxr_edge.errors import ContractError, InputError
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Roi
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.outputs import OutputChoice
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["build_network"]

_NOISE_IMAGES = 16

Tensor = npt.NDArray[np.float32]


def build_network(
    path: Path,
    spec: PreprocessSpec,
    settings: BuildSettings | None = None,
    *,
    out: Path,
    output: OutputChoice = "auto",
    backend: str = "auto",
    threads: int = 1,
    say: Callable[[str], None] = no_progress,
) -> BuildReport:
    """Build the engine of the ONNX file `path` into the folder `out`.

    settings: None for the defaults. output: the kind of the network's output, or `auto` to recognise it; where several
    kinds fit, an engine must pass as each of them. Raises as `build_bundle.build`; ContractError if the network carries
    another spec's digest, or outputs that contradict `output`.
    """
    settings = settings or BuildSettings()
    network, activation = _network(path, spec, output)
    runtime = backends.choose(backend)
    recipes = choose_recipes(settings.precision, runtime)
    options = CompileOptions(threads=threads, gpu=settings.gpu, progress=say)
    inputs, description = _inputs(spec, settings, threads)
    reference = Reference.run(OnnxRuntimeBackend().load_reference(path, options), network, inputs)
    compared = _compared(network, output, reference, activation)
    simplified, ranges = simplify(path), None
    with build_lock(out, say), store.scratch_folder(out) as scratch:
        if settings.calibration is not None and any(r.scheme for r in recipes):  # ranges of noise would fit no X-ray
            say(f"measuring activation ranges on {len(inputs)} images")
            ranges = measure_ranges(path, inputs, source="calibration folder")
        trial = Trial(
            network=network,
            simplified=simplified,
            reference=reference,
            ranges=ranges,
            compare=_comparison(network, compared, len(inputs), Limits(max_loss=settings.max_loss)),
        )
        context = BuildContext(backend=runtime, options=options, recipes=recipes, scratch=scratch, say=say)
        result = run_trial(trial, context)
        selected = result.passed[0] if result.passed else None
        precision = selected.recipe.name if selected else None
        rows = tuple(replace(r, status="selected") if r.precision == precision else r for r in result.rows)
        files = store.PendingFiles(folder=out, scratch=scratch)
        if selected is not None:
            row = next(r for r in rows if r.status == "selected")
            store.save_engine(selected, row, network, files, backend=runtime, bundle_sha256=None, options=options)
        store.remove_other_engines(files, network.name, selected=precision, suffix=runtime.suffix)
        files.place()
    return BuildReport(
        name=network.name,
        backend=runtime.name,
        versions=runtime.versions(),
        threads=threads,
        max_loss=settings.max_loss,
        images=description,
        engines=str(out),
        rows=rows,
        ensemble=None,
        outputs=(compared,),
        notes=(
            *constant_note(network.name, reference.stacked()),
            *simplified.notes[:1],
            *ignored_options_note(runtime, settings.gpu),
        ),
    )


def _network(path: Path, spec: PreprocessSpec, output: OutputChoice) -> tuple[NetworkFile, Activation | None]:
    """Return the network, checked like one of a bundle, except that it need not carry a digest; and its last activation."""
    outputs = _expected_outputs(path, {o.name for o in read_model(path).graph.output}, spec, output)
    facts = check_network(path.stem, path, spec, outputs, digest_required=False)
    network = NetworkFile(
        name=path.stem, onnx=path, onnx_sha256=sha256_file(path), preprocess=spec, outputs=tuple(outputs)
    )
    return network, facts.activation


def _expected_outputs(path: Path, names: set[str], spec: PreprocessSpec, output: OutputChoice) -> dict[str, Shape]:
    """Return the shapes that the outputs must have, the compared output first; their names decide if `output` does not."""
    if ("mask" in names and output == "auto") or output == "mask":
        return {"mask": ("N", 1, spec.crop_px, spec.crop_px)}
    if "logits" not in names and output == "auto":
        raise ContractError(
            f"{path.name} must be a member (outputs logits and, if it has one, cam) or a segmenter (output mask), it has "
            f'the outputs {sorted(names)}: export it with these names, in PyTorch by output_names=["logits"], also for '
            f"probabilities, which --output declares; docs/bundle-format.md renames those of a file"
        )
    logits: dict[str, Shape] = {"logits": ("N", None)}
    return logits | ({"cam": ("N", None, None, None)} if "cam" in names else {})


def _compared(
    network: NetworkFile, output: OutputChoice, reference: Reference, activation: Activation | None
) -> ComparedOutput:
    choice: OutputChoice = "mask" if network.outputs[0] == "mask" else output
    by = "declared by --output" if output != "auto" else "by the output's name"
    return compared_output(network.name, choice, reference.stacked(), activation, declared_by=by)


def _inputs(spec: PreprocessSpec, settings: BuildSettings, threads: int) -> tuple[list[Tensor], str]:
    """Return inputs (1, C, H, W), and a description of the images."""
    if settings.calibration is None:
        return _noise(spec), f"{_NOISE_IMAGES} images of random noise (give X-rays with --calibration DIR)"
    paths = image_paths(settings.calibration)
    inputs = _preprocessed(spread_evenly(paths, settings.images), spec, threads)
    if not inputs:
        raise InputError(f"none of the files in {settings.calibration} is an X-ray that can be read")
    full = ", in full, since a single network has no lung box" if spec.region == "lungs" else ""
    return inputs, f"{len(inputs)} of {len(paths)} files in {settings.calibration}{full}"


def _noise(spec: PreprocessSpec) -> list[Tensor]:
    """Return random inputs (1, C, H, W), from fine to coarse: of one grain, a network's outputs would hardly vary."""
    rng, side, images = np.random.default_rng(0), spec.crop_px, []
    for i in range(_NOISE_IMAGES):
        grain = min(4 ** (i % 4), max(side // 2, 1))
        cells = rng.standard_normal((spec.channels, -(-side // grain), -(-side // grain)))
        images.append(cells.repeat(grain, axis=1).repeat(grain, axis=2)[None, :, :side, :side].astype(spec.dtype))
    return images


def _preprocessed(paths: Sequence[Path], spec: PreprocessSpec, threads: int) -> list[Tensor]:
    """Return the inputs of all readable images."""
    preprocessor, inputs = Preprocessor([spec], threads=threads), []
    for path in paths:
        try:
            image = decode(path)
        except InputError:
            continue
        inputs.append(preprocessor.run([image.pixels], [Roi.full(image.width_px, image.height_px)])[0])
    return inputs


def _comparison(network: NetworkFile, compared: ComparedOutput, images: int, limits: Limits) -> Comparison:
    if network.outputs[0] == "mask":
        side = network.preprocess.crop_px
        return segmenter_comparison([(side, side)] * images, LungBoxRule(), limits)
    return output_comparison(compared.kinds, limits)
