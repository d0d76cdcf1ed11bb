"""Four questions to a GPU in one run: are the kernels right, how fast are preprocessing and screening, what is lost?

    python3 -m venv .venv && . .venv/bin/activate
    pip install --editable '.[gpu,bench]' onnx2torch      # with nvcc at hand, for the kernels and for pycuda
    pip uninstall --yes onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'
    export LD_LIBRARY_PATH=$(echo $VIRTUAL_ENV/lib/python3*/site-packages/nvidia/*/lib | tr ' ' ':'):$LD_LIBRARY_PATH
    cxr-edge build-engine starter --backend onnxruntime-cuda
    cxr-edge build-engine starter --backend onnxruntime
    cxr-edge build-engine starter --backend tensorrt      # where TensorRT is: JetPack, or pip install '.[tensorrt]'
    python -m benchmarks.gpu --out docs/results/gpu-NAME.json

So in a checkout on a fresh machine with an NVIDIA driver and the CUDA toolkit. What is missing among peers and
runtimes stays in the tables with the reason; without a GPU the exit status is 3, with a kernel that differs from its
CPU twin, or a question that stopped in the middle, it is 1.
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
PAPERS_ROUNDS = 5  # of the others' rounds, one in so many: these networks are large

NOTES = (
    "1: random images and masks; every value of the kernel beside the CPU's. `share of the limit`: the largest of a "
    "difference over what is allowed at that value.",
    "2: a round is one graph that goes through images of more than twice the GPU's last cache; preprocessing counts "
    "what it needs of an image once, the copy counts its bytes twice, since it reads and writes them.",
    "3: every run directly after an uncounted one of the same contender; `max difference`: of the probabilities, from "
    "fp32 on the CPU, over all images; PyTorch, ONNX Runtime and TensorRT use TF32 where it is their default. Usual "
    "pipelines wait for the mask, so PyTorch's CUDA graphs are two: the segmenter, and all members.",
    "4: an engine's own time is the smaller median of enqueued and captured runs on real tensors; the screening is "
    "timed by event nodes inside its graph, the image's way to the GPU (copy into pinned memory, launch, upload) left "
    "out but for the row by the host's clock.",
)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Sizes of what is tried; the defaults are for a GPU, tests take small ones."""

    sizes: Sequence[tuple[int, int]] = kernels.SIZES
    mask_sides: Sequence[int] = kernels.MASK_SIDES
    sides: Sequence[int] = bandwidth.SIDES
    cache: int | None = None  # bytes; None: the device's own


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is measured. loaded: the bundle's engines by GPU backend, or why there are none; cpu: likewise."""

    device: Device
    workload: Workload
    loaded: Loaded
    cpu: EngineSet | str
    threads: int
    pace: Pace
    extent: Extent = Extent()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; 3 without a GPU or a usable bundle and images, 1 if a question found a failure."""
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
    """Why this machine or this build cannot be measured; None if it can."""
    reason = cuda.gpu_unavailable_reason()
    if reason is None and not _core.cuda_architectures():
        reason = "cxr-edge was built without CUDA: put nvcc on the PATH and pip install --editable . again"
    return reason


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    add_workload(parser, BENCHMARK.name)
    add_rounds(parser, rounds=100, warmup=10)
    parser.add_argument("--settle-ms", type=int, default=20, metavar="N", help="rest between two runs (%(default)s)")
    parser.add_argument("--no-papers", action="store_true", help="leave the papers' large networks out")
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
    """The runtimes whose engines are device engines, in the order in which `auto` tries them."""
    return tuple(name for name in backends.BACKENDS if isinstance(backends.get(name), DeviceBackend))


def measure_all(setup: Setup, *, papers: bool) -> Section:
    """All four questions, one after the other. papers: also question 3 on the papers' networks."""
    asked: list[tuple[str, Callable[[Setup], Section]]] = [
        ("kernels", _kernels), ("bandwidth", _bandwidth), ("screening", _screening), ("shares", _shares),
        *([("the papers' ensemble", _papers)] if papers else []),
    ]  # fmt: skip
    sections = []
    for name, ask in asked:
        _say(f"{name} ...")
        sections.append(_tried(name, ask, setup))
    return join_sections(sections)


def _tried(name: str, ask: Callable[[Setup], Section], setup: Setup) -> Section:
    """The answer, or the failure in its place: what the other questions found shall not be lost."""
    try:
        return ask(setup)
    except Exception as error:  # of our own, torch's, the driver's
        if not isinstance(error, CxrEdgeError):
            traceback.print_exc()
        return Section(tables=(), failures=(f"{name}: stopped in the middle: {one_line(error)}",))


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
    peers = screening.make_peers(workload, lambda: _converted(workload))
    ways = screening.all_pipelines(workload, setup.loaded, setup.cpu, peers, setup.threads)
    title = f"3. Screening, {workload.bundle.manifest.name}"
    return screening.measure_pipelines(title, workload, ways, setup.pace, reference=_reference(workload, setup.threads))


def _converted(workload: Workload) -> Sequence[object]:
    reason = unavailable_reason("onnx2torch")
    if reason is not None:
        raise RuntimeError(f"the bundle's networks need onnx2torch, {reason}; see the papers' ensemble instead")
    return peers.convert_networks(parts(workload.bundle))


def _reference(workload: Workload, threads: int) -> Screener:
    return Screener(workload.bundle, engines.reference(workload.bundle, threads=threads), threads=threads)


def _shares(setup: Setup) -> Section:
    return join_sections([_share(setup, name, found) for name, found in setup.loaded.items()])


def _share(setup: Setup, name: str, found: EngineSet | str) -> Section:
    if isinstance(found, str):
        return overhead.not_measured(name, found)
    return overhead.measure(setup.workload, found, rounds=setup.pace.rounds, warmup=setup.pace.warmup)


def _papers(setup: Setup) -> Section:
    """Question 3 once more, on networks that PyTorch and cxr-edge certainly share, all fp32."""
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
        ways = [
            w
            for name, found in loaded.items()
            for w in screening.cxr_edge_pipelines(name, found, workload, setup.threads)
        ]
        ways += screening.baselines(workload, screening.make_peers(workload, lambda: modules))
        pace = replace(setup.pace, rounds=max(1, setup.pace.rounds // PAPERS_ROUNDS))
        return screening.measure_pipelines(title, workload, ways, pace, reference=_reference(workload, setup.threads))


def _publish(setup: Setup, section: Section, out: Path) -> None:
    manifest, pace, gpu = setup.workload.bundle.manifest, setup.pace, setup.device.gpu  # type: ignore[attr-defined]
    publish(
        name=BENCHMARK.name,
        question="Is the GPU's answer the CPU's, how fast is it beside its peers, and what is lost on the way?",
        interval="; ".join(f"screening from {name}: {text}" for name, text in SOURCES.items())
        + "; questions 1, 2 and 4: see the notes; loading of networks left out",
        settings={
            "GPU": f"{gpu.name}, compute capability {gpu.compute_capability}, driver for CUDA {gpu.driver}",
            "kernels for": " ".join(str(a) for a in _core.cuda_architectures()) or "none",
            "bundle": f"{manifest.name} {manifest.version}",
            **{name: _described(found) for name, found in setup.loaded.items()},
            "batch": 1, "threads": setup.threads, "images": setup.workload.description, "rounds": pace.rounds,
            "warm-up": pace.warmup, "rest between runs in ms": pace.settle_ms,
        },
        tables=section.tables,
        targets=section.targets,
        notes=(*(f"Failed: {f}" for f in section.failures), *NOTES),
        out=out,
    )  # fmt: skip


def _described(found: EngineSet | str) -> str:
    if isinstance(found, str):
        return "no engines"
    return f"{found.describe()} ({', '.join(f'{k} {v}' for k, v in found.versions.items())})"


if __name__ == "__main__":
    sys.exit(main())
