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

class LungRule:
    def __init__(
        self,
        *,
        threshold: float,
        min_pixels: int,
        margin: float,
        min_area: float,
        max_area: float,
        min_aspect: float,
        max_aspect: float,
    ) -> None: ...

def lung_box(
    mask: npt.NDArray[np.float32], rule: LungRule, *, width_px: int, height_px: int
) -> tuple[int, _Box, float]: ...

FRAME_HEADER_BYTES: int
ROW_ALIGNMENT: int

class DevicePreprocessor:
    def __init__(self, specs: Sequence[Spec]) -> None: ...
    @property
    def scratch_bytes(self) -> int: ...

class DeviceCombiner:
    def __init__(self, combiner: Combiner) -> None: ...
    def parameters(self) -> npt.NDArray[np.float64]: ...
    @property
    def members(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...

class _Executor:
    def preprocess(
        self, preprocessor: DevicePreprocessor, *, frame: int, lungs: int, scratch: int, outputs: Sequence[int]
    ) -> None: ...
    def lung_box(
        self, *, mask: int, rows: int, columns: int, rule: LungRule, frame: int, scratch: int, record: int
    ) -> None: ...
    def combine(
        self,
        combiner: DeviceCombiner,
        *,
        parameters: int,
        logits: int,
        member_stride: int,
        scratch: int,
        probabilities: int,
        winner: int,
    ) -> None: ...

class Emulated(_Executor):
    def __init__(self, seed: int) -> None: ...

class Cuda(_Executor):
    def __init__(self, stream: int) -> None: ...

def lung_scratch_bytes(rows: int, columns: int) -> int: ...
def cuda_architectures() -> list[int]: ...
def begin_capture(stream: int) -> None: ...
def end_capture(stream: int) -> Graph: ...

class Graph:
    def launch(self, stream: int) -> None: ...

class Event:
    def __init__(self) -> None: ...
    def record(self, stream: int, in_graph: bool) -> None: ...
    def hold(self, stream: int) -> None: ...
    def ms_since(self, start: Event) -> float: ...
