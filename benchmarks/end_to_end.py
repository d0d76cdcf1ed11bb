"""From a file's bytes to the answer: cxr-edge against the same networks, and the papers' networks, run the usual way.

    cxr-edge build-engine starter && python -m benchmarks.end_to_end

All contenders get the same bytes, batch 1, the same number of threads. `usual` means OpenCV and NumPy for everything
that is not a network, one step after the other. Eager PyTorch has random weights, which take as long as trained ones;
its members are cropped to the box that cxr-edge found, since a random mask has none. Four networks of the papers,
unpruned, stand in the first table to show the whole distance.
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

from benchmarks.harness.images import dicom_bytes, enlarged, jpeg_bytes, png_bytes
from benchmarks.harness.report import Target, add_common, publish
from benchmarks.harness.side_by_side import (
    Cell,
    Contender,
    Measured,
    Settle,
    Table,
    latency_table,
    max_difference,
    measure,
    missing,
)
from benchmarks.harness.workload import read_images, screen_bytes
from benchmarks.peers import pipelines
from benchmarks.peers.pipelines import Recipe
from cxr_edge.backends.base import Engine, TensorInfo
from cxr_edge.bench import STAGES, percentiles
from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, at_least_one, load_engines
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import EngineSet, parts, reference
from cxr_edge.errors import BundleError, CxrEdgeError
from cxr_edge.records import Roi
from cxr_edge.screening.screener import Screener

__all__ = ["main"]

BUILT = "cxr-edge, built engines"
REFERENCE = "cxr-edge, fp32 ONNX"
EAGER = "usual, PyTorch eager"
ORT, ORT_QUIET = "usual, ONNX Runtime fp32, default", "usual, ONNX Runtime fp32, no spinning"
PAPERS = "papers' unpruned ensemble: "
RANDOM = "random weights"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """What all contenders share."""

    bundle: Bundle
    recipe: Recipe
    files: tuple[Path, ...]  # of the bundle's networks, segmenter first
    threads: int

    @property
    def segmented(self) -> bool:
        return self.recipe.segmenter is not None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; 3 if the bundle, its engines or an image cannot be used."""
    args = _parser().parse_args(argv)
    try:
        bundle = Bundle.open(args.bundle)
        built, plain = load_engines(args, bundle, threads=args.threads), reference(bundle, threads=args.threads)
        kinds = _given(args.images) if args.images else _synthetic(bundle, args.side_px)
        cv2.setNumThreads(args.threads)
        with tempfile.TemporaryDirectory() as folder:
            _measure(_bench(bundle, args.threads), built, plain, kinds, args, Path(folder))
    except CxrEdgeError as error:
        print(f"end_to_end: {error}", file=sys.stderr)
        return 3
    return 0


def _bench(bundle: Bundle, threads: int) -> Bench:
    files = tuple(p.onnx for p in parts(bundle))
    return Bench(bundle=bundle, recipe=Recipe.of(bundle.manifest), files=files, threads=threads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end", description=(__doc__ or "").split("\n")[0])
    add_common(parser, "end_to_end", rounds=30, warmup=2)
    add_bundle(parser)
    add_engines(parser)
    parser.add_argument("--images", nargs="+", type=Path, metavar="FILE", help="X-ray files (default: synthetic ones)")
    parser.add_argument(
        "--side-px", type=at_least_one, default=2048, metavar="N", help="of synthetic images (%(default)s)"
    )
    parser.add_argument("--settle-ms", type=int, default=100, metavar="N", help="rest between two runs (%(default)s)")
    parser.add_argument("--no-papers", action="store_true", help="leave the papers' large networks out")
    return parser


def _given(files: Sequence[Path]) -> dict[str, list[bytes]]:
    return {f"{len(files)} given files": read_images(files)}


def _synthetic(bundle: Bundle, side_px: int, *, most: int = 4) -> dict[str, list[bytes]]:
    """The bundle's synthetic known-answer images, enlarged, in three file formats."""
    answers = bundle.manifest.known_answers[:most]
    if not answers:
        raise BundleError(f"the bundle {bundle.manifest.name} has no known-answer images: give X-rays with --images")
    pixels = [enlarged(decode(bundle.file(a.file)).pixels, side_px) for a in answers]
    size = f"{side_px}x{side_px}"
    return {
        f"JPEG {size}, 8 bit": [jpeg_bytes(p) for p in pixels],
        f"DICOM {size}, 12 bit, uncompressed": [dicom_bytes(p) for p in pixels],
        f"PNG {size}, 16 bit": [png_bytes(p) for p in pixels],
    }


def _measure(
    bench: Bench,
    built: EngineSet,
    plain: EngineSet,
    kinds: Mapping[str, list[bytes]],
    args: argparse.Namespace,
    folder: Path,
) -> None:
    screener = Screener(bench.bundle, built, threads=bench.threads)
    judge = Screener(bench.bundle, plain, threads=bench.threads)
    makers = [_onnxruntime(bench), _openvino(bench), _eager(bench, judge)]
    papers = [] if args.no_papers else _papers(bench, judge, folder)
    tables: list[Table] = []
    first: list[Measured] = []
    for number, (kind, files) in enumerate(kinds.items()):
        print(f"{kind} ...", file=sys.stderr)
        entrants = [_ours(BUILT, screener, files, built.describe()), _ours(REFERENCE, judge, files, "")]
        entrants += [c for make in (*makers, *(papers if number == 0 else [])) for c in make(files)]
        found = measure(
            entrants,
            rounds=args.rounds,
            warmup=args.warmup,
            items=len(files),
            between=Settle(args.settle_ms / 1e3),
            lead_in=1,
        )
        first = first or found
        tables.append(latency_table(kind, found, baseline=BUILT, extra=_agreement(entrants, files)))
    stages, shares = _stages(bench, built, next(iter(kinds.values())), args)
    publish(
        name="end_to_end",
        question="How long does it take from the bytes of a file to the ensemble's answer?",
        interval="bytes of the file in memory to the probabilities: decode, lung box, preprocess, members, combine; "
        "loading of networks left out; each timed run directly after an uncounted one of the same contender",
        settings={"bundle": f"{bench.bundle.manifest.name} {bench.bundle.manifest.version}", "batch": 1,
                  "threads": bench.threads, "rounds": args.rounds, "warm-up": args.warmup,
                  "rest between runs in ms": args.settle_ms},
        tables=[*tables, stages],
        targets=_targets(first, shares),
        notes=(
            f"Engines: {built.describe()}.",
            "`max difference`: of the probabilities, from cxr-edge with the plain fp32 ONNX files, over the images; "
            "none for random weights.",
            "`default` sessions of ONNX Runtime let idle threads spin; several of them in one process disturb each "
            "other, so the row without spinning is the fairer peer.",
            "The papers' rows are context: the bundle's networks are others, smaller by design, and this says nothing "
            "of how well either answers.",
            "cxr-edge also takes the SHA-256 of every file and checks it for damage, inside the interval.",
        ),
        out=args.out,
    )  # fmt: skip


def _ours(name: str, screener: Screener, files: Sequence[bytes], note: str) -> Contender:
    def run(i: int) -> npt.NDArray[np.float64]:
        return np.asarray(screen_bytes(screener, files[i]).probabilities)

    return Contender(name=name, run=run, note=note)


Maker = Callable[[Sequence[bytes]], list[Contender]]


def _usual(name: str, recipe: Recipe, networks: pipelines.Networks, note: str = "") -> Maker:
    return lambda files: [Contender(name=name, run=lambda i: pipelines.screen(files[i], recipe, networks), note=note)]


def _absent(name: str, reason: str) -> Maker:
    return lambda _: [Contender(name=name, run=None, note=reason)]


def _all(*makers: Maker) -> Maker:
    return lambda files: [c for make in makers for c in make(files)]


def _onnxruntime(bench: Bench) -> Maker:
    def maker(name: str, spinning: bool) -> Maker:
        networks = pipelines.onnxruntime_networks(
            bench.files, segmenter=bench.segmented, threads=bench.threads, spinning=spinning
        )
        return _usual(name, bench.recipe, networks)

    return _all(maker(ORT, True), maker(ORT_QUIET, False))


def _openvino(bench: Bench) -> Maker:
    ways = {"usual, OpenVINO fp32": "f32", "usual, OpenVINO, default precision": None}
    reason = missing("openvino")
    if reason is not None:
        return _all(*(_absent(name, reason) for name in ways))
    return _all(
        *(
            _usual(name, bench.recipe, pipelines.openvino_networks(
                bench.files, segmenter=bench.segmented, threads=bench.threads, precision=precision
            ))
            for name, precision in ways.items()
        )
    )  # fmt: skip


def _eager(bench: Bench, judge: Screener) -> Maker:
    reason = missing("torch")
    if reason is not None:
        return _absent(EAGER, reason)
    from training.models import ARCHITECTURES, LungUNet, build_member

    manifest = bench.bundle.manifest
    # training.starter names a member by its design.
    unknown = [m.name for m in manifest.members if m.name not in ARCHITECTURES]
    if unknown:
        return _absent(EAGER, f"training.models has no {', '.join(unknown)}")
    modules: list[Any] = [LungUNet()] if bench.segmented else []
    modules += [build_member(m.name, len(manifest.labels)) for m in manifest.members]
    networks = pipelines.torch_networks(modules, segmenter=bench.segmented, threads=bench.threads)
    return _random(EAGER, bench.recipe, networks, judge)


def _random(name: str, recipe: Recipe, networks: pipelines.Networks, judge: Screener) -> Maker:
    """A pipeline with random weights, whose members are cropped to the lung box that `judge` finds."""

    def make(files: Sequence[bytes]) -> list[Contender]:
        boxes = [screen_bytes(judge, data).roi for data in files]
        return [Contender(name=name, run=_boxed(files, recipe, networks, boxes), note=RANDOM)]

    return make


def _boxed(
    files: Sequence[bytes], recipe: Recipe, networks: pipelines.Networks, boxes: Sequence[Roi]
) -> Callable[[int], Any]:
    return lambda i: pipelines.screen(files[i], recipe, networks, box=boxes[i])


def _papers(bench: Bench, judge: Screener, folder: Path) -> list[Maker]:
    names = [PAPERS + n for n in ("PyTorch eager", "ONNX Runtime fp32, default", "ONNX Runtime fp32, no spinning")]
    reason = missing("torch") or (missing("torchvision") and missing("timm"))
    if reason is not None:
        return [_absent(name, reason) for name in names]
    from benchmarks.peers import papers

    modules = papers.modules()
    print("exporting the papers' networks ...", file=sys.stderr)
    files = papers.export(modules, folder)
    ways = [
        pipelines.torch_networks(modules, segmenter=True, threads=bench.threads),
        *(
            pipelines.onnxruntime_networks(files, segmenter=True, threads=bench.threads, spinning=spinning)
            for spinning in (True, False)
        ),
    ]
    return [_random(name, papers.RECIPE, way, judge) for name, way in zip(names, ways, strict=True)]


def _agreement(entrants: Sequence[Contender], files: Sequence[bytes]) -> dict[str, dict[str, Cell]]:
    judge = next(c for c in entrants if c.name == REFERENCE).run
    assert judge is not None
    expected = [judge(i) for i in range(len(files))]
    differences: dict[str, Cell] = {}
    for c in entrants:
        if c.run is not None and c.note != RANDOM:
            differences[c.name] = max(max_difference(e, c.run(i)) for i, e in enumerate(expected))
    return {"max difference": differences}


class _TimedEngine:
    """An engine that adds up how long it runs."""

    def __init__(self, engine: Engine) -> None:
        self.inputs: tuple[TensorInfo, ...] = engine.inputs
        self.outputs: tuple[TensorInfo, ...] = engine.outputs
        self.spent_ms = 0.0
        self._engine = engine

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        start = perf_counter()
        outputs = self._engine.run(inputs)
        self.spent_ms += 1e3 * (perf_counter() - start)
        return outputs


def _stages(
    bench: Bench, built: EngineSet, files: Sequence[bytes], args: argparse.Namespace
) -> tuple[Table, list[float]]:
    """Stage times of cxr-edge with the built engines, and what is neither network nor decoding as a share of the whole
    and of the whole without decoding."""
    timed = [None if e is None else _TimedEngine(e) for e in (built.segmenter, *built.members)]
    engines = dataclasses.replace(built, segmenter=timed[0], members=tuple(t for t in timed[1:] if t is not None))
    screener = Screener(bench.bundle, engines, threads=bench.threads)
    rows: list[list[float]] = []
    for number in range(-args.warmup, args.rounds):
        before = sum(t.spent_ms for t in timed if t is not None)
        times = screen_bytes(screener, files[number % len(files)]).times
        networks = sum(t.spent_ms for t in timed if t is not None) - before
        outside = times.total_ms - times.decode_ms - networks
        if number >= 0:
            rows.append([*(getattr(times, f"{s}_ms") for s in STAGES), networks, outside])
    names = [*STAGES, "all networks", "neither network nor decode"]
    values = np.asarray(rows)
    after_decoding = values[:, names.index("total")] - values[:, names.index("decode")]
    shares = [float(np.median(values[:, -1] / whole)) for whole in (values[:, names.index("total")], after_decoding)]
    table = Table(
        title="Stages of cxr-edge, built engines, first kind of file",
        columns=("stage", "p50 ms", "p90 ms", "p99 ms", "n"),
        rows=tuple((name, *percentiles(values[:, i]), len(rows)) for i, name in enumerate(names)),
    )
    return table, shares


def _targets(found: Sequence[Measured], shares: Sequence[float]) -> list[Target]:
    ours = next(m for m in found if m.contender.name == BUILT)
    ratios = {m.contender.name: m.times_as_long_as(ours) for m in found}
    return [
        Target(text="times faster than the papers' unpruned ensemble, PyTorch eager (context)", wanted=20,
               at_least=True, measured=ratios.get(PAPERS + "PyTorch eager")),
        Target(text="times faster than the papers' unpruned ensemble, ONNX Runtime fp32 (context)", wanted=12,
               at_least=True, measured=ratios.get(PAPERS + "ONNX Runtime fp32, no spinning")),
        Target(text="share of the whole that is neither network nor decode", wanted=0.05, at_least=False,
               measured=shares[0]),
        Target(text="the same as a share of the whole without decode", wanted=0.05, at_least=False,
               measured=shares[1]),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
