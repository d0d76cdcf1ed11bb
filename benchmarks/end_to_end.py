"""Latency from a file's bytes to the ensemble's prediction: cxr-edge, OpenCV/NumPy pipelines, the papers' networks.

    cxr-edge build-engine starter && python -m benchmarks.end_to_end

All implementations get the same bytes, batch 1, the same number of threads. `OpenCV/NumPy + RUNTIME` means OpenCV and
NumPy for everything except the networks, one step after the other. Eager PyTorch has random weights, which take as long
as trained ones; its members are cropped to the box that cxr-edge found, because a random mask has none. The papers' four
unpruned networks are in the first table, for reference.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.harness.images import dicom_bytes, enlarge, jpeg_bytes, png_bytes
from benchmarks.harness.report import Target, publish
from benchmarks.harness.script import Benchmark, add_out, add_rounds, exit_status, make_parser
from benchmarks.harness.side_by_side import (
    Cell,
    Implementation,
    Measured,
    Table,
    WaitForIdle,
    latency_table,
    max_difference,
    measure,
    unavailable_reason,
)
from benchmarks.harness.workload import read_images, screen_bytes
from benchmarks.peers import pipelines
from benchmarks.peers.pipelines import EnsembleSpec
from cxr_edge.backends.base import Engine, TensorInfo
from cxr_edge.bench import percentiles
from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, at_least_one, load_engines
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import EngineSet, parts, reference
from cxr_edge.errors import BundleError
from cxr_edge.names import path_argument
from cxr_edge.records import STAGES, Roi
from cxr_edge.screening.screener import Screener

__all__ = ["BENCHMARK", "main"]

BENCHMARK = Benchmark(name="end_to_end", position=10)

BUILT = "cxr-edge, built engines"
REFERENCE = "cxr-edge, fp32 ONNX"
EAGER = "OpenCV/NumPy + PyTorch eager"
ORT = "OpenCV/NumPy + ONNX Runtime fp32, default"
ORT_NO_SPINNING = "OpenCV/NumPy + ONNX Runtime fp32, no spinning"
PAPERS = "papers' unpruned ensemble: "
RANDOM = "random weights"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """Bundle and settings that all implementations share."""

    bundle: Bundle
    ensemble: EnsembleSpec
    files: tuple[Path, ...]  # of the bundle's networks, segmenter first
    threads: int

    @property
    def segmented(self) -> bool:
        return self.ensemble.segmenter is not None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON. Return 3 if the bundle, its engines or an image cannot be used."""
    args = _parser().parse_args(argv)
    return exit_status(BENCHMARK.name, lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    bundle = Bundle.open(args.bundle)
    built, plain = load_engines(args, bundle, threads=args.threads), reference(bundle, threads=args.threads)
    files = _given_files(args.images) if args.images else _synthetic_files(bundle, args.side_px)
    cv2.setNumThreads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        _measure(_setup(bundle, args.threads), built, plain, files, args, Path(folder))


def _setup(bundle: Bundle, threads: int) -> Setup:
    files = tuple(p.onnx for p in parts(bundle))
    return Setup(bundle=bundle, ensemble=EnsembleSpec.from_manifest(bundle.manifest), files=files, threads=threads)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    add_rounds(parser, rounds=30, warmup=2)
    add_out(parser, BENCHMARK.name)
    add_bundle(parser)
    add_engines(parser)
    parser.add_argument(
        "--images", nargs="+", type=path_argument, metavar="FILE", help="X-ray files (default: synthetic ones)"
    )
    parser.add_argument(
        "--side-px", type=at_least_one, default=2048, metavar="N", help="side of synthetic images (%(default)s)"
    )
    parser.add_argument("--settle-ms", type=int, default=100, metavar="N", help="rest between two runs (%(default)s)")
    parser.add_argument("--no-papers", action="store_true", help="exclude the papers' large networks")
    return parser


def _given_files(files: Sequence[Path]) -> dict[str, list[bytes]]:
    return {f"{len(files)} given files": read_images(files)}


def _synthetic_files(bundle: Bundle, side_px: int, *, max_images: int = 4) -> dict[str, list[bytes]]:
    """Return the bundle's synthetic known-answer images, enlarged, in three file formats."""
    answers = bundle.manifest.known_answers[:max_images]
    if not answers:
        raise BundleError(f"the bundle {bundle.manifest.name} has no known-answer images: pass X-rays with --images")
    pixels = [enlarge(decode(bundle.file(a.file)).pixels, side_px) for a in answers]
    size = f"{side_px}x{side_px}"
    return {
        f"JPEG {size}, 8 bit": [jpeg_bytes(p) for p in pixels],
        f"DICOM {size}, 12 bit, uncompressed": [dicom_bytes(p) for p in pixels],
        f"PNG {size}, 16 bit": [png_bytes(p) for p in pixels],
    }


def _measure(
    setup: Setup,
    built: EngineSet,
    plain: EngineSet,
    inputs: Mapping[str, list[bytes]],
    args: argparse.Namespace,
    folder: Path,
) -> None:
    fp32 = Screener(setup.bundle, plain, threads=setup.threads)
    makers = [_cxr_edge(BUILT, Screener(setup.bundle, built, threads=setup.threads), built.describe())]
    makers += [_cxr_edge(REFERENCE, fp32), _onnxruntime(setup), _openvino(setup), _eager(setup, fp32)]
    papers = [] if args.no_papers else _papers(setup, fp32, folder)
    compared = [
        _compare(kind, files, [*makers, *(papers if number == 0 else [])], args)
        for number, (kind, files) in enumerate(inputs.items())
    ]
    stages, shares = _stages(setup, built, next(iter(inputs.values())), args)
    publish(
        name=BENCHMARK.name,
        question="How long does it take from the bytes of a file to the ensemble's prediction?",
        interval="bytes of the file in memory to the probabilities: decode, lung box, preprocess, members, combine; "
        "loading of networks excluded; each timed run follows an uncounted one of the same implementation",
        settings={"bundle": f"{setup.bundle.manifest.name} {setup.bundle.manifest.version}", "batch": 1,
                  "threads": setup.threads, "rounds": args.rounds, "warm-up": args.warmup,
                  "rest between runs in ms": args.settle_ms},
        tables=[*(table for _, table in compared), stages],
        targets=_targets(compared[0][0], shares),
        notes=(
            f"Engines: {built.describe()}.",
            "`max difference`: of the probabilities, from cxr-edge with the plain fp32 ONNX files, over the images; "
            "none for random weights.",
            "`default` sessions of ONNX Runtime let idle threads spin; several of them in one process slow each "
            "other down, so the row without spinning is the fairer comparison.",
            "The papers' rows are context: the bundle has other networks, smaller by design; accuracy is not compared "
            "here.",
            "Within the interval, cxr-edge also computes the SHA-256 of every file and checks the file for damage.",
        ),
        out=args.out,
    )  # fmt: skip


# Makes implementations that screen the given files.
Maker = Callable[[Sequence[bytes]], list[Implementation]]


def _compare(
    kind: str, files: Sequence[bytes], makers: Sequence[Maker], args: argparse.Namespace
) -> tuple[list[Measured], Table]:
    """Measure all implementations on files of one kind."""
    print(f"{kind} ...", file=sys.stderr)
    implementations = [implementation for make in makers for implementation in make(files)]
    measured = measure(
        implementations,
        rounds=args.rounds,
        warmup=args.warmup,
        items=len(files),
        between=WaitForIdle(args.settle_ms / 1e3),
        lead_in=1,
    )
    extra = _agreement(implementations, files)
    return measured, latency_table(kind, measured, baseline=BUILT, extra=extra)


def _cxr_edge(name: str, screener: Screener, note: str = "") -> Maker:
    def probabilities(data: bytes) -> npt.NDArray[np.float64]:
        return np.asarray(screen_bytes(screener, data).probabilities)

    return lambda files: [Implementation(name=name, run=lambda i: probabilities(files[i]), note=note)]


def _opencv_numpy(name: str, ensemble: EnsembleSpec, networks: pipelines.Networks, note: str = "") -> Maker:
    return lambda files: [
        Implementation(name=name, run=lambda i: pipelines.screen(files[i], ensemble, networks), note=note)
    ]


def _unavailable(name: str, reason: str) -> Maker:
    return lambda _: [Implementation(name=name, run=None, note=reason)]


def _all(*makers: Maker) -> Maker:
    return lambda files: [c for make in makers for c in make(files)]


def _onnxruntime(setup: Setup) -> Maker:
    def maker(name: str, spinning: bool) -> Maker:
        networks = pipelines.onnxruntime_networks(
            setup.files, segmenter=setup.segmented, threads=setup.threads, spinning=spinning
        )
        return _opencv_numpy(name, setup.ensemble, networks)

    return _all(maker(ORT, True), maker(ORT_NO_SPINNING, False))


def _openvino(setup: Setup) -> Maker:
    precisions = {"OpenCV/NumPy + OpenVINO fp32": "f32", "OpenCV/NumPy + OpenVINO, default precision": None}
    reason = unavailable_reason("openvino")
    if reason is not None:
        return _all(*(_unavailable(name, reason) for name in precisions))
    return _all(
        *(
            _opencv_numpy(name, setup.ensemble, pipelines.openvino_networks(
                setup.files, segmenter=setup.segmented, threads=setup.threads, precision=precision
            ))
            for name, precision in precisions.items()
        )
    )  # fmt: skip


def _eager(setup: Setup, fp32: Screener) -> Maker:
    reason = unavailable_reason("torch")
    if reason is not None:
        return _unavailable(EAGER, reason)
    from training.models import ARCHITECTURES, LungUNet, build_member

    manifest = setup.bundle.manifest
    # The starter recipe uses the architecture as member name.
    unknown = [m.name for m in manifest.members if m.name not in ARCHITECTURES]
    if unknown:
        return _unavailable(EAGER, f"training.models has no {', '.join(unknown)}")
    modules: list[Any] = [LungUNet()] if setup.segmented else []
    modules += [build_member(m.name, len(manifest.labels)) for m in manifest.members]
    networks = pipelines.torch_networks(modules, segmenter=setup.segmented, threads=setup.threads)
    return _random(EAGER, setup.ensemble, networks, fp32)


def _random(name: str, ensemble: EnsembleSpec, networks: pipelines.Networks, fp32: Screener) -> Maker:
    """Return a maker of a pipeline with random weights; its members are cropped to the lung box that `fp32` finds."""

    def make(files: Sequence[bytes]) -> list[Implementation]:
        boxes = [screen_bytes(fp32, data).roi for data in files]
        return [Implementation(name=name, run=_screen_in_boxes(files, ensemble, networks, boxes), note=RANDOM)]

    return make


def _screen_in_boxes(
    files: Sequence[bytes], ensemble: EnsembleSpec, networks: pipelines.Networks, boxes: Sequence[Roi]
) -> Callable[[int], Any]:
    return lambda i: pipelines.screen(files[i], ensemble, networks, box=boxes[i])


def _papers(setup: Setup, fp32: Screener, folder: Path) -> list[Maker]:
    names = [PAPERS + n for n in ("PyTorch eager", "ONNX Runtime fp32, default", "ONNX Runtime fp32, no spinning")]
    reason = unavailable_reason("torch") or (unavailable_reason("torchvision") and unavailable_reason("timm"))
    if reason is not None:
        return [_unavailable(name, reason) for name in names]
    from benchmarks.peers import papers

    modules = papers.modules()
    print("exporting the papers' networks ...", file=sys.stderr)
    files = papers.export(modules, folder)
    networks = [
        pipelines.torch_networks(modules, segmenter=True, threads=setup.threads),
        *(
            pipelines.onnxruntime_networks(files, segmenter=True, threads=setup.threads, spinning=spinning)
            for spinning in (True, False)
        ),
    ]
    return [_random(name, papers.SPEC, n, fp32) for name, n in zip(names, networks, strict=True)]


def _agreement(compared: Sequence[Implementation], files: Sequence[bytes]) -> dict[str, dict[str, Cell]]:
    reference_run = next(c for c in compared if c.name == REFERENCE).run
    assert reference_run is not None
    expected = [reference_run(i) for i in range(len(files))]
    differences: dict[str, Cell] = {}
    for c in compared:
        if c.run is not None and c.note != RANDOM:
            differences[c.name] = max(max_difference(e, c.run(i)) for i, e in enumerate(expected))
    return {"max difference": differences}


class _TimedEngine:
    """Engine that accumulates its run time."""

    def __init__(self, engine: Engine) -> None:
        self.inputs: tuple[TensorInfo, ...] = engine.inputs
        self.outputs: tuple[TensorInfo, ...] = engine.outputs
        self.run_ms = 0.0
        self._engine = engine

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        start = perf_counter()
        outputs = self._engine.run(inputs)
        self.run_ms += 1e3 * (perf_counter() - start)
        return outputs


def _stages(
    setup: Setup, built: EngineSet, files: Sequence[bytes], args: argparse.Namespace
) -> tuple[Table, list[float]]:
    """Return stage times of cxr-edge with the built engines, and the overhead as shares of two totals.

    Overhead is the time outside networks and decoding; the totals are the whole screening, and the same without decoding.
    """
    timed = [None if e is None else _TimedEngine(e) for e in (built.segmenter, *built.members)]
    engines = dataclasses.replace(built, segmenter=timed[0], members=tuple(t for t in timed[1:] if t is not None))
    screener = Screener(setup.bundle, engines, threads=setup.threads)
    rows: list[list[float]] = []
    for number in range(-args.warmup, args.rounds):
        before = sum(t.run_ms for t in timed if t is not None)
        times = screen_bytes(screener, files[number % len(files)]).times
        networks = sum(t.run_ms for t in timed if t is not None) - before
        outside = times.total_ms - times.decode_ms - networks
        if number >= 0:
            rows.append([*times.by_stage().values(), times.total_ms, networks, outside])
    names = [*STAGES, "total", "all networks", "neither network nor decode"]
    values = np.asarray(rows)
    after_decoding = values[:, names.index("total")] - values[:, names.index("decode")]
    shares = [float(np.median(values[:, -1] / whole)) for whole in (values[:, names.index("total")], after_decoding)]
    table = Table(
        title="Stages of cxr-edge, built engines, first kind of file",
        columns=("stage", "p50 ms", "p90 ms", "p99 ms", "n"),
        rows=tuple((name, *percentiles(values[:, i]), len(rows)) for i, name in enumerate(names)),
    )
    return table, shares


def _targets(measured: Sequence[Measured], shares: Sequence[float]) -> list[Target]:
    cxr_edge = next(m for m in measured if m.implementation.name == BUILT)
    ratios = {m.implementation.name: m.ratio_to(cxr_edge) for m in measured}
    return [
        Target(text="times faster than the papers' unpruned ensemble, PyTorch eager (context)", required=20,
               at_least=True, measured=ratios.get(PAPERS + "PyTorch eager")),
        Target(text="times faster than the papers' unpruned ensemble, ONNX Runtime fp32 (context)", required=12,
               at_least=True, measured=ratios.get(PAPERS + "ONNX Runtime fp32, no spinning")),
        Target(text="share of the total outside networks and decoding", required=0.05, at_least=False,
               measured=shares[0]),
        Target(text="the same as a share of the total without decoding", required=0.05, at_least=False,
               measured=shares[1]),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
