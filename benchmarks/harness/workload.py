"""What the latency scripts have in common: their options, the images, and one screening of image number i.

In: parsed options; out: a `Workload` with the bundle and its images as files' bytes and as decoded pixels, and
functions that screen them. The head that every script prints names machine, power mode, engines and images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.harness.power_mode import power_mode
from cxr_edge.bench import known_images
from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, at_least_one
from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.engines import EngineSet
from cxr_edge.environment import environment
from cxr_edge.errors import InputError
from cxr_edge.records import Image, Screening
from cxr_edge.screening.screener import Screener

__all__ = [
    "SOURCES",
    "Workload",
    "add_source",
    "add_workload",
    "at_least_zero",
    "head",
    "read_images",
    "screen_bytes",
    "screening",
    "settings",
]

# What a screening starts from, and what is then inside its interval.
SOURCES = {
    "pixels": "decoded pixels in memory to the screening, decode left out",
    "bytes": "the file's bytes in memory to the screening, decode included",
}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A bundle and the images to screen: the bytes of each file, and the same decoded. described: for reports."""

    bundle: Bundle
    files: tuple[bytes, ...]
    images: tuple[Image, ...]
    described: str

    @classmethod
    def of(cls, args: argparse.Namespace) -> Workload:
        """What the options ask for. Raises InputError or BundleError."""
        bundle = Bundle.open(args.bundle)
        side = args.image_px
        files = read_images(args.images) if args.images else known_images(bundle, side_px=side)
        described = f"{len(files)} given files" if args.images else f"{len(files)} synthetic X-rays, {side}x{side} JPEG"
        images = tuple(decode_bytes(data, source=f"benchmark image {i}") for i, data in enumerate(files))
        return cls(bundle=bundle, files=tuple(files), images=images, described=described)


def add_workload(parser: argparse.ArgumentParser, name: str) -> None:
    """Images, --image-px, --bundle, --engines, --backend, --threads, --out."""
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="X-ray files (default: synthetic ones)")
    parser.add_argument(
        "--image-px", type=at_least_one, default=2048, metavar="N", help="side of the synthetic images (%(default)s)"
    )
    add_bundle(parser)
    add_engines(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench") / f"{name}.json", help="JSON file (default: %(default)s)"
    )


def add_source(parser: argparse.ArgumentParser, default: str) -> None:
    """--from, one of SOURCES."""
    meaning = "; ".join(f"{name}: {text}" for name, text in SOURCES.items())
    parser.add_argument(
        "--from", dest="source", choices=SOURCES, default=default, help=f"{meaning} (default: %(default)s)"
    )


def at_least_zero(text: str) -> float:
    """argparse type: a number from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text!r}")
    return value


def read_images(files: Sequence[Path]) -> list[bytes]:
    """The bytes of X-ray files, each decoded once so that one that cannot be used is refused now, by name."""
    try:
        contents = [f.read_bytes() for f in files]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): give X-ray files") from None
    for file, data in zip(files, contents, strict=True):
        decode_bytes(data, source=str(file))
    return contents


def screen_bytes(screener: Screener, data: bytes) -> Screening:
    """Decode and screen; decoding is in the stage times."""
    start = perf_counter()
    image = decode_bytes(data, source="benchmark image")
    return screener.screen(image, decode_ms=1e3 * (perf_counter() - start))


def screening(screener: Screener, workload: Workload, source: str) -> Callable[[int], Screening]:
    """A function that screens image number i, from `pixels` or `bytes`; numbers beyond the last begin anew."""
    images, files = workload.images, workload.files
    if source == "pixels":
        return lambda i: screener.screen(images[i % len(images)])
    return lambda i: screen_bytes(screener, files[i % len(files)])


def settings(workload: Workload, screener: Screener, threads: int) -> dict[str, str | int | float]:
    """What every report of these scripts says of its run, the power mode included."""
    manifest = workload.bundle.manifest
    return {
        "bundle": f"{manifest.name} {manifest.version}",
        "engines": screener.describe(),
        "batch": 1,
        "threads": threads,
        "images": workload.described,
        "power mode": power_mode().describe(),
    }


def head(name: str, facts: dict[str, str | int | float], engines: EngineSet) -> str:
    """The first lines of an output: where and how."""
    here = environment(engines.versions)
    load = "" if here.load_average is None else f", load average at the start {here.load_average:.1f}"
    machine = f"Machine: {here.processor}, {here.cores} cores, {here.platform}, Python {here.python}{load}"
    return "\n".join([f"=== {name} ===", machine, *(f"{k[0].upper()}{k[1:]}: {v}" for k, v in facts.items()), ""])
