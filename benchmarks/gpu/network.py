"""One network on a GPU, timed step by step: upload, compute and download by the GPU's clock, enqueue by the host's.

Takes a device engine, its device and input tensors; each call runs one of them through pinned memory, as the screening
does, and returns the times of its steps.
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
    """Milliseconds of the steps of one inference."""

    upload_ms: float
    compute_ms: float
    download_ms: float
    enqueue_ms: float  # until the host has submitted the inference


class EngineOnDevice:
    """Engine bound to its own memory and stream. inputs: arrays by name, all of the same batch size."""

    def __init__(self, engine: DeviceEngine, device: Device, inputs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> None:
        self._device, self._inputs = device, inputs
        batch = len(next(iter(inputs[0].values())))
        self._input_arena, self._output_arena = Arena(), Arena()
        for tensor in engine.inputs:
            self._input_arena.add(tensor.name, inputs[0][tensor.name].shape, tensor.dtype)
        for tensor in engine.outputs:
            self._output_arena.add(tensor.name, engine.output_shapes(batch)[tensor.name], tensor.dtype)
        with device.current():
            self._stream, self._events = device.stream(), [device.event() for _ in range(4)]
            self._in, self._out = (
                device.allocate(self._input_arena.n_bytes),
                device.allocate(self._output_arena.n_bytes),
            )
            self._host_in, self._host_out = (
                device.pinned(self._input_arena.n_bytes),
                device.pinned(self._output_arena.n_bytes),
            )
            self._host_in[:] = 0
            addresses = {t.name: self._in.address + self._input_arena.offset(t.name) for t in engine.inputs}
            addresses |= {t.name: self._out.address + self._output_arena.offset(t.name) for t in engine.outputs}
            self._enqueue = engine.bind(addresses, batch=batch, stream=self._stream.handle)

    def run(self, i: int) -> DeviceSteps:
        """Run one inference to its end. No step includes the copy into pinned memory."""
        device, stream, events = self._device, self._stream, self._events
        with device.current():
            for name, array in self._input_arena.views(self._host_in).items():
                np.copyto(array, self._inputs[i % len(self._inputs)][name])
            device.record(events[0], stream)
            device.upload(self._in.address, self._host_in, stream)
            device.record(events[1], stream)
            start = perf_counter()
            self._enqueue()
            enqueue_ms = 1e3 * (perf_counter() - start)
            device.record(events[2], stream)
            device.download(self._host_out, self._out.address, stream)
            device.record(events[3], stream)
            device.synchronize(stream)
            upload, compute, download = (device.elapsed_ms(a, b) for a, b in pairwise(events))
        return DeviceSteps(upload_ms=upload, compute_ms=compute, download_ms=download, enqueue_ms=enqueue_ms)

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs of the last run."""
        return {name: array.copy() for name, array in self._output_arena.views(self._host_out).items()}
