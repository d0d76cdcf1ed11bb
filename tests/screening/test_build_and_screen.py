"""build-engine and screen with the GPU backends on their stand-ins: engines, side-cars, self-test, rejections, --rebuild."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil

import pytest

from cxr_edge import backends, engines
from cxr_edge.backends.base import GpuOptions
from cxr_edge.backends.self_test import SELF_TEST_STEM
from cxr_edge.bundle import Bundle
from cxr_edge.cli import build_engine, main
from cxr_edge.cli.arguments import gpu_options
from cxr_edge.compiler.build_bundle import build
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import BuildSettings
from cxr_edge.errors import EngineError
from cxr_edge.screening.screener import Screener
from tests.doubles.backends import stand_in
from tests.doubles.emulated_device import EmulatedDevice
from tests.tolerances import PROBABILITY_ON_A_GPU

NAMES = {"tensorrt 10.3.0 stand-in": "tensorrt", "onnxruntime-cuda stand-in": "onnxruntime-cuda"}


@pytest.fixture
def machine(monkeypatch):
    """Return a function that installs the named stand-in as the only GPU backend and returns its device."""

    def make(stand_in_name: str, **gpu) -> EmulatedDevice:
        device = EmulatedDevice()
        device.gpu = dataclasses.replace(device.gpu, **gpu)
        stand_in(stand_in_name, monkeypatch, device)
        kinds = {n: type(backends.get(n)) for n in NAMES.values()}
        for kind in kinds.values():
            monkeypatch.setattr(kind, "unavailable_because", lambda self: "another backend is tested here")
        monkeypatch.setattr(kinds[NAMES[stand_in_name]], "unavailable_because", lambda self: None)
        return device

    return make


@pytest.fixture
def bundle(toy_bundle, tmp_path) -> Bundle:
    return Bundle.open(shutil.copytree(toy_bundle, tmp_path / "toy"))


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_is_built_loaded_and_screened(machine, bundle, name):
    device = machine(name)
    report = build(bundle, BuildSettings(precision="fp16"))
    assert report.backend == NAMES[name]
    assert set(report.precisions.values()) == {"fp16"}
    loaded = engines.load(bundle)
    assert (loaded.backend, loaded.device) == (NAMES[name], device)
    gpu, cpu = Screener(bundle, loaded), Screener(bundle, engines.reference(bundle))
    assert gpu.describe().endswith("one CUDA graph per image, on emulated GPU")
    for known in bundle.manifest.known_answers:
        image = decode(bundle.file(known.file))
        actual, expected = gpu.screen(image), cpu.screen(image)
        assert actual.decision == expected.decision
        assert actual.probabilities == pytest.approx(expected.probabilities, abs=PROBABILITY_ON_A_GPU["fp16"])
    assert device.graphs


def test_the_self_test_engine_is_saved_and_reused(machine, bundle, monkeypatch):
    machine("tensorrt 10.3.0 stand-in")
    build(bundle, BuildSettings(precision="fp32"))
    folder = bundle.root / "engines" / "tensorrt"
    assert json.loads((folder / f"{SELF_TEST_STEM}.json").read_text())["tensorrt"] == "10.3.0"
    kind = type(backends.get("tensorrt"))
    monkeypatch.setattr(kind, "compile", lambda *_: pytest.fail("screening compiled something"))
    engines.load(bundle)


def test_engines_of_another_gpu_are_rejected_with_the_rebuild_command(machine, bundle):
    machine("tensorrt 10.3.0 stand-in")
    options = GpuOptions(optimization_level=4, version_compatible=True)
    build(bundle, BuildSettings(precision="fp32", gpu=options), backend="tensorrt")
    machine("tensorrt 10.3.0 stand-in", name="Orin")
    with pytest.raises(EngineError) as error:
        engines.load(bundle, backend="tensorrt")
    assert "was built on another machine or with other versions (gpu 'emulated GPU' there, 'Orin' here)" in str(
        error.value
    )
    command = f"cxr-edge build-engine {bundle.root} --backend tensorrt --precision fp32"
    command += " --optimization-level 4 --version-compatible"
    assert str(error.value).endswith(command)


def test_engines_built_for_several_gpus_are_loaded_on_another(machine, bundle):
    machine("tensorrt 10.3.0 stand-in", compute_capability="8.6")
    options = GpuOptions(hardware_compatibility="ampere-plus")
    build(bundle, BuildSettings(precision="fp32", gpu=options))
    machine("tensorrt 10.3.0 stand-in", name="Ada", compute_capability="8.9")
    assert engines.load(bundle).backend == "tensorrt"


def test_rebuild_replaces_engines_of_another_gpu(machine, bundle, capsys):
    machine("tensorrt 10.3.0 stand-in")
    build(bundle, BuildSettings(precision="fp32", gpu=GpuOptions(workspace_mib=32)))
    machine("tensorrt 10.3.0 stand-in", name="Orin")
    image = str(bundle.file(bundle.manifest.known_answers[0].file))
    arguments = ["screen", image, "--bundle", str(bundle.root), "--backend", "tensorrt", "--json"]
    assert main(arguments) == 3
    assert "cxr-edge build-engine" in capsys.readouterr().err
    assert main([*arguments, "--rebuild"]) == 0
    output = capsys.readouterr()
    assert "(gpu 'emulated GPU' there, 'Orin' here); building, because of --rebuild\n" in output.err
    assert json.loads(output.out)["run"]["engines"].endswith("one CUDA graph per image, on emulated GPU")
    record = json.loads((bundle.root / "engines" / "tensorrt" / "build.json").read_text())
    assert record["settings"]["gpu"]["workspace_mib"] == 32
    assert record["settings"]["precision"] == "fp32"


def test_rebuild_builds_missing_engines(bundle, capsys):
    image = str(bundle.file(bundle.manifest.known_answers[0].file))
    arguments = ["screen", image, "--bundle", str(bundle.root), "--backend", "onnxruntime", "--threads", "1"]
    assert main(arguments) == 3
    assert main([*arguments, "--rebuild"]) == 0
    assert "known" in capsys.readouterr().out


def test_bench_on_a_gpu_shows_upload_and_download(machine, bundle, capsys):
    machine("tensorrt 10.3.0 stand-in")
    options = ["--precision", "fp32", "--backend", "tensorrt"]
    assert main(["build-engine", str(bundle.root), *options, "--max-batch", "2"]) == 0
    assert "emulated GPU" in capsys.readouterr().out
    assert main(["bench", "--bundle", str(bundle.root), "--iterations", "3", "--warmup", "1", "--image-px", "128"]) == 0
    table = capsys.readouterr().out
    assert "upload" in table
    assert "download" in table
    assert "one CUDA graph per image" in table


def test_gpu_options_without_effect_are_reported(bundle):
    note = "onnxruntime has no GPU options: those that were given changed nothing"
    settings = BuildSettings(precision="fp32", gpu=GpuOptions(workspace_mib=64))
    assert note in build(bundle, settings, backend="onnxruntime").notes
    assert note not in build(bundle, BuildSettings(precision="fp32"), backend="onnxruntime").notes


def test_inconsistent_gpu_options_are_a_usage_error(bundle, capsys):
    assert main(["build-engine", str(bundle.root), "--dla-core", "0", "--max-batch", "4"]) == 2
    assert "max_batch 1" in capsys.readouterr().err


def test_build_engine_accepts_the_rebuild_command(tmp_path):
    settings = BuildSettings(
        precision="bf16",
        calibration=tmp_path,
        max_loss=0.02,
        gpu=GpuOptions(
            optimization_level=3,
            workspace_mib=64,
            timing_cache=tmp_path / "cache",
            hardware_compatibility="ampere-plus",
            version_compatible=True,
            dla_core=1,
        ),
    )
    parser = argparse.ArgumentParser()
    build_engine.add_parser(parser.add_subparsers())
    args = parser.parse_args(["build-engine", *settings.cli_options()])
    assert gpu_options(args) == settings.gpu
    assert (args.precision, args.calibration, args.max_loss) == ("bf16", tmp_path, 0.02)
