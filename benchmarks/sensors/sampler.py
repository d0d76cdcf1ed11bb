"""Sampling of sensors in a separate thread, once per interval, during a measurement.

Takes sensors; returns a `Record` of their samples, with the reasons for unavailable ones and the cost of sampling itself.
A sensor that fails later is dropped with its reason; it never aborts a measurement.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time
from types import TracebackType

from benchmarks.sensors.linux import CpuClocks, Hwmon, Rapl, Thermal
from benchmarks.sensors.nvml import Nvml
from benchmarks.sensors.reading import Sensor, SensorError, State
from benchmarks.sensors.tegrastats import Tegrastats

__all__ = ["Record", "Sample", "Sampler", "all_sensors"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One reading of one sensor."""

    at_s: float  # start of the reading, by `time.perf_counter`
    sensor: str
    state: State


@dataclass(frozen=True, kw_only=True)
class Record:
    """All samples of a measurement."""

    samples: tuple[Sample, ...]  # in order of time
    absent: tuple[tuple[str, str], ...]  # name of each unavailable sensor, and the reason
    cpu_share: float  # of one core, used by the sampling


def all_sensors(root: Path = Path("/"), *, gpu: int = 0) -> list[Sensor]:
    """Return all sensors, available here or not. gpu: number of the NVIDIA GPU."""
    return [Nvml(gpu), Tegrastats(), CpuClocks(root), Thermal(root), Rapl(root), Hwmon(root)]


class Sampler:
    """Context manager that samples while its block runs; `record` returns the samples afterwards."""

    def __init__(self, sensors: Sequence[Sensor], *, interval_s: float = 1.0) -> None:
        if interval_s <= 0:
            raise ValueError(f"the interval between two samples must be above 0 s, got {interval_s}")
        self._interval_s = interval_s
        self._absent = {s.name: reason for s in sensors if (reason := s.unavailable_because()) is not None}
        self._sensors = [s for s in sensors if s.name not in self._absent]
        self._samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sensors", daemon=True)
        self._cpu_s = 0.0
        self._duration_s = 0.0

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def record(self) -> Record:
        """Return all samples. Call it after the `with` block."""
        share = self._cpu_s / self._duration_s if self._duration_s else 0.0
        return Record(samples=tuple(self._samples), absent=tuple(self._absent.items()), cpu_share=share)

    def _run(self) -> None:
        begin, begin_cpu = perf_counter(), thread_time()
        try:
            opened = [s for s in self._sensors if self._try(s, s.open)]
            while opened:
                opened = [s for s in opened if self._try(s, partial(self._sample, s))]
                if self._stop.wait(self._interval_s):
                    break
        finally:
            for sensor in self._sensors:
                sensor.close()
        self._duration_s, self._cpu_s = perf_counter() - begin, thread_time() - begin_cpu

    def _sample(self, sensor: Sensor) -> None:
        at_s, state = perf_counter(), sensor.read()
        if state.values or state.slowed_by:
            self._samples.append(Sample(at_s=at_s, sensor=sensor.name, state=state))

    def _try(self, sensor: Sensor, action: Callable[[], None]) -> bool:
        try:
            action()
        except SensorError as error:
            self._absent[sensor.name] = str(error)
            return False
        return True
