"""The command `python -m training.probe` on the run folder of a drawn collection."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.image_collections import write_collections
from training.data.canvases import cut_frames
from training.data.dataset import prepare
from training.data.leakage import SplitSettings
from training.evaluation.probe import Probe, overview, probe_as_markdown
from training.json_records import read_json
from training.probe import _augmented, main
from training.recipes.config import load_config
from training.starter import FinishedRun

CANVAS_PX = 48
PATIENTS = 8  # 24 normal, 16 covid-19; 8 each of bacterial, viral, tuberculosis


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `data`, `run` (table.csv and canvases.npz) and `probe.toml`."""
    folder = tmp_path_factory.mktemp("probe")
    data = write_collections(folder / "data", patients=PATIENTS)
    samples = prepare(data, folder / "run", SplitSettings(seed=1), threads=1)
    spec = PreprocessSpec(canvas_px=CANVAS_PX, crop_px=CANVAS_PX)
    cut_frames(samples, spec, threads=1).save(folder / "run" / "canvases.npz")
    (folder / "probe.toml").write_text(f'name = "tiny"\nthreads = 1\ncanvas_px = {CANVAS_PX}\nresamples = 20\n')
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """Return a copy that the test may change."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def _arguments(folder: Path, out: Path, *more: str) -> list[str]:
    options = {"--data": folder / "data", "--run": folder / "run", "--config": folder / "probe.toml", "--out": out}
    return [*(text for k, v in options.items() for text in (k, str(v))), "--least-images", "12", *more]


def _files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))  # without locks


def test_a_run_is_probed_to_json_and_markdown(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = _files(finished / "run"), tmp_path / "results" / "probe"
    assert main(_arguments(finished, out)) == 0
    found = read_json(Probe, out.with_suffix(".json"))
    assert capsys.readouterr().out == f"{overview(found)}\n"
    assert out.with_suffix(".md").read_text() == probe_as_markdown(found)
    assert _files(finished / "run") == before
    questions = {a.question: {name: c.images for name, c in a.classes.items()} for a in found.answers}
    assert questions == {
        "covid-19 among adults": {"covid-19": 16, "not covid-19": 24},
        "label": {"covid-19": 16, "normal": 24},
        "source": {"kcx": 24, "shenzhen": 16},
    }
    assert (found.configuration, found.least_images, found.resamples, found.seed) == ("tiny", 12, 20, 1)
    for a in found.answers:
        assert a.families["size"].canvases is a.families["compression"].augmented is None
        pixels = a.families["pixel families together"]
        assert pixels.canvases != pixels.augmented


def test_augmented_canvases_are_the_same_each_time_and_not_the_deployed_ones(finished: Path) -> None:
    run = FinishedRun(load_config(finished / "probe.toml"), finished / "data", finished / "run")
    first, second = np.stack([*_augmented(run)]), np.stack([*_augmented(run)])
    assert np.array_equal(first, second)
    assert first.shape == run.canvases.lungs.shape
    assert all((canvas != lungs).any() for canvas, lungs in zip(first, run.canvases.lungs, strict=True))


def test_missing_canvases_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run" / "canvases.npz").unlink()
    assert main(_arguments(folder, folder / "probe")) == 2
    assert "there is no " in (error := capsys.readouterr().err)
    assert "canvases.npz: run `python -m training.starter`" in error
    assert not (folder / "probe.json").exists()


def test_canvases_of_another_configuration_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "probe.toml").write_text('name = "other"\ncanvas_px = 64\n')
    assert main(_arguments(folder, folder / "probe")) == 2
    assert f"holds canvases (64, {CANVAS_PX}, {CANVAS_PX}), expected (64, 64, 64)" in capsys.readouterr().err


def test_unreadable_images_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = [folder / "data" / "twitter-covid" / f"EX{i}.jfif" for i in (0, 3)]
    for path in broken:
        path.write_bytes(b"<html>not found")
    assert main(_arguments(folder, folder / "probe")) == 2
    error = capsys.readouterr().err
    assert all(f"{path}: this is a web page" in error for path in broken)


def test_a_run_with_too_few_images_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_arguments(finished, tmp_path / "probe", "--least-images", "1000")) == 2
    assert "expected two labels or two sources with 1000 images" in capsys.readouterr().err
