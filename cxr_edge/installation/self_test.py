"""Self-test of an installed version: its engines screen the bundle's known answers, and must give what the manifest has.

A bundle and its engines come in; nothing comes out, or a ContractError with the image and the difference. The limit is the gate's
for one image, since engines of reduced precision may move a probability by as much.
"""

from __future__ import annotations

import numpy as np

from cxr_edge.bundle import Bundle
from cxr_edge.compiler.parity import Limits
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import EngineSet
from cxr_edge.errors import ContractError
from cxr_edge.phantoms import make_phantom
from cxr_edge.screening.screener import Screener

__all__ = ["self_test"]


def self_test(bundle: Bundle, engines: EngineSet, *, max_loss: float, threads: int = 1) -> int:
    """Screen the known answers, or a drawn image where there are none. Returns the number of images.

    Raises ContractError if a probability differs from the manifest's by more than the gate allows, or is not finite.
    """
    screener = Screener(bundle, engines, threads=threads)
    answers = bundle.manifest.known_answers
    if not answers:
        _check(
            "a drawn image",
            screener.screen(decode(make_phantom("normal", size_px=256, seed=0).pixels)).probabilities,
            None,
            1.0,
        )
        return 1
    limit = Limits(max_loss=max_loss).max_shift
    for answer in answers:
        found = screener.screen(decode(bundle.file(answer.file))).probabilities
        _check(answer.file.path, found, answer.probabilities, limit)
    return len(answers)


def _check(name: str, found: tuple[float, ...], expected: tuple[float, ...] | None, limit: float) -> None:
    actual = np.array(found)
    difference = float(np.abs(actual - np.array(actual if expected is None else expected)).max())
    if not difference <= limit:  # written so that NaN fails
        wanted = "finite numbers" if expected is None else str(np.array(expected).round(4).tolist())
        raise ContractError(
            f"the self-test failed: for {name} the engines give {actual.round(4).tolist()}, expected {wanted}, at most "
            f"{limit:g} apart"
        )
