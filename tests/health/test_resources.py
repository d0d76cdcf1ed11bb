"""Memory, disk and temperatures, read from folders like /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxr_edge.health import resources
from cxr_edge.health.resources import Memory, Temperature, memory, slowed_by, temperatures, writable

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


PROC = {
    "proc/meminfo": "MemTotal:  8000 kB\nMemAvailable:    4096 kB\n",
    "proc/self/status": "Name:\tpython\nVmRSS:\t  2048 kB\n",
}


def test_memory_of_a_machine(tmp_path: Path) -> None:
    write(tmp_path, PROC)
    assert memory(tmp_path) == Memory(used=2 * MIB, available=4 * MIB)


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "3145728\n",
            "sys/fs/cgroup/memory.current": "2097152\n",
        },
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "3145728\n",
            "sys/fs/cgroup/a/b/memory.current": "2097152\n",
            "sys/fs/cgroup/memory.max": "max\n",
            "sys/fs/cgroup/memory.current": "0\n",
        },
        {
            "proc/self/cgroup": "5:memory:/docker/x\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "3145728\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "2097152\n",
        },
        {
            "proc/self/cgroup": "0::/../..\nnonsense\n0::\n",
            "sys/fs/cgroup/memory.max": "3145728\n",
            "sys/fs/cgroup/memory.current": "3045728\n",
            "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 948576\n",
        },
    ],
)
def test_the_limit_of_a_container_counts(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, {**PROC, **files})
    assert memory(tmp_path).available == MIB


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert memory(tmp_path) == Memory(used=None, available=None)
    assert temperatures(tmp_path) == ()
    assert slowed_by(tmp_path) == ()


def test_this_machine_has_memory_and_disk(tmp_path: Path) -> None:
    found = memory()
    assert found.used is not None
    assert found.available is not None
    assert found.used > 10 * MIB
    assert resources.free_bytes(tmp_path / "not" / "made" / "yet") > 0


def test_a_folder_is_writable_if_its_nearest_parent_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert writable(tmp_path)
    assert writable(tmp_path / "not" / "made")
    (tmp_path / "file").write_text("")
    assert not writable(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not writable(tmp_path)


def test_temperatures_with_their_limits(tmp_path: Path) -> None:
    zone, chip = "sys/class/thermal/thermal_zone0", "sys/class/hwmon/hwmon1"
    files = {
        f"{zone}/type": "cpu-thermal\n", f"{zone}/temp": "51500\n",
        f"{zone}/trip_point_0_type": "passive\n", f"{zone}/trip_point_0_temp": "70000\n",
        f"{zone}/trip_point_1_type": "critical\n", f"{zone}/trip_point_1_temp": "105000\n",
        f"{zone}/trip_point_2_type": "hot\n", f"{zone}/trip_point_2_temp": "99000\n",
        "sys/class/thermal/thermal_zone1/type": "off\n",
        f"{chip}/name": "coretemp\n", f"{chip}/temp1_input": "48000\n", f"{chip}/temp1_crit": "100000\n",
        f"{chip}/temp2_input": "47000\n", f"{chip}/temp2_crit": "-1\n",
    }  # fmt: skip
    write(tmp_path, files)
    assert temperatures(tmp_path) == (
        Temperature(name="cpu-thermal", celsius=51.5, limit=99.0),
        Temperature(name="coretemp", celsius=48.0, limit=100.0),
        Temperature(name="coretemp", celsius=47.0, limit=None),
    )


def test_throttle_alerts_of_a_jetson(tmp_path: Path) -> None:
    devices = [("cpu-throttle-alert", "1"), ("gpu-throttle-alert", "0"), ("pwm-fan", "3"), ("cpu-throttle-alert", "1")]
    for i, (kind, state) in enumerate(devices):
        folder = f"sys/class/thermal/cooling_device{i}"
        write(tmp_path, {f"{folder}/type": f"{kind}\n", f"{folder}/cur_state": f"{state}\n"})
    assert slowed_by(tmp_path) == ("cpu-throttle-alert",)
