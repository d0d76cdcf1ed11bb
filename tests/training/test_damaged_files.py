"""Files that a resumed run reads back, after a power cut: each is named, with what to do; never a traceback of a library."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cxr_edge.errors import BundleError, InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.canvases import make_canvases
from tests.builders.damage import DAMAGES
from tests.builders.image_collections import write_collections
from training import seeds
from training.data.canvases import LUNG_BOX, Canvases, LungFinder
from training.data.dataset import load, prepare
from training.data.leakage import SplitSettings
from training.evaluation.onnx_logits import member_logits
from training.loop.plan import Plan
from training.loop.settings import check_same_settings
from training.models import NetworkSpec, build, load_network, save_network
from training.models.onnx_export import SegmenterForExport, export
from training.pruning.prune import Step, steps_of
from training.recipes.r20 import stages
from training.recipes.run import SampleLogits

SPEC = NetworkSpec(architecture="plain", labels=2)
FRAME = PreprocessSpec(region="frame", canvas_px=32, crop_px=32)


def _network(folder: Path) -> Callable[[], object]:
    torch.manual_seed(0)
    save_network(build(SPEC), SPEC, folder)
    return lambda: load_network(folder)


def _segmenter(folder: Path) -> Callable[[], object]:
    torch.manual_seed(0)
    network = build(NetworkSpec(architecture="lung-unet", labels=1)).eval()
    export(SegmenterForExport(network), FRAME, ["mask"], folder / "segmenter.onnx")
    return lambda: LungFinder(folder / "segmenter.onnx", FRAME, LUNG_BOX)


def _canvases(folder: Path) -> Callable[[], object]:
    make_canvases(["normal"] * 4, validates_every=2)[1].save(folder / "canvases.npz")
    return lambda: Canvases.load(folder / "canvases.npz")


def _predictions(folder: Path) -> Callable[[], object]:
    SampleLogits(rows=np.arange(9), logits=np.ones((9, 3), np.float32)).save(folder / "predictions.npz")
    return lambda: SampleLogits.load(folder / "predictions.npz")


def _settings(folder: Path) -> Callable[[], object]:
    check = lambda: check_same_settings(folder, Plan(epochs=1), SPEC, {"balance": "draw"}, done=False)  # noqa: E731
    check()
    return check


def _step(folder: Path) -> Callable[[], object]:
    step = Step(number=1, channels=3, parameters=4, macs=5, figures={"score": 0.5})
    (folder / "step-01").mkdir()
    (folder / "step-01" / "step.json").write_text(json.dumps(asdict(step), indent=1) + "\n")
    return lambda: steps_of(folder)


def _search(folder: Path) -> Callable[[], object]:
    (folder / "search").mkdir()
    (folder / "search" / "vgg16.json").write_text(json.dumps({"best": {"number": 0, "momentum": 0.9}}) + "\n")
    return lambda: stages.best_trial(SimpleNamespace(out=folder), "vgg16")  # type: ignore[arg-type]


FILES: Mapping[str, Callable[[Path], Callable[[], object]]] = {
    "network.json": _network,
    "weights.safetensors": _network,
    "segmenter.onnx": _segmenter,
    "canvases.npz": _canvases,
    "predictions.npz": _predictions,
    "training.json": _settings,
    "step-01/step.json": _step,
    "search/vgg16.json": _search,
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_with_the_remedy(name: str, tmp_path: Path) -> None:
    read, file = FILES[name](tmp_path), tmp_path / name
    read()
    whole = file.read_bytes()
    for kind, damage in DAMAGES.items():
        file.write_bytes(damage(whole))
        with pytest.raises((InputError, BundleError)) as error:
            read()
        text = str(error.value)
        assert str(file) in text, kind
        assert "delete " in text, kind
        assert "start the same command again" in text, kind
    file.write_bytes(whole)
    read()


@pytest.mark.parametrize("name", ["table.csv", "leakage.json"])
def test_a_damaged_split_is_named_and_made_again(name: str, tmp_path: Path) -> None:
    data, run, settings = (
        write_collections(tmp_path / "data", patients=2, size_px=48),
        tmp_path / "run",
        SplitSettings(seed=1),
    )
    samples = prepare(data, run, settings, threads=1)
    whole = (run / name).read_bytes()
    for kind, damage in DAMAGES.items():
        (run / name).write_bytes(damage(whole))
        for read in (lambda: prepare(data, run, settings, threads=1), lambda: load(data, run / "table.csv")):
            with pytest.raises(InputError) as error:
                read()
            assert str(run / name) in str(error.value), kind
            assert "delete " in str(error.value), kind
    for file in ("table.csv", "leakage.json"):
        (run / file).unlink()
    assert prepare(data, run, settings, threads=1) == samples
    assert (run / name).read_bytes() == whole


def test_a_table_cut_between_two_rows_is_named(tmp_path: Path) -> None:
    data, run, settings = (
        write_collections(tmp_path / "data", patients=2, size_px=48),
        tmp_path / "run",
        SplitSettings(seed=1),
    )
    prepare(data, run, settings, threads=1)
    table = run / "table.csv"
    table.write_bytes(b"".join(table.read_bytes().splitlines(keepends=True)[:-3]))
    with pytest.raises(
        InputError, match=r"table\.csv lists other images .* 3 only in the folder .*or the table was cut"
    ):
        load(data, table)


def test_zeros_among_the_weights_are_found(tmp_path: Path) -> None:
    """Weights of zeros are valid safetensors."""
    _network(tmp_path)
    file = tmp_path / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-4000:-100] = bytes(3900)
    file.write_bytes(data)
    with pytest.raises(BundleError, match=r"weights\.safetensors cannot be read"):
        load_network(tmp_path)


def test_a_missing_file_says_which_command_makes_it(tmp_path: Path) -> None:
    for read in (_canvases(tmp_path), _predictions(tmp_path)):
        for file in tmp_path.iterdir():
            file.unlink()
        with pytest.raises(InputError, match="is missing: run the stages in order"):
            read()


def test_a_file_without_permission_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = _predictions(tmp_path)

    def refuse(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(InputError, match="no permission: change its permissions"):
        read()


def test_a_damaged_network_of_a_bundle_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(build(SPEC).eval(), FRAME, ["logits", "cam"], tmp_path / "plain.onnx")
    lungs = np.zeros((2, 32, 32), np.uint8)
    assert member_logits([tmp_path / "plain.onnx"], lungs, FRAME, threads=1).shape == (2, 1, 2)
    whole = (tmp_path / "plain.onnx").read_bytes()
    for kind in ("cut at 5 tenths", "zeros from 5 tenths on", "text"):
        (tmp_path / "plain.onnx").write_bytes(DAMAGES[kind](whole))
        with pytest.raises(
            InputError, match=r"plain\.onnx cannot be read, .*: delete it and start the same command again"
        ):
            member_logits([tmp_path / "plain.onnx"], lungs, FRAME, threads=1)


def test_a_damaged_page_of_several_seeds_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"seeds"')
    with pytest.raises(InputError, match=r"results\.json cannot be read, .*: delete it"):
        seeds.check_folder(tmp_path)
