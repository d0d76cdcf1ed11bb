"""GPU benchmark in four sections: correctness of kernels, bandwidth, screening beside baselines, and overhead.

    python3 -m venv .venv && . .venv/bin/activate
    pip install --editable '.[gpu,bench]' onnx2torch      # with nvcc on the PATH, for the kernels and for pycuda
    pip uninstall --yes onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'
    export LD_LIBRARY_PATH=$(echo $VIRTUAL_ENV/lib/python3*/site-packages/nvidia/*/lib | tr ' ' ':'):$LD_LIBRARY_PATH
    cxr-edge build-engine starter --backend onnxruntime-cuda
    cxr-edge build-engine starter --backend onnxruntime
    cxr-edge build-engine starter --backend tensorrt      # where TensorRT is: JetPack, or pip install '.[tensorrt]'
    python -m benchmarks.gpu --out docs/results/gpu-NAME.json

These are the commands in a checkout on a new machine with an NVIDIA driver and the CUDA toolkit. Missing baselines and
runtimes are listed in the tables with the reason. Without a GPU the exit status is 3; it is 1 if a kernel differs from
its CPU version or a section stopped with an error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

import cxr_edge._core as _core
from benchmarks.gpu import BENCHMARK, bandwidth, kernels, overhead, papers_bundle, peers, screening
from benchmarks.gpu.device import Section, join_sections
from benchmarks.gpu.screening import Loaded, Pace, one_line
from benchmarks.harness.report import publish
from benchmarks.harness.script import add_rounds, make_parser
from benchmarks.harness.side_by_side import unavailable_reason
from benchmarks.harness.workload import SOURCES, Workload, add_workload
from cxr_edge import backends, engines
from cxr_edge.backends.base import DeviceBackend
from cxr_edge.engines import EngineSet, parts
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.gpu import cuda
from cxr_edge.gpu.interface import Device
from cxr_edge.screening.screener import Screener
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["Extent", "Setup", "gpu_backends", "main", "measure_all", "unusable_reason"]

HOST = "onnxruntime"  # cxr-edge's CPU backend
PAPERS_ROUNDS_DIVISOR = 5  # fewer rounds for the papers' networks, which are large

NOTES = (
    "1: random images and masks; every value of the kernel is compared with the CPU's. `share of the limit`: the "
    "largest ratio of a difference to its limit at that value.",
    "2: a round is one graph over images of more than twice the GPU's last-level cache; preprocessing counts the bytes "
    "that it needs of an image once, the copy counts its bytes twice, because it reads and writes them.",
    "3: every run follows an uncounted one of the same implementation; `max difference`: of the probabilities, from "
    "fp32 on the CPU, over all images; PyTorch, ONNX Runtime and TensorRT use TF32 where it is their default. Baseline "
    "pipelines wait for the mask, so PyTorch's CUDA graphs are two: the segmenter, and all members.",
    "4: an engine's own time is the smaller median of enqueued and captured runs on real tensors; the screening is "
    "timed by event nodes inside its graph, the image's transfer to the GPU (copy into pinned memory, launch, upload) "
    "excluded except in the row by the host's clock.",
)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Sizes of the test data; the defaults are for a GPU, tests use small ones."""

    sizes: Sequence[tuple[int, int]] = kernels.SIZES
    mask_sides: Sequence[int] = kernels.MASK_SIDES
    sides: Sequence[int] = bandwidth.SIDES
    cache: int | None = None  # bytes; None: the device's own


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Device, images, engines and settings of one run."""

    device: Device
    workload: Workload
    loaded: Loaded
    cpu: EngineSet | str  # engines of the CPU backend, or why there are none
    threads: int
    pace: Pace
    extent: Extent = Extent()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON. Return 3 without a GPU or valid bundle and images, 1 if a section has a failure."""
    args = _parser().parse_args(argv)
    reason = unusable_reason()
    if reason is not None:
        print(f"gpu: nothing can be measured here: {reason}", file=sys.stderr)
        return 3
    try:
        setup = _setup(args)
    except CxrEdgeError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 3
    section = measure_all(setup, papers=not args.no_papers)
    _publish(setup, section, args.out)
    for failure in section.failures:
        print(f"gpu: {failure}", file=sys.stderr)
    return 1 if section.failures else 0


def unusable_reason() -> str | None:
    """Return why this machine or this build cannot be measured; None if it can."""
    reason = cuda.gpu_unavailable_reason()
    if reason is None and not _core.cuda_architectures():
        reason = "cxr-edge was built without CUDA: put nvcc on the PATH and pip install --editable . again"
    return reason


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    add_workload(parser, BENCHMARK.name)
    add_rounds(parser, rounds=100, warmup=10)
    parser.add_argument("--settle-ms", type=int, default=20, metavar="N", help="rest between two runs (%(default)s)")
    parser.add_argument("--no-papers", action="store_true", help="exclude the papers' large networks")
    return parser


def _setup(args: argparse.Namespace) -> Setup:
    cv2.setNumThreads(args.threads)
    workload = Workload.from_args(args)
    names = gpu_backends() if args.backend == "auto" else (args.backend,)
    if not set(names) <= set(gpu_backends()):
        raise InputError(f"--backend takes auto or one of {', '.join(gpu_backends())} here, got {args.backend}")

    def load(name: str) -> EngineSet | str:
        try:
            return engines.load(workload.bundle, args.engines, backend=name, threads=args.threads)
        except CxrEdgeError as error:
            return one_line(error)

    return Setup(
        device=cuda.cuda_device(),
        workload=workload,
        loaded={name: load(name) for name in names},
        cpu=load(HOST),
        threads=args.threads,
        pace=Pace(rounds=args.rounds, warmup=args.warmup, settle_ms=args.settle_ms),
    )


def gpu_backends() -> tuple[str, ...]:
    """Return the runtimes whose engines run on device memory, in the order of `--backend auto`."""
    return tuple(name for name in backends.BACKENDS if isinstance(backends.get(name), DeviceBackend))


def measure_all(setup: Setup, *, papers: bool) -> Section:
    """Measure all four sections. papers: repeat section 3 with the papers' networks."""
    parts_to_measure: list[tuple[str, Callable[[Setup], Section]]] = [
        ("kernels", _kernels), ("bandwidth", _bandwidth), ("screening", _screening), ("overhead", _overheads),
        *([("the papers' ensemble", _papers)] if papers else []),
    ]  # fmt: skip
    sections = []
    for name, measure in parts_to_measure:
        _say(f"{name} ...")
        sections.append(_try(name, measure, setup))
    return join_sections(sections)


def _try(name: str, measure: Callable[[Setup], Section], setup: Setup) -> Section:
    """Return the section, or one with the failure, so that the results of the other sections are not lost."""
    try:
        return measure(setup)
    except Exception as error:  # errors of cxr-edge, torch, the driver
        if not isinstance(error, CxrEdgeError):
            traceback.print_exc()
        return Section(tables=(), failures=(f"{name}: stopped with an error: {one_line(error)}",))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _kernels(setup: Setup) -> Section:
    bundle, extent = setup.workload.bundle, setup.extent
    return kernels.compare_kernels(setup.device, bundle, sizes=extent.sizes, mask_sides=extent.mask_sides)


def _bandwidth(setup: Setup) -> Section:
    device, manifest = setup.device, setup.workload.bundle.manifest
    with device.current():
        copy, cache = bandwidth.device_copy(device), setup.extent.cache or bandwidth.cache_bytes(device)
    sets = {
        "one canvas of 224": (PreprocessSpec(),),
        f"the members of {manifest.name}": tuple(m.preprocess for m in manifest.members),
    }
    return bandwidth.measure(
        device,
        sets,
        copy=copy,
        cache=cache,
        rounds=setup.pace.rounds,
        warmup=setup.pace.warmup,
        sides=setup.extent.sides,
    )


def _screening(setup: Setup) -> Section:
    workload = setup.workload
    peers = screening.make_peers(workload, lambda: _convert(workload))
    pipelines = screening.all_pipelines(workload, setup.loaded, setup.cpu, peers, setup.threads)
    title = f"3. Screening, {workload.bundle.manifest.name}"
    return screening.measure_pipelines(
        title, workload, pipelines, setup.pace, reference=_reference(workload, setup.threads)
    )


def _convert(workload: Workload) -> Sequence[object]:
    reason = unavailable_reason("onnx2torch")
    if reason is not None:
        raise RuntimeError(f"the bundle's networks need onnx2torch, {reason}; see the papers' ensemble instead")
    return peers.convert_networks(parts(workload.bundle))


def _reference(workload: Workload, threads: int) -> Screener:
    return Screener(workload.bundle, engines.reference(workload.bundle, threads=threads), threads=threads)


def _overheads(setup: Setup) -> Section:
    return join_sections([_overhead(setup, name, loaded) for name, loaded in setup.loaded.items()])


def _overhead(setup: Setup, name: str, loaded: EngineSet | str) -> Section:
    if isinstance(loaded, str):
        return overhead.not_measured(name, loaded)
    return overhead.measure(setup.workload, loaded, rounds=setup.pace.rounds, warmup=setup.pace.warmup)


def _papers(setup: Setup) -> Section:
    """Return section 3 for the papers' networks, which are the same in PyTorch and cxr-edge, all fp32."""
    title = "3. Screening, the papers' ensemble (random weights, fp32)"
    reason = unavailable_reason("torch") or (unavailable_reason("torchvision") and unavailable_reason("timm"))
    if reason is not None:
        return screening.not_measured(title, reason)
    from benchmarks.peers import papers

    with tempfile.TemporaryDirectory() as folder:
        modules = papers.modules()
        bundle = papers_bundle.write_papers_bundle(modules, Path(folder))
        workload = replace(setup.workload, bundle=bundle)
        loaded = papers_bundle.compile_engines(
            bundle, tuple(setup.loaded), Path(folder), threads=setup.threads, say=_say
        )
        pipelines = [
            pipeline
            for name, engine_set in loaded.items()
            for pipeline in screening.cxr_edge_pipelines(name, engine_set, workload, setup.threads)
        ]
        pipelines += screening.baselines(workload, screening.make_peers(workload, lambda: modules))
        pace = replace(setup.pace, rounds=max(1, setup.pace.rounds // PAPERS_ROUNDS_DIVISOR))
        return screening.measure_pipelines(
            title, workload, pipelines, pace, reference=_reference(workload, setup.threads)
        )


def _publish(setup: Setup, section: Section, out: Path) -> None:
    manifest, pace, gpu = setup.workload.bundle.manifest, setup.pace, setup.device.gpu  # type: ignore[attr-defined]
    publish(
        name=BENCHMARK.name,
        question="Are the GPU's results the CPU's, how fast is it compared with baselines, and how large is the overhead?",
        interval="; ".join(f"screening from {name}: {text}" for name, text in SOURCES.items())
        + "; sections 1, 2 and 4: see the notes; loading of networks excluded",
        settings={
            "GPU": f"{gpu.name}, compute capability {gpu.compute_capability}, driver for CUDA {gpu.driver}",
            "kernels for": " ".join(str(a) for a in _core.cuda_architectures()) or "none",
            "bundle": f"{manifest.name} {manifest.version}",
            **{name: _describe(loaded) for name, loaded in setup.loaded.items()},
            "batch": 1, "threads": setup.threads, "images": setup.workload.description, "rounds": pace.rounds,
            "warm-up": pace.warmup, "rest between runs in ms": pace.settle_ms,
        },
        tables=section.tables,
        targets=section.targets,
        notes=(*(f"Failed: {f}" for f in section.failures), *NOTES),
        out=out,
    )  # fmt: skip


def _describe(loaded: EngineSet | str) -> str:
    if isinstance(loaded, str):
        return "no engines"
    return f"{loaded.describe()} ({', '.join(f'{k} {v}' for k, v in loaded.versions.items())})"


if __name__ == "__main__":
    sys.exit(main())
