"""`cxr-edge bench`: how fast a bundle's engines screen on this machine, stage by stage."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, add_rebuild, at_least_one, load_engines
from cxr_edge.errors import InputError

if TYPE_CHECKING:
    from cxr_edge.bench import BenchReport

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "bench",
        help="measure latency and throughput",
        description="Measure latency by stage and throughput, from a file's bytes in memory to its screening.",
    )
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="X-ray files (default: synthetic ones)")
    add_bundle(parser)
    add_engines(parser)
    add_rebuild(parser)
    parser.add_argument("--warmup", type=at_least_one, default=10, metavar="N", help="uncounted runs (%(default)s)")
    parser.add_argument("--iterations", type=at_least_one, default=100, metavar="N", help="counted runs (%(default)s)")
    parser.add_argument(
        "--image-px", type=at_least_one, default=2048, metavar="N", help="side of the synthetic images (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print, return the exit status."""
    report = _measure(args)
    print(json.dumps(report.as_json(), indent=1) if args.json else _table(report))
    return 0


def _measure(args: argparse.Namespace) -> BenchReport:
    from cxr_edge import bench
    from cxr_edge.screener import Screener

    bundle = Bundle.open(args.bundle)
    images, described = _images(args, bundle)
    engines = load_engines(args, bundle, threads=args.threads)
    print(f"measuring {args.iterations} screenings of {described} ...", file=sys.stderr)
    screener = Screener(bundle, engines, threads=args.threads)
    stages = bench.measure_latency(screener, images, warmup=args.warmup, iterations=args.iterations)
    alone = Screener(bundle, load_engines(args, bundle, threads=1))
    throughput = [
        bench.measure_throughput(alone, images, workers=workers, iterations=args.iterations)
        for workers in sorted({1, args.threads})
    ]
    return bench.BenchReport(
        environment=bench.environment(engines.versions),
        bundle=f"{bundle.manifest.name} {bundle.manifest.version}",
        bundle_digest=bundle.digest,
        engines=screener.describe(),
        threads=args.threads,
        warmup=args.warmup,
        images=described,
        stages=stages,
        throughput=tuple(throughput),
    )


def _images(args: argparse.Namespace, bundle: Bundle) -> tuple[list[bytes], str]:
    from cxr_edge.bench import known_images

    if not args.images:
        side = args.image_px
        return known_images(bundle, side_px=side), f"synthetic X-rays, {side}x{side} JPEG"
    try:
        return [p.read_bytes() for p in args.images], f"{len(args.images)} given files"
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): give X-ray files") from None


def _table(report: BenchReport) -> str:
    e = report.environment
    lines = [
        f"{report.bundle} on {e.processor}, {report.threads} threads, batch 1, {report.engines}",
        f"{report.images}; {report.warmup} warm-up and {report.stages['total'].n} counted runs; milliseconds",
        "",
        f"{'stage':<12}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}{'share':>8}",
    ]
    whole = report.stages["total"].mean_ms
    for stage, t in report.stages.items():
        row = "".join(f"{v:>9.2f}" for v in (t.p50_ms, t.p90_ms, t.p99_ms, t.max_ms))
        lines.append(f"{stage:<12}{row}{t.mean_ms / whole:>8.1%}")
    lines.append("")
    lines += [f"throughput with {t.workers} worker(s): {t.images_per_s:.1f} images/s" for t in report.throughput]
    return "\n".join(lines)
