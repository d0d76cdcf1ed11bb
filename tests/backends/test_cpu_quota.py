"""Number of usable cores from affinity and CPU quotas, on a drawn /proc and /sys."""

import os

import pytest

from cxr_edge.backends import cpu_quota, onnxruntime
from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.cpu_quota import available_cores, thread_limit


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that writes the cgroup files of a machine with 64 cores and returns its root."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))

    def write(**files):
        for name, text in files.items():
            path = tmp_path / {"own": "proc/self/cgroup"}.get(name, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_without_cgroups_the_affinity_counts(machine):
    assert available_cores(machine()) == 64


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000\n", 64),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("6400000 50000\n", 64),
        ("", 64),
        ("0 100000", 64),
        ("?\n", 64),
        ("100000 0", 64),
    ],
)
def test_version_2(machine, limit, cores):
    assert available_cores(machine(own="0::/\n", **{"sys/fs/cgroup/cpu.max": limit})) == cores


def test_version_2_takes_the_smallest_quota_of_all_groups_above(machine):
    files = {
        "sys/fs/cgroup/a.slice/cpu.max": "300000 100000",
        "sys/fs/cgroup/a.slice/b/cpu.max": "max 100000",
        "sys/fs/cgroup/a.slice/b/c/cpu.max": "700000 100000",
        "sys/fs/cgroup/other/cpu.max": "100000 100000",
    }
    assert available_cores(machine(own="0::/a.slice/b/c\n", **files)) == 3


def test_version_2_in_a_container_that_sees_the_hosts_path(machine):
    assert available_cores(machine(own="0::/docker/1a2b\n", **{"sys/fs/cgroup/cpu.max": "400000 100000"})) == 4
    assert available_cores(machine(own="0::/../../x\n")) == 4


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
@pytest.mark.parametrize(("quota", "cores"), [("-1", 64), ("250000", 3), ("50000", 1)])
def test_version_1(machine, mount, quota, cores):
    folder = f"sys/fs/cgroup/{mount}/docker/1a2b"
    own = "5:cpuset:/\n4:cpu,cpuacct:/docker/1a2b\n1:name=systemd:/\n0::/\n"
    files = {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    assert available_cores(machine(own=own, **files)) == cores


def test_a_smaller_affinity_counts(machine, monkeypatch):
    root = machine(own="0::/\n", **{"sys/fs/cgroup/cpu.max": "400000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5})
    assert available_cores(root) == 2


def test_the_limit_is_four_threads_per_core(monkeypatch):
    monkeypatch.setattr(cpu_quota, "available_cores", lambda: 3)
    assert thread_limit() == 12


@pytest.mark.parametrize(("threads", "used"), [(2, 2), (20000, 12)])
def test_a_session_gets_no_more(monkeypatch, threads, used):
    monkeypatch.setattr(cpu_quota, "thread_limit", lambda: 12)
    assert onnxruntime._settings(CompileOptions(threads=threads)).intra_op_num_threads == used
