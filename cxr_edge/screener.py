"""From a decoded image to its screening: lungs, preprocess, members, combine, decision.

A `Screener` holds one bundle and its loaded engines. It keeps no state between images, so several threads may use one
at once; `screen_files` does that for a folder, with as many images in flight as there are workers and no more.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from cxr_edge import heatmap as heatmaps
from cxr_edge.bundle import Bundle
from cxr_edge.combine import Combiner, decide, member_probabilities
from cxr_edge.decode import MAX_PIXELS, decode
from cxr_edge.engines import EngineSet
from cxr_edge.errors import ContractError, InputError
from cxr_edge.lungs import lung_box
from cxr_edge.preprocess import Preprocessor
from cxr_edge.records import Failure, Flag, Image, MemberScore, Roi, Screening, StageTimes

__all__ = ["Answer", "Screener", "screen_files"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one file: its screening and the image, or the failure and no image."""

    outcome: Screening | Failure
    image: Image | None = None


@dataclass(frozen=True, kw_only=True)
class _MemberOutputs:
    logits: npt.NDArray[np.float32]  # (1, members, labels)
    cams: tuple[npt.NDArray[np.float32], ...]  # (labels, h, w) each; empty if a member gives none


class Screener:
    """One bundle, its engines, ready to screen.

    threads: threads that preprocessing one image may use; the engines were loaded with their own.
    Raises ContractError if the engines are not this bundle's in number.
    """

    def __init__(self, bundle: Bundle, engines: EngineSet, *, threads: int = 1) -> None:
        manifest = bundle.manifest
        if len(engines.members) != len(manifest.members) or (engines.segmenter is None) != (manifest.segmenter is None):
            raise ContractError(
                f"the bundle has {len(manifest.members)} members and "
                f"{'a' if manifest.segmenter else 'no'} segmenter, the engines do not match: build them again"
            )
        self.bundle = bundle
        self.manifest = manifest
        self._engines = engines
        self._specs = tuple(m.preprocess for m in manifest.members)
        self._preprocessor = Preprocessor(self._specs, threads=threads)
        self._lung_preprocessor = (
            Preprocessor([manifest.segmenter.preprocess], threads=threads) if manifest.segmenter else None
        )
        self._combiner = Combiner(manifest.combination, labels=len(manifest.labels))

    def screen(self, image: Image, *, heatmap: bool = False, decode_ms: float = 0.0) -> Screening:
        """Screen one image. heatmap: also make the class activation map of the decided label.

        decode_ms: what decoding took, for the stage times. The heat map's time is in none of the stages.
        """
        start = perf_counter()
        roi, lung_flags = self.find_lungs(image)
        lungs_done = perf_counter()
        tensors = self._preprocessor.run([image.pixels], [roi])
        preprocess_done = perf_counter()
        outputs = self._run_members(tensors)
        members_done = perf_counter()
        probabilities, winners = self._combiner.run(outputs.logits)
        labels = self.manifest.labels
        decision, decision_flags = decide(probabilities[0], int(winners[0]), labels, self.manifest.decision)
        combine_done = perf_counter()
        times = StageTimes(
            decode_ms=decode_ms,
            lungs_ms=1e3 * (lungs_done - start),
            preprocess_ms=1e3 * (preprocess_done - lungs_done),
            members_ms=1e3 * (members_done - preprocess_done),
            combine_ms=1e3 * (combine_done - members_done),
        )
        return Screening(
            source=image.source,
            sha256=image.sha256,
            width_px=image.width_px,
            height_px=image.height_px,
            labels=labels,
            probabilities=tuple(float(p) for p in probabilities[0]),
            decision=decision,
            members=self._member_scores(outputs.logits),
            roi=roi,
            flags=(*image.flags, *lung_flags, *decision_flags),
            times=times,
            heatmap=self._heatmap(outputs.cams, decision, roi, image) if heatmap else None,
        )

    def screen_file(self, path: str | Path, *, heatmap: bool = False, max_pixels: int = MAX_PIXELS) -> Answer:
        """Decode and screen one file; an InputError becomes a Failure."""
        start = perf_counter()
        try:
            image = decode(path, max_pixels=max_pixels)
            decode_ms = 1e3 * (perf_counter() - start)
            return Answer(outcome=self.screen(image, heatmap=heatmap, decode_ms=decode_ms), image=image)
        except InputError as error:
            return Answer(outcome=Failure(source=str(path), reason=str(error).removeprefix(f"{path}: ")))

    def find_lungs(self, image: Image) -> tuple[Roi, tuple[Flag, ...]]:
        """The lung box of an image, or the full frame with the flag that says why (none if there is no segmenter)."""
        segmenter = self.manifest.segmenter
        if segmenter is None or self._engines.segmenter is None or self._lung_preprocessor is None:
            return Roi.full(image.width_px, image.height_px), ()
        frame = Roi.full(image.width_px, image.height_px)
        (tensor,) = self._lung_preprocessor.run([image.pixels], [frame])
        mask = self._engines.segmenter.run({"image": tensor})["mask"][0, 0]
        roi, flag = lung_box(mask, width_px=image.width_px, height_px=image.height_px, rule=segmenter.lung_box)
        return roi, (flag,) if flag else ()

    def _run_members(self, tensors: Iterable[npt.NDArray[np.float32]]) -> _MemberOutputs:
        outputs = [engine.run({"image": t}) for engine, t in zip(self._engines.members, tensors, strict=True)]
        logits = np.stack([o["logits"] for o in outputs], axis=1)
        cams = tuple(o["cam"][0] for o in outputs if "cam" in o)
        return _MemberOutputs(logits=logits, cams=cams if len(cams) == len(outputs) else ())

    def _member_scores(self, logits: npt.NDArray[np.float32]) -> tuple[MemberScore, ...]:
        probabilities = member_probabilities(logits, self.manifest.combination)[0]
        return tuple(
            MemberScore(member=m.name, probabilities=tuple(float(p) for p in row))
            for m, row in zip(self.manifest.members, probabilities, strict=True)
        )

    def _heatmap(
        self, cams: tuple[npt.NDArray[np.float32], ...], decision: str, roi: Roi, image: Image
    ) -> npt.NDArray[np.float32] | None:
        if not cams:
            return None
        weights = self.manifest.combination.parameters.get("weights", [1.0 / len(cams)] * len(cams))
        return heatmaps.combine_maps(cams, weights, self.manifest.labels.index(decision), self._specs, roi, image)


def screen_files(
    screener: Screener,
    paths: Iterable[Path],
    *,
    workers: int,
    heatmap: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Answer]:
    """Screen files in their order, `workers` at a time (1: in the caller's thread).

    Memory stays flat: at most workers + 1 answers wait to be taken. Load the engines with one thread each when workers
    is above 1, so that the workers do not fight over the cores.
    """

    def screen(path: Path) -> Answer:
        return screener.screen_file(path, heatmap=heatmap, max_pixels=max_pixels)

    return map(screen, paths) if workers == 1 else _in_order(screen, paths, workers)


def _in_order(screen: Callable[[Path], Answer], paths: Iterable[Path], workers: int) -> Iterator[Answer]:
    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="screen") as pool:
        for path in paths:
            waiting.append(pool.submit(screen, path))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
