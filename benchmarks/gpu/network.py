"""One network on a GPU, timed step by step: upload, compute and download by the GPU's clock, enqueue by the host's.

A device engine, its device and input tensors come in; each call runs one of them through pinned memory, as the screening
does, and tells its steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.backends.base import DeviceEngine
from cxr_edge.gpu.arena import Arena
from cxr_edge.gpu.interface import Device

__all__ = ["DeviceSteps", "EngineOnDevice"]


@dataclass(frozen=True, kw_only=True)
class DeviceSteps:
    """Milliseconds. enqueue_ms: until the host had handed the inference over."""

    upload_ms: float
    compute_ms: float
    download_ms: float
    enqueue_ms: float


class EngineOnDevice:
    """An engine bound to memory and a stream of its own. inputs: arrays by name, for one batch size."""

    def __init__(self, engine: DeviceEngine, device: Device, inputs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> None:
        self._device, self._inputs = device, inputs
        batch = len(next(iter(inputs[0].values())))
        self._given, self._results = Arena(), Arena()
        for tensor in engine.inputs:
            self._given.add(tensor.name, inputs[0][tensor.name].shape, tensor.dtype)
        for tensor in engine.outputs:
            self._results.add(tensor.name, engine.output_shapes(batch)[tensor.name], tensor.dtype)
        with device.current():
            self._stream, self._marks = device.stream(), [device.event() for _ in range(4)]
            self._in, self._out = device.allocate(self._given.n_bytes), device.allocate(self._results.n_bytes)
            self._host_in, self._host_out = device.pinned(self._given.n_bytes), device.pinned(self._results.n_bytes)
            self._host_in[:] = 0
            addresses = {t.name: self._in.address + self._given.offset(t.name) for t in engine.inputs}
            addresses |= {t.name: self._out.address + self._results.offset(t.name) for t in engine.outputs}
            self._enqueue = engine.bind(addresses, batch=batch, stream=self._stream.handle)

    def run(self, i: int) -> DeviceSteps:
        """One inference, waited for. The copy into pinned memory is in no step."""
        device, stream, marks = self._device, self._stream, self._marks
        with device.current():
            for name, array in self._given.views(self._host_in).items():
                np.copyto(array, self._inputs[i % len(self._inputs)][name])
            device.record(marks[0], stream)
            device.upload(self._in.address, self._host_in, stream)
            device.record(marks[1], stream)
            start = perf_counter()
            self._enqueue()
            enqueue_ms = 1e3 * (perf_counter() - start)
            device.record(marks[2], stream)
            device.download(self._host_out, self._out.address, stream)
            device.record(marks[3], stream)
            device.synchronize(stream)
            upload, compute, download = (device.elapsed_ms(a, b) for a, b in pairwise(marks))
        return DeviceSteps(upload_ms=upload, compute_ms=compute, download_ms=download, enqueue_ms=enqueue_ms)

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """Of the last run."""
        return {name: array.copy() for name, array in self._results.views(self._host_out).items()}
