"""`build_network`: one ONNX file with a preprocessing spec, and no bundle, to an engine of this machine.

For a network that is still being worked on: the same candidates, gate and timing as in a bundle. Without a bundle there
are no known answers, labels or lung box: images are taken whole, and without images the gate runs on noise and says so.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from cxr_edge import backends
from cxr_edge.backends.base import CompileOptions, GpuOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.bundle.onnx_check import DIGEST_KEY, check_network
from cxr_edge.compiler import store
from cxr_edge.compiler.build_bundle import options_note, silent, softmax
from cxr_edge.compiler.calibrate import Ranges, measure_ranges
from cxr_edge.compiler.candidates import PrecisionChoice, Recipe, recipes
from cxr_edge.compiler.graph.simplify import simplify
from cxr_edge.compiler.parity import Limits, judge_member, judge_segmenter
from cxr_edge.compiler.report import BuildReport
from cxr_edge.compiler.samples import IMAGE_LIMIT, image_paths, spread
from cxr_edge.compiler.trial import Judge, Tools, Trial, run_trial
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import Part
from cxr_edge.errors import BundleError, ContractError, InputError
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Roi
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["NetworkRequest", "build_network"]

_NOISE_IMAGES = 16

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class NetworkRequest:
    """What to build. out: folder for the engine; the rest as in `engine.BuildRequest`."""

    onnx: Path
    spec: PreprocessSpec
    out: Path
    backend: str = "auto"
    precision: PrecisionChoice = "auto"
    calibration: Path | None = None
    threads: int = 1
    max_loss: float = 0.01
    image_limit: int = IMAGE_LIMIT
    gpu: GpuOptions = field(default_factory=GpuOptions)


def build_network(request: NetworkRequest, say: Callable[[str], None] = silent) -> BuildReport:
    """Build one network. Raises as `engine.build`; ContractError if the network carries another spec's digest."""
    part = _part(request)
    backend = backends.choose(request.backend)
    wanted = recipes(request.precision, backend)
    options = CompileOptions(threads=request.threads, gpu=request.gpu, progress=say)
    inputs, description = _inputs(request)
    simplified = simplify(part.onnx)
    with store.scratch_folder(request.out) as scratch:
        trial = Trial(
            part=part,
            simplified=simplified,
            reference=OnnxRuntimeBackend().load_reference(part.onnx, options),
            ranges=_ranges(request, wanted, inputs, say),
            output=part.outputs[0],
            inputs=inputs,
            judge=_judge(part, Limits(max_loss=request.max_loss)),
        )
        tools = Tools(backend=backend, options=options, recipes=wanted, scratch=scratch, say=say)
        outcome = run_trial(trial, tools)
        kept = outcome.passed[0] if outcome.passed else None
        precision = kept.recipe.name if kept else None
        rows = tuple(replace(r, status="kept") if r.precision == precision else r for r in outcome.rows)
        if kept is not None:
            row = next(r for r in rows if r.status == "kept")
            store.keep(kept, row, part, request.out, backend=backend, bundle_sha256=None, options=options)
        store.remove_stale(request.out, part.name, kept=precision, suffix=backend.suffix)
    return BuildReport(
        name=part.name,
        backend=backend.name,
        versions=backend.versions(),
        threads=request.threads,
        max_loss=request.max_loss,
        images=description,
        engines=str(request.out),
        rows=rows,
        whole=None,
        notes=(*simplified.notes[:1], *options_note(backend, request.gpu)),
    )


def _part(request: NetworkRequest) -> Part:
    """The network as a part, checked like one of a bundle, except that it need not carry a digest."""
    path = request.onnx
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf and the file system have no error base in common
        raise BundleError(f"{path} cannot be read as an ONNX file: {error}") from None
    outputs = [o.name for o in model.graph.output]
    wanted = _wanted_outputs(path, model, request.spec)
    if not any(p.key == DIGEST_KEY for p in model.metadata_props):
        helper.set_model_props(model, {DIGEST_KEY: request.spec.digest()})
    with tempfile.TemporaryDirectory(prefix="cxr-edge-") as folder:
        checked = Path(folder, path.name)
        checked.write_bytes(model.SerializeToString())
        check_network(path.stem, checked, request.spec, wanted)
    ordered = tuple(sorted(outputs, key=lambda name: name == "cam"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Part(name=path.stem, onnx=path, onnx_sha256=sha256, preprocess=request.spec, outputs=ordered)


def _wanted_outputs(
    path: Path, model: onnx.ModelProto, spec: PreprocessSpec
) -> dict[str, tuple[int | str | None, ...]]:
    names = {o.name for o in model.graph.output}
    if names == {"mask"}:
        return {"mask": ("N", 1, spec.crop_px, spec.crop_px)}
    if "logits" in names and names <= {"logits", "cam"}:
        wanted: dict[str, tuple[int | str | None, ...]] = {"logits": ("N", None)}
        return wanted | ({"cam": ("N", None, None, None)} if "cam" in names else {})
    raise ContractError(
        f"{path.name} must be a member (outputs logits and, if it has one, cam) or a segmenter (output mask), it has "
        f"the outputs {sorted(names)}: export it with these names"
    )


def _inputs(request: NetworkRequest) -> tuple[list[Tensor], str]:
    """Inputs (1, C, H, W), and which images they are."""
    if request.calibration is None:
        shape = (_NOISE_IMAGES, 1, *request.spec.tensor_shape)
        noise = np.random.default_rng(0).standard_normal(shape).astype(request.spec.dtype)
        return list(noise), f"{_NOISE_IMAGES} images of random noise (give X-rays with --calibration DIR)"
    paths = image_paths(request.calibration)
    preprocessor = Preprocessor([request.spec], threads=request.threads)
    inputs = []
    for path in spread(paths, request.image_limit):
        try:
            image = decode(path)
        except InputError:
            continue
        inputs.append(preprocessor.run([image.pixels], [Roi.full(image.width_px, image.height_px)])[0])
    if not inputs:
        raise InputError(f"none of the files in {request.calibration} is an X-ray that can be read")
    whole = ", taken whole, since a lone network has no lung box" if request.spec.region == "lungs" else ""
    return inputs, f"{len(inputs)} of {len(paths)} files in {request.calibration}{whole}"


def _ranges(
    request: NetworkRequest, wanted: Sequence[Recipe], inputs: list[Tensor], say: Callable[[str], None]
) -> Ranges | None:
    """Measured on the user's images; noise would give ranges that fit nothing."""
    if request.calibration is None or not any(r.scheme for r in wanted):
        return None
    say(f"measuring activation ranges on {len(inputs)} images")
    return measure_ranges(request.onnx, inputs, source="calibration folder")


def _judge(part: Part, limits: Limits) -> Judge:
    if part.outputs[0] == "mask":
        side = part.preprocess.crop_px
        rule = LungBoxRule()
        return lambda a, b: judge_segmenter([m[0] for m in a], [m[0] for m in b], [(side, side)] * len(a), rule, limits)
    return lambda a, b: judge_member(softmax(a, 1.0), softmax(b, 1.0), None, limits)
