"""Images to screen, and options, settings and output header that the latency scripts share.

Takes parsed options; returns a `Workload` with the bundle and its images, both as file bytes and as decoded pixels, and
functions that screen image number i. The header of every script has machine, power mode, engines and images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.harness.power_mode import power_mode
from benchmarks.harness.script import add_out
from cxr_edge.bench import known_images
from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, at_least_one
from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.engines import EngineSet
from cxr_edge.environment import environment
from cxr_edge.errors import InputError
from cxr_edge.names import path_argument
from cxr_edge.records import Image, Screening
from cxr_edge.screening.screener import Screener

__all__ = [
    "SOURCES",
    "Workload",
    "add_source",
    "add_workload",
    "at_least_zero",
    "header",
    "make_screen",
    "read_images",
    "report_settings",
    "screen_bytes",
]

# Where a screening starts, and what the measured interval then includes.
SOURCES = {
    "pixels": "decoded pixels in memory to the screening, decoding excluded",
    "bytes": "the file's bytes in memory to the screening, decoding included",
}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A bundle and the images to screen."""

    bundle: Bundle
    files: tuple[bytes, ...]  # encoded
    images: tuple[Image, ...]  # the same, decoded
    description: str  # of the images, for reports

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Workload:
        """Load the bundle and the images that the options name. Raises InputError or BundleError."""
        bundle = Bundle.open(args.bundle)
        side = args.image_px
        files = read_images(args.images) if args.images else known_images(bundle, side_px=side)
        description = (
            f"{len(files)} given files" if args.images else f"{len(files)} synthetic X-rays, {side}x{side} JPEG"
        )
        images = tuple(decode_bytes(data, source=f"benchmark image {i}") for i, data in enumerate(files))
        return cls(bundle=bundle, files=tuple(files), images=images, description=description)


def add_workload(parser: argparse.ArgumentParser, name: str) -> None:
    """Add IMAGE, --image-px, --bundle, --engines, --backend, --threads and --out."""
    parser.add_argument(
        "images", nargs="*", type=path_argument, metavar="IMAGE", help="X-ray files (default: synthetic ones)"
    )
    parser.add_argument(
        "--image-px", type=at_least_one, default=2048, metavar="N", help="side of the synthetic images (%(default)s)"
    )
    add_bundle(parser)
    add_engines(parser)
    add_out(parser, name)


def add_source(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --from, one of SOURCES."""
    meaning = "; ".join(f"{name}: {text}" for name, text in SOURCES.items())
    parser.add_argument(
        "--from", dest="source", choices=SOURCES, default=default, help=f"{meaning} (default: %(default)s)"
    )


def at_least_zero(text: str) -> float:
    """Parse a number of at least 0. An argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def read_images(files: Sequence[Path]) -> list[bytes]:
    """Read X-ray files; each is decoded once, so that an invalid file is rejected now, by name."""
    try:
        contents = [f.read_bytes() for f in files]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): give X-ray files") from None
    for file, data in zip(files, contents, strict=True):
        decode_bytes(data, source=str(file))
    return contents


def screen_bytes(screener: Screener, data: bytes) -> Screening:
    """Decode and screen; the stage times include decoding."""
    start = perf_counter()
    image = decode_bytes(data, source="benchmark image")
    return screener.screen(image, decode_ms=1e3 * (perf_counter() - start))


def make_screen(screener: Screener, workload: Workload, source: str) -> Callable[[int], Screening]:
    """Return a function that screens image number i (modulo the number of images), from `pixels` or `bytes`."""
    images, files = workload.images, workload.files
    if source == "pixels":
        return lambda i: screener.screen(images[i % len(images)])
    return lambda i: screen_bytes(screener, files[i % len(files)])


def report_settings(workload: Workload, screener: Screener, threads: int) -> dict[str, str | int | float]:
    """Return the settings that every report of these scripts has, the power mode included."""
    manifest = workload.bundle.manifest
    return {
        "bundle": f"{manifest.name} {manifest.version}",
        "engines": screener.describe(),
        "batch": 1,
        "threads": threads,
        "images": workload.description,
        "power mode": power_mode().describe(),
    }


def header(title: str, facts: dict[str, str | int | float], engines: EngineSet) -> str:
    """Return the first lines of an output: machine and settings."""
    env = environment(engines.versions)
    load = "" if env.load_average is None else f", load average at the start {env.load_average:.1f}"
    machine = f"Machine: {env.processor}, {env.cores} cores, {env.platform}, Python {env.python}{load}"
    return "\n".join([f"=== {title} ===", machine, *(f"{k[0].upper()}{k[1:]}: {v}" for k, v in facts.items()), ""])
