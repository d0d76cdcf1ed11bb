"""`cxr-edge bench`: measure latency per stage and throughput of a bundle's engines on this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cxr_edge.cli.arguments import (
    add_bundle,
    add_engines,
    add_rebuild,
    add_signature,
    at_least_one,
    load_engines,
    open_bundle,
)
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.cli.traces import TracebackLog, add_traceback_options
from cxr_edge.decoding.limits import MAX_PIXELS
from cxr_edge.environment import environment
from cxr_edge.errors import InputError
from cxr_edge.names import path_argument, printable
from cxr_edge.records import Failure
from cxr_edge.screening.screener import Screener

if TYPE_CHECKING:
    from cxr_edge.bench import BenchReport

__all__ = ["add_parser", "run"]

_SOME_FAILED = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "bench",
        help="measure latency and throughput",
        description="Measure latency per stage and throughput, from a file's bytes in memory to its screening.",
    )
    parser.add_argument(
        "images", nargs="*", type=path_argument, metavar="IMAGE", help="X-ray files (default: synthetic ones)"
    )
    add_bundle(parser)
    add_engines(parser)
    add_rebuild(parser)
    add_signature(parser)
    parser.add_argument("--warmup", type=at_least_one, default=10, metavar="N", help="unmeasured runs (%(default)s)")
    parser.add_argument("--iterations", type=at_least_one, default=100, metavar="N", help="measured runs (%(default)s)")
    parser.add_argument(
        "--image-px", type=at_least_one, default=2048, metavar="N", help="side of the synthetic images (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_traceback_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print, return the exit status."""
    report, failed = _measure(args)
    if args.json:
        print_json(report.as_json())
    else:
        print_results(_table(report))
    return _SOME_FAILED if failed else 0


def _measure(args: argparse.Namespace) -> tuple[BenchReport, int]:
    """Return the report, and the number of given files that could not be screened."""
    from cxr_edge import bench

    tracebacks = TracebackLog(verbose=args.verbose, log=args.log)
    bundle = open_bundle(args, args.bundle)
    engines = load_engines(args, bundle, threads=args.threads)
    screener = Screener(bundle, engines, threads=args.threads, whole=True)
    images, description = _images(args, screener, tracebacks)
    print_message(f"measuring {args.iterations} screenings of {description} ...")
    stages = bench.measure_latency(screener, images, warmup=args.warmup, iterations=args.iterations)
    one_thread = Screener(bundle, load_engines(args, bundle, threads=1), whole=True)
    throughput = [
        bench.measure_throughput(one_thread, images, workers=workers, iterations=args.iterations)
        for workers in sorted({1, args.threads})
    ]
    report = bench.BenchReport(
        environment=environment(engines.versions),
        bundle=f"{bundle.manifest.name} {bundle.manifest.version}",
        bundle_digest=bundle.digest,
        engines=screener.describe(),
        threads=args.threads,
        warmup=args.warmup,
        images=description,
        stages=stages,
        throughput=tuple(throughput),
    )
    return report, len(args.images) - len(images) if args.images else 0


def _images(args: argparse.Namespace, screener: Screener, tracebacks: TracebackLog) -> tuple[list[bytes], str]:
    """Return the encoded images and their description. A given file that cannot be screened is reported and skipped."""
    from cxr_edge.bench import known_images

    if not args.images:
        side = args.image_px
        if side**2 > MAX_PIXELS:
            raise InputError(
                f"--image-px {side}: an image has at most {MAX_PIXELS:,} pixels: give a side of 1 to 10000"
            )
        return known_images(screener.bundle, side_px=side), f"synthetic X-rays, {side}x{side} JPEG"
    images = []
    for path in args.images:
        result = screener.screen_file(path)
        tracebacks.add(result)
        if isinstance(result.outcome, Failure):
            print_message(f"skipped: {printable(path)}: {result.outcome.reason}")
        else:
            images.append(path.read_bytes())
    if not images:
        raise InputError("none of the given files can be screened: give X-ray files")
    return images, f"{len(images)} given files"


def _table(report: BenchReport) -> str:
    processor, total = report.environment.processor, report.stages["total"]
    lines = [
        f"{report.bundle} on {processor}, {report.threads} threads, batch 1, {report.engines}",
        f"{report.images}; {report.warmup} warm-up and {total.n} measured runs; milliseconds",
        "",
        f"{'stage':<12}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}{'share':>8}",
    ]
    for stage, t in report.stages.items():
        row = "".join(f"{v:>9.2f}" for v in (t.p50_ms, t.p90_ms, t.p99_ms, t.max_ms))
        lines.append(f"{stage:<12}{row}{t.mean_ms / total.mean_ms:>8.1%}")
    lines.append("")
    lines += [f"throughput with {t.workers} worker(s): {t.images_per_s:.1f} images/s" for t in report.throughput]
    return "\n".join(lines)
