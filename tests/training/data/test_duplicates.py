"""The search for images published twice: pairs, groups of patients, and the difficult cases of the real collections, in small."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.builders.image_collections import METADATA_HEAD, write_collections
from tests.training.data.test_splits import record
from training.data import duplicates
from training.data.collections import read_collections
from training.data.dataset import Sample, prepare
from training.data.duplicates import Fingerprint, fingerprint, patient_groups, same_image_pairs
from training.data.leakage import SplitSettings, as_markdown, read_settings
from training.data.splits import check_leakage


def test_patients_are_merged_transitively() -> None:
    records = [record(p, i) for i, p in enumerate("dcba")]
    assert patient_groups(records, [(0, 1), (2, 3), (1, 2)]) == ["a"] * 4
    assert patient_groups(records, []) == list("dcba")


def _picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9))
    return np.kron(coarse, np.ones((20, 20))).astype(np.uint8)


def test_equal_and_nearly_equal_images_are_pairs() -> None:
    rng = np.random.default_rng(0)
    first, other = _picture(1), _picture(2)
    noisy = np.clip(first.astype(int) + rng.integers(-1, 2, first.shape), 0, 255).astype(np.uint8)
    prints = [fingerprint(p) for p in (first, other, first.copy(), noisy)]
    assert {(0, 2), (0, 3), (2, 3)} == set(same_image_pairs(prints))


def test_equal_pixels_are_a_pair_for_any_hash() -> None:
    bits = np.zeros(256, bool)
    prints = [
        Fingerprint(pixels="x", bits=bits),
        Fingerprint(pixels="x", bits=~bits),
        Fingerprint(pixels="y", bits=~bits),
    ]
    assert same_image_pairs(prints, near_bits=-1) == [(0, 1)]


@pytest.fixture(scope="module")
def difficult(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Difficult cases of the real collections: duplicates in Kermany, shared patients, the four images of 97 and 178."""
    data = write_collections(tmp_path_factory.mktemp("difficult"), patients=4, size_px=64)
    kermany = data / "chest_xray"
    _twin(kermany / "train/PNEUMONIA/person0_bacteria_0.jpeg", kermany / "test/PNEUMONIA/person0_bacteria_9.jpeg")
    _twin(kermany / "train/NORMAL/IM-0001-0001.jpeg", kermany / "val/NORMAL/NORMAL2-IM-0901-0001.jpeg")
    _twin(data / "twitter-covid/EX0.jfif", data / "twitter-covid/EX0-again.jfif")
    _ninety_seven_and_178(data / "covid-chestxray-dataset")
    return data


def _twin(path: Path, other: Path) -> None:
    other.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, other)


def _ninety_seven_and_178(folder: Path) -> None:
    """Four images a second time: smaller, as JPEG, under another patient and with another finding."""
    lines = [METADATA_HEAD]
    for i in range(4):
        pixels = cv2.imread(str(folder / "images" / f"covid-{i}.png"), cv2.IMREAD_GRAYSCALE)
        smaller = cv2.resize(pixels, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / "images" / f"16660_{i}_1.jpg"), smaller)
        lines += [f'97,"COVID-19, ARDS",PA,X-ray,images,covid-{i}.png', f"178,COVID-19,PA,X-ray,images,16660_{i}_1.jpg"]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def grouped(difficult: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return prepare(difficult, tmp_path_factory.mktemp("grouped"), SplitSettings(seed=1), threads=1)


def test_97_and_178_are_one_group_on_one_side(grouped: list[Sample]) -> None:
    both = [s for s in grouped if s.record.patient in ("ccx/97", "ccx/178")]
    assert len(both) == 8
    assert {(s.group, s.side) for s in both} == {("ccx/178", both[0].side)}


@pytest.mark.parametrize(
    "patients", [("kcx/person0",), ("kcx/IM-0001", "kcx/IM-0901"), ("twitter/EX0", "twitter/EX0-again")]
)
def test_twins_are_one_group_on_one_side(grouped: list[Sample], patients: tuple[str, ...]) -> None:
    twins = [s for s in grouped if s.record.patient in patients]
    assert len(twins) >= 2
    assert len({(s.group, s.side) for s in twins}) == 1


def test_other_patients_are_not_merged(difficult: Path, grouped: list[Sample]) -> None:
    assert len({s.group for s in grouped}) == len({r.patient for r in read_collections(difficult).records}) - 3


def test_the_published_folders_as_a_split_leak(difficult: Path, grouped: list[Sample]) -> None:
    """The result of using the train, test and val folders of the paediatric set as sides."""
    names = {"train": "train", "val": "validation", "test": "test"}
    paediatric = [s.record for s in grouped if s.record.source == "kcx"]
    sides = [names[r.key.split("/")[1]] for r in paediatric]
    prints = [fingerprint(cv2.imread(str(r.path), cv2.IMREAD_GRAYSCALE)) for r in paediatric]
    pairs = same_image_pairs(prints)
    report = check_leakage(paediatric, patient_groups(paediatric, pairs), sides, pairs, preset="code")
    assert (report.divided_patients, report.divided_patient_examples) == (1, ("kcx/person0",))
    assert report.divided_pairs == 2


def test_a_split_by_image_lists_its_leaks_on_the_page(difficult: Path, tmp_path: Path) -> None:
    prepare(difficult, tmp_path, SplitSettings(seed=1, unit="image", preset="code"), threads=1)
    page = (tmp_path / "leakage.md").read_text()
    assert "Preset `code`; split by image, seed 1" in page
    assert "**The split leaks**" in page
    assert "- ccx/178\n" in page
    assert "Equal images on two sides" in page
    assert read_settings(tmp_path / "leakage.json").unit == "image"


def test_the_page_of_a_split_without_leaks() -> None:
    records = [record("a", 0), record("b", 1, "viral"), record("c", 2)]
    settings = SplitSettings(
        seed=3, shares={"train": 0.8, "validation": 0.1, "test": 0.1}, unit="group", preset="sane", collections=("kcx",)
    )
    page = as_markdown(check_leakage(records, list("abc"), ["train", "train", "test"], []), settings)
    assert "No patient and no image is on two sides: 3 patients in 3 groups." in page
    assert "| kcx/normal | 1 | 0 | 1 |" in page
    assert "One label or one source only" in page


def test_the_search_in_blocks_equals_the_full_search(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    prints = [fingerprint(rng.integers(0, 256, (40, 40), dtype=np.uint8)) for _ in range(7)]
    prints = [prints[i] for i in (0, 1, 2, 3, 0, 4, 5, 2, 6, 0)]
    whole = same_image_pairs(prints)
    assert whole == [(0, 4), (0, 9), (2, 7), (4, 9)]
    monkeypatch.setattr(duplicates, "_BLOCK", 3)
    assert same_image_pairs(prints) == whole
