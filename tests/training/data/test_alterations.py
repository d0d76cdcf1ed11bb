"""Alterations of a drawn chest: what each changes, and what it leaves; drawings and pictures of packages."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.builders.dicom_files import dataset, file_bytes, xray_pixels
from training.data import drawings, pictures
from training.data.alterations import (
    ALTERATIONS,
    Box,
    altered,
    cut_off,
    exposed,
    inverted,
    marked,
    mildly,
    mirrored,
    photographed,
    turned,
)
from training.phantoms import make_phantom

BOX = Box(x0=0.15, y0=0.1, x1=0.85, y1=0.8)


@pytest.fixture
def image() -> np.ndarray:
    return make_phantom("normal", size_px=(160, 120), seed=3).pixels.astype(np.uint8)


def test_inverting_turning_and_mirroring_lose_nothing(image: np.ndarray) -> None:
    assert (inverted(inverted(image)) == image).all()
    assert (mirrored(mirrored(image)) == image).all()
    assert (turned(turned(image, 3), 1) == image).all()
    assert turned(image, 1).shape == (120, 160)
    assert (turned(image, 2) == image[::-1, ::-1]).all()


@pytest.mark.parametrize("seed", range(12))
def test_a_cut_removes_a_part_of_the_lungs_at_one_side(seed: int, image: np.ndarray) -> None:
    part, box = cut_off(image, BOX, np.random.default_rng(seed))
    height, width = part.shape
    lungs = ((box.x1 - box.x0) * width, (box.y1 - box.y0) * height)
    shares = [lungs[0] / (0.7 * 120), lungs[1] / (0.7 * 160)]
    assert min(shares) == pytest.approx(0.7, abs=0.16)  # 0.55 to 0.85 of one side
    assert max(shares) == pytest.approx(1.0, abs=0.02)
    assert sum(edge in (0.0, 1.0) for edge in (box.x0, box.y0, box.x1, box.y1)) == 1


@pytest.mark.parametrize("seed", range(20))
def test_mild_changes_leave_the_lungs_whole(seed: int, image: np.ndarray) -> None:
    changed, box = mildly(image, BOX, np.random.default_rng(seed))
    height, width = changed.shape
    assert 0 <= box.x0 < box.x1 <= 1
    assert 0 <= box.y0 < box.y1 <= 1
    assert (box.x1 - box.x0) * width == pytest.approx(0.7 * 120, abs=2)
    assert (box.y1 - box.y0) * height == pytest.approx(0.7 * 160, abs=2)


def test_letters_in_the_corners_do_not_cover_the_lungs(image: np.ndarray) -> None:
    flat = np.full_like(image, 90)
    covered = 0
    for seed in range(60):
        changed, box = mildly(flat, BOX, np.random.default_rng(seed))
        x0, y0, x1, y1 = box.pixels(changed)
        middle = changed[y0 + 12 : y1 - 12, x0 + 14 : x1 - 14]
        covered += bool((middle != 90).any())
    assert covered <= 3  # a long word may reach in


@pytest.mark.parametrize("seed", range(8))
def test_marks_are_in_the_lungs_and_nowhere_else(seed: int, image: np.ndarray) -> None:
    changed = marked(image, BOX, np.random.default_rng(seed)) != image
    x0, y0, x1, y1 = BOX.pixels(image)
    assert changed[y0:y1, x0:x1].any()
    assert changed.mean() < 0.25
    assert not changed[: y0 // 2].any()


def test_a_photograph_has_the_size_and_shows_surroundings(image: np.ndarray) -> None:
    photos = [photographed(image, np.random.default_rng(seed)) for seed in range(6)]
    assert all(photo.shape == image.shape and photo.dtype == np.uint8 for photo in photos)
    differences = [np.abs(photo.astype(int) - image).mean() for photo in photos]
    assert min(differences) > 5


def test_exposure_changes_values_not_size(image: np.ndarray) -> None:
    changed = exposed(image, np.random.default_rng(0))
    assert changed.shape == image.shape
    assert not (changed == image).all()


@pytest.mark.parametrize("kind", ALTERATIONS)
def test_alterations_are_reproducible_and_change_the_image(kind: str, image: np.ndarray) -> None:
    first, again = (altered(image, BOX, frozenset({kind}), np.random.default_rng(5)) for _ in range(2))  # type: ignore[arg-type]
    assert (first == again).all()
    assert first.shape != image.shape or (first != image).any()
    assert (altered(image, BOX, frozenset(), np.random.default_rng(5)) == image).all()


@pytest.mark.parametrize("kind", [*drawings.TRAINED, *drawings.MEASURED])
def test_every_kind_of_drawing_is_a_picture_and_no_two_are_equal(kind: str) -> None:
    first, other = (drawings.draw(kind, np.random.default_rng(seed), size_px=64) for seed in (1, 2))
    assert first.shape == (64, 64)
    assert first.dtype == np.uint8
    assert (first != other).any()


def test_no_kind_of_drawing_and_no_package_trains_and_measures() -> None:
    assert not set(drawings.TRAINED) & set(drawings.MEASURED)
    assert not set(pictures.TRAINED) & {*pictures.MEASURED, *pictures.SLICES}


def test_pictures_of_an_absent_package_are_none() -> None:
    assert pictures.package_pictures("no_such_package_at_all") == []


def test_pictures_are_every_kth_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "drawn_pictures"
    package.mkdir()
    (package / "__init__.py").touch()
    for i in range(10):
        (package / f"{i}.PNG").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert [p.name for p in pictures.package_pictures("drawn_pictures", most=4)] == ["0.PNG", "3.PNG", "6.PNG", "9.PNG"]


def test_what_is_no_picture_is_none(tmp_path: Path, image: np.ndarray) -> None:
    names = ("good.png", "small.png", "flat.png", "broken.png", "slice.dcm", "xray.dcm", "bad.dcm")
    files = {name: tmp_path / name for name in names}
    cv2.imwrite(str(files["good.png"]), image)
    cv2.imwrite(str(files["small.png"]), image[:20])
    cv2.imwrite(str(files["flat.png"]), np.zeros((64, 64), np.uint8))
    files["broken.png"].write_bytes(b"no picture")
    files["bad.dcm"].write_bytes(b"no file")
    files["slice.dcm"].write_bytes(file_bytes(dataset(xray_pixels(rows=50, columns=40), Modality="CT")))
    files["xray.dcm"].write_bytes(file_bytes(dataset(xray_pixels(rows=50, columns=40))))
    read = {name: pictures.read_picture(path) for name, path in files.items()}
    assert [name for name, pixels in read.items() if pixels is not None] == ["good.png", "slice.dcm"]
    assert (read["good.png"] == image).all()
    assert read["slice.dcm"] is not None
    assert (read["slice.dcm"].shape, read["slice.dcm"].min(), read["slice.dcm"].max()) == ((50, 40), 0, 255)
