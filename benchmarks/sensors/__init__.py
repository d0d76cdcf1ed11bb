"""Clocks, temperatures, power and throttling of the machine during a measurement.

`python -m benchmarks.sensors` prints the readings available here, and the reasons for missing ones. Sources: NVML for an
NVIDIA GPU, `tegrastats` for a Jetson, and Linux's own files; each is a module of this package with the protocol `Sensor`.
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
