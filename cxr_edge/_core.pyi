from collections.abc import Mapping, Sequence
from typing import Any, Protocol

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

COMBINATION_STRATEGIES: tuple[str, ...]
COMBINATION_ACTIVATIONS: tuple[str, ...]

def combination_shapes(strategy: str, *, members: int, labels: int) -> dict[str, tuple[int | None, ...]]: ...

class Combiner:
    def __init__(
        self,
        *,
        strategy: str,
        labels: int,
        member_temperatures: Sequence[float],
        temperature: float,
        parameters: Mapping[str, npt.NDArray[np.float64]],
        activation: str = "softmax",
        label_temperatures: Sequence[float] = (),
    ) -> None: ...
    @property
    def members(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...
    def values(self) -> npt.NDArray[np.float64]: ...
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

def lung_box(mask: npt.NDArray[np.float32], rule: LungRule, *, width_px: int, height_px: int) -> tuple[int, _Box]: ...

FRAME_HEADER_BYTES: int
ROW_ALIGNMENT: int

class DevicePreprocessor:
    def __init__(self, specs: Sequence[Spec]) -> None: ...
    @property
    def scratch_bytes(self) -> int: ...

# Typing only: the kernels' signatures, for `Cuda`, `Emulated` and gpu/interface.py. csrc/include/cxr/device.h explains the
# arguments; integers are device addresses, sizes or strides.
class Kernels(Protocol):
    def preprocess(
        self, preprocessor: DevicePreprocessor, *, frame: int, lungs: int, scratch: int, outputs: Sequence[int]
    ) -> None: ...
    def lung_box(
        self, *, mask: int, rows: int, columns: int, rule: LungRule, frame: int, scratch: int, record: int
    ) -> None: ...
    def combine(
        self,
        combiner: Combiner,
        *,
        parameters: int,
        logits: int,
        member_stride: int,
        scratch: int,
        probabilities: int,
        winner: int,
    ) -> None: ...

class Emulated(Kernels):
    def __init__(self, seed: int) -> None: ...

class Cuda(Kernels):
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
    def make_wait(self, stream: int) -> None: ...
    def ms_since(self, start: Event) -> float: ...
