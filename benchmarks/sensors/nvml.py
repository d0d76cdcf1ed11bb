"""Readings of an NVIDIA GPU by NVML, the library of its driver, through the package `nvidia-ml-py` (module `pynvml`).

Clocks, temperature, power, utilization and the reasons for reduced clocks. A Jetson's NVML supports few of them; the
others are left out and `tegrastats` reads the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.sensors.reading import SensorError, State

__all__ = ["REASONS", "Nvml"]

# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h, NvmlClocksEventReasons) that reduce clocks under load;
# idling (bit 0) is not one of them.
REASONS = {
    0x0002: "application clocks setting",
    0x0004: "software power cap",
    0x0008: "hardware slowdown",
    0x0010: "sync boost",
    0x0020: "software thermal slowdown",
    0x0040: "hardware thermal slowdown",
    0x0080: "hardware power brake",
    0x0100: "display clock setting",
    0x0200: "board limit",
    0x0400: "reliability",
}


class Nvml:
    """One GPU.

    index: its number by NVML, in the order of the PCI bus.
    nvml: the module `pynvml`; None imports it.
    """

    def __init__(self, index: int = 0, nvml: Any = None) -> None:
        self.name = f"NVML GPU {index}"
        self._index = index
        self._nvml = nvml
        self._handle: Any = None

    def unavailable_because(self) -> str | None:
        if self._nvml is None:
            try:
                self._nvml = import_module("pynvml")
            except ImportError:
                return "the package nvidia-ml-py is not installed: pip install nvidia-ml-py"
        try:
            self.open()
        except SensorError as error:
            return str(error)
        self.close()
        return None

    def open(self) -> None:
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByIndex(self._index)
        except self._nvml.NVMLError as error:
            raise SensorError(f"NVML finds no GPU {self._index} here ({error}): is its driver installed?") from None

    def close(self) -> None:
        if self._handle is None:
            return
        self._handle = None
        with suppress(self._nvml.NVMLError):  # the driver is gone, and its resources with it
            self._nvml.nvmlShutdown()

    def read(self) -> State:
        n, gpu = self._nvml, self._handle
        readers: dict[str, Callable[[], float]] = {
            "sm_clock_mhz": lambda: n.nvmlDeviceGetClockInfo(gpu, n.NVML_CLOCK_SM),
            "memory_clock_mhz": lambda: n.nvmlDeviceGetClockInfo(gpu, n.NVML_CLOCK_MEM),
            "gpu_temperature_c": self._temperature_c,
            "power_w": lambda: n.nvmlDeviceGetPowerUsage(gpu) / 1e3,
            "gpu_utilisation_percent": lambda: n.nvmlDeviceGetUtilizationRates(gpu).gpu,
            "memory_utilisation_percent": lambda: n.nvmlDeviceGetUtilizationRates(gpu).memory,
        }
        values = {name: value for name, read in readers.items() if (value := self._read_or_none(read)) is not None}
        return State(values=values, slowed_by=self._reasons())

    def _temperature_c(self) -> float:
        n = self._nvml
        if hasattr(n, "nvmlDeviceGetTemperatureV"):  # since driver 570; the older call ends with CUDA 14
            value = self._read_or_none(lambda: n.nvmlDeviceGetTemperatureV(self._handle, n.NVML_TEMPERATURE_GPU))
            if value is not None:
                return value
        return float(n.nvmlDeviceGetTemperature(self._handle, n.NVML_TEMPERATURE_GPU))

    def _reasons(self) -> tuple[str, ...]:
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            read = getattr(self._nvml, name, None)  # the second is the older name; a driver may have only that one
            bits = None if read is None else self._read_or_none(partial(read, self._handle))
            if bits is not None:
                return tuple(reason for bit, reason in REASONS.items() if int(bits) & bit)
        return ()

    def _read_or_none(self, read: Callable[[], float]) -> float | None:
        """Return a reading; None if this GPU or this driver does not support it."""
        try:
            return float(read())
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) == getattr(self._nvml, "NVML_ERROR_GPU_IS_LOST", -1):
                raise SensorError(f"NVML has lost GPU {self._index}: {error}") from None
            return None
