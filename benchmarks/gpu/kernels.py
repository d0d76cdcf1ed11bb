"""Comparison of the GPU kernels with their CPU versions: preprocessing, lung box and combination.

Takes a device and a bundle, whose networks' preprocessing is tested in addition to the presets; returns a `Section` with
one table and a failure for every kernel that differs. Result buffers are filled with NaN before each run, so that a
kernel which does nothing fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from benchmarks.combine import LABELS, combination
from benchmarks.gpu.device import Section, from_device, nan_buffer, to_device, upload_frame
from benchmarks.harness.side_by_side import Cell, Table
from cxr_edge.bundle import Bundle
from cxr_edge.engines import parts
from cxr_edge.errors import BackendError
from cxr_edge.gpu.interface import Device
from cxr_edge.ops.combine import Combiner
from cxr_edge.ops.lung_box import core_rule
from cxr_edge.ops.preprocess import Preprocessor, core_spec
from cxr_edge.records import GrayPixels, Roi
from cxr_edge.specs.combination import STRATEGIES, Activation
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.preprocess import PRESETS, PreprocessSpec

__all__ = ["SIZES", "Check", "combinations", "compare_kernels", "lung_boxes", "masks", "preprocessing"]

# (height, width) of the images: tiny ones, odd ones, several chunks of columns wide, and the size of a detector.
SIZES = ((1, 1), (61, 97), (523, 611), (2048, 3), (300, 4500), (2500, 2048), (3000, 3000))
MASK_SIDES = (31, 64, 256, 1100)

FP32_LIMIT = 1e-5
MEMBERS = (3, 5)

Floats = npt.NDArray[np.float64]
Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # values of the kernel, of the CPU


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Maximum difference of two values."""

    text: str
    allowed: Callable[[npt.NDArray[Any]], Floats]  # maximum at each of the CPU's values


FP32 = Limit(text=f"{FP32_LIMIT:.0e}", allowed=lambda y: np.full(y.shape, FP32_LIMIT))
# Both sides round a float to fp16, and floats that differ by their own limit may round to neighbours.
FP16 = Limit(
    text=f"{FP32_LIMIT:.0e} + a step of fp16",
    allowed=lambda y: FP32_LIMIT + np.spacing(np.abs(y.astype(np.float16))).astype(np.float64),
)
EQUAL = Limit(text="equal", allowed=lambda y: np.full(y.shape, 0.5))  # whole numbers


@dataclass(frozen=True, kw_only=True)
class Check:
    """Comparison of a kernel's outputs with its CPU version's in one case."""

    kernel: str
    case: str
    values: int  # number of compared values; 0 if the kernel did not run
    largest: float  # largest difference
    share: float  # largest ratio of a difference to its limit; NaN if the kernel returned NaN
    limit: str

    @classmethod
    def of(cls, kernel: str, case: str, limit: Limit, pairs: Sequence[Pair]) -> Check:
        """Compare all pairs of arrays."""
        with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, and thus not `equal`
            gaps = [np.abs(a.astype(np.float64) - b.astype(np.float64)) for a, b in pairs]
            shares = [float((gap / limit.allowed(b)).max()) for gap, (_, b) in zip(gaps, pairs, strict=True)]
        return cls(
            kernel=kernel,
            case=case,
            values=sum(gap.size for gap in gaps),
            largest=float(np.max([gap.max() for gap in gaps])),
            share=float(np.max(shares)),
            limit=limit.text,
        )

    @property
    def equal(self) -> bool:
        return self.share <= 1.0

    @property
    def failure(self) -> str:
        """Return the message of a check that is not equal."""
        result = (
            f"differs from the CPU by up to {self.largest:.3g}, allowed: {self.limit}" if self.values else "did not run"
        )
        return (
            f"{self.kernel} ({self.case}) {result}: do not screen with this build on this GPU; "
            "tests/ops/test_gpu_kernels.py narrows it down"
        )

    def row(self) -> tuple[Cell, ...]:
        figures = [v if np.isfinite(v) else "NaN" for v in (self.largest, self.share)]
        verdict = "equal" if self.equal else "differs" if self.values else "did not run"
        return (self.kernel, self.case, self.values, figures[0], self.limit, figures[1], verdict)


def compare_kernels(
    device: Device, bundle: Bundle, *, sizes: Sequence[tuple[int, int]] = SIZES, mask_sides: Sequence[int] = MASK_SIDES
) -> Section:
    """Return section 1: the largest difference of every kernel from the CPU."""
    specs = _specs(bundle)
    with device.current():
        checks = [
            *_try("preprocessing", lambda: preprocessing(device, specs, sizes)),
            *_try("lung box", lambda: lung_boxes(device, mask_sides)),
            *_try("combination", lambda: combinations(device)),
        ]
    columns = ("kernel", "case", "values", "largest difference", "limit", "share of the limit", "verdict")
    table = Table(
        title="1. Kernels compared with their CPU versions", columns=columns, rows=tuple(c.row() for c in checks)
    )
    return Section(tables=(table,), failures=tuple(c.failure for c in checks if not c.equal))


def _try(kernel: str, run: Callable[[], list[Check]]) -> list[Check]:
    """Return a kernel's checks, or one with the reason why it could not run, so that the others are still reported."""
    try:
        return run()
    except BackendError as error:
        return [Check(kernel=kernel, case=str(error), values=0, largest=np.nan, share=np.nan, limit="to run")]


def _specs(bundle: Bundle) -> dict[str, PreprocessSpec]:
    """Return the specs of all presets and of the bundle, each as fp32 and as fp16, by name in the table."""
    specs = {**PRESETS, **{f"{part.name} of {bundle.manifest.name}": part.preprocess for part in parts(bundle)}}
    dtypes = {"fp32": "float32", "fp16": "float16"}
    return {
        f"{name}, {short}": replace(spec, dtype=dtype)  # type: ignore[arg-type]
        for name, spec in specs.items()
        for short, dtype in dtypes.items()
    }


def preprocessing(device: Device, specs: Mapping[str, PreprocessSpec], sizes: Sequence[tuple[int, int]]) -> list[Check]:
    """Return one check per spec and bit depth, over images of all sizes. One pass computes all specs, as for members."""
    return [c for dtype in (np.uint8, np.uint16) for c in _preprocessing(device, specs, sizes, dtype)]


def _preprocessing(
    device: Device,
    specs: Mapping[str, PreprocessSpec],
    sizes: Sequence[tuple[int, int]],
    dtype: type[np.uint8] | type[np.uint16],
) -> Iterator[Check]:
    cpu = Preprocessor(list(specs.values()))
    pairs: dict[str, list[Pair]] = {name: [] for name in specs}
    for seed, (height, width) in enumerate(sizes):
        pixels: GrayPixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width), dtype)
        roi = _off_centre(width, height)
        gpu_tensors, cpu_tensors = _gpu_tensors(device, cpu.specs, pixels, roi), cpu.run([pixels], [roi])
        for name, a, b in zip(specs, gpu_tensors, cpu_tensors, strict=True):
            pairs[name].append((a, b[0]))
    for name, spec in specs.items():
        limit = FP16 if spec.dtype == "float16" else FP32
        yield Check.of("preprocessing", f"{name}, {8 * np.dtype(dtype).itemsize} bit", limit, pairs[name])


def _off_centre(width: int, height: int) -> Roi:
    """Return a box whose edges are all inside the image, unless the image is too small."""
    return Roi(x0=width // 7, y0=height // 9, x1=width - width // 5, y1=height - height // 11)


def _gpu_tensors(
    device: Device, specs: Sequence[PreprocessSpec], pixels: GrayPixels, roi: Roi
) -> list[npt.NDArray[Any]]:
    """Preprocess one image by the kernels; return one array (channels, side, side) per spec."""
    planned = _core.DevicePreprocessor([core_spec(s) for s in specs])
    frame, lungs = upload_frame(device, pixels), to_device(device, np.array(roi.as_tuple(), np.int32))
    scratch, stream = device.allocate(planned.scratch_bytes), device.stream()
    outputs = [nan_buffer(device, int(np.prod(s.tensor_shape)) * np.dtype(s.dtype).itemsize) for s in specs]
    device.kernels(stream).preprocess(
        planned,
        frame=frame.address,
        lungs=lungs.address,
        scratch=scratch.address,
        outputs=[o.address for o in outputs],
    )
    device.synchronize(stream)
    return [from_device(device, o, s.tensor_shape, s.dtype) for o, s in zip(outputs, specs, strict=True)]


def lung_boxes(device: Device, sides: Sequence[int]) -> list[Check]:
    """Return one check per mask size: crop, detected box and status are nine integers."""
    return [
        Check.of("lung box", f"masks {side}x{side}", EQUAL, [_boxes(device, mask) for mask in masks(side)])
        for side in sides
    ]


def masks(side: int) -> list[npt.NDArray[np.float32]]:
    """Return masks of two lungs, no lung, a narrow band, a speck, noise: together they cause every status."""
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side
    lungs = np.min([((x - c) / 0.15) ** 2 + ((y - 0.5) / 0.3) ** 2 for c in (0.3, 0.7)], axis=0) < 1
    noise = np.random.default_rng(side).random((side, side)) < 0.02
    shapes = (lungs, np.zeros_like(lungs), abs(x - 0.5) < 0.1, (x < 0.1) & (y < 0.1), noise)
    return [np.where(mask, 0.75, 0.25).astype(np.float32) for mask in shapes]


def _boxes(device: Device, mask: npt.NDArray[np.float32]) -> Pair:
    rule, width_px, height_px = core_rule(LungBoxRule()), 640, 512
    rows, columns = mask.shape
    frame, source = upload_frame(device, np.zeros((height_px, width_px), np.uint8)), to_device(device, mask)
    record, scratch = nan_buffer(device, 9 * 4), device.allocate(_core.lung_scratch_bytes(rows, columns))
    stream = device.stream()
    device.kernels(stream).lung_box(
        mask=source.address, rows=rows, columns=columns, rule=rule, frame=frame.address, scratch=scratch.address,
        record=record.address,
    )  # fmt: skip
    device.synchronize(stream)
    status, detected = _core.lung_box(mask, rule, width_px=width_px, height_px=height_px)
    crop = detected if status == 0 else (0, 0, width_px, height_px)
    return from_device(device, record, (9,), np.int32), np.array([*crop, *detected, status], np.int32)


def combinations(device: Device) -> list[Check]:
    """Return a check per strategy and activation: probabilities and the winner's index, which cannot differ by less than 1."""
    checks = []
    for strategy in STRATEGIES:
        cases: tuple[tuple[Activation, str], ...] = (("softmax", strategy), ("sigmoid", f"{strategy}, findings"))
        for activation, case in cases:
            pairs = [_combine(device, strategy, activation, m, seed) for m in MEMBERS for seed in range(8)]
            checks.append(Check.of("combination", case, FP32, pairs))
    return checks


def _combine(device: Device, strategy: str, activation: Activation, members: int, seed: int) -> Pair:
    cpu = Combiner(combination(strategy, members=members, activation=activation), labels=LABELS)
    planned = cpu.core
    logits = np.random.default_rng(seed).normal(0, 4, (members, LABELS)).astype(np.float32)
    parameters, source = to_device(device, planned.values()), to_device(device, logits)
    scratch, stream = device.allocate(planned.scratch_bytes), device.stream()
    probabilities, winner = nan_buffer(device, 4 * LABELS), nan_buffer(device, 4)
    device.kernels(stream).combine(
        planned, parameters=parameters.address, logits=source.address, member_stride=LABELS, scratch=scratch.address,
        probabilities=probabilities.address, winner=winner.address,
    )  # fmt: skip
    device.synchronize(stream)
    gpu = (from_device(device, probabilities, (LABELS,), np.float32), from_device(device, winner, (1,), np.int32))
    expected, winners = cpu.run(logits[None])
    return np.concatenate(gpu).astype(np.float64), np.concatenate([expected[0], winners]).astype(np.float64)
