"""Measurement of new engines: what they give and how long they take, at the end of a build and again by the self-test.

A screener comes in; probabilities of the bundle's known answers and of its gate set, and the time of a screening, come out. They
are stored as measured.json beside the engines, so that the self-test can tell a machine that has changed from engines that were
never closer to the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.gate_set import read_gate_set
from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.engines import Measured
from cxr_edge.records import Image, Screening
from cxr_edge.screening.screener import Screener

__all__ = ["known_answer_files", "measure", "screen_all", "screening_times_ms"]

_WARM_UP = 3
_TIMED = 15
_TIMED_IMAGES = 5  # known answers that take turns


def measure(screener: Screener, *, threads: int) -> Measured:
    """Screen known answers and gate set with new engines, and time some screenings. threads: of the engines."""
    bundle = screener.bundle
    files, gate = known_answer_files(bundle), read_gate_set(bundle)
    known = [screener.screen(decode_bytes(data, source=name)) for name, data in files]
    times = screening_times_ms(screener, [data for _, data in files])
    return Measured(
        bundle_sha256=bundle.digest,
        threads=threads,
        known_answers=tuple(s.probabilities for s in known),
        gate_set=() if gate is None else tuple(s.probabilities for s in screen_all(screener, gate.images)),
        screening_ms=median(times) if times else 0.0,
        screenings=len(times),
    )


def known_answer_files(bundle: Bundle) -> list[tuple[str, bytes]]:
    """Return the path in the bundle and the bytes of every known answer's file. Raises BundleError if one is missing."""
    return [(a.file.path, bundle.file(a.file).read_bytes()) for a in bundle.manifest.known_answers]


def screen_all(screener: Screener, images: Sequence[Image]) -> list[Screening]:
    """Return the screenings of decoded images, in order."""
    return [screener.screen(image) for image in images]


def screening_times_ms(screener: Screener, files: Sequence[bytes]) -> list[float]:
    """Return the times of screenings in milliseconds, from a file's bytes to the answer, after unmeasured ones.

    files: the bytes of known answers, of which the first few take turns; () gives no times.
    """
    turns = list(files[:_TIMED_IMAGES])
    if not turns:
        return []
    return [_screening_ms(screener, turns[i % len(turns)]) for i in range(_WARM_UP + _TIMED)][_WARM_UP:]


def _screening_ms(screener: Screener, data: bytes) -> float:
    start = perf_counter()
    screener.screen(decode_bytes(data, source="timing"))
    return 1e3 * (perf_counter() - start)
