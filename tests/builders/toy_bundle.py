"""Tiny, complete bundles for tests: networks by onnx.helper, no torch, well under a second.

`build_toy_bundle(folder)` writes three members of different design (plain, depthwise, residual: the patterns that int8
builds must cope with), a small U-shaped segmenter that calls mid-grey lung, synthetic images with their answers,
and the manifest. Weights come from fixed seeds, so two calls give equal bundles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.bundle.manifest import KnownAnswer, Manifest
from cxr_edge.bundle.networks import Checker, FileRef, Member, Segmenter
from cxr_edge.decoding.decode import decode
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Roi
from cxr_edge.specs.checks import AP_SCORE, SCORED_CODES, Check, ImageLimits
from cxr_edge.specs.combination import Combination, Decision
from cxr_edge.specs.degraded import CountedShare, DegradedMode, ModeFigures, degraded_subsets
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.outputs import COMBINED_KINDS
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = [
    "CHECKER_SCORES",
    "FINDINGS",
    "LABELS",
    "MEMBER_SPECS",
    "SEGMENTER_SPEC",
    "Graph",
    "build_toy_bundle",
    "checker_model",
    "combination_parameters",
    "member_model",
    "segmenter_model",
    "toy_images",
    "toy_modes",
    "toy_refused_image",
]

LABELS = ("normal", "bacterial", "viral", "covid-19")
FINDINGS = ("effusion", "nodule", "opacity")  # of a multi-label bundle

SEGMENTER_SPEC = PreprocessSpec(region="frame", canvas_px=64, crop_px=64, standardize="none")

# One spec a design: together they use every step of the preprocessing.
MEMBER_SPECS = {
    "plain": PreprocessSpec(canvas_px=48, crop_px=48),
    "depthwise": PreprocessSpec(
        canvas_px=40, crop_px=32, standardize="fixed", channels=3, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    ),
    "residual": PreprocessSpec(canvas_px=64, crop_px=64, median=True),
}

# Scores of the toy checker, each a cell of the frame, row by row.
CHECKER_SCORES = (*SCORED_CODES, AP_SCORE)
_CELLS = 4  # in a row and in a column

OPSET = 17
_IR_VERSION = 9  # what runtimes of that opset's time read


def build_toy_bundle(
    root: Path,
    *,
    strategy: str = "weighted-average",
    members: Sequence[str] = tuple(MEMBER_SPECS),
    segmenter: bool = True,
    cam: bool = True,
    thresholds: dict[str, float] | None = None,
    known_answers: bool = True,
    activation_ranges: bool = False,
    multi_label: bool = False,
    checker: bool = False,
    degraded: bool = False,
) -> Bundle:
    """Write a bundle into the folder `root` (made if need be) and open it.

    members: names out of MEMBER_SPECS. segmenter=False: no segmenter, and members that take the whole frame.
    cam=False: members without the `cam` output. activation_ranges: measured on the known answers' images, as an int8
    build without images wants them. multi_label: FINDINGS, of which an image may have none, one or two.
    degraded: with a mode of each subset that lacks one or two members, see `toy_modes`.
    checker: with a checker that refuses an image for the cell of CHECKER_SCORES that is white, see `toy_refused_image`.
    """
    labels, activation = (FINDINGS, "sigmoid") if multi_label else (LABELS, "softmax")
    default = {"opacity": 0.4} if multi_label else {"covid-19": 0.2}
    root.mkdir(parents=True, exist_ok=True)
    specs = {name: _region(MEMBER_SPECS[name], segmenter) for name in members}
    for name, spec in specs.items():
        model = member_model(name, spec, cam=cam, labels=len(labels))
        if multi_label:
            _told_apart(model, spec, _PRESENT, basis=member_model(name, spec, cam=False, labels=_BASIS))
        else:
            _told_apart(model, spec, 3 * np.eye(3, len(labels)), basis=model)
        onnx.save(model, root / f"{name}.onnx")
    if segmenter:
        onnx.save(segmenter_model(SEGMENTER_SPEC), root / "segmenter.onnx")
    if checker:
        onnx.save(checker_model(SEGMENTER_SPEC), root / "checker.onnx")
    (root / "model-card.md").write_text("# Toy bundle\n\nRandom weights, for tests only.\n", encoding="utf-8")
    manifest = Manifest(
        name="toy",
        version="1",
        created="2020-06-08T12:00:00+00:00",
        labels=labels,
        segmenter=_segmenter(root) if segmenter else None,
        members=tuple(
            Member(
                name=n,
                architecture=f"toy {n}",
                file=file_ref(root, f"{n}.onnx"),
                preprocess=s,
                has_cam=cam,
                output=COMBINED_KINDS[activation],
            )
            for n, s in specs.items()
        ),
        combination=Combination(
            strategy=strategy,  # type: ignore[arg-type]
            member_temperatures=tuple(1.0 + 0.25 * i for i in range(len(specs))),
            temperature=1.5,
            parameters=combination_parameters(strategy, members=len(specs), labels=len(labels)),
            activation=activation,
            label_temperatures=(1.0, 0.5, 2.0) if multi_label else (),
        ),
        decision=Decision(thresholds=default if thresholds is None else thresholds, uncertain_below=0.5),
        known_answers=(),
        model_card=file_ref(root, "model-card.md"),
        intended_use="Tests of cxr-edge. Its answers mean nothing.",
        provenance={"made_by": "tests/builders/toy_bundle.py"},
        metrics={"test": {"patients": 0}},
        checker=_checker(root) if checker else None,
    )
    if degraded:
        manifest = dataclasses.replace(manifest, degraded=toy_modes(manifest))
    bundle = write_bundle(root, manifest)
    bundle = _with_known_answers(bundle) if known_answers else bundle
    return _with_activation_ranges(bundle) if activation_ranges else bundle


def toy_modes(manifest: Manifest) -> tuple[DegradedMode, ...]:
    """Return a mode per subset of a bundle's members: the average at a temperature of its own, and made-up figures."""
    names, c = tuple(m.name for m in manifest.members), manifest.combination
    labels, whole = manifest.labels, _toy_figures(0.9, manifest)
    modes = []
    for i, subset in enumerate(degraded_subsets(names)):
        temperatures = tuple(t for n, t in zip(names, c.member_temperatures, strict=True) if n in subset)
        combination = dataclasses.replace(
            c, strategy="average", member_temperatures=temperatures, parameters={}, temperature=1.0 + 0.1 * i
        )
        modes.append(
            DegradedMode(
                members=subset,
                combination=combination,
                decision=dataclasses.replace(manifest.decision, uncertain_below=0.4),
                budget=manifest.budget,
                guard=None if manifest.multi_label else labels[-1],
                measured_on="90 images of validation patients",
                figures=_toy_figures(0.8 - 0.01 * i, manifest),
                figures_of_all=whole,
            )
        )
    return tuple(modes)


def _toy_figures(f1: float, manifest: Manifest) -> ModeFigures:
    share = None if manifest.multi_label else CountedShare(hits=round(100 * f1), n=100)
    return ModeFigures(
        images=90,
        macro_f1=round(f1, 2),
        macro_auc=0.95,
        sensitivity=share,
        specificity=share,
        answered=None if manifest.budget is None else CountedShare(hits=60, n=90),
    )


def combination_parameters(strategy: str, *, members: int, labels: int = len(LABELS), seed: int = 7) -> dict[str, Any]:
    """Random parameters of the right shapes for any strategy."""
    rng = np.random.default_rng(seed)
    scores, hidden = members * labels, 9
    if strategy == "weighted-average":
        weights = rng.uniform(0.5, 1.0, members)
        return {"weights": (weights / weights.sum()).tolist()}
    if strategy == "stacking":
        return {
            "hidden_weight": rng.normal(0, 0.5, (hidden, scores)).tolist(),
            "hidden_bias": rng.normal(0, 0.1, hidden).tolist(),
            "output_weight": rng.normal(0, 0.5, (labels, hidden)).tolist(),
            "output_bias": rng.normal(0, 0.1, labels).tolist(),
        }
    if strategy == "flannel":
        return {
            "module_weight": rng.normal(0, 0.2, (members, scores * scores)).tolist(),
            "module_bias": rng.normal(0, 0.2, members).tolist(),
        }
    return {}


def toy_images() -> dict[str, npt.NDArray[Any]]:
    """Gray pictures (height, width) with two dark fields on a bright ground, by file name.

    Two are 8 bit and one 16 bit; their fields are smooth, coarsely or finely striped, so that answers differ.
    """
    return {
        "known-smooth.png": _lungs(200, 220, np.uint8, stripes=0),
        "known-coarse.png": _lungs(310, 260, np.uint16, stripes=8),
        "known-fine.png": _lungs(240, 240, np.uint8, stripes=24),
    }


def toy_refused_image(*names: str, side_px: int = 240) -> npt.NDArray[np.uint8]:
    """Return a toy image whose cells of these scores are white; of the others, none is."""
    picture = _lungs(side_px, side_px, np.uint8, stripes=0)
    cell = side_px // _CELLS
    for row, column in (divmod(CHECKER_SCORES.index(name), _CELLS) for name in names):
        picture[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = 255
    return picture


class Graph:
    """Collects nodes and initialisers; each method adds one operation and returns the name of its output."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        output = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"node_{output}", **attributes))
        return output

    def constant(self, values: npt.ArrayLike, dtype: Any = np.float32) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def conv(
        self, x: str, c_in: int, c_out: int, size: int = 3, *, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> str:
        """A convolution with He-scaled random weights, padded to keep the size (before the stride)."""
        fan_in = c_in // groups * size * size
        weight = self._rng.normal(0, np.sqrt(2 / fan_in), (c_out, c_in // groups, size, size))
        inputs = [x, self.constant(weight)] + ([self.constant(self._rng.normal(0, 0.1, c_out))] if bias else [])
        pad = size // 2
        return self.op("Conv", *inputs, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[pad] * 4, group=groups)

    def model(
        self, spec: PreprocessSpec, outputs: dict[str, tuple[Any, ...]], *, digest: str | None = None
    ) -> onnx.ModelProto:
        """The model with input `image` of the spec's shape, these outputs and the digest in its metadata."""
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *spec.tensor_shape])
        infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(shape)) for n, shape in outputs.items()]
        graph = helper.make_graph(self.nodes, "toy", [image], infos, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
        helper.set_model_props(model, {"cxr_edge.preprocess_digest": digest or spec.digest()})
        return model


def member_model(name: str, spec: PreprocessSpec, *, cam: bool = True, labels: int = len(LABELS)) -> onnx.ModelProto:
    """One member: `plain`, `depthwise` or `residual`; outputs `logits` and, if wanted, `cam`."""
    g = Graph(seed=list(MEMBER_SPECS).index(name) + 1)
    features, channels, side = _TRUNKS[name](g, spec)
    maps = g.conv(features, channels, labels, 1, bias=False)
    mean = g.op("ReduceMean", maps, axes=[2, 3], keepdims=0) if name == "plain" else _pooled(g, maps)
    g.op("Add", mean, g.constant(np.linspace(-0.2, 0.2, labels)), name="logits")
    outputs: dict[str, tuple[Any, ...]] = {"logits": ("N", labels)}
    if cam:
        g.op("Identity", maps, name="cam")
        outputs["cam"] = ("N", labels, side, side)
    return g.model(spec, outputs)


def checker_model(spec: PreprocessSpec) -> onnx.ModelProto:
    """The mean gray value of a cell of the frame per score, from 0 to 1: linear in the pixels."""
    side, g = spec.crop_px, Graph(seed=13)
    cell = side // _CELLS
    weight = np.zeros((len(CHECKER_SCORES), side, side))
    for k in range(len(CHECKER_SCORES)):
        y, x = (cell * i for i in divmod(k, _CELLS))
        weight[k, y : y + cell, x : x + cell] = 1 / cell**2
    flat = g.op("Flatten", "image", axis=1)
    g.op("MatMul", flat, g.constant(weight.reshape(len(weight), -1).T), name="scores")
    return g.model(spec, {"scores": ("N", len(CHECKER_SCORES))})


def segmenter_model(spec: PreprocessSpec) -> onnx.ModelProto:
    """A U of one level whose mask is lung where the image lies between about 0.12 and 0.45."""
    g = Graph(seed=11)
    weight = np.zeros((4, 1, 3, 3))
    weight[:2, 0, 1, 1] = 1, -1  # the pixel itself: a blur would see the padding as dark
    weight[2:] = np.random.default_rng(12).normal(0, 0.3, (2, 1, 3, 3))
    x = g.op("Conv", "image", g.constant(weight), g.constant([-0.45, 0.12, 0, 0]), pads=[1] * 4, kernel_shape=[3, 3])
    skip = g.op("Relu", x)
    deep = g.op("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2])
    deep = g.op("Relu", g.conv(deep, 4, 4))
    sizes = g.constant([1, 1, 2, 2])
    up = g.op(
        "Resize", deep, "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    both = g.op("Concat", skip, up, axis=1)
    mix = np.zeros((1, 8, 1, 1))
    mix[0, :2, 0, 0], mix[0, 4:, 0, 0] = -120, 0.05
    g.op("Sigmoid", g.op("Conv", both, g.constant(mix), g.constant([4.0]), kernel_shape=[1, 1]), name="mask")
    return g.model(spec, {"mask": ("N", 1, spec.crop_px, spec.crop_px)})


# Logits of the findings in the toy images: two, one and none are present.
_PRESENT = np.array([[2.0, 2.5, -2.0], [-2.5, -2.0, 2.0], [-3.0, -2.0, -4.0]])
_BASIS = 12  # random columns that they are mixed from: three would make them depend on the last pixel of the box


def _told_apart(
    model: onnx.ModelProto, spec: PreprocessSpec, wanted: npt.NDArray[Any], *, basis: onnx.ModelProto
) -> None:
    """Solve for the weights of the last layer that give the toy images the logits `wanted` (images, labels).

    With random weights alone, one label would win always and narrowly, and an engine that is wrong would agree.
    basis: the model, or one that differs from it by more columns.
    """
    images = list(toy_images().values())
    rois = [Roi(x0=w // 10, y0=h // 7, x1=w - w // 10, y1=h - h // 7) for h, w in (i.shape for i in images)]
    session = onnxruntime.InferenceSession(basis.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": Preprocessor([spec]).run(images, rois)[0]})
    old_weight, old_bias = (numpy_helper.to_array(t) for t in basis.graph.initializer[-2:])
    # Without a mean, n images span n - 1 directions; the last singular value is rounding, which differs by processor.
    centred = (logits - logits.mean(axis=0)).astype(np.float64)
    mix = np.linalg.pinv(centred, rcond=1e-3) @ (wanted - wanted.mean(axis=0))  # (columns, labels)
    new_weight = np.einsum("kchw,kl->lchw", old_weight, mix)
    new_bias = (old_bias - logits.mean(axis=0)) @ mix + wanted.mean(axis=0)
    for tensor, values in zip(model.graph.initializer[-2:], (new_weight, new_bias), strict=True):
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


Trunk = Callable[[Graph, PreprocessSpec], tuple[str, int, int]]  # -> (features, their channels, their side)


def _plain(g: Graph, spec: PreprocessSpec) -> tuple[str, int, int]:
    x = g.op("Relu", g.conv("image", spec.channels, 8, stride=2))
    x = g.op("Relu", g.conv(x, 8, 16, stride=2))
    return x, 16, spec.crop_px // 4


def _depthwise(g: Graph, spec: PreprocessSpec) -> tuple[str, int, int]:
    low, high = g.constant(0.0), g.constant(6.0)
    x = g.op("Clip", g.conv("image", spec.channels, 8, stride=2), low, high)
    x = g.op("Clip", g.conv(x, 8, 8, groups=8), low, high)
    x = g.op("Clip", g.conv(x, 8, 24, 1), low, high)
    x = g.op("Clip", g.conv(x, 24, 24, stride=2, groups=24), low, high)
    return g.conv(x, 24, 12, 1), 12, spec.crop_px // 4


def _residual(g: Graph, spec: PreprocessSpec) -> tuple[str, int, int]:
    x = g.op("Relu", g.conv("image", spec.channels, 8, 5, stride=2))
    x = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    inner = g.conv(g.op("Relu", g.conv(x, 8, 8)), 8, 8)
    x = g.op("Relu", g.op("Add", x, inner))
    branch = g.op("Relu", g.conv(x, 8, 4, 1))
    return g.op("Concat", x, branch, axis=1), 12, spec.crop_px // 4


_TRUNKS: dict[str, Trunk] = {"plain": _plain, "depthwise": _depthwise, "residual": _residual}


def _pooled(g: Graph, maps: str) -> str:
    return g.op("Flatten", g.op("GlobalAveragePool", maps), axis=1)


def _region(spec: PreprocessSpec, segmenter: bool) -> PreprocessSpec:
    return spec if segmenter else PreprocessSpec.from_json({**spec.as_json(), "region": "frame"})


def _checker(root: Path) -> Checker:
    return Checker(
        file=file_ref(root, "checker.onnx"),
        preprocess=SEGMENTER_SPEC,
        scores=CHECKER_SCORES,
        checks=tuple(Check(code=code, score=code, limit=0.95) for code in SCORED_CODES),
        limits=ImageLimits(min_side_px=100, min_contrast=0.05, max_saturated=0.5),
    )


def _segmenter(root: Path) -> Segmenter:
    return Segmenter(
        file=file_ref(root, "segmenter.onnx"), preprocess=SEGMENTER_SPEC, lung_box=LungBoxRule(min_pixels=2)
    )


def _lungs(height: int, width: int, dtype: Any, *, stripes: int) -> npt.NDArray[Any]:
    """Two ellipses of about a quarter of full scale on a ground of 0.7, with so many stripes, a gradient and noise."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    picture = 0.7 + 0.1 * y
    field = 0.28 + 0.12 * np.sin(2 * np.pi * stripes * (y + 0.3 * x))
    for centre in (0.3, 0.7):
        inside = ((x - centre) / 0.16) ** 2 + ((y - 0.5) / 0.32) ** 2 < 1
        picture[inside] = field[inside]
    picture += np.random.default_rng(height).normal(0, 0.01, picture.shape)
    return (np.clip(picture, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def _with_known_answers(bundle: Bundle) -> Bundle:
    for name, pixels in toy_images().items():
        cv2.imwrite(str(bundle.root / name), pixels)
    answers = _reference_answers(bundle)
    return write_bundle(bundle.root, dataclasses.replace(bundle.manifest, known_answers=answers))


def _reference_answers(bundle: Bundle) -> tuple[KnownAnswer, ...]:
    # Imported here, as below: tests that build no whole bundle then need no working engines.
    from cxr_edge.engines import reference
    from cxr_edge.screening.screener import Screener

    screener = Screener(bundle, reference(bundle, threads=1))
    answers = []
    for name in toy_images():
        screening = screener.screen(decode(bundle.root / name))
        file, roi = file_ref(bundle.root, name), screening.roi.as_tuple()
        answers.append(KnownAnswer(file=file, roi=roi, probabilities=screening.probabilities))
    return tuple(answers)


def _with_activation_ranges(bundle: Bundle) -> Bundle:
    manifest = bundle.manifest
    members = tuple(dataclasses.replace(m, activation_ranges=_ranges(bundle, m)) for m in manifest.members)
    segmenter = manifest.segmenter
    if segmenter is not None:
        segmenter = dataclasses.replace(segmenter, activation_ranges=_ranges(bundle, segmenter))
    return write_bundle(bundle.root, dataclasses.replace(manifest, members=members, segmenter=segmenter))


def _ranges(bundle: Bundle, network: Member | Segmenter) -> FileRef:
    from cxr_edge.compiler.calibrate import measure_ranges

    images = [decode(bundle.file(answer.file)) for answer in bundle.manifest.known_answers]
    rois = [Roi(x0=a.roi[0], y0=a.roi[1], x1=a.roi[2], y1=a.roi[3]) for a in bundle.manifest.known_answers]
    batches = Preprocessor([network.preprocess]).run([i.pixels for i in images], rois)
    name = f"{Path(network.file.path).stem}.ranges.json"
    measure_ranges(bundle.file(network.file), batches, source="known answers").write(bundle.root / name)
    return file_ref(bundle.root, name)
