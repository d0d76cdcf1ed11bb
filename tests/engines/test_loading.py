"""Loading engines: refused, with the command to run, if bundle, network, versions or machine differ from the build's."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxr_edge import engines
from cxr_edge.backends.base import GpuOptions
from cxr_edge.bundle import PACKAGED, Bundle, write_bundle
from cxr_edge.compiler.build_bundle import build
from cxr_edge.decoding.decode import decode
from cxr_edge.digests import sha256_file
from cxr_edge.engines import loading
from cxr_edge.errors import BackendError, ContractError, EngineError
from cxr_edge.screening.screener import Screener
from tests.builders.toy_bundle import build_toy_bundle
from tests.tolerances import assert_close


@pytest.fixture(scope="module")
def built(tmp_path_factory, toy_bundle) -> Path:
    """A toy bundle with its engines. Shared: tests that change files use `folder`."""
    root = tmp_path_factory.mktemp("built") / "toy"
    shutil.copytree(toy_bundle, root)
    build(Bundle.open(root), engines.BuildSettings(precision="fp32"))
    return root


@pytest.fixture
def bundle(built, tmp_path) -> Bundle:
    return Bundle.open(shutil.copytree(built, tmp_path / "toy"))


@pytest.fixture
def folder(bundle) -> Path:
    return bundle.root / "engines" / "onnxruntime"


def edit(path, **changes):
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps(values))


def refusal(bundle, *args, **kwargs):
    """Return message and command of an EngineError; each ends with the command on a separate line."""
    with pytest.raises(BackendError) as error:
        engines.load(bundle, *args, **kwargs)
    message, _, command = str(error.value).rpartition("\n  ")
    assert message.endswith("build them with")
    assert command.startswith("cxr-edge build-engine ")
    return message, command


def test_engines_load(bundle):
    loaded = engines.load(bundle, threads=2)
    assert loaded.backend == "onnxruntime"
    assert loaded.parts == ("segmenter", "plain", "depthwise", "residual")
    assert loaded.precisions == ("fp32",) * 4
    assert loaded.segmenter is not None
    assert len(loaded.members) == 3
    assert loaded.describe() == "onnxruntime: segmenter fp32, plain fp32, depthwise fp32, residual fp32"
    assert "onnxruntime" in loaded.versions


def test_the_digests_are_those_of_the_files(bundle, folder):
    files = [folder / f"{part}.fp32.onnx" for part in ("segmenter", "plain", "depthwise", "residual")]
    assert engines.load(bundle).digests == tuple(map(sha256_file, files))
    networks = [n.onnx for n in engines.parts(bundle)]
    assert engines.reference(bundle).digests == tuple(map(sha256_file, networks))


def test_the_engines_compute_what_the_reference_computes(bundle):
    image = np.random.default_rng(0).standard_normal((1, 1, 48, 48)).astype(np.float32)
    expected, actual = (s.members[0].run({"image": image}) for s in (engines.reference(bundle), engines.load(bundle)))
    assert_close(actual["cam"], expected["cam"])


def test_no_engines_at_all(bundle):
    shutil.rmtree(bundle.root / "engines")
    message, command = refusal(bundle)
    assert f"there are no engines for bundle 'toy' in {bundle.root / 'engines'}" in message
    assert command == f"cxr-edge build-engine {bundle.root}"


def test_the_command_repeats_the_arguments(bundle, tmp_path):
    _, command = refusal(bundle, tmp_path / "my engines", backend="onnxruntime")
    expected = f"cxr-edge build-engine {bundle.root} --engines '{tmp_path / 'my engines'}' --backend onnxruntime"
    assert command == expected


def test_the_default_folder_needs_no_option(bundle):
    command = engines.rebuild_command(bundle, bundle.root / "engines")
    assert command == f"cxr-edge build-engine {bundle.root} --precision fp32"  # the settings of the last build


def test_build_settings_as_json_and_as_options(tmp_path):
    settings = engines.BuildSettings(
        precision="int8",
        calibration=tmp_path / "my x-rays",
        images=30,
        max_loss=0.02,
        gpu=GpuOptions(timing_cache=tmp_path / "cache", version_compatible=True, max_batch=4),
    )
    assert engines.BuildSettings.from_json(json.loads(json.dumps(settings.as_json()))) == settings
    assert settings.cli_options() == [
        "--precision", "int8", "--calibration", str(tmp_path / "my x-rays"), "--images", "30", "--max-loss", "0.02",
        "--timing-cache", str(tmp_path / "cache"), "--version-compatible", "--max-batch", "4",
    ]  # fmt: skip
    assert engines.BuildSettings().cli_options() == []


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": {}},
        {"gpu": {**GpuOptions().__dict__, "max_batch": 0}},
        {"surprise": 1},
        {"images": 0},
        {"max_loss": "little"},
        {"precision": "fp8"},
    ],
)
def test_invalid_settings_make_the_build_unusable(bundle, folder, change):
    values = json.loads((folder / "build.json").read_text())
    edit(folder / "build.json", settings={**values["settings"], **change})
    assert "its build settings are invalid" in refusal(bundle)[0]


def test_a_build_of_schema_1_is_refused_with_the_command(bundle, folder):
    """Engines of cxr-edge 0.1: settings were named `asked`, without the number of images."""
    values = json.loads((folder / "build.json").read_text())
    settings = values.pop("settings")
    del settings["images"]
    (folder / "build.json").write_text(json.dumps({**values, "schema": "cxr-edge-build/1", "asked": settings}))
    message, command = refusal(bundle)
    assert "build.json does not follow cxr-edge-build/3" in message
    assert command == f"cxr-edge build-engine {bundle.root}"


def test_the_packaged_bundle_is_called_starter(bundle, monkeypatch):
    monkeypatch.setattr(loading, "last_build_settings", lambda *_: engines.BuildSettings())
    assert engines.rebuild_command(dataclasses.replace(bundle, root=PACKAGED)) == "cxr-edge build-engine starter"


def test_an_altered_engine(bundle, folder):
    path = folder / "plain.fp32.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "the engine plain.fp32.onnx" in refusal(bundle)[0]
    assert "was altered: expected SHA-256" in refusal(bundle)[0]


@pytest.mark.parametrize("name", ["plain.fp32.onnx", "plain.fp32.json"])
def test_an_incomplete_engine(bundle, folder, name):
    (folder / name).unlink()
    assert "the engine plain.fp32.onnx" in refusal(bundle)[0]
    assert "is incomplete" in refusal(bundle)[0]


def test_another_version_of_the_bundle(bundle):
    write_bundle(bundle.root, dataclasses.replace(bundle.manifest, version="2"))
    message, _ = refusal(Bundle.open(bundle.root))
    assert "are outdated: they were built from a bundle with digest" in message


@pytest.mark.parametrize("key", ["onnx_sha256", "preprocess_sha256"])
def test_an_engine_of_another_network(bundle, folder, key):
    edit(folder / "plain.fp32.json", **{key: "0" * 64})
    assert "is outdated: the network 'plain' or its preprocessing has changed" in refusal(bundle)[0]


@pytest.mark.parametrize("key", ["processor", "instruction_sets", "onnxruntime", "platform"])
def test_an_engine_of_another_machine_or_version(bundle, folder, key):
    versions = json.loads((folder / "plain.fp32.json").read_text())["versions"]
    edit(folder / "plain.fp32.json", versions={**versions, key: "another"})
    message, _ = refusal(bundle)
    assert f"was built on another machine or with other versions ({key} 'another' there, " in message


@pytest.mark.parametrize(
    "change", [{"schema": "cxr-edge-engine/9"}, {"surprise": 1}], ids=["another schema", "an unknown key"]
)
def test_a_side_car_of_another_release(bundle, folder, change):
    edit(folder / "plain.fp32.json", **change)
    assert "does not follow cxr-edge-engine/1" in refusal(bundle)[0]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "cxr-edge-build/9"}'])
def test_a_build_file_that_cannot_be_read(bundle, folder, text):
    (folder / "build.json").write_text(text)
    assert "build.json cannot be used" in refusal(bundle)[0]


def test_a_build_that_ended_without_an_engine(bundle, folder):
    values = json.loads((folder / "build.json").read_text())
    del values["precisions"]["depthwise"]
    (folder / "build.json").write_text(json.dumps(values))
    assert "ended without an engine for depthwise" in refusal(bundle)[0]


def test_an_unknown_backend(bundle):
    with pytest.raises(BackendError, match="no backend is called 'abacus'"):
        engines.load(bundle, backend="abacus")


def test_an_engine_with_other_inputs_or_outputs_is_refused(bundle):
    plain, depthwise = engines.parts(bundle)[1:3]
    engine = engines.reference(bundle).members[0]
    engines.check_signature(engine, plain)
    with pytest.raises(ContractError, match=r"depthwise: expected the one input .*32, 32"):
        engines.check_signature(engine, depthwise)
    with pytest.raises(ContractError, match=r"plain: expected the float32 outputs \['mask'\]"):
        engines.check_signature(engine, dataclasses.replace(plain, outputs=("mask",)))


def test_loading_imports_no_onnx(bundle):
    """Screening starts through here, and onnx takes a third of a second to import."""
    code = (
        "import sys; from cxr_edge import engines; from cxr_edge.bundle import Bundle; "
        f"engines.load(Bundle.open({str(bundle.root)!r})); "
        "sys.exit('onnx' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


MOVED = {"decision": {"thresholds": {"covid-19": 0.2345}, "uncertain_below": 0.5}, "budget": None}


def test_the_operating_point_of_a_build_is_that_of_its_screener_here_and_in_other_processes(bundle, folder):
    assert engines.load(bundle).operating_point is None, "of fp32 engines that equal the reference"
    edit(folder / "build.json", operating_point=MOVED)
    loaded = engines.load(bundle)
    screener = Screener(bundle, loaded)
    assert screener.operating_point.decision.thresholds == {"covid-19": 0.2345}
    assert screener.manifest.decision.thresholds == {"covid-19": 0.2}
    assert loaded.reload(bundle).operating_point == loaded.operating_point
    text = pickle.dumps(screener)
    assert pickle.loads(text).operating_point == screener.operating_point
    edit(folder / "build.json", operating_point=None)
    with pytest.raises(EngineError, match="built again since the Screener was pickled, and their limits"):
        pickle.loads(text)


def test_the_moved_threshold_decides(bundle, folder):
    image = decode(bundle.file(bundle.manifest.known_answers[0].file))
    before = Screener(bundle, engines.load(bundle)).screen(image)
    rule = {"thresholds": {before.forced_decision: 1.0}, "uncertain_below": 0.0}
    edit(folder / "build.json", operating_point={"decision": rule, "budget": None})
    after = Screener(bundle, engines.load(bundle)).screen(image)
    assert after.forced_decision != before.forced_decision
    assert after.probabilities == before.probabilities


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"decision": {}}, "its operating point is invalid"),
        (
            {**MOVED, "decision": {"thresholds": {"covid-19": 7}, "uncertain_below": 0.5}},
            "thresholds.covid-19 must be a number",
        ),
        (
            {**MOVED, "decision": {"thresholds": {"flu": 0.5}, "uncertain_below": 0.5}},
            "has an operating point of other labels",
        ),
    ],
)
def test_an_operating_point_that_cannot_be_used(bundle, folder, point, message):
    edit(folder / "build.json", operating_point=point)
    assert message in refusal(bundle)[0]


MODE = {"members": ["plain", "depthwise"], **MOVED}


def test_the_operating_points_of_degraded_modes(tmp_path):
    bundle = build_toy_bundle(tmp_path / "toy", degraded=True)
    build(bundle, engines.BuildSettings(precision="fp32"))
    path = bundle.root / "engines" / "onnxruntime" / "build.json"
    assert "mode_points" not in json.loads(path.read_text()), "no limit is moved on drawings"
    edit(path, mode_points=[MODE])
    loaded = engines.load(bundle)
    (found,) = loaded.mode_points
    assert found.members == ("plain", "depthwise")
    (path.parent / "residual.fp32.onnx").unlink()
    screener = Screener(bundle, engines.load(bundle))
    assert screener.operating_point.decision.thresholds == {"covid-19": 0.2345}
    text = pickle.dumps(screener)
    edit(path, mode_points=[])
    assert Screener(bundle, engines.load(bundle)).operating_point.decision.thresholds == {"covid-19": 0.2}
    with pytest.raises(EngineError, match="and their limits"):
        pickle.loads(text)
    for point in (
        {**MODE, "members": ["plain", "ghost"]},
        {**MODE, "decision": {**MOVED["decision"], "thresholds": {"x": 1}}},
    ):
        edit(path, mode_points=[point])
        assert "has an operating point of other labels" in refusal(bundle)[0]
    edit(path, mode_points=[{"members": ["plain"]}])
    assert "its operating points are invalid: mode_points[0]" in refusal(bundle)[0]
    record = engines.BuildRecord.read
    edit(path, mode_points=[MODE])
    assert record(path).as_json()["mode_points"] == [{**MODE, "decision": MOVED["decision"]}]


def test_a_build_of_schema_2_is_refused_and_its_settings_are_repeated(bundle, folder):
    """Engines without an operating point: what they were built with is still known."""
    values = json.loads((folder / "build.json").read_text())
    del values["operating_point"]
    values["settings"]["images"] = 30
    (folder / "build.json").write_text(json.dumps({**values, "schema": "cxr-edge-build/2"}))
    message, command = refusal(bundle)
    assert "build.json does not follow cxr-edge-build/3" in message
    assert command == f"cxr-edge build-engine {bundle.root} --precision fp32 --images 30"
