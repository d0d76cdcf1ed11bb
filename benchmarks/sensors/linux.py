"""Clocks, temperatures, power and throttling from Linux's own files below /sys and /proc.

No package and mostly no permission is needed, on x86 and Arm. In containers and virtual machines many files are missing:
each sensor then reports which files it searched. `root` is the folder that contains sys and proc; tests pass their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from time import monotonic

from benchmarks.sensors.reading import State, read_number, read_text, slug

__all__ = ["CpuClocks", "Hwmon", "Rapl", "Thermal"]

ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"


class _Files:
    """Base of the sensors here: no file stays open between two reads."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass


class CpuClocks(_Files):
    """Clocks of the processor's cores: from cpufreq, else from /proc/cpuinfo."""

    name = "CPU clocks"

    def unavailable_because(self) -> str | None:
        if self._clocks_mhz():
            return None
        return "neither cpufreq in /sys nor clocks in /proc/cpuinfo: usual in virtual machines and containers"

    def read(self) -> State:
        clocks = self._clocks_mhz()
        if not clocks:
            return State()
        mean = sum(clocks) / len(clocks)
        return State(values={"cpu_clock_mhz": mean, "slowest_core_mhz": min(clocks), "fastest_core_mhz": max(clocks)})

    def _clocks_mhz(self) -> list[float]:
        files = (self._root / _CPUS).glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
        clocks = [khz / 1e3 for file in files if (khz := read_number(file)) is not None]
        if clocks:
            return clocks
        clocks_mhz = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", read_text(self._root / "proc/cpuinfo") or "", re.MULTILINE)
        return [float(mhz) for mhz in clocks_mhz]


class Thermal(_Files):
    """Thermal zones and throttling from the kernel: alerts of a Jetson, throttle counters of x86 cores."""

    name = "thermal zones"

    def __init__(self, root: Path = ROOT) -> None:
        super().__init__(root)
        self._events: dict[Path, float] = {}

    def unavailable_because(self) -> str | None:
        if self._temperatures() or self._alerts() or self._counters():
            return None
        return "no zone that can be read in /sys/class/thermal: usual in virtual machines and containers"

    def read(self) -> State:
        slowed_by = [kind for file, kind in self._alerts() if read_number(file)]
        slowed_by += [file.stem.removesuffix("_count") for file in self._counters() if self._has_grown(file)]
        return State(values=self._temperatures(), slowed_by=tuple(dict.fromkeys(slowed_by)))

    def _temperatures(self) -> dict[str, float]:
        temperatures: dict[str, float] = {}
        for zone in _sorted_by_number(self._root / "sys/class/thermal", "thermal_zone*"):
            millidegrees = read_number(zone / "temp")  # the zone of a unit that is powered off cannot be read
            if millidegrees is not None:
                kind = re.sub("_therm(al)?$", "", slug(read_text(zone / "type") or zone.name))
                temperatures[_unused_name(f"{kind}_temperature", temperatures)] = millidegrees / 1e3
        return temperatures

    def _alerts(self) -> list[tuple[Path, str]]:
        devices = _sorted_by_number(self._root / "sys/class/thermal", "cooling_device*")
        kinds = [(device / "cur_state", read_text(device / "type") or "") for device in devices]
        return [(file, kind) for file, kind in kinds if kind.endswith("-throttle-alert")]

    def _counters(self) -> list[Path]:
        return sorted((self._root / _CPUS).glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))

    def _has_grown(self, file: Path) -> bool:
        now = read_number(file) or 0.0
        before = self._events.setdefault(file, now)
        self._events[file] = now
        return now > before


class Rapl(_Files):
    """Power of an x86 processor, from its energy counters: the mean since the previous read, none at the first."""

    name = "RAPL"

    def __init__(self, root: Path = ROOT) -> None:
        super().__init__(root)
        self._before: dict[str, tuple[float, float]] = {}

    def unavailable_because(self) -> str | None:
        zones = self._zones()
        if not zones:
            return "no energy counters in /sys/class/powercap: an x86 processor's only, hidden from virtual machines"
        if not any(read_number(zone / "energy_uj") is not None for zone in zones):
            return (
                f"{zones[0].name}/energy_uj cannot be read: only root may read it since CVE-2020-8694; run as root, or "
                "make it readable with `sudo chmod o+r`"
            )
        return None

    def read(self) -> State:
        values = {}
        for zone in self._zones():
            watts = self._watts(zone)
            if watts is not None:
                values[f"{self._label(zone)}_power_w"] = watts
        return State(values=values)

    def _zones(self) -> list[Path]:
        # intel-rapl:0 is a package, intel-rapl:0:0 a domain of it; intel-rapl-mmio repeats the package.
        return sorted((self._root / "sys/class/powercap").glob("intel-rapl:*"))

    def _label(self, zone: Path) -> str:
        parent = zone.name.rpartition(":")[0]
        above = read_text(zone.parent / parent / "name") if parent.count(":") else None
        return slug(f"{above or ''} {read_text(zone / 'name') or zone.name}")

    def _watts(self, zone: Path) -> float | None:
        microjoules, now = read_number(zone / "energy_uj"), monotonic()
        if microjoules is None:
            return None
        before, self._before[zone.name] = self._before.get(zone.name), (microjoules, now)
        if before is None or now <= before[1]:
            return None
        used_uj = microjoules - before[0]
        if used_uj < 0:  # the counter wrapped around
            used_uj += read_number(zone / "max_energy_range_uj") or 0.0
        return max(0.0, used_uj) / 1e6 / (now - before[1])


class Hwmon(_Files):
    """Monitoring chips: highest temperature and power of each; on a Jetson the rails of its INA3221."""

    name = "hwmon"

    def unavailable_because(self) -> str | None:
        if self.read().values:
            return None
        return "no chip with temperatures or power in /sys/class/hwmon: usual in virtual machines and containers"

    def read(self) -> State:
        values: dict[str, float] = {}
        for chip in _sorted_by_number(self._root / "sys/class/hwmon", "hwmon*"):
            kind = slug(read_text(chip / "name") or chip.name)
            millidegrees = _numbers(chip.glob("temp*_input"))
            if millidegrees:
                values[_unused_name(f"{kind}_temperature", values)] = max(millidegrees) / 1e3
            values |= self._powers(chip, kind)
        return State(values=values)

    def _powers(self, chip: Path, kind: str) -> dict[str, float]:
        powers = {}
        for file in sorted([*chip.glob("power*_input"), *chip.glob("power*_average")]):
            microwatts = read_number(file)
            if microwatts is not None:
                powers[f"{kind}_{_label(file)}_power_w"] = microwatts / 1e6
        for file in sorted(chip.glob("curr*_input")):
            milliamperes, millivolts = read_number(file), read_number(file.with_name(file.name.replace("curr", "in")))
            rail = read_text(file.with_name(file.name.replace("curr", "in").replace("_input", "_label")))
            if milliamperes is not None and millivolts is not None and rail and "shunt" not in rail:
                powers[f"{slug(rail)}_power_w"] = milliamperes * millivolts / 1e6
        return powers


def _label(file: Path) -> str:
    stem = file.name.rpartition("_")[0]
    return slug(read_text(file.with_name(f"{stem}_label")) or stem)


def _numbers(files: Iterable[Path]) -> list[float]:
    return [value for file in files if (value := read_number(file)) is not None]


def _sorted_by_number(folder: Path, pattern: str) -> list[Path]:
    """Return the matching paths, sorted by the number at the end of their names."""
    return sorted(folder.glob(pattern), key=lambda path: int(re.sub(r"\D", "", path.name) or 0))


def _unused_name(stem: str, taken: dict[str, float]) -> str:
    """Return `stem_c`, or `stem_2_c` and so on if the name is taken."""
    count = 1
    while (name := f"{stem}_c" if count == 1 else f"{stem}_{count}_c") in taken:
        count += 1
    return name
