"""Clocks, temperatures, power and throttling of the machine while something is measured on it.

`python -m benchmarks.sensors` shows what can be read here, and why the rest cannot. Sources: NVML for an NVIDIA GPU,
`tegrastats` for a Jetson, and Linux's own files; each is a file beside this one that meets the protocol `Sensor`.
"""

from benchmarks.sensors.linux import CpuClocks, Hwmon, Rapl, Thermal
from benchmarks.sensors.nvml import Nvml
from benchmarks.sensors.reading import Sensor, SensorError, State
from benchmarks.sensors.sampler import Record, Sample, Sampler, all_sensors
from benchmarks.sensors.tegrastats import Tegrastats

__all__ = [
    "CpuClocks",
    "Hwmon",
    "Nvml",
    "Rapl",
    "Record",
    "Sample",
    "Sampler",
    "Sensor",
    "SensorError",
    "State",
    "Tegrastats",
    "Thermal",
    "all_sensors",
]
