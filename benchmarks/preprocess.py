"""Fused preprocessing compared with OpenCV + NumPy, torchvision, Pillow, and a read of the same bytes.

    python -m benchmarks.preprocess

Every implementation turns the same decoded pixels into the same member's tensor. The box is the whole frame, so that all
read the same bytes and `reading the bytes once` is a lower bound for all: NumPy sums the pixels as 64-bit words, about the
least work per byte. `cold`: another buffer of 128 MiB is read before each run, so that the pixels come from memory.
`warm`: the pixels may still be in the caches, as they partly are after decoding.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from benchmarks.harness.images import speckled_image
from benchmarks.harness.report import Target, publish
from benchmarks.harness.script import Benchmark, add_out, add_rounds, make_parser
from benchmarks.harness.side_by_side import (
    Cell,
    Evictor,
    Implementation,
    Measured,
    Table,
    latency_table,
    max_difference,
    measure,
    unavailable_reason,
)
from benchmarks.peers import opencv_numpy
from cxr_edge.cli.arguments import at_least_one
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import GrayPixels, Roi
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["BENCHMARK", "implementations", "main", "read_once"]

BENCHMARK = Benchmark(name="preprocess", position=60, needs_engines=False)

SPEC = PreprocessSpec()  # the `sane` preset: 224 px, standardised by the image's own mean and deviation
SHARED = (SPEC, PreprocessSpec(standardize="none"), PreprocessSpec(median=True))  # one canvas for three members
UNSHARED = tuple(PreprocessSpec(canvas_px=n, crop_px=n) for n in (224, 192, 160))

BITS = {16: np.uint16, 8: np.uint8}
READ = "reading the bytes once"
OPENCV = "OpenCV + NumPy"
TORCHVISION = "torchvision on PIL"
PILLOW = "Pillow + NumPy, as torchvision does it"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Size and bit depth of square images."""

    side_px: int
    bits: int  # per pixel

    def __str__(self) -> str:
        return f"{self.side_px}x{self.side_px}, {self.bits} bit"


CASES = (Case(side_px=3000, bits=16), Case(side_px=2048, bits=8), Case(side_px=1024, bits=8))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    args = _parser().parse_args(argv)
    cases = [Case(side_px=args.side_px, bits=c.bits) for c in CASES[:2]] if args.side_px else list(CASES)
    tables, measured_cases = [], {}
    for case in cases:
        images = [speckled_image(case.side_px, BITS[case.bits], seed=i) for i in range(args.images)]
        for state, between in (("cold", Evictor(args.evict_mib)), ("warm", None)):
            compared = implementations(images, [SPEC], args.threads)
            measured, table = _compare(f"{case}, one member, {state}", compared, args, between)
            measured_cases[case, state] = measured
            tables.append(table)
    images = [speckled_image(cases[0].side_px, np.uint16, seed=i) for i in range(args.images)]
    for description, specs in (("one canvas shared", SHARED), ("three canvases", UNSHARED)):
        title = f"{cases[0]}, three members, {description}, cold"
        tables.append(_compare(title, implementations(images, specs, args.threads), args, Evictor(args.evict_mib))[1])
    publish(
        name=BENCHMARK.name,
        question="How long does it take from decoded pixels to the members' tensors?",
        interval="decoded pixels in memory to new float32 tensors of all members; decoding and lung box excluded",
        settings={"batch": 1, "precision": "float32", "rounds": args.rounds, "warm-up": args.warmup,
                  "different images": args.images, "threads": args.threads},
        tables=tables,
        targets=_targets(measured_cases, cases[0], args.threads),
        notes=(
            "Box: the whole frame. Preset `sane` (224 px); shared canvases: the same with other standardizations.",
            "`cold`: 128 MiB of other data are read before each run; `warm`: no other data.",
            "`max difference`: of the tensors, in standard deviations, from the fused result of the first image; "
            "OpenCV rounds less exactly, and Pillow's bilinear filter differs from the area average.",
        ),
        out=args.out,
    )  # fmt: skip
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    add_rounds(parser, rounds=60, warmup=5)
    add_out(parser, BENCHMARK.name)
    parser.add_argument(
        "--threads", type=at_least_one, default=2, metavar="N", help="number of threads besides 1 (%(default)s)"
    )
    parser.add_argument("--images", type=at_least_one, default=4, metavar="N", help="different images (%(default)s)")
    parser.add_argument(
        "--side-px", type=at_least_one, metavar="N", help="instead of the default sizes, for a quick test"
    )
    parser.add_argument(
        "--evict-mib",
        type=at_least_one,
        default=128,
        metavar="N",
        help="size of the buffer read for `cold` (%(default)s)",
    )
    return parser


def implementations(
    images: Sequence[GrayPixels], specs: Sequence[PreprocessSpec], threads: int
) -> list[Implementation]:
    """Return all implementations of preprocessing image i, with 1 and with `threads` threads, and of reading its bytes."""
    height, width = images[0].shape
    roi = Roi.full(width, height)
    compared = []
    for n in sorted({1, threads}):
        compared += [_fused(images, specs, roi, n), _opencv(images, specs, roi, n)]
    compared += [_torchvision(images, specs, roi), _pillow(images, specs, roi)]
    return [*compared, *(_reading(images, n) for n in sorted({1, threads}))]


def _fused(images: Sequence[GrayPixels], specs: Sequence[PreprocessSpec], roi: Roi, threads: int) -> Implementation:
    preprocessor = Preprocessor(specs, threads=threads)
    return Implementation(name=_with_threads("cxr-edge", threads), run=lambda i: preprocessor.run([images[i]], [roi]))


def _opencv(images: Sequence[GrayPixels], specs: Sequence[PreprocessSpec], roi: Roi, threads: int) -> Implementation:
    return Implementation(
        name=_with_threads(OPENCV, threads),
        run=lambda i: opencv_numpy.opencv_tensors(images[i], [roi] * len(specs), specs),
        prepare=lambda: cv2.setNumThreads(threads),
    )


def _torchvision(images: Sequence[GrayPixels], specs: Sequence[PreprocessSpec], roi: Roi) -> Implementation:
    name = TORCHVISION
    if any(s.median for s in specs):
        return Implementation(name=name, run=None, note="has no median filter")
    reason = unavailable_reason("torchvision")
    if reason is not None:
        return Implementation(name=name, run=None, note=reason)
    transforms = [opencv_numpy.torchvision_tensor(s) for s in specs]
    return Implementation(
        name=name,
        run=lambda i: [transform(images[i], roi) for transform in transforms],
        note="resize is single-threaded",
    )


def _pillow(images: Sequence[GrayPixels], specs: Sequence[PreprocessSpec], roi: Roi) -> Implementation:
    name = PILLOW
    if any(s.median for s in specs):
        return Implementation(name=name, run=None, note="has no median filter on floats")
    if unavailable_reason("PIL") is not None:
        return Implementation(name=name, run=None, note="not installed: pip install pillow")
    return Implementation(
        name=name, run=lambda i: [opencv_numpy.pillow_tensor(images[i], roi, s) for s in specs], note="single-threaded"
    )


def _reading(images: Sequence[GrayPixels], threads: int) -> Implementation:
    pool = ThreadPoolExecutor(threads)
    return Implementation(name=_with_threads(READ, threads), run=lambda i: read_once(images[i], threads, pool))


def read_once(pixels: GrayPixels, threads: int, pool: ThreadPoolExecutor) -> int:
    """Return the sum of the pixels' bytes as 64-bit words (without an incomplete last word), by `threads` threads."""
    data = pixels.reshape(-1).view(np.uint8)
    words = data[: data.size // 8 * 8].view(np.uint64)
    if threads == 1:
        return int(words.sum())
    return sum(int(part) for part in pool.map(np.sum, np.array_split(words, threads)))


def _with_threads(name: str, threads: int) -> str:
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def _compare(
    title: str, compared: Sequence[Implementation], args: argparse.Namespace, between: Callable[[], object] | None
) -> tuple[list[Measured], Table]:
    print(f"{title} ...", file=sys.stderr)
    measured = measure(compared, rounds=args.rounds, warmup=args.warmup, items=args.images, between=between)
    extra = {"max difference": _differences(compared)}
    return measured, latency_table(title, measured, baseline=_with_threads("cxr-edge", args.threads), extra=extra)


def _differences(compared: Sequence[Implementation]) -> dict[str, Cell]:
    """Return the largest difference of each implementation's tensors from the first's, on image 0."""
    reference = compared[0].run
    assert reference is not None
    expected = reference(0)
    return {c.name: _difference(expected, c.run(0)) for c in compared if c.run is not None and READ not in c.name}


def _difference(expected: Sequence[Any], actual: Sequence[Any]) -> float:
    return max(max_difference(a, b) for a, b in zip(expected, actual, strict=True))


def _targets(measured_cases: dict[tuple[Case, str], list[Measured]], case: Case, threads: int) -> list[Target]:
    """Return ratios on the largest image, cold; others count with the number of threads that is fastest for them."""
    measured = measured_cases[case, "cold"]
    fused = next(m for m in measured if m.implementation.name == _with_threads("cxr-edge", threads))
    single = next(m for m in measured if m.implementation.name == _with_threads("cxr-edge", 1))
    read_single = next(m for m in measured if m.implementation.name == _with_threads(READ, 1))
    opencv, read = _fastest(measured, OPENCV), _fastest(measured, READ)
    pil = _fastest(measured, TORCHVISION) or _fastest(measured, PILLOW)
    return [
        _target(f"times faster than {OPENCV}", 5, True, opencv, fused, case),
        _target(f"times faster than {TORCHVISION}", 25, True, pil, fused, case),
        _target(f"times {READ}", 1.5, False, fused, read, case),
        _target(f"times {READ}", 1.5, False, single, read_single, case),
    ]


def _fastest(measured: Sequence[Measured], name: str) -> Measured | None:
    """Return the fastest implementation whose name starts with `name`; None if none of them ran."""
    candidates = [m for m in measured if m.implementation.name.startswith(name) and m.milliseconds.size]
    return min(candidates, key=lambda m: m.p50_ms) if candidates else None


def _target(text: str, limit: float, at_least: bool, a: Measured | None, b: Measured | None, case: Case) -> Target:
    if a is None or b is None:
        return Target(text=f"{text}, {case}", required=limit, measured=None, at_least=at_least)
    return Target(
        text=f"{text}, {case}: {a.implementation.name} over {b.implementation.name}",
        required=limit,
        measured=a.ratio_to(b),
        at_least=at_least,
    )


if __name__ == "__main__":
    sys.exit(main())
