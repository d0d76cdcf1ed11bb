"""The pycuda device: memory goes where it belongs, is given back with the context current, and errors name the GPU."""

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


def test_facts(device):
    assert (device.name, device.gpu.compute_capability, device.gpu.driver) == ("Fake GPU", "8.7", "13.0")


def test_copies_there_and_back(device):
    with device.current():
        stream, sent = device.stream(), device.pinned(1000)
        buffer, got = device.allocate(1000), device.pinned(1000)
        sent[:], got[:] = np.arange(1000) % 251, 0
        device.upload(buffer.address, sent[:500], stream)
        device.download(got[:500], buffer.address, stream)
        device.synchronize(stream)
        assert (got[:500] == sent[:500]).all()
        assert not got[500:].any()
        assert stream.handle


def test_everything_is_given_back_in_whatever_thread(device, driver):
    def work():
        with device.current():
            kept = device.allocate(64), device.pinned(64), device.stream()
        del kept
        gc.collect()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    work()
    assert driver.counts == {"memory": 0, "pinned": 0, "stream": 0}
    assert driver.complaints == []
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
        pytest.raises(BackendError, match=r"2199023255552 bytes of GPU memory .* Fake GPU: .*out of memory"),
        device.current(),
    ):
        device.allocate(1 << 41)
    assert driver.stack == []


def test_a_call_without_the_context_is_an_error(device):
    with pytest.raises(BackendError, match="invalid device context"):
        device.allocate(8)


@pytest.mark.skipif(cuda.missing() is None, reason="there is a GPU, where these work")
def test_events_and_capture_need_a_real_driver_and_say_so(device):
    with device.current():
        stream = device.stream()
        with pytest.raises(BackendError, match="an event could not be made on Fake GPU: "):
            device.event()
        with pytest.raises(BackendError, match="the GPU's work cannot be captured as a graph on Fake GPU: "):
            device.capture(stream, lambda: None)


def test_missing_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'cxr-edge[gpu]'" in str(cuda.missing())


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (lambda: FakeDriver(), None),
        (lambda: FakeDriver(gpus=0), "the driver sees no GPU: look at nvidia-smi"),
        (lambda: _no_device(), "the CUDA driver cannot be used (cuInit failed: no CUDA-capable device is detected)"),
    ],
)
def test_missing_asks_the_driver(monkeypatch, driver, reason):
    def asked():
        fake = driver()
        fake.Device = type("Device", (), {"count": staticmethod(lambda: fake.gpus)})
        return fake

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(cuda, "_driver", asked)
    assert (cuda.missing() or "").startswith(reason or "")
    assert (cuda.missing() is None) == (reason is None)


def _no_device():
    raise Error("cuInit failed: no CUDA-capable device is detected")


def test_without_a_gpu_there_is_no_device(monkeypatch):
    monkeypatch.setattr(cuda, "missing", lambda: "the driver sees no GPU")
    cuda.cuda_device.cache_clear()
    with pytest.raises(BackendError, match="no GPU can be used here: the driver sees no GPU"):
        cuda.cuda_device()


def test_importing_the_device_pulls_in_no_pycuda():
    code = "import cxr_edge.gpu.cuda, cxr_edge.screening.gpu_pipeline, sys; print('pycuda' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
