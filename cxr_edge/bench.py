"""Latency and throughput of a screener on this machine, with a record of what was measured and where.

In: a screener and encoded images in memory; out: a `BenchReport` with percentiles a stage. An interval runs from the file's
bytes to the screening and holds decode, lungs, preprocess, members and combine; reading from disk is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle
from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.environment import Environment
from cxr_edge.errors import BundleError
from cxr_edge.records import Screening
from cxr_edge.screening.screener import Screener

__all__ = [
    "BenchReport",
    "Latency",
    "Throughput",
    "known_images",
    "latency",
    "measure_latency",
    "measure_throughput",
    "percentiles",
]

STAGES = ("decode", "upload", "lungs", "preprocess", "members", "combine", "download", "total")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of n runs."""

    n: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Images a second with so many images worked on at once, one thread each."""

    workers: int
    images: int
    images_per_s: float


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """One `cxr-edge bench`. stages: by name, in the order of the work, `total` last."""

    environment: Environment
    bundle: str
    bundle_digest: str
    engines: str
    threads: int
    warmup: int
    images: str
    stages: dict[str, Latency]
    throughput: tuple[Throughput, ...]

    def as_json(self) -> dict[str, Any]:
        """The JSON object of this report."""
        return asdict(self)


def percentiles(values: npt.ArrayLike, ranks: Sequence[float] = (50, 90, 99)) -> tuple[float, ...]:
    """Percentiles of at least one value, interpolated between neighbours: the one definition behind every figure.

    ranks: from 0 to 100 each.
    """
    return tuple(float(v) for v in np.percentile(np.asarray(values, dtype=np.float64), ranks))


def latency(milliseconds: Sequence[float]) -> Latency:
    """Percentiles of measured durations, at least one."""
    values = np.asarray(milliseconds, dtype=np.float64)
    p50, p90, p99 = percentiles(values)
    return Latency(
        n=values.size,
        mean_ms=float(values.mean()),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=float(values.max()),
    )


def known_images(bundle: Bundle, *, side_px: int, most: int = 8) -> list[bytes]:
    """The bundle's synthetic known-answer images, enlarged to side_px x side_px and encoded as JPEG (quality 90).

    For a machine that has no X-rays at hand. Raises BundleError if the bundle has none.
    """
    answers = bundle.manifest.known_answers[:most]
    if not answers:
        raise BundleError(
            f"the bundle {bundle.manifest.name} has no known-answer images: give X-ray files to measure on"
        )
    encoded = []
    for answer in answers:
        pixels = cv2.imread(str(bundle.file(answer.file)), cv2.IMREAD_GRAYSCALE)
        large = cv2.resize(pixels, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
        encoded.append(cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return encoded


def measure_latency(screener: Screener, images: Sequence[bytes], *, warmup: int, iterations: int) -> dict[str, Latency]:
    """Screen one image after the other, `iterations` in all after `warmup` uncounted ones; percentiles by stage.

    Stages that there are none of, such as the copies to a GPU where the host does all, are left out.
    """
    screen = _screen_bytes(screener)
    for data in islice(cycle(images), warmup):
        screen(data)
    screenings = [screen(data) for data in islice(cycle(images), iterations)]
    times = {stage: [float(getattr(s.times, f"{stage}_ms")) for s in screenings] for stage in STAGES}
    return {stage: latency(values) for stage, values in times.items() if any(values)}


def measure_throughput(screener: Screener, images: Sequence[bytes], *, workers: int, iterations: int) -> Throughput:
    """Screen `iterations` images, `workers` at once. The screener's engines should use one thread each."""
    screen = _screen_bytes(screener)
    work = list(islice(cycle(images), iterations))
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(screen, work[: 2 * workers]))
        start = perf_counter()
        for _ in pool.map(screen, work):
            pass
        seconds = perf_counter() - start
    return Throughput(workers=workers, images=iterations, images_per_s=iterations / seconds)


def _screen_bytes(screener: Screener) -> Callable[[bytes], Screening]:
    def screen(data: bytes) -> Screening:
        start = perf_counter()
        image = decode_bytes(data, source="benchmark image")
        return screener.screen(image, decode_ms=1e3 * (perf_counter() - start))

    return screen
