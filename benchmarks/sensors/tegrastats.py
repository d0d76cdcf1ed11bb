"""Readings of a Jetson by `tegrastats`, which prints a line of statistics per interval; formats of JetPack 4 to 7.

Takes its lines; returns memory, clocks, loads, temperatures and power. Fields and spelling differ by module and release
(see NVIDIA's Jetson Linux Developer Guide, `tegrastats Utility`): missing fields are left out, unknown ones skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Sequence

from benchmarks.sensors.reading import SensorError, State, slug

__all__ = ["Tegrastats", "parse"]

# `RAM 2840/7620MB`; used, not total.
_MEMORY = re.compile(r"\b(RAM|SWAP) (\d+)/\d+MB")
# `CPU [25%@1420,off,...]`, or one clock behind the bracket: `CPU [0%,5%,off]@2601`.
_CPUS = re.compile(r"\bCPU \[([^\]]*)\](?:@(\d+))?")
# `GR3D_FREQ 76%`, `0%@76`, `99%@[612]`, `0%@[0,0]` (a clock for each cluster of the GPU), `@[314,314,314]`; EMC alike.
_ENGINE = re.compile(r"\b(GR3D|EMC)_FREQ (?:(\d+)%)?(?:@\[?([\d, ]+)\]?)?")
# `GPU@49.2C`, `cpu@34.8C/36.1C` with the highest since the start behind.
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?[\d.]+)C\b")
# `VDD_IN 5336/4970`, `VDD_IN 5251mW/8535mW`, `VIN 26686mW/26686mW/27000mW`: now, mean and highest since the start.
_POWER = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+mW)?(?=\s|$)")

_ENGINES = {"GR3D": "gpu", "EMC": "memory"}
_SWITCHED_OFF_C = -200  # tegrastats prints -256C for a unit without power
_SECONDS_TO_END = 2


def parse(line: str) -> State:
    """Parse one line; return an empty state for a line of another kind."""
    values = {f"{name.lower()}_used_mb": float(used) for name, used in _MEMORY.findall(line)}
    values |= _cpus(line)
    for engine, percent, clocks in _ENGINE.findall(line):
        if clocks.strip():
            values[f"{_ENGINES[engine]}_clock_mhz"] = max(float(mhz) for mhz in clocks.split(","))
        if percent:
            values[f"{_ENGINES[engine]}_utilisation_percent"] = float(percent)
    for zone, degrees in _TEMPERATURE.findall(line):
        if float(degrees) > _SWITCHED_OFF_C:
            values[f"{slug(zone)}_temperature_c"] = float(degrees)
    for rail, milliwatts in _POWER.findall(line):
        if rail != "NC":  # not connected
            values[f"{slug(rail)}_power_w"] = float(milliwatts) / 1e3
    return State(values=values)


def _cpus(line: str) -> dict[str, float]:
    match = _CPUS.search(line)
    if match is None:
        return {}
    cores = [core.partition("%")[::2] for core in match[1].split(",") if "%" in core]  # the others are off
    if not cores:
        return {}
    values = {
        "cores_online_count": float(len(cores)),
        "cpu_utilisation_percent": sum(float(load) for load, _ in cores) / len(cores),
    }
    clocks = [float(match[2])] if match[2] else [float(mhz[1:]) for _, mhz in cores if mhz.startswith("@")]
    return values | ({"cpu_clock_mhz": sum(clocks) / len(clocks)} if clocks else {})


class Tegrastats:
    """The tool as a child process; a thread stores its last line.

    Without root it omits some fields; run the whole script as root for them.

    command: the tool and its arguments before the interval.
    """

    name = "tegrastats"

    def __init__(self, command: Sequence[str] = ("tegrastats",), *, interval_ms: int = 1000) -> None:
        self._command = [*command, "--interval", str(interval_ms)]
        self._child: subprocess.Popen[str] | None = None
        self._line = ""
        self._listener: threading.Thread | None = None

    def unavailable_because(self) -> str | None:
        if shutil.which(self._command[0]) is None:
            return f"{self._command[0]} is not installed: it comes with JetPack and runs on a Jetson only"
        return None

    def open(self) -> None:
        try:
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        except OSError as error:
            raise SensorError(f"{self._command[0]} cannot be started: {error.strerror}") from None
        self._listener = threading.Thread(target=self._listen, name="tegrastats", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._child is not None
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._line = line

    def read(self) -> State:
        """Return the last line since the previous read; empty if there was none."""
        if self._child is None:
            raise SensorError("tegrastats is not running: open it first")
        line, self._line = self._line, ""
        status = self._child.poll()
        if status is not None and not parse(line).values:
            raise SensorError(f"tegrastats exited with status {status}: {line.strip() or 'no message'}")
        return parse(line)

    def close(self) -> None:
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._listener is not None:
            self._listener.join(_SECONDS_TO_END)
        if self._child.stdout is not None:
            self._child.stdout.close()
        self._child = self._listener = None
