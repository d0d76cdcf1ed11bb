"""Sensors parse what machines print, report why they are unavailable, and never abort a measurement.

The lines of tegrastats have the fields and the spelling of real ones from public logs of each release; the numbers are
taken from them or changed.
"""

from __future__ import annotations

import stat
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness.power_mode import power_mode
from benchmarks.sensors import (
    CpuClocks,
    Hwmon,
    Nvml,
    Rapl,
    Sampler,
    Sensor,
    SensorError,
    State,
    Tegrastats,
    Thermal,
    all_sensors,
)
from benchmarks.sensors import __main__ as look
from benchmarks.sensors import linux as linux_files
from benchmarks.sensors.nvml import REASONS
from benchmarks.sensors.tegrastats import parse

NANO_JETPACK_4 = (
    "RAM 1180/3965MB (lfb 1x2MB) SWAP 149/1024MB (cached 7MB) IRAM 0/252kB(lfb 252kB) "
    "CPU [30%@1036,34%@1036,off,26%@1036] EMC_FREQ 10%@1600 GR3D_FREQ 12%@76 NVENC 716 NVDEC 716 APE 25 PLL@57C "
    "CPU@60.5C PMIC@100C GPU@59C AO@65C thermal@59.75C POM_5V_IN 4520/4680 POM_5V_GPU 0/0 POM_5V_CPU 1078/1205"
)
AGX_ORIN_JETPACK_5 = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) "
    "CPU [0%@729,4%@729,0%@729,0%@2201,off,off,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 "
    "CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C Tdiode@33C GPU@-256C tj@44.343C "
    "VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
XAVIER_NX_JETPACK_5 = (
    "RAM 2840/7620MB (lfb 512x4MB) SWAP 0/4096MB CPU [25%@1420,off,off,20%@1420,22%@1420,18%@1420] GR3D_FREQ 76% "
    "VIC_FREQ 115 APE 174 MTS fg 0% bg 0% AO@42.5C GPU@40C PMIC@50C AUX@41C CPU@42.5C thermal@41.7C "
    "VDD_IN 5765mW/5700mW VDD_CPU_GPU_CV 1548mW/1500mW VDD_SOC 1497mW/1490mW"
)
ORIN_NANO_JETPACK_6 = (
    "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) "
    "CPU [38%@1497,2%@729,1%@729,0%@729,1%@729,0%@729] EMC_FREQ 61%@2133 GR3D_FREQ 99%@[612] NVDEC off NVJPG off "
    "VIC off OFA off APE 200 cpu@57.125C soc2@55.093C soc0@56.625C gpu@58.625C tj@58.312C soc1@55.937C "
    "VDD_IN 16321mW/11204mW VDD_CPU_GPU_CV 7104mW/4944mW VDD_SOC 3120mW/3659mW"
)
THOR_JETPACK_7_0 = (
    "05-17-2026 10:00:32 RAM 4208/125773MB (lfb 31x4MB) SWAP 0/2048MB (cached 0MB) CPU [1%@972,0%@972,3%@2601] "
    "EMC_FREQ 0%@665 GR3D_FREQ @[0,0,0] NVENC0_FREQ @0 NVDEC0_FREQ @0 VIC off OFA_FREQ @0 PVA0_FREQ off APE 300 "
    "cpu@34.468C tj@34.5C soc012@33.781C soc345@34.5C VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 4165mW/4165mW "
    "VIN_SYS_5V0 4126mW/4126mW VIN 16802mW/16802mW"
)
THOR_JETPACK_7_2 = (
    "07-23-2026 15:29:27 RAM 9091/125811MB (lfb 19x4MB) SWAP 0/2048MB (cached 0MB) CPU [40%,16%,off]@2601 "
    "EMC_FREQ @4266 GR3D_FREQ 87%@[1574,1560,1574] NVENC0_FREQ @1691 VIC 59%@423 PVA0_FREQ off APE 300 "
    "cpu@58.25C/61.75C tj@66.625C/66.625C gpu@56.937C/66.625C VDD_GPU 37939mW/8660mW/37939mW "
    "VDD_CPU_SOC_MSS 30059mW/12281mW/30059mW VIN_SYS_5V0 15486mW/7424mW/15486mW VIN 124486mW/36487mW/124486mW"
)

EXPECTED = {
    NANO_JETPACK_4: {
        "ram_used_mb": 1180, "swap_used_mb": 149, "cores_online_count": 3, "cpu_utilisation_percent": 30,
        "cpu_clock_mhz": 1036, "gpu_clock_mhz": 76, "gpu_utilisation_percent": 12, "memory_clock_mhz": 1600,
        "gpu_temperature_c": 59, "pll_temperature_c": 57, "pom_5v_in_power_w": 4.52, "pom_5v_cpu_power_w": 1.078,
        "nvenc_power_w": None, "iram_used_mb": None,
    },
    AGX_ORIN_JETPACK_5: {
        "ram_used_mb": 4321, "cores_online_count": 4, "cpu_utilisation_percent": 1, "cpu_clock_mhz": 1097,
        "gpu_clock_mhz": 0, "gpu_utilisation_percent": 0, "memory_clock_mhz": 2133, "memory_utilisation_percent": 0,
        "cpu_temperature_c": 44.562, "tj_temperature_c": 44.343, "gpu_temperature_c": None, "cv0_temperature_c": None,
        "vdd_gpu_soc_power_w": 2.34, "vddq_vdd2_1v8ao_power_w": 0.301, "nc_power_w": None,
    },
    XAVIER_NX_JETPACK_5: {
        "cores_online_count": 4, "cpu_clock_mhz": 1420, "gpu_utilisation_percent": 76, "gpu_clock_mhz": None,
        "memory_clock_mhz": None, "vdd_in_power_w": 5.765, "vdd_cpu_gpu_cv_power_w": 1.548, "ao_temperature_c": 42.5,
    },
    ORIN_NANO_JETPACK_6: {
        "gpu_clock_mhz": 612, "gpu_utilisation_percent": 99, "cpu_clock_mhz": 857, "cpu_utilisation_percent": 7,
        "gpu_temperature_c": 58.625, "tj_temperature_c": 58.312, "vdd_in_power_w": 16.321, "vdd_soc_power_w": 3.12,
    },
    THOR_JETPACK_7_0: {
        "gpu_clock_mhz": 0, "gpu_utilisation_percent": None, "memory_clock_mhz": 665, "cores_online_count": 3,
        "cpu_clock_mhz": 1515, "soc012_temperature_c": 33.781, "vdd_gpu_power_w": 0, "vin_power_w": 16.802,
    },
    THOR_JETPACK_7_2: {
        "gpu_clock_mhz": 1574, "gpu_utilisation_percent": 87, "memory_clock_mhz": 4266,
        "memory_utilisation_percent": None, "cores_online_count": 2, "cpu_clock_mhz": 2601,
        "cpu_utilisation_percent": 28, "gpu_temperature_c": 56.937, "vdd_gpu_power_w": 37.939, "vin_power_w": 124.486,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "line", EXPECTED, ids=["nano-4", "agx-orin-5", "xavier-nx-5", "orin-nano-6", "thor-7.0", "thor-7.2"]
)
def test_tegrastats_lines_of_all_releases_are_parsed(line: str) -> None:
    values = parse(line).values
    assert {name: values.get(name) for name in EXPECTED[line]} == EXPECTED[line]


@pytest.mark.parametrize("line", ["", "sensor unavailable", "WARNING: run as root", "CPU [off,off] GR3D_FREQ off"])
def test_a_line_without_statistics_is_empty(line: str) -> None:
    assert parse(line) == State()


def _script(folder: Path, name: str, body: str) -> str:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def _until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition was not met within 5 s")


def test_tegrastats_is_started_and_terminated(tmp_path: Path) -> None:
    tool = _script(
        tmp_path, "tegrastats", f'echo "$@" > {tmp_path}/arguments\necho "{ORIN_NANO_JETPACK_6}"\nexec sleep 60'
    )
    sensor = Tegrastats([tool], interval_ms=200)
    assert sensor.unavailable_because() is None
    sensor.open()
    child = sensor._child
    assert child is not None
    try:
        _until(lambda: sensor._line)
        assert sensor.read().values["gpu_clock_mhz"] == 612
        assert sensor.read() == State(), "no new line since"
        assert (tmp_path / "arguments").read_text().strip() == "--interval 200"
    finally:
        sensor.close()
    assert child.poll() is not None
    sensor.close()  # a second call has no effect


def test_tegrastats_that_exits_reports_its_last_line(tmp_path: Path) -> None:
    sensor = Tegrastats([_script(tmp_path, "tegrastats", 'echo "cannot open the sensors"; exit 3')])
    sensor.open()
    try:
        _until(lambda: sensor._child is not None and sensor._child.poll() is not None and sensor._line)
        with pytest.raises(SensorError, match="tegrastats exited with status 3: cannot open the sensors"):
            sensor.read()
    finally:
        sensor.close()


def test_missing_tegrastats_is_reported() -> None:
    sensor = Tegrastats(["no-such-tegrastats"])
    assert sensor.unavailable_because() == (
        "no-such-tegrastats is not installed: it comes with JetPack and runs on a Jetson only"
    )
    with pytest.raises(SensorError, match="no-such-tegrastats cannot be started: No such file"):
        sensor.open()
    with pytest.raises(SensorError, match="not running: open it first"):
        sensor.read()


class _NvmlError(Exception):
    def __init__(self, value: int, text: str) -> None:
        super().__init__(text)
        self.value = value


def _nvml(**changes: Any) -> Any:
    """The functions of pynvml that are used, for a GPU that is hot and at its power limit."""
    calls: list[str] = []

    def unsupported(*_: Any) -> Any:
        raise _NvmlError(3, "Not Supported")

    functions: dict[str, Any] = {
        "calls": calls,
        "unsupported": unsupported,
        "NVMLError": _NvmlError,
        "NVML_ERROR_GPU_IS_LOST": 15,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: calls.append("init"),
        "nvmlShutdown": lambda: calls.append("shutdown"),
        "nvmlDeviceGetHandleByIndex": lambda index: f"gpu {index}",
        "nvmlDeviceGetClockInfo": lambda gpu, kind: {1: 1410, 2: 1215}[kind],
        "nvmlDeviceGetTemperature": lambda gpu, sensor: 83,
        "nvmlDeviceGetPowerUsage": lambda gpu: 249_500,
        "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=97, memory=41),
        "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: 0x0001 | 0x0004 | 0x0020,
    }
    return SimpleNamespace(**(functions | changes))


def test_nvml_reads_clocks_temperature_power_and_slowdown_reasons() -> None:
    nvml = _nvml()
    sensor = Nvml(1, nvml)
    assert sensor.name == "NVML GPU 1"
    assert sensor.unavailable_because() is None
    assert nvml.calls == ["init", "shutdown"]
    sensor.open()
    state = sensor.read()
    assert state.values == {
        "sm_clock_mhz": 1410, "memory_clock_mhz": 1215, "gpu_temperature_c": 83, "power_w": 249.5,
        "gpu_utilisation_percent": 97, "memory_utilisation_percent": 41,
    }  # fmt: skip
    assert state.slowed_by == ("software power cap", "software thermal slowdown"), "idling holds no work back"
    sensor.close()
    sensor.close()
    assert nvml.calls == ["init", "shutdown"] * 2


def test_nvml_uses_the_newer_temperature_and_the_older_reasons_if_available() -> None:
    nvml = _nvml(
        nvmlDeviceGetTemperatureV=lambda gpu, sensor: 61,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: 0x0040,
    )
    nvml.nvmlDeviceGetCurrentClocksEventReasons = nvml.unsupported
    sensor = Nvml(nvml=nvml)
    sensor.open()
    assert sensor.read().values["gpu_temperature_c"] == 61
    assert sensor.read().slowed_by == ("hardware thermal slowdown",)
    nvml.nvmlDeviceGetTemperatureV = nvml.unsupported
    assert sensor.read().values["gpu_temperature_c"] == 83


def test_nvml_leaves_out_what_a_jetson_does_not_support() -> None:
    nvml = _nvml()
    for name in ("ClockInfo", "Temperature", "PowerUsage", "CurrentClocksEventReasons"):
        setattr(nvml, f"nvmlDeviceGet{name}", nvml.unsupported)
    sensor = Nvml(nvml=nvml)
    sensor.open()
    assert set(sensor.read().values) == {"gpu_utilisation_percent", "memory_utilisation_percent"}
    assert sensor.read().slowed_by == ()


def test_nvml_without_gpu_or_with_a_lost_one_is_reported() -> None:
    def none_here(index: int) -> Any:
        raise _NvmlError(6, "Not Found")

    def lost(*_: Any) -> Any:
        raise _NvmlError(15, "GPU is lost")

    assert Nvml(3, _nvml(nvmlDeviceGetHandleByIndex=none_here)).unavailable_because() == (
        "NVML finds no GPU 3 here (Not Found): is its driver installed?"
    )
    sensor = Nvml(nvml=_nvml(nvmlDeviceGetPowerUsage=lost))
    sensor.open()
    with pytest.raises(SensorError, match="NVML has lost GPU 0: GPU is lost"):
        sensor.read()


@pytest.mark.skipif(find_spec("pynvml") is not None, reason="nvidia-ml-py is installed")
def test_nvml_without_its_package_names_the_install_command() -> None:
    assert Nvml().unavailable_because() == "the package nvidia-ml-py is not installed: pip install nvidia-ml-py"


def test_the_real_pynvml_has_all_names_of_the_stub() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    fake = {name for name in vars(_nvml()) if name.startswith(("nvml", "NVML"))}
    assert not {name for name in fake if not hasattr(pynvml, name)}
    assert issubclass(pynvml.NVMLError, Exception)
    bits = {v for k, v in vars(pynvml).items() if k.startswith("nvmlClocksEventReason") and isinstance(v, int)}
    assert set(REASONS) & bits == bits & ({1 << n for n in range(16)} - {1}), "a reason has no name here"


def _files(root: Path, contents: dict[str, object]) -> Path:
    for name, content in contents.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n", encoding="utf-8")
    return root


CPU = "sys/devices/system/cpu"
THERMAL = "sys/class/thermal"


def test_cpu_clocks_are_read_from_cpufreq(tmp_path: Path) -> None:
    root = _files(
        tmp_path,
        {f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": khz for i, khz in enumerate((800_000, 1_600_000, 3_000_000))}
        | {"proc/cpuinfo": "cpu MHz\t\t: 1.0"},
    )
    assert CpuClocks(root).read().values == {
        "cpu_clock_mhz": 1800, "slowest_core_mhz": 800, "fastest_core_mhz": 3000,
    }  # fmt: skip


def test_cpu_clocks_fall_back_to_cpuinfo(tmp_path: Path) -> None:
    root = _files(
        tmp_path, {"proc/cpuinfo": "processor : 0\ncpu MHz\t\t: 2000.5\n\nprocessor : 1\ncpu MHz\t\t: 3000.5"}
    )
    assert CpuClocks(root).unavailable_because() is None
    assert CpuClocks(root).read().values["cpu_clock_mhz"] == 2500.5


def test_thermal_zones_are_named_by_their_type(tmp_path: Path) -> None:
    root = _files(
        tmp_path,
        {
            f"{THERMAL}/thermal_zone0/type": "cpu-thermal", f"{THERMAL}/thermal_zone0/temp": 51_500,
            f"{THERMAL}/thermal_zone1/type": "GPU-therm", f"{THERMAL}/thermal_zone1/temp": 48_000,
            f"{THERMAL}/thermal_zone2/type": "acpitz", f"{THERMAL}/thermal_zone2/temp": 27_800,
            f"{THERMAL}/thermal_zone10/type": "acpitz", f"{THERMAL}/thermal_zone10/temp": 29_800,
            f"{THERMAL}/thermal_zone11/type": "cv0-thermal",  # switched off: temp cannot be read
        },
    )  # fmt: skip
    state = Thermal(root).read()
    assert state.values == {
        "cpu_temperature_c": 51.5, "gpu_temperature_c": 48,
        "acpitz_temperature_c": 27.8, "acpitz_temperature_2_c": 29.8,
    }  # fmt: skip
    assert state.slowed_by == ()


def test_throttling_is_detected_from_alerts_and_growing_counters(tmp_path: Path) -> None:
    alert, fan = f"{THERMAL}/cooling_device8", f"{THERMAL}/cooling_device7"
    counter = f"{CPU}/cpu0/thermal_throttle/core_throttle_count"
    root = _files(
        tmp_path,
        {f"{fan}/type": "pwm-fan", f"{fan}/cur_state": 3, f"{alert}/type": "gpu-throttle-alert",
         f"{alert}/cur_state": 0, counter: 5},
    )  # fmt: skip
    sensor = Thermal(root)
    assert sensor.unavailable_because() is None
    assert sensor.read().slowed_by == (), "throttled before, not now; and a fan slows nothing"
    _files(root, {f"{alert}/cur_state": 1, counter: 7})
    assert sensor.read().slowed_by == ("gpu-throttle-alert", "core_throttle")
    _files(root, {f"{alert}/cur_state": 0})
    assert sensor.read().slowed_by == ()


def _rapl(root: Path, package_uj: int, core_uj: int) -> Path:
    zones = {"intel-rapl:0": ("package-0", package_uj), "intel-rapl:0:0": ("core", core_uj)}
    for zone, (name, microjoules) in zones.items():
        folder = f"sys/class/powercap/{zone}"
        _files(
            root, {f"{folder}/name": name, f"{folder}/energy_uj": microjoules, f"{folder}/max_energy_range_uj": 10**9}
        )
    return root


def test_rapl_reads_the_mean_power_since_the_previous_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, 2.0, 2.0, 4.0, 4.0])
    monkeypatch.setattr(linux_files, "monotonic", lambda: next(now))
    sensor = Rapl(_rapl(tmp_path, 990_000_000, 0))
    assert sensor.read() == State(), "one reading of a counter is no power"
    _rapl(tmp_path, 999_000_000, 30_000_000)
    assert sensor.read().values == {"package_0_power_w": 4.5, "package_0_core_power_w": 15.0}
    _rapl(tmp_path, 5_000_000, 60_000_000)
    assert sensor.read().values["package_0_power_w"] == 3.0, "the counter wrapped around at 1000 J"


def test_rapl_that_only_root_may_read_names_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _rapl(tmp_path, 1, 1)

    def denied(self: Path, **_: Any) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", denied)
    reason = Rapl(root).unavailable_because()
    assert reason is not None
    assert reason.startswith(
        "intel-rapl:0/energy_uj cannot be read: only root may read it since CVE-2020-8694; run as root"
    )


def test_hwmon_reads_highest_temperature_and_power_of_each_chip(tmp_path: Path) -> None:
    chip, ina, nvme = (f"sys/class/hwmon/hwmon{i}" for i in range(3))
    root = _files(
        tmp_path,
        {
            f"{chip}/name": "coretemp", f"{chip}/temp1_input": 61_000, f"{chip}/temp2_input": 64_000,
            f"{ina}/name": "ina3221", f"{ina}/in1_label": "VDD_IN", f"{ina}/in1_input": 5_000,
            f"{ina}/curr1_input": 2_000, f"{ina}/in7_label": "sum of shunt voltages", f"{ina}/in7_input": 12,
            f"{ina}/curr7_input": 1,
            f"{nvme}/name": "amdgpu", f"{nvme}/power1_average": 15_000_000, f"{nvme}/power1_label": "slowPPT",
        },
    )  # fmt: skip
    assert Hwmon(root).unavailable_because() is None
    assert Hwmon(root).read().values == {
        "coretemp_temperature_c": 64, "vdd_in_power_w": 10, "amdgpu_slowppt_power_w": 15,
    }  # fmt: skip


@pytest.mark.parametrize("sensor", [CpuClocks, Thermal, Rapl, Hwmon])
def test_a_machine_without_these_files_has_a_reason(sensor: Any, tmp_path: Path) -> None:
    empty = sensor(tmp_path)
    reason = empty.unavailable_because()
    assert reason is not None
    assert "virtual machines" in reason
    assert empty.read() == State()


def test_a_reading_without_a_unit_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"must end with one of the units _mhz, .*, got 'clock'"):
        State(values={"clock": 1.0})


class _Counting:
    """Gives a clock that rises with each reading; fails at reading number `fails_at`."""

    def __init__(self, name: str, *, absent: str | None = None, fails_at: int | None = None) -> None:
        self.name = name
        self._absent, self._fails_at = absent, fails_at
        self.opened = self.closed = self.reads = 0
        self.threads: set[int] = set()

    def unavailable_because(self) -> str | None:
        return self._absent

    def open(self) -> None:
        self.opened += 1

    def read(self) -> State:
        self.threads.add(threading.get_ident())
        self.reads += 1
        if self.reads == self._fails_at:
            raise SensorError("it was unplugged")
        return State(values={"sm_clock_mhz": float(self.reads)})

    def close(self) -> None:
        self.closed += 1


def test_sampling_continues_during_the_work_and_drops_failing_sensors() -> None:
    good, gone, failing = _Counting("good"), _Counting("gone", absent="not here"), _Counting("failing", fails_at=2)
    sensors: list[Sensor] = [good, gone, failing]
    with Sampler(sensors, interval_s=0.001) as sampler:
        _until(lambda: good.reads >= 5)
    record = sampler.record()
    assert dict(record.absent) == {"gone": "not here", "failing": "it was unplugged"}
    assert [s.state.values["sm_clock_mhz"] for s in record.samples if s.sensor == "failing"] == [1.0]
    clocks = [s.state.values["sm_clock_mhz"] for s in record.samples if s.sensor == "good"]
    assert clocks == [float(i + 1) for i in range(good.reads)]
    assert [s.at_s for s in record.samples] == sorted(s.at_s for s in record.samples)
    assert (good.opened, good.closed, gone.opened) == (1, 1, 0)
    assert good.threads.isdisjoint({threading.get_ident()})
    assert 0 <= record.cpu_share <= 1


def test_an_interval_of_zero_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"must be above 0 s, got 0"):
        Sampler([], interval_s=0)


def test_every_sensor_is_listed_on_any_machine(capsys: pytest.CaptureFixture[str]) -> None:
    names = [sensor.name for sensor in all_sensors()]
    assert names == ["NVML GPU 0", "tegrastats", "CPU clocks", "thermal zones", "RAPL", "hwmon"]
    assert look.main([]) == 0
    output = capsys.readouterr().out
    assert output.startswith("Power mode: ")
    for name in names:
        assert f"\n{name}:" in output, "each is read, or says why not"


def test_the_power_mode_of_a_jetson_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _script(tmp_path, "nvpmodel", '[ "$1" = -q ] && printf "NV Fan Mode:quiet\\nNV Power Mode: MAXN_SUPER\\n2\\n"')
    monkeypatch.setenv("PATH", str(tmp_path))
    gpu = "sys/class/devfreq/17000000.gpu"
    root = _files(
        tmp_path / "root",
        {
            f"{CPU}/cpu0/cpufreq/scaling_governor": "schedutil", f"{CPU}/cpu0/cpufreq/scaling_min_freq": 729_600,
            f"{CPU}/cpu0/cpufreq/scaling_max_freq": 1_728_000,
            f"{gpu}/governor": "nvhost_podgov", f"{gpu}/min_freq": 306_000_000, f"{gpu}/max_freq": 1_020_000_000,
        },
    )  # fmt: skip
    assert power_mode(root).describe() == (
        "nvpmodel MAXN_SUPER (mode 2); CPU governor schedutil, 730 to 1728 MHz; "
        "GPU governor nvhost_podgov, 306 to 1020 MHz"
    )


def test_the_power_mode_of_a_desktop_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    root = _files(
        tmp_path,
        {
            f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave", f"{CPU}/cpu1/cpufreq/scaling_governor": "performance",
            f"{CPU}/intel_pstate/no_turbo": 1,
        },
    )  # fmt: skip
    assert power_mode(root).describe() == "CPU governor performance and powersave; CPU boost off"
    _files(root, {f"{CPU}/intel_pstate/no_turbo": 0})
    assert power_mode(root).boost is True


def test_a_power_mode_that_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _script(tmp_path, "nvpmodel", "echo NVPM ERROR: cannot open; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode(tmp_path).describe().startswith("not readable here (no nvpmodel, no cpufreq in /sys")
