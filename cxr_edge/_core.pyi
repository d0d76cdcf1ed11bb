from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.records import GrayPixels

_Box = tuple[int, int, int, int]

class Spec:
    def __init__(
        self,
        *,
        lungs: bool,
        canvas_px: int,
        crop_px: int,
        median: bool,
        standardize: str,
        mean: Sequence[float],
        std: Sequence[float],
        channels: int,
        half: bool,
    ) -> None: ...

class Preprocessor:
    def __init__(self, specs: Sequence[Spec], threads: int) -> None: ...
    def run(self, pixels: Sequence[GrayPixels], lungs: Sequence[_Box], outputs: Sequence[npt.NDArray[Any]]) -> None: ...

class Combiner:
    def __init__(
        self,
        *,
        strategy: str,
        members: int,
        labels: int,
        member_temperatures: Sequence[float],
        temperature: float,
        weights: Sequence[float] = ...,
        hidden_weight: Sequence[float] = ...,
        hidden_bias: Sequence[float] = ...,
        output_weight: Sequence[float] = ...,
        output_bias: Sequence[float] = ...,
        module_weight: Sequence[float] = ...,
        module_bias: Sequence[float] = ...,
    ) -> None: ...
    def run(self, logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]: ...

def canvas(pixels: GrayPixels, box: _Box, canvas_px: int) -> GrayPixels: ...
def normalize(canvas: GrayPixels, spec: Spec) -> npt.NDArray[Any]: ...
def lung_box(
    mask: npt.NDArray[np.float32],
    *,
    threshold: float,
    min_pixels: int,
    margin: float,
    width_px: int,
    height_px: int,
) -> tuple[_Box | None, float]: ...
