"""The processor as Linux describes it, on x86 and on Arm; and nothing invented where it does not."""

from __future__ import annotations

import platform

import pytest

from cxr_edge.backends import host

X86 = """processor\t: 0
model name\t: Some Processor 9000
flags\t\t: fpu sse2 avx avx2 fma avx512f avx512_vnni

processor\t: 1
model name\t: Some Processor 9000
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp bf16\nCPU implementer\t: 0x41\n"


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    def pretend(text):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(host, "_CPUINFO", tmp_path / "cpuinfo")
        host._cpuinfo.cache_clear()

    yield pretend
    monkeypatch.undo()
    host._cpuinfo.cache_clear()


def test_x86(cpuinfo):
    cpuinfo(X86)
    assert host.processor_name() == "Some Processor 9000"
    assert host.instruction_sets() == ("avx", "avx2", "fma", "avx512f", "avx512_vnni")


def test_arm(cpuinfo):
    cpuinfo(ARM)
    assert host.instruction_sets() == ("asimd", "asimddp", "bf16")
    assert host.processor_name() in (platform.processor(), platform.machine())


def test_a_system_without_cpuinfo(cpuinfo, tmp_path):
    cpuinfo("")
    (tmp_path / "cpuinfo").unlink()
    host._cpuinfo.cache_clear()
    assert host.instruction_sets() == ()
    assert host.processor_name()
    assert platform.machine() in host.platform_name()
