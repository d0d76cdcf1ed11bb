"""Full screenings on a real GPU, for every installed runtime, compared with the CPU; skipped with a reason without a GPU."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest

from cxr_edge import backends, engines
from cxr_edge.bundle import Bundle
from cxr_edge.compiler.build_bundle import build
from cxr_edge.engines import BuildSettings
from cxr_edge.screening.screener import Screener
from tests.screening.test_gpu_pipeline import image_of, lung_like
from tests.tolerances import PROBABILITY_ON_A_GPU


@pytest.fixture(params=[name for name in backends.BACKENDS if name != "onnxruntime"])
def runtime(request):
    reason = backends.get(request.param).unavailable_because()
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@pytest.fixture(params=sorted(PROBABILITY_ON_A_GPU))
def screeners(request, runtime, toy_bundle, tmp_path):
    """Return the screener on the GPU, the one on the CPU, and the tolerance."""
    bundle = Bundle.open(shutil.copytree(toy_bundle, tmp_path / "toy"))
    report = build(bundle, BuildSettings(precision=request.param, max_loss=1.0), backend=runtime)
    assert report.complete, report.lines()
    gpu = Screener(bundle, engines.load(bundle, backend=runtime))
    return gpu, Screener(bundle, engines.reference(bundle)), PROBABILITY_ON_A_GPU[request.param]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_graph_gives_the_results_of_the_cpu(screeners, dtype):
    gpu, cpu, tolerance = screeners
    assert "one CUDA graph per image" in gpu.describe()
    for seed, shape in enumerate([(200, 160), (61, 97), (1201, 933), (61, 97), (2500, 2048), (1, 1)]):
        image = image_of(lung_like(*shape, dtype, seed=seed))
        actual, expected = gpu.screen(image, heatmap=True), cpu.screen(image, heatmap=True)
        assert actual.roi == expected.roi
        assert actual.flags == expected.flags or actual.decision != expected.decision
        np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=tolerance)
        assert actual.times.total_ms > 0


def test_torch_may_use_the_gpu_at_the_same_time(screeners):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    gpu, cpu, tolerance = screeners
    image = image_of(lung_like(300, 280, np.uint8))
    a = torch.rand(512, 512, device="cuda")
    for _ in range(3):
        b = a @ a
        actual = gpu.screen(image)
        assert torch.allclose(b, a @ a)
        np.testing.assert_allclose(actual.probabilities, cpu.screen(image).probabilities, atol=tolerance)
