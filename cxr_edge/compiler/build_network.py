"""`build_network`: compile the engine of a single ONNX file with a preprocessing spec, without a bundle.

For a network in development: the same candidates, parity check and timing as in a bundle. Without a bundle there are no
known answers, labels or lung box: each image is used in full, and without images the comparison runs on random noise,
which the report states.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from cxr_edge import backends
from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.bundle.onnx_check import DIGEST_KEY, check_network
from cxr_edge.compiler import store
from cxr_edge.compiler.build_bundle import ignored_options_note, no_progress
from cxr_edge.compiler.calibrate import measure_ranges
from cxr_edge.compiler.candidates import choose_recipes
from cxr_edge.compiler.graph.simplify import simplify
from cxr_edge.compiler.parity import Limits
from cxr_edge.compiler.report import BuildReport
from cxr_edge.compiler.samples import image_paths, spread_evenly
from cxr_edge.compiler.trial import (
    BuildContext,
    Comparison,
    Trial,
    member_comparison,
    run_trial,
    segmenter_comparison,
)
from cxr_edge.decoding.decode import decode
from cxr_edge.digests import sha256_file
from cxr_edge.engines import BuildSettings, NetworkFile
from cxr_edge.errors import BundleError, ContractError, InputError
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Roi
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["build_network"]

_NOISE_IMAGES = 16

Tensor = npt.NDArray[np.float32]
Shape = tuple[int | str | None, ...]


def build_network(
    path: Path,
    spec: PreprocessSpec,
    settings: BuildSettings | None = None,
    *,
    out: Path,
    backend: str = "auto",
    threads: int = 1,
    say: Callable[[str], None] = no_progress,
) -> BuildReport:
    """Build the engine of the ONNX file `path` into the folder `out`.

    settings: None for the defaults. Raises as `build_bundle.build`; ContractError if the network carries another spec's
    digest.
    """
    settings = settings or BuildSettings()
    network = _network(path, spec)
    runtime = backends.choose(backend)
    recipes = choose_recipes(settings.precision, runtime)
    options = CompileOptions(threads=threads, gpu=settings.gpu, progress=say)
    inputs, description = _inputs(spec, settings, threads)
    simplified, ranges = simplify(path), None
    with store.scratch_folder(out) as scratch:
        if settings.calibration is not None and any(r.scheme for r in recipes):  # ranges of noise would fit no X-ray
            say(f"measuring activation ranges on {len(inputs)} images")
            ranges = measure_ranges(path, inputs, source="calibration folder")
        trial = Trial(
            network=network,
            simplified=simplified,
            reference=OnnxRuntimeBackend().load_reference(path, options),
            ranges=ranges,
            inputs=inputs,
            compare=_comparison(network, len(inputs), Limits(max_loss=settings.max_loss)),
        )
        context = BuildContext(backend=runtime, options=options, recipes=recipes, scratch=scratch, say=say)
        result = run_trial(trial, context)
        selected = result.passed[0] if result.passed else None
        precision = selected.recipe.name if selected else None
        rows = tuple(replace(r, status="selected") if r.precision == precision else r for r in result.rows)
        if selected is not None:
            row = next(r for r in rows if r.status == "selected")
            store.save_engine(selected, row, network, out, backend=runtime, bundle_sha256=None, options=options)
        store.remove_other_engines(out, network.name, selected=precision, suffix=runtime.suffix)
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
        notes=(*simplified.notes[:1], *ignored_options_note(runtime, settings.gpu)),
    )


def _network(path: Path, spec: PreprocessSpec) -> NetworkFile:
    """Return the network, checked like one of a bundle, except that it need not carry a digest."""
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf and the file system have no error base in common
        raise BundleError(f"{path} cannot be read as an ONNX file: {error}") from None
    outputs = _expected_outputs(path, model, spec)
    if not any(p.key == DIGEST_KEY for p in model.metadata_props):
        helper.set_model_props(model, {DIGEST_KEY: spec.digest()})
    with tempfile.TemporaryDirectory(prefix="cxr-edge-") as folder:
        checked = Path(folder, path.name)
        checked.write_bytes(model.SerializeToString())
        check_network(path.stem, checked, spec, outputs)
    return NetworkFile(
        name=path.stem, onnx=path, onnx_sha256=sha256_file(path), preprocess=spec, outputs=tuple(outputs)
    )


def _expected_outputs(path: Path, model: onnx.ModelProto, spec: PreprocessSpec) -> dict[str, Shape]:
    """Return the shapes that the outputs must have, the compared output first."""
    names = {o.name for o in model.graph.output}
    if names == {"mask"}:
        return {"mask": ("N", 1, spec.crop_px, spec.crop_px)}
    if "logits" in names and names <= {"logits", "cam"}:
        logits: dict[str, Shape] = {"logits": ("N", None)}
        return logits | ({"cam": ("N", None, None, None)} if "cam" in names else {})
    raise ContractError(
        f"{path.name} must be a member (outputs logits and, if it has one, cam) or a segmenter (output mask), it has "
        f"the outputs {sorted(names)}: export it with these names"
    )


def _inputs(spec: PreprocessSpec, settings: BuildSettings, threads: int) -> tuple[list[Tensor], str]:
    """Return inputs (1, C, H, W), and a description of the images."""
    if settings.calibration is None:
        shape = (_NOISE_IMAGES, 1, *spec.tensor_shape)
        noise = np.random.default_rng(0).standard_normal(shape).astype(spec.dtype)
        return list(noise), f"{_NOISE_IMAGES} images of random noise (give X-rays with --calibration DIR)"
    paths = image_paths(settings.calibration)
    inputs = _preprocessed(spread_evenly(paths, settings.images), spec, threads)
    if not inputs:
        raise InputError(f"none of the files in {settings.calibration} is an X-ray that can be read")
    full = ", in full, since a single network has no lung box" if spec.region == "lungs" else ""
    return inputs, f"{len(inputs)} of {len(paths)} files in {settings.calibration}{full}"


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


def _comparison(network: NetworkFile, images: int, limits: Limits) -> Comparison:
    if network.outputs[0] == "mask":
        side = network.preprocess.crop_px
        return segmenter_comparison([(side, side)] * images, LungBoxRule(), limits)
    return member_comparison(1.0, None, limits)
