"""The pycuda device: copies, memory freed with the context current, and errors that name the GPU."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
import threading

import numpy as np
import pytest

from cxr_edge.errors import BackendError
from cxr_edge.gpu import cuda
from cxr_edge.gpu.cuda import CudaDevice
from tests.doubles.pycuda import Error, FakeDriver


@pytest.fixture
def driver(monkeypatch):
    fake = FakeDriver()
    monkeypatch.setattr(cuda, "_driver", lambda: fake)
    return fake


@pytest.fixture
def device(driver):
    return CudaDevice(0)


def test_properties_of_the_gpu(device):
    assert (device.name, device.gpu.compute_capability, device.gpu.driver) == ("Fake GPU", "8.7", "13.0")


def test_copies_to_the_device_and_back(device):
    with device.current():
        stream, sent = device.stream(), device.pinned(1000)
        buffer, received = device.allocate(1000), device.pinned(1000)
        sent[:], received[:] = np.arange(1000) % 251, 0
        device.upload(buffer.address, sent[:500], stream)
        device.download(received[:500], buffer.address, stream)
        device.synchronize(stream)
        assert (received[:500] == sent[:500]).all()
        assert not received[500:].any()
        assert stream.handle


def test_everything_is_freed_in_any_thread(device, driver):
    def work():
        with device.current():
            objects = device.allocate(64), device.pinned(64), device.stream()
        del objects
        gc.collect()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    work()
    assert driver.counts == {"memory": 0, "pinned": 0, "stream": 0}
    assert driver.warnings == []
    assert driver.stack == []


def test_a_view_keeps_pinned_memory_alive(device, driver):
    with device.current():
        view = device.pinned(64)[3:5]
    gc.collect()
    assert driver.counts["pinned"] == 1
    view[:] = 7
    del view
    gc.collect()
    assert driver.counts["pinned"] == 0


def test_a_failure_names_the_gpu_and_leaves_no_context(device, driver):
    with (
        pytest.raises(
            BackendError, match=r"allocating 2199023255552 bytes of GPU memory failed on Fake GPU: .*out of memory"
        ),
        device.current(),
    ):
        device.allocate(1 << 41)
    assert driver.stack == []


def test_a_call_without_the_context_is_an_error(device):
    with pytest.raises(BackendError, match="invalid device context"):
        device.allocate(8)


@pytest.mark.skipif(cuda.gpu_unavailable_reason() is None, reason="with a GPU these calls succeed")
def test_events_and_capture_report_that_they_need_a_real_driver(device):
    with device.current():
        stream = device.stream()
        with pytest.raises(BackendError, match="creating an event failed on Fake GPU: "):
            device.event()
        with pytest.raises(BackendError, match="capturing the work as a graph failed on Fake GPU: "):
            device.capture(stream, lambda: None)


def test_the_unavailable_reason_names_the_missing_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'cxr-edge[gpu]'" in str(cuda.gpu_unavailable_reason())


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (lambda: FakeDriver(), None),
        (lambda: FakeDriver(gpus=0), "the driver finds no GPU: check nvidia-smi"),
        (lambda: _no_device(), "the CUDA driver cannot be used (cuInit failed: no CUDA-capable device is detected)"),
    ],
)
def test_the_unavailable_reason_of_the_driver(monkeypatch, driver, reason):
    def initialised():
        fake = driver()
        fake.Device = type("Device", (), {"count": staticmethod(lambda: fake.gpus)})
        return fake

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(cuda, "_driver", initialised)
    assert (cuda.gpu_unavailable_reason() or "").startswith(reason or "")
    assert (cuda.gpu_unavailable_reason() is None) == (reason is None)


def _no_device():
    raise Error("cuInit failed: no CUDA-capable device is detected")


def test_without_a_gpu_there_is_no_device(monkeypatch):
    monkeypatch.setattr(cuda, "gpu_unavailable_reason", lambda: "the driver finds no GPU")
    cuda.cuda_device.cache_clear()
    with pytest.raises(BackendError, match="no GPU can be used here: the driver finds no GPU"):
        cuda.cuda_device()


def test_importing_the_device_does_not_import_pycuda():
    code = "import cxr_edge.gpu.cuda, cxr_edge.screening.gpu_pipeline, sys; print('pycuda' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
