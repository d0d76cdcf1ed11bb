"""Measure latency and throughput of a screener on this machine.

Takes a screener and encoded images in memory; returns a `BenchReport` with percentiles per stage. Each measured interval
runs from the file's bytes to the screening, with all stages of `records.STAGES`; reading from disk is excluded.
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
from cxr_edge.records import STAGES, Screening
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


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Distribution of the durations of n runs."""

    n: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Throughput with several images processed concurrently."""

    workers: int  # images processed at once, one thread each
    images: int  # screened in the measured interval
    images_per_s: float


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Result of one run of `cxr-edge bench`."""

    environment: Environment
    bundle: str  # name and version
    bundle_digest: str
    engines: str  # backend, precisions, execution mode
    threads: int
    warmup: int  # unmeasured runs
    images: str  # description of the images
    stages: dict[str, Latency]  # by name, in order of execution, `total` last
    throughput: tuple[Throughput, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this report."""
        return asdict(self)


def percentiles(values: npt.ArrayLike, ranks: Sequence[float] = (50, 90, 99)) -> tuple[float, ...]:
    """Return percentiles of at least one value, linearly interpolated. All published figures use this definition.

    ranks: each from 0 to 100.
    """
    return tuple(float(v) for v in np.percentile(np.asarray(values, dtype=np.float64), ranks))


def latency(milliseconds: Sequence[float]) -> Latency:
    """Summarise measured durations, at least one."""
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


def known_images(bundle: Bundle, *, side_px: int, limit: int = 8) -> list[bytes]:
    """Return the bundle's synthetic known-answer images, resized to side_px x side_px and encoded as JPEG (quality 90).

    For machines without X-ray files. limit: maximum number of images. Raises BundleError if the bundle has none.
    """
    samples = bundle.manifest.known_answers[:limit]
    if not samples:
        raise BundleError(
            f"the bundle {bundle.manifest.name} has no known-answer images: give X-ray files to measure on"
        )
    encoded = []
    for sample in samples:
        data = bundle.file(sample.file).read_bytes()  # OpenCV opens no file whose name is not UTF-8
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        large = cv2.resize(pixels, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
        encoded.append(cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return encoded


def measure_latency(screener: Screener, images: Sequence[bytes], *, warmup: int, iterations: int) -> dict[str, Latency]:
    """Screen `iterations` images one after the other, after `warmup` unmeasured ones; return percentiles per stage.

    Stages that never take time, such as the GPU copies on a host pipeline, are omitted.
    """
    screen = _screen_bytes(screener)
    for data in islice(cycle(images), warmup):
        screen(data)
    screenings = [screen(data) for data in islice(cycle(images), iterations)]
    times = {stage: [float(getattr(s.times, f"{stage}_ms")) for s in screenings] for stage in (*STAGES, "total")}
    return {stage: latency(values) for stage, values in times.items() if any(values)}


def measure_throughput(screener: Screener, images: Sequence[bytes], *, workers: int, iterations: int) -> Throughput:
    """Screen `iterations` images, `workers` at a time. The screener's engines should use one thread each."""
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
