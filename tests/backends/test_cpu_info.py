"""Processor description parsed from /proc/cpuinfo of x86 and Arm, and the fallback where that file does not exist."""

from __future__ import annotations

import platform

import pytest

from cxr_edge.backends import cpu_info

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
    """Return a function that replaces the content of /proc/cpuinfo."""

    def replace(text):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(cpu_info, "_CPUINFO", tmp_path / "cpuinfo")
        cpu_info._cpuinfo.cache_clear()

    yield replace
    monkeypatch.undo()
    cpu_info._cpuinfo.cache_clear()


def test_x86_cpuinfo_is_parsed(cpuinfo):
    cpuinfo(X86)
    assert cpu_info.processor_name() == "Some Processor 9000"
    assert cpu_info.instruction_sets() == ("avx", "avx2", "fma", "avx512f", "avx512_vnni")


def test_arm_cpuinfo_is_parsed(cpuinfo):
    cpuinfo(ARM)
    assert cpu_info.instruction_sets() == ("asimd", "asimddp", "bf16")
    assert cpu_info.processor_name() in (platform.processor(), platform.machine())


def test_a_system_without_cpuinfo_has_no_instruction_sets(cpuinfo, tmp_path):
    cpuinfo("")
    (tmp_path / "cpuinfo").unlink()
    cpu_info._cpuinfo.cache_clear()
    assert cpu_info.instruction_sets() == ()
    assert cpu_info.processor_name()
    assert platform.machine() in cpu_info.platform_name()
