"""Known answers of a bundle: phantoms and the fp32 reference's predictions for them, added to a bundle without any.

Training and `cxr-edge import` call this; `samples` compares a machine with them, and `build-engine` compares engines on them
where there are no X-rays.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2

from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.bundle.manifest import KnownAnswer
from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.engines import reference
from cxr_edge.phantoms import LABELS, make_phantom
from cxr_edge.records import Screening
from cxr_edge.screening.screener import Screener

__all__ = ["add_known_answers", "in_turn"]

_FOLDER = "known"
_SIDE_PX = 256
_CANDIDATES_PER_ANSWER = 8

Item = TypeVar("Item")


def add_known_answers(bundle: Bundle, *, count: int, candidates: int | None = None) -> Bundle:
    """Draw phantoms and store the fp32 reference's predictions on them as the bundle's known answers.

    `count` of `candidates` times as many (None: 8) are selected, in turn from every predicted label, or set of findings: with one
    in all of them, an engine with a constant output would pass the build's parity check.
    """
    screener = Screener(bundle, reference(bundle, threads=1), whole=True)
    shutil.rmtree(bundle.root / _FOLDER, ignore_errors=True)
    (bundle.root / _FOLDER).mkdir()
    manifest = bundle.manifest
    decisions = () if manifest.multi_label else manifest.labels  # sets of findings come in the order of their images
    by_decision: dict[str, list[_Candidate]] = {decision: [] for decision in decisions}
    for i in range((candidates or _CANDIDATES_PER_ANSWER) * count):
        candidate = _candidate(screener, i)
        by_decision.setdefault(candidate.screening.forced_decision, []).append(candidate)
    chosen = in_turn(list(by_decision.values()), count)
    answers = [_known_answer(bundle.root, candidate) for candidate in chosen]
    return write_bundle(bundle.root, replace(manifest, known_answers=tuple(answers)))


def in_turn(queues: Sequence[Sequence[Item]], count: int) -> list[Item]:
    """Return the first item of every queue, then the second of every queue that has one, and so on, up to `count` items."""
    turns = itertools.zip_longest(*queues, fillvalue=None)
    return list(itertools.islice((item for turn in turns for item in turn if item is not None), count))


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    name: str
    png: bytes
    screening: Screening


def _candidate(screener: Screener, i: int) -> _Candidate:
    label, seed = LABELS[i % len(LABELS)], i // len(LABELS)
    png = cv2.imencode(".png", make_phantom(label, size_px=_SIDE_PX, seed=seed).pixels)[1].tobytes()
    name = f"{_FOLDER}/{label}-{seed}.png"
    return _Candidate(name=name, png=png, screening=screener.screen(decode_bytes(png, source=name)))


def _known_answer(root: Path, candidate: _Candidate) -> KnownAnswer:
    with (root / candidate.name).open("wb") as file:  # the manifest, which is written last, has its SHA-256
        file.write(candidate.png)
        file.flush()
        os.fsync(file.fileno())
    return KnownAnswer(
        file=file_ref(root, candidate.name),
        roi=candidate.screening.roi.as_tuple(),
        probabilities=candidate.screening.probabilities,
    )
