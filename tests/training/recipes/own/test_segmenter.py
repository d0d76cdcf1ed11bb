"""The segmenter of a run: trained on the source's masks, compared with the packaged one on validation patients."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from cxr_edge.bundle import STARTER, Bundle
from cxr_edge.phantoms import make_phantom
from tests.builders.two_sites import TINY
from training.data.own.records import OwnData, OwnRecord
from training.data.own.store import FOLDER, save
from training.json_records import read_json
from training.recipes.own import segmenter
from training.recipes.own.configure import Epochs, Tables, make_tables, members_config
from training.recipes.own.run import OwnRun
from training.recipes.own.segmenter import SegmenterChoice, choose_segmenter
from training.recipes.own.speed import measure_segmenter
from training.recipes.segmenter import segment

pytestmark = pytest.mark.filterwarnings("ignore")


def _tables(segmenter_epochs: int = 1) -> Tables:
    tables = make_tables(
        TINY, Epochs(share=0.0), name="x", labels=("normal", "bacterial"), sites=(), guard="", seed=1, epoch_images=32,
        segmenter_epochs=segmenter_epochs, by_view=False,
    )  # fmt: skip
    return replace(tables, training={**tables.training, "segmenter": {"epochs": segmenter_epochs, "batch": 8}})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with drawn X-rays of 24 patients, their masks, and a segmenter trained on these."""
    folder = tmp_path_factory.mktemp("masks")
    records = []
    for i in range(24):
        label = ("normal", "bacterial")[i % 2]
        phantom = make_phantom(label, size_px=128, seed=i)
        image, mask = folder / f"{i}.png", folder / f"{i}-mask.png"
        cv2.imwrite(str(image), phantom.pixels)
        cv2.imwrite(str(mask), phantom.lung_mask.astype("uint8") * 255)
        findings = {name: name == label for name in ("normal", "bacterial")}
        records.append(OwnRecord(path=image, key=image.name, findings=findings, patient=f"p{i}", mask=mask))
    data = OwnData(source=folder, records=tuple(records), findings=("normal", "bacterial"), exclusive=True)
    save(data, folder / "run" / FOLDER)
    segment(OwnRun(_tables(), folder / "run", threads=1).first)
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> OwnRun:
    """A copy of that run."""
    return OwnRun(_tables(), Path(shutil.copytree(trained, tmp_path / "run")), threads=1)


def _packaged() -> bytes:
    bundle = Bundle.open(STARTER)
    assert bundle.manifest.segmenter is not None
    return bundle.file(bundle.manifest.segmenter.file).read_bytes()


def test_the_packaged_one_is_taken_if_it_is_better(run: OwnRun) -> None:
    tables = choose_segmenter(run)
    choice = read_json(SegmenterChoice, run.out / "segmenter.json")
    assert choice.taken == "packaged"
    assert choice.packaged > choice.trained_here
    assert run.first.segmenter_onnx.read_bytes() == _packaged()
    assert members_config(tables, "", threads=1).segmenter_of == STARTER, (
        "so that the card does not call it trained here"
    )
    assert choose_segmenter(run) == tables, "chosen once"


def test_one_trained_here_is_taken_if_it_is_better(run: OwnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    found = segmenter._dice

    def better(onnx: Path, *more: object) -> float:
        return 0.99 if onnx == run.first.segmenter_onnx else found(onnx, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(segmenter, "_dice", better)
    assert choose_segmenter(run) == run.tables
    assert run.first.segmenter_onnx.read_bytes() != _packaged()
    assert read_json(SegmenterChoice, run.out / "segmenter.json").taken == "trained here"


def test_without_masks_the_packaged_one_is_copied(run: OwnRun) -> None:
    run.first.segmenter_onnx.unlink()
    plain = OwnRun(replace(_tables(), training={**_tables().training, "segmenter_of": STARTER}), run.out, threads=1)
    assert choose_segmenter(plain) == plain.tables
    assert plain.first.segmenter_onnx.read_bytes() == _packaged()
    assert not (run.out / "segmenter.json").exists()


def test_speed() -> None:
    speed = measure_segmenter(members_config(_tables(), "", threads=1), threads=1)
    assert 0 < speed.train < speed.predict
