"""All sections of the GPU benchmark on an emulated GPU: verdicts, counts and reasons; no test looks at a duration."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from benchmarks import __main__ as run_all
from benchmarks.gpu import bandwidth, kernels, overhead, papers_bundle, peers, screening
from benchmarks.gpu import run as gpu
from benchmarks.gpu.bandwidth import DeviceCopy
from benchmarks.gpu.device import CountingDevice, Section, from_device, time_work, to_device, upload_frame
from benchmarks.gpu.kernels import EQUAL, FP16, FP32, Check
from benchmarks.gpu.screening import CPU, EAGER, GRAPHS, HOST_ARRAYS, REFERENCE, Pace, Peers
from benchmarks.harness.side_by_side import Table, max_difference, unavailable_reason
from benchmarks.harness.workload import Workload
from benchmarks.peers.pipelines import EnsembleSpec
from cxr_edge import engines
from cxr_edge.bench import known_images
from cxr_edge.bundle import Bundle
from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.engines import EngineSet, parts
from cxr_edge.errors import BackendError
from cxr_edge.gpu import cuda
from cxr_edge.gpu.cuda import CudaDevice
from cxr_edge.ops.lung_box import LungBoxStatus
from cxr_edge.screening.screener import Screener
from cxr_edge.specs.preprocess import PRESETS, PreprocessSpec
from tests.doubles.emulated_device import EmulatedDevice, EmulatedEngine
from tests.doubles.pycuda import FakeDriver

SMALL = gpu.Extent(sizes=((1, 1), (61, 97), (150, 90)), mask_sides=(31, 40), sides=(160,), cache=1)
QUICK = Pace(rounds=2, warmup=1)
BASELINE_TOLERANCE = 0.02  # of probabilities: OpenCV does not round as exactly, and the toy's stripes make much of it


@pytest.fixture(scope="module")
def workload(toy_bundle: Path) -> Workload:
    bundle = Bundle.open(toy_bundle)
    files = tuple(known_images(bundle, side_px=96))
    images = tuple(decode_bytes(f, source=f"toy {i}") for i, f in enumerate(files))
    return Workload(bundle=bundle, files=files, images=images, description="3 toy images")


def on_device(bundle: Bundle, device: EmulatedDevice, backend: str = "onnxruntime-cuda") -> EngineSet:
    host = engines.reference(bundle)
    return dataclasses.replace(
        host,
        backend=backend,
        segmenter=EmulatedEngine(host.segmenter, device) if host.segmenter else None,
        members=tuple(EmulatedEngine(e, device) for e in host.members),
        device=device,
    )


def setup_of(workload: Workload, device: Any) -> gpu.Setup:
    return gpu.Setup(
        device=device,
        workload=workload,
        loaded={"tensorrt": "not installed: x", "onnxruntime-cuda": on_device(workload.bundle, device)},
        cpu="no engines here: cxr-edge build-engine toy",
        threads=1,
        pace=QUICK,
        extent=SMALL,
    )


def rows_of(table: Table) -> dict[Any, dict[str, Any]]:
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


class BrokenKernels:
    """A device one of whose kernels does something else."""

    def __init__(self, name: str, instead: Callable[..., None]) -> None:
        self._device, self._name, self._instead = EmulatedDevice(), name, instead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def kernels(self, stream: Any) -> Any:
        kernels = self._device.kernels(stream)
        unchanged = {n: getattr(kernels, n) for n in ("preprocess", "lung_box", "combine")}
        return SimpleNamespace(**{**unchanged, self._name: self._instead})


class TestKernels:
    @pytest.mark.parametrize("seed", [0, 11])
    def test_all_are_equal(self, workload: Workload, seed: int) -> None:
        device = EmulatedDevice(seed=seed)
        section = kernels.compare_kernels(device, workload.bundle, sizes=SMALL.sizes, mask_sides=SMALL.mask_sides)
        (table,) = section.tables
        assert not section.failures
        assert {row[-1] for row in table.rows} == {"equal"}
        named = [row[0] for row in table.rows]
        assert named.count("preprocessing") == (len(PRESETS) + 4) * 2 * 2  # the toy's four; dtypes, bit depths
        assert named.count("lung box") == len(SMALL.mask_sides)
        assert named.count("combination") == 10
        assert "sane, fp16, 16 bit" in [row[1] for row in table.rows]

    @pytest.mark.parametrize(
        ("name", "kernel"), [("preprocess", "preprocessing"), ("lung_box", "lung box"), ("combine", "combination")]
    )
    def test_a_kernel_that_does_nothing_differs(self, workload: Workload, name: str, kernel: str) -> None:
        device = BrokenKernels(name, lambda *_, **__: None)
        section = kernels.compare_kernels(device, workload.bundle, sizes=((61, 97),), mask_sides=(31,))
        verdicts = {(row[0], row[-1]) for row in section.tables[0].rows}
        assert verdicts == {(k, "differs" if k == kernel else "equal") for k, _ in verdicts}
        assert all(f.startswith(kernel) and "do not screen with this build" in f for f in section.failures)
        assert section.failures
        json.dumps([row for row in section.tables[0].rows], allow_nan=False)

    def test_a_kernel_that_cannot_be_launched_is_reported_and_the_others_still_run(self, workload: Workload) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise BackendError("no kernel image is available")

        section = kernels.compare_kernels(
            BrokenKernels("lung_box", refuse), workload.bundle, sizes=((61, 97),), mask_sides=(31,)
        )
        assert [row[1:] for row in section.tables[0].rows if row[0] == "lung box"] == [
            ("no kernel image is available", 0, "NaN", "to run", "NaN", "did not run")
        ]
        assert len(section.failures) == 1
        assert "lung box (no kernel image is available) did not run" in section.failures[0]
        assert [row[-1] for row in section.tables[0].rows].count("equal") == len(section.tables[0].rows) - 1

    @pytest.mark.parametrize(
        ("limit", "ours", "theirs", "equal"),
        [
            (FP32, 1.000009, 1.0, True),
            (FP32, 1.00002, 1.0, False),
            (FP32, np.nan, 1.0, False),
            (FP32, np.inf, np.inf, False),
            (FP16, np.nextafter(np.float16(2.5), np.float16(3)), np.float16(2.5), True),
            (FP16, np.float16(2.5) + 3 * np.spacing(np.float16(2.5)), np.float16(2.5), False),
            (FP16, np.float16(9e-6), np.float16(-1e-7), True),
            (EQUAL, 7, 7, True),
            (EQUAL, 8, 7, False),
        ],
    )
    def test_limits(self, limit: kernels.Limit, ours: float, theirs: float, equal: bool) -> None:
        kind = np.float16 if limit is FP16 else np.float32
        pair = np.array([[0, ours]], kind), np.array([[0, theirs]], kind)
        same = np.zeros((1, 2), kind), np.zeros((1, 2), kind)
        check = Check.of("k", "c", limit, [same, pair])
        assert (check.equal, check.values) == (equal, 4)
        assert check.row()[-1] == ("equal" if equal else "differs")

    def test_masks_cover_every_lung_box_status(self) -> None:
        device = EmulatedDevice()
        verdicts = {int(kernels._boxes(device, mask)[1][-1]) for mask in kernels.masks(64)}
        assert verdicts == {v.value for v in LungBoxStatus}


class TestBandwidth:
    SETS: ClassVar[dict[str, Sequence[PreprocessSpec]]] = {
        "one": (PreprocessSpec(canvas_px=24, crop_px=24),),
        "cropped": (PreprocessSpec(canvas_px=32, crop_px=16), PreprocessSpec(canvas_px=20, crop_px=10)),
    }

    def measure(self, copy: DeviceCopy, device: EmulatedDevice | None = None, cache: int = 1) -> Section:
        device = device or EmulatedDevice()
        return bandwidth.measure(device, self.SETS, copy=copy, cache=cache, rounds=3, warmup=1, sides=(64, 96))

    def test_image_bytes_count_once_and_copied_bytes_twice(self) -> None:
        device, copied = EmulatedDevice(), []

        def copy(to: int, source: int, n_bytes: int, stream: Any) -> None:
            copied.append((to, source))
            move = lambda: ctypes.memmove(to, source, n_bytes)  # noqa: E731
            device.do(move, stream, reads=[(source, n_bytes)], writes=[(to, n_bytes)])

        section = self.measure(DeviceCopy(name="a test's copy", run=copy), device)
        rows = [dict(zip(section.tables[0].columns, row, strict=True)) for row in section.tables[0].rows]
        assert [(r["image"], r["work"]) for r in rows] == [
            (image, work) for image in ("64x64, 16 bit", "96x96, 16 bit") for work in ("one", "cropped", "copy")
        ]
        one, cropped, copies = rows[:3]
        assert one["MB counted"] == 64 * 64 * 2 / 1e6
        assert cropped["MB counted"] == one["MB counted"] / 4, "a crop of half the canvas needs a quarter of the image"
        assert copies["MB counted"] == 2 * (64 * 64 * 2 + 256) / 1e6, "read and written, the header as well"
        assert copies["of the copy"] == 1
        assert one["of the copy"] == pytest.approx(one["GB/s"] / copies["GB/s"])
        assert one["GB/s"] == pytest.approx(one["MB counted"] / one["p50 us"] * 1e3)
        assert [t.measured for t in section.targets] == [r["of the copy"] for r in rows if r["work"] != "copy"]
        assert {t.required for t in section.targets} == {0.7}
        assert copies["note"] == "a test's copy; bytes read and bytes written count."
        assert len(copied) == 2 * 2 * 2, (
            "two sizes; enqueued once without a graph, once in the capture; two images each"
        )
        for of_size in (copied[:4], copied[4:]):  # the second size may get the memory that the first one freed
            assert {to for to, _ in of_size}.isdisjoint(source for _, source in of_size)

    @pytest.mark.parametrize(("cache", "images"), [(1, 2), (8192, 3), (100_000, 26)])
    def test_images_of_one_round_exceed_the_cache(self, cache: int, images: int) -> None:
        section = self.measure(DeviceCopy(name="none", run=None), cache=cache)
        assert section.tables[0].rows[0][2] == images
        assert images * 64 * 64 * 2 > 2 * cache

    def test_without_a_copy_the_ratio_is_not_measured(self) -> None:
        section = self.measure(bandwidth.device_copy(EmulatedDevice()))
        rows = section.tables[0].rows
        assert rows[2][-1] == "not measured: emulated GPU is not a CUDA device, no copy function is available for it"
        assert [t.verdict for t in section.targets] == ["not measured"] * 4
        assert rows[0][6] is not None, "the kernel's own figure stands"

    def test_a_failed_copy_is_reported(self) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("an illegal address\nand much more")

        rows = self.measure(DeviceCopy(name="torch", run=fail)).tables[0].rows
        assert rows[2][-1] == "not measured: torch failed: an illegal address"

    def test_a_device_without_graph_capture_is_still_timed(self) -> None:
        section = self.measure(DeviceCopy(name="none", run=None), EmulatedDevice(refuses_capture=True))
        note = section.tables[0].rows[0][-1]
        assert "canvases: 1" in note
        assert "enqueued one by one, the host's gaps included (no graph: the capture failed" in note

    def test_on_a_cuda_device_without_torch_pycuda_copies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[tuple[Any, ...]] = []
        driver = ModuleType("pycuda.driver")
        driver.memcpy_dtod_async = lambda *given: calls.append(given)  # type: ignore[attr-defined]
        attributes = SimpleNamespace(L2_CACHE_SIZE="l2")
        driver.device_attribute = attributes  # type: ignore[attr-defined]
        driver.Device = lambda _: SimpleNamespace(get_attribute={"l2": 4 << 20}.get)  # type: ignore[attr-defined]
        package = ModuleType("pycuda")
        package.driver = driver  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pycuda", package)
        monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
        monkeypatch.setattr(bandwidth, "unavailable_reason", lambda name: None if name == "pycuda" else "not installed")
        monkeypatch.setattr(cuda, "_driver", FakeDriver)
        device = CudaDevice(0)
        copy = bandwidth.device_copy(device)
        assert copy.name == "pycuda's memcpy_dtod_async"
        assert copy.run is not None
        copy.run(1, 2, 3, SimpleNamespace(pycuda="the stream that pycuda takes"))
        assert calls == [(1, 2, 3, "the stream that pycuda takes")]
        assert bandwidth.cache_bytes(device) == 4 << 20
        monkeypatch.setattr(bandwidth, "unavailable_reason", lambda _: "not installed")
        assert bandwidth.device_copy(device).run is None

    def test_an_unknown_cache_size_has_a_large_default(self) -> None:
        assert bandwidth.cache_bytes(EmulatedDevice()) >= 1 << 27


class TestDevice:
    def test_arrays_are_copied_to_the_device_and_back(self) -> None:
        device, array = EmulatedDevice(), np.arange(12, dtype=np.int32).reshape(3, 4)
        np.testing.assert_array_equal(from_device(device, to_device(device, array), (3, 4), np.int32), array)
        assert from_device(device, upload_frame(device, np.ones((2, 3), np.uint8)), (4,), np.int32).tolist() == [
            3,
            2,
            16,
            1,
        ]

    def test_work_is_timed_as_a_graph_after_one_run_without_it(self) -> None:
        device, commands = EmulatedDevice(), []
        stream = device.stream()
        work = lambda: device.do(lambda: commands.append(1), stream, reads=[], writes=[])  # noqa: E731
        found = time_work(device, stream, work, rounds=4, warmup=2)
        assert (found.milliseconds.size, len(commands), device.graphs[0].launches) == (4, 1 + 2 + 4, 6)
        assert (found.milliseconds > 0).all()

    def test_submitted_work_is_counted(self) -> None:
        device = CountingDevice(EmulatedDevice())
        stream, memory = device.stream(), device.allocate(64)
        graph = device.capture(stream, lambda: device.upload(memory.address, np.zeros(64, np.uint8), stream))
        assert (device.launches, device.pieces) == (0, 1)
        graph.launch(stream)
        device.download(np.zeros(64, np.uint8), memory.address, stream)
        assert (device.launches, device.pieces) == (1, 2)


class _TorchOnTheHost:
    """An engine where a torch module is expected."""

    def __init__(self, engine: Any, output: str) -> None:
        self._engine, self._output = engine, output

    def to(self, _: str) -> _TorchOnTheHost:
        return self

    def __call__(self, image: Any) -> Any:
        import torch

        return torch.from_numpy(self._engine.run({"image": image.numpy()})[self._output])


def modules_of_the_host(bundle: Bundle) -> list[_TorchOnTheHost]:
    found = engines.reference(bundle)
    loaded = [e for e in (found.segmenter, *found.members) if e is not None]
    return [_TorchOnTheHost(e, p.outputs[0]) for e, p in zip(loaded, parts(bundle), strict=True)]


class TestScreening:
    def test_all_pipelines_are_in_the_table_with_the_same_probabilities(self, workload: Workload) -> None:
        pytest.importorskip("torch")
        found, device = parts(workload.bundle), EmulatedDevice()

        def raise_no_gpu() -> peers.GpuNetworks:
            raise RuntimeError("capture needs a GPU,\nthere is none")

        loaders = Peers(
            eager=lambda: peers.eager(modules_of_the_host(workload.bundle), segmenter=True, device="cpu"),
            cuda_graphs=raise_no_gpu,
            host_arrays=lambda: peers.onnxruntime_sessions(
                found, segmenter=True, provider="CPUExecutionProvider"
            ),
        )  # fmt: skip
        loaded = {"tensorrt": "not installed: x", "onnxruntime-cuda": on_device(workload.bundle, device)}
        plain = engines.reference(workload.bundle)
        pipelines = screening.all_pipelines(workload, loaded, plain, loaders, 1)
        section = screening.measure_pipelines(
            "t", workload, pipelines, QUICK, reference=Screener(workload.bundle, plain)
        )
        assert [t.title for t in section.tables] == ["t, from pixels", "t, from bytes"]
        for table in section.tables:
            rows = rows_of(table)
            graph, streams = (rows[f"cxr-edge, onnxruntime-cuda, {how}"] for how in ("one graph", "plain streams"))
            assert graph["ratio"] == 1, "the first that runs is the baseline"
            assert "one CUDA graph per image" in graph["note"]
            assert "plain CUDA streams (no graph: the benchmark disables capture)" in streams["note"]
            assert rows["cxr-edge, tensorrt, one graph"]["note"] == "not installed: x"
            assert rows[GRAPHS]["note"] == "capture needs a GPU, there is none"
            assert rows[GRAPHS]["n"] == 0
            assert rows[GRAPHS]["p50 ms"] is rows[GRAPHS]["ratio"] is rows[GRAPHS]["max difference"] is None
            assert {rows[name]["n"] for name in (CPU, REFERENCE, EAGER, HOST_ARRAYS)} == {QUICK.rounds}
            assert max(r["max difference"] for r in (graph, streams, rows[CPU], rows[REFERENCE])) < 1e-6
            assert max(rows[name]["max difference"] for name in (EAGER, HOST_ARRAYS)) < BASELINE_TOLERANCE

    def test_the_graph_is_timed_from_the_first_round_on(self, workload: Workload) -> None:
        device = EmulatedDevice()
        (graph, _) = screening.cxr_edge_pipelines("x", on_device(workload.bundle, device), workload, 1)
        reference = Screener(workload.bundle, engines.reference(workload.bundle))
        screening.measure_pipelines("t", workload, [graph], Pace(rounds=1, warmup=1), reference=reference)
        # Two tables; in each all images twice, then two rounds of a lead-in and a run. One more when the pipeline was
        # made: these images are small, so that the blank one's graph serves them.
        assert sum(g.launches for g in device.graphs) == 2 * (2 * len(workload.images) + 4) + 1

    def test_a_pipeline_that_cannot_be_built_has_a_reason(self, workload: Workload) -> None:
        class Odd(EmulatedEngine):
            def bind(self, *_: Any, **__: Any) -> Any:
                raise BackendError("no memory left\nat all")

        device = EmulatedDevice()
        found = on_device(workload.bundle, device)
        broken = dataclasses.replace(found, segmenter=Odd(found.segmenter.host, device))  # type: ignore[union-attr]
        assert {w.note for w in screening.cxr_edge_pipelines("x", broken, workload, 1)} == {"no memory left at all"}

    def test_if_no_pipeline_can_run_the_table_has_all_reasons(self, workload: Workload) -> None:
        pipelines = screening.cxr_edge_pipelines("x", "not here", workload, 1)
        reference = Screener(workload.bundle, engines.reference(workload.bundle))
        section = screening.measure_pipelines("t", workload, pipelines, QUICK, reference=reference)
        assert [row[-1] for row in section.tables[0].rows] == ["not here", "not here"]

    def test_torch_graphs_read_images_from_static_inputs(
        self, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        modes = _torch_graphs_on_the_host(pytest.importorskip("torch"), monkeypatch)
        bundle = workload.bundle
        specs = [p.preprocess for p in parts(bundle)]
        networks = peers.cuda_graphs(modules_of_the_host(bundle), specs, segmenter=True)
        reference = Screener(bundle, engines.reference(bundle))
        for image in workload.images:
            section = peers.screen(image.pixels, EnsembleSpec.from_manifest(bundle.manifest), networks)
            assert max_difference(section, reference.screen(image).probabilities) < BASELINE_TOLERANCE
        assert modes == ["thread_local"] * 2, "one graph of the segmenter, one of all members"

    def test_torch_without_a_gpu_has_a_reason(self, workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peers, "torch_unavailable_reason", lambda: "torch sees no GPU")
        calls: list[int] = []
        loaders = screening.make_peers(workload, lambda: calls.append(1) or [])
        assert [w.note for w in screening.baselines(workload, loaders)][:2] == ["torch sees no GPU"] * 2
        assert not calls

    def test_the_networks_are_converted_once(self, workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peers, "torch_unavailable_reason", lambda: None)
        monkeypatch.setattr(peers, "eager", lambda modules, **_: modules)
        monkeypatch.setattr(peers, "cuda_graphs", lambda modules, *_, **__: modules)
        calls: list[int] = []
        loaders = screening.make_peers(workload, lambda: calls.append(1) or ["a module"])
        assert loaders.eager() == loaders.cuda_graphs() == ["a module"]
        assert calls == [1]

    def test_without_onnx2torch_the_message_names_the_papers_ensemble(
        self, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gpu, "unavailable_reason", lambda name: f"not installed: pip install {name}")
        with pytest.raises(RuntimeError, match="pip install onnx2torch; see the papers' ensemble instead"):
            gpu._convert(workload)

    def test_onnxruntime_without_the_provider_names_the_package_to_install(self, workload: Workload) -> None:
        with pytest.raises(RuntimeError, match="pip install onnxruntime-gpu in its place"):
            peers.onnxruntime_sessions(parts(workload.bundle), segmenter=True, provider="NoSuchProvider")

    @pytest.mark.skipif(unavailable_reason("onnx2torch") is not None, reason="onnx2torch is not installed")
    def test_converted_networks_match_the_bundle(self, workload: Workload) -> None:
        networks = peers.eager(peers.convert_networks(parts(workload.bundle)), segmenter=True, device="cpu")
        reference = Screener(workload.bundle, engines.reference(workload.bundle))
        for image in workload.images:
            baselines = peers.screen(image.pixels, EnsembleSpec.from_manifest(workload.bundle.manifest), networks)
            assert max_difference(baselines, reference.screen(image).probabilities) < BASELINE_TOLERANCE


def _torch_graphs_on_the_host(torch: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make torch's CUDA graphs repeat on the host what was captured. Gives a list that fills with the capture modes."""
    zeros, run, modes = torch.zeros, peers._TorchGraph._run, []
    captured: dict[int, Callable[[], Any]] = {}
    last: list[tuple[Any, Any, Any]] = []

    def seen(self: Any, modules: Any) -> Any:
        output = run(self, modules)
        last[:] = [(self, modules, output)]
        return output

    class Graph:
        def replay(self) -> None:
            captured[id(self)]()

    @contextlib.contextmanager
    def capture(graph: Graph, *, capture_error_mode: str) -> Iterator[None]:
        modes.append(capture_error_mode)
        yield
        owner, modules, output = last[0]
        captured[id(graph)] = lambda: output.copy_(run(owner, modules))

    stream = SimpleNamespace(wait_stream=lambda _: None)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device, **rest: zeros(*shape, **rest))
    monkeypatch.setattr(peers._TorchGraph, "_run", seen)
    fakes = {"CUDAGraph": Graph, "graph": capture, "Stream": lambda: stream, "current_stream": lambda: stream}
    for name, fake in {**fakes, "stream": lambda _: contextlib.nullcontext()}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return modes


class TestOverhead:
    def test_own_times_are_summed_and_one_graph_is_launched_per_image(self, workload: Workload) -> None:
        found = on_device(workload.bundle, EmulatedDevice())
        section = overhead.measure(workload, found, rounds=5, warmup=1)
        times, launches = (rows_of(t) for t in section.tables)
        alone = [times[f"{p.name} alone, enqueued"]["p50 ms"] for p in parts(workload.bundle)]
        whole = times["screening, lungs to download, GPU's clock"]
        total = times["sum of the engines' own times"]["p50 ms"]
        path = times["critical path: segmenter, slowest member"]["p50 ms"]
        assert total == pytest.approx(sum(alone))
        assert path == pytest.approx(alone[0] + max(alone[1:]))
        assert whole["over the sum"] == pytest.approx(whole["p50 ms"] / total)
        assert whole["over the path"] == pytest.approx(whole["p50 ms"] / path)
        assert whole["n"] == times["plain alone, as a graph"]["n"] == 5
        assert [tuple(r.values())[1:] for r in launches.values()] == [(5, 1), (0, 0)]
        assert [t.measured for t in section.targets] == [whole["over the sum"], whole["over the path"], 1]
        assert section.targets[2].verdict == "met"

    def test_plain_streams_miss_the_target_of_one_launch(self, workload: Workload) -> None:
        found = on_device(workload.bundle, EmulatedDevice(refuses_capture=True))
        section = overhead.measure(workload, found, rounds=2, warmup=1)
        times, launches = (rows_of(t) for t in section.tables)
        assert launches["graphs launched"]["per image"] == 0
        # Upload and download; preprocessing, twice; lung box; combination.
        assert launches["copies and kernels one by one"]["per image"] == 6
        assert section.targets[2].verdict == "missed"
        assert "no graph: the capture failed" in times["plain alone, as a graph"]["note"]

    def test_own_time_is_the_smaller_median(self) -> None:
        own = overhead.OwnTime(
            part="x", enqueued=np.array([3.0, 9.0, 3.0]), graph=overhead.Timed(milliseconds=np.array([2.0, 8.0, 1.0]))
        )
        assert own.p50_ms == 2.0

    def test_a_runtime_without_engines_has_a_reason(self) -> None:
        section = overhead.not_measured("tensorrt", "not installed")
        assert section.tables[0].rows == (("not measured", "not installed"),)
        assert {t.verdict for t in section.targets} == {"not measured"}


class TestPapers:
    def test_torch_and_cxr_edge_run_the_same_networks(
        self, workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch = pytest.importorskip("torch")
        from benchmarks.peers import papers

        monkeypatch.setattr(papers, "modules", lambda: _tiny(torch))
        monkeypatch.setattr(peers, "torch_unavailable_reason", lambda: None)
        eager = peers.eager
        monkeypatch.setattr(peers, "eager", lambda modules, **rest: eager(modules, **rest, device="cpu"))
        device = EmulatedDevice()
        monkeypatch.setattr(
            papers_bundle,
            "compile_engines",
            lambda bundle, names, *_, **__: {"onnxruntime-cuda": on_device(bundle, device)},
        )
        section = gpu._papers(setup_of(workload, device))
        rows = rows_of(section.tables[0])
        assert section.tables[0].title == "3. Screening, the papers' ensemble (random weights, fp32), from pixels"
        assert rows["cxr-edge, onnxruntime-cuda, one graph"]["max difference"] < 1e-6
        assert rows[EAGER]["max difference"] < BASELINE_TOLERANCE
        assert rows[EAGER]["n"] == 1, "a fifth of the rounds"
        assert rows[GRAPHS]["n"] == 0
        assert rows[GRAPHS]["note"]

    def test_every_member_sees_the_whole_image(self, workload: Workload, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        bundle = papers_bundle.write_papers_bundle(_tiny(torch), tmp_path)
        screened = Screener(bundle, engines.reference(bundle)).screen(workload.images[0])
        assert screened.roi.as_tuple() == (0, 0, 96, 96)
        assert [flag.code for flag in screened.flags] == ["few_pixels"]  # and none of the lung box

    def test_a_runtime_that_does_not_work_here_has_a_reason(self, workload: Workload, tmp_path: Path) -> None:
        output: list[str] = []
        names = ("no-such-runtime", "onnxruntime")
        found = papers_bundle.compile_engines(workload.bundle, names, tmp_path, threads=1, say=output.append)
        assert "no backend is called 'no-such-runtime'" in str(found["no-such-runtime"])
        built = found["onnxruntime"]
        assert isinstance(built, EngineSet)
        assert built.precisions == ("fp32",) * 4
        assert output[0] == "onnxruntime: compiling segmenter of the papers' ensemble"


def _tiny(torch: Any) -> list[Any]:
    """Networks with the inputs and outputs of the papers'."""
    nn = torch.nn
    torch.manual_seed(0)
    member = lambda: nn.Sequential(  # noqa: E731
        nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return [nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Sigmoid()).eval(), *(member().eval() for _ in range(3))]


class TestCommand:
    def test_without_a_gpu_it_reports_the_reason(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(cuda, "gpu_unavailable_reason", lambda: "the driver sees no GPU: look at nvidia-smi")
        assert gpu.main([]) == 3
        output = capsys.readouterr()
        assert output.err == "gpu: nothing can be measured here: the driver sees no GPU: look at nvidia-smi\n"
        assert not output.out

    def test_a_build_without_kernels_is_reported(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(cuda, "gpu_unavailable_reason", lambda: None)
        monkeypatch.setattr(gpu._core, "cuda_architectures", lambda: [])
        assert gpu.main([]) == 3
        assert "cxr-edge was built without CUDA: put nvcc on the PATH" in capsys.readouterr().err

    def test_an_invalid_bundle_and_an_invalid_backend_are_named(
        self, emulated: Any, toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert gpu.main(["--bundle", str(tmp_path / "none")]) == 3
        assert "there is no folder" in capsys.readouterr().err
        assert gpu.main(["--bundle", str(toy_bundle), "--image-px", "96", "--backend", "onnxruntime"]) == 3
        assert (
            "--backend takes auto or one of tensorrt, onnxruntime-cuda here, got onnxruntime" in capsys.readouterr().err
        )

    def test_all_in_one_run(self, emulated: Any, toy_bundle: Path, tmp_path: Path) -> None:
        out = tmp_path / "made" / "gpu-test.json"
        assert gpu.main([*self.options(toy_bundle), "--out", str(out)]) == 0
        report = json.loads(out.read_text(encoding="utf-8"))
        assert report["name"] == "gpu"
        assert report["settings"]["GPU"] == "emulated GPU, compute capability 0.0, driver for CUDA 0.0"
        assert [t["title"][:2] for t in report["tables"]] == ["1.", "2.", "3.", "3.", "4.", "4.", "4."]
        texts = {t["text"]: t["verdict"] for t in report["targets"]}
        assert texts["pieces of work that the host submits per image, onnxruntime-cuda"] == "met"
        assert texts["pieces of work that the host submits per image, tensorrt"] == "not measured"
        rows = {row[0]: row[-1] for row in report["tables"][2]["rows"]}
        assert set(rows) == {
            "cxr-edge, tensorrt, one graph", "cxr-edge, tensorrt, plain streams",
            "cxr-edge, onnxruntime-cuda, one graph", "cxr-edge, onnxruntime-cuda, plain streams",
            CPU, REFERENCE, EAGER, GRAPHS, HOST_ARRAYS,
        }  # fmt: skip
        assert "cxr-edge build-engine" in rows["cxr-edge, tensorrt, one graph"]
        assert "cxr-edge build-engine" in rows[CPU], "no engines were built, and the row says how"

    def test_a_kernel_that_differs_fails_the_run_and_is_in_the_report(
        self, emulated: Any, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        wrong = Check(kernel="combination", case="flannel", values=4, largest=0.2, share=2e4, limit="1e-05")
        monkeypatch.setattr(kernels, "combinations", lambda _: [wrong])
        out = tmp_path / "gpu.json"
        assert gpu.main([*self.options(toy_bundle), "--out", str(out)]) == 1
        output = (
            "combination (flannel) differs from the CPU by up to 0.2, allowed: 1e-05: do not screen with this build"
        )
        assert f"gpu: {output}" in capsys.readouterr().err
        assert json.loads(out.read_text(encoding="utf-8"))["notes"][0].startswith(f"Failed: {output}")

    @pytest.mark.parametrize("kind", [BackendError, RuntimeError])
    def test_an_error_in_one_section_keeps_the_others(
        self, emulated: Any, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str], kind: type[Exception],
    ) -> None:  # fmt: skip
        def stop(*_: Any, **__: Any) -> Section:
            raise kind("an illegal address")

        monkeypatch.setattr(bandwidth, "measure", stop)
        out = tmp_path / "gpu.json"
        assert gpu.main([*self.options(toy_bundle), "--out", str(out)]) == 1
        assert "gpu: bandwidth: stopped with an error: an illegal address" in capsys.readouterr().err
        titles = [t["title"][:2] for t in json.loads(out.read_text(encoding="utf-8"))["tables"]]
        assert titles == ["1.", "3.", "3.", "4.", "4.", "4."]

    def test_gpu_backends_are_found(self) -> None:
        assert gpu.gpu_backends() == ("tensorrt", "onnxruntime-cuda")

    @staticmethod
    def options(bundle: Path) -> list[str]:
        small = ["--image-px", "96", "--rounds", "2", "--warmup", "1", "--settle-ms", "0", "--threads", "1"]
        return ["--bundle", str(bundle), "--no-papers", *small]


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> EmulatedDevice:
    """The command finds an emulated GPU, and engines of one runtime for it."""
    device, load = EmulatedDevice(), engines.load

    def loaded(bundle: Bundle, folder: Path | None, *, backend: str, threads: int) -> EngineSet:
        if backend == "onnxruntime-cuda":
            return on_device(bundle, device)
        return load(bundle, folder, backend=backend, threads=threads)

    monkeypatch.setattr(cuda, "gpu_unavailable_reason", lambda: None)
    monkeypatch.setattr(gpu._core, "cuda_architectures", lambda: [87])
    monkeypatch.setattr(cuda, "cuda_device", lambda: device)
    monkeypatch.setattr(engines, "load", loaded)
    setup = gpu._setup
    monkeypatch.setattr(gpu, "_setup", lambda args: dataclasses.replace(setup(args), extent=SMALL))
    return device


def test_gpu_runs_only_if_named(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(run_all.subprocess, "run", run)
    assert run_all.main([]) == 0
    assert "benchmarks.latency" in [c[2] for c in commands]
    assert "benchmarks.gpu" not in [c[2] for c in commands]
    commands.clear()
    assert run_all.main(["--only", "gpu", "--rounds", "3"]) == 0
    assert [c[2] for c in commands] == ["benchmarks.gpu"]
    assert commands[0][-4:] == ["--rounds", "3", "--bundle", "starter"]
