"""Logits of exported members: ONNX files and canvases in, logits of ONNX Runtime's CPU provider out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr_edge.ops.preprocess import normalize
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.canvases import onnx_session

__all__ = ["member_logits"]


def member_logits(
    files: Sequence[Path], lungs: npt.NDArray[np.uint8], spec: PreprocessSpec, *, threads: int
) -> npt.NDArray[np.float32]:
    """Return logits (N, members, labels) of exported members on canvases (N, S, S)."""
    sessions = [onnx_session(file, threads=threads) for file in files]
    found = []
    for start in range(0, len(lungs), 64):
        images = np.stack([normalize(canvas, spec) for canvas in lungs[start : start + 64]])
        found.append(np.stack([s.run(["logits"], {"image": images})[0] for s in sessions], axis=1))
    return np.concatenate(found)
