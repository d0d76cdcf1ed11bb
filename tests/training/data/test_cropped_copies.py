"""The search for cropped copies: what is done to a picture before it is published again, and what must not count as a copy."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from training.data import cropped_copies
from training.data.cropped_copies import cropped_pairs, thumbnail
from training.data.duplicates import fingerprint, same_image_pairs
from training.phantoms import make_phantom

Pixels = npt.NDArray[np.uint8]


def _xray(seed: int) -> Pixels:
    """Return a drawn X-ray (320, 288), framed at random."""
    label = ("normal", "covid-19", "bacterial")[seed % 3]
    pixels = make_phantom(label, seed=seed, size_px=360).pixels
    y, x = np.random.default_rng(seed).integers(0, 40, 2)
    return np.ascontiguousarray(pixels[y : y + 320, x : x + 288]).astype(np.uint8)


@pytest.fixture(scope="module")
def others() -> list[Pixels]:
    """X-rays of as many drawn patients."""
    return [_xray(seed) for seed in range(1, 9)]


def _pairs(images: list[Pixels]) -> list[tuple[int, int]]:
    return same_image_pairs([fingerprint(pixels) for pixels in images])


def _cut(pixels: Pixels, left: float, right: float, top: float, bottom: float) -> Pixels:
    height, width = pixels.shape
    return np.ascontiguousarray(
        pixels[int(top * height) : height - int(bottom * height), int(left * width) : width - int(right * width)]
    )


def _gamma(pixels: Pixels, gamma: float) -> Pixels:
    return (255 * (pixels / 255) ** gamma).astype(np.uint8)


def _compressed(pixels: Pixels, quality: int) -> Pixels:
    coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), np.uint8)


def _resized(pixels: Pixels, width: int, height: int) -> Pixels:
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _framed(pixels: Pixels) -> Pixels:
    """Return the image with a black margin, as letterboxed figures have it."""
    return np.asarray(cv2.copyMakeBorder(pixels, 0, 0, 30, 30, cv2.BORDER_CONSTANT, value=0), np.uint8)


def _marked(pixels: Pixels) -> Pixels:
    """Return the image as in a case report: cut, with an arrow and a word."""
    marked = _cut(pixels, 0.04, 0.02, 0, 0.06)
    cv2.arrowedLine(marked, (20, 80), (70, 120), 255, 3)
    cv2.putText(marked, "day 1", (90, 280), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 255, 2)
    return marked


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "resized": lambda p: _resized(p, 160, 180),
    "squashed to a square": lambda p: _resized(p, 256, 256),
    "recompressed": lambda p: _compressed(p, 40),
    "gamma 0.8": lambda p: _gamma(p, 0.8),
    "gamma 1.25": lambda p: _gamma(p, 1.25),
    "2 % cut off at each side": lambda p: _cut(p, 0.02, 0.02, 0.02, 0.02),
    "a tenth cut off below": lambda p: _cut(p, 0, 0, 0, 0.1),
    "a fifth cut off": lambda p: _cut(p, 0.12, 0.08, 0.05, 0.15),
    "a quarter cut off": lambda p: _cut(p, 0.1, 0.15, 0.2, 0.05),
    "margins": _framed,
    "arrow and text": _marked,
    "turned by two degrees": lambda p: np.asarray(
        cv2.warpAffine(p, cv2.getRotationMatrix2D((144, 160), 2, 1), (288, 320)), np.uint8
    ),
    "highlights clipped": lambda p: np.clip(p.astype(int) * 13 // 10, 0, 255).astype(np.uint8),
    "all": lambda p: _compressed(_gamma(_resized(_cut(p, 0.05, 0.08, 0.1, 0), 200, 230), 1.25), 60),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_a_pair_among_other_patients(others: list[Pixels], change: str) -> None:
    copies = [CHANGES[change](pixels) for pixels in others[:3]]
    assert _pairs([*copies, *others]) == [(0, 3), (1, 4), (2, 5)]


def test_two_cut_copies_are_a_pair_without_the_whole_image(others: list[Pixels]) -> None:
    first, second = _cut(others[0], 0.08, 0, 0, 0.05), _cut(others[0], 0, 0.04, 0.06, 0)
    assert _pairs([*others[1:], first, second]) == [(7, 8)]


def test_16_bits_are_compared_with_8(others: list[Pixels]) -> None:
    deep = _cut(others[0], 0.05, 0.05, 0, 0.05).astype(np.uint16) * 9 + 3000
    assert cropped_pairs([thumbnail(deep), *map(thumbnail, others)]) == [(0, 1)]


def _another_breath(pixels: Pixels, share: float) -> Pixels:
    """Return the image with the middle moved upwards by a share of the height, as by another breath; edges stay."""
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]].astype(np.float32)
    moved = y + share * pixels.shape[0] * np.sin(np.pi * y / pixels.shape[0]) * np.sin(2 * np.pi * x / pixels.shape[1])
    return np.asarray(cv2.remap(pixels, x, moved.astype(np.float32), cv2.INTER_LINEAR), np.uint8)


def test_two_exposures_of_one_patient_are_no_copies(others: list[Pixels]) -> None:
    assert cropped_pairs([thumbnail(others[0]), thumbnail(_another_breath(others[0], 0.004))]) == [(0, 1)]
    assert cropped_pairs([thumbnail(others[0]), thumbnail(_another_breath(others[0], 0.04))]) == []


def test_drawn_patients_are_no_copies_of_each_other(others: list[Pixels]) -> None:
    assert _pairs(others) == []


def test_an_image_of_fewer_than_128_px_has_no_thumbnail() -> None:
    assert thumbnail(np.zeros((127, 400), np.uint8)) is None
    assert thumbnail(np.zeros((400, 127), np.uint8)) is None
    small = thumbnail(np.tile(np.arange(1000, 1128, dtype=np.uint16), (130, 1)))
    assert small is not None
    assert (small.shape, small.dtype, small.min(), small.max()) == ((128, 128), np.uint8, 0, 255)


def test_images_without_a_thumbnail_keep_their_places(others: list[Pixels]) -> None:
    small = [thumbnail(p) for p in (others[0], others[1], _cut(others[1], 0.1, 0, 0.1, 0))]
    assert cropped_pairs([None, small[0], None, small[1], small[2], None]) == [(3, 4)]


@pytest.mark.parametrize("images", [[], [np.zeros((200, 200), np.uint8)], [np.full((200, 200), 7, np.uint8)] * 3])
def test_few_and_blank_images_have_no_pairs(images: list[Pixels]) -> None:
    assert cropped_pairs([thumbnail(p) for p in images]) == []


def test_the_search_for_copies_in_blocks_equals_the_full_search(
    others: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [others[0], _cut(others[3], 0.1, 0, 0.1, 0), *others[1:6], _cut(others[0], 0, 0.1, 0.05, 0)]
    whole = cropped_pairs([thumbnail(p) for p in images])
    assert whole == [(0, 7), (1, 4)]
    monkeypatch.setattr(cropped_copies, "_BLOCK", 3)
    assert cropped_pairs([thumbnail(p) for p in images]) == whole
