"""The packaged checker in bundles of own data: checks kept and left out, and what card and page say of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_edge.bundle import STARTER, Bundle
from cxr_edge.engines import reference
from cxr_edge.phantoms import make_phantom
from cxr_edge.records import Flag
from cxr_edge.screening import checker
from cxr_edge.screening.screener import Screener
from training.recipes.own import refusals
from training.recipes.own.refusals import attach_packaged_checker, refusals_sentence

Codes = list[tuple[str, ...]]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """100 drawn images of 128 px, each with its number in a pixel."""
    pixels = make_phantom("normal", size_px=128, seed=1).pixels
    files = []
    for i in range(100):
        pixels[0, 0] = i
        files.append(tmp_path / f"{i:03}.png")
        cv2.imwrite(str(files[-1]), pixels)
    return files


def _refuses(monkeypatch: pytest.MonkeyPatch, by_number: dict[int, tuple[str, ...]]) -> None:
    """Let the checker refuse images by their number."""

    def run(self: object, image: checker.Image, tensor: object) -> checker.Checked:
        codes = by_number.get(int(image.pixels[0, 0]), ())
        flags = tuple(Flag(code=code, message="") for code in codes)
        return checker.Checked(scores={}, refusals=flags, view="", view_estimated=False)

    monkeypatch.setattr(checker.ImageChecker, "run", run)


def test_checks_that_refuse_more_than_two_per_cent_are_left_out(
    toy_bundle_copy: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off = {i: ("cut_off", "blank") for i in range(3)}
    _refuses(monkeypatch, {**cut_off, 10: ("photo",), 11: ("photo",), 12: ("marks", "cut_off")})
    before = Bundle.open(toy_bundle_copy).manifest
    found = attach_packaged_checker(Bundle.open(toy_bundle_copy), images, threads=1)
    assert found.left_out == {"blank": 3, "cut_off": 4}
    assert (found.refused.hits, found.refused.n) == (3, 100), (
        "two photographs and one mark, by the checks that are kept"
    )
    manifest, packaged = Bundle.open(toy_bundle_copy).manifest, Bundle.open(STARTER).manifest.checker
    assert packaged is not None
    assert manifest.checker is not None
    assert [c.code for c in manifest.checker.checks] == [c.code for c in packaged.checks if c.code != "cut_off"]
    assert manifest.checker.limits.min_contrast == 0.0
    assert manifest.checker.limits.max_saturated == packaged.limits.max_saturated
    assert manifest.checker.population == "any"
    assert (manifest.members, manifest.combination, manifest.version) == (
        before.members,
        before.combination,
        before.version,
    )
    card = Bundle.open(toy_bundle_copy).file(manifest.model_card).read_text(encoding="utf-8")
    assert "## Refusals" in card
    assert "Checks left out, since each refuses more than 2% of them: blank (3 of 100), cut_off (4 of 100)." in card


def test_one_refused_image_of_a_few_leaves_no_check_out(
    toy_bundle_copy: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuses(monkeypatch, {0: ("mirrored",)})
    found = attach_packaged_checker(Bundle.open(toy_bundle_copy), images[:10], threads=1)
    assert found.left_out == {}
    assert "0.100 [0.003, 0.445] (1/10) of the validation images" in refusals_sentence(found)
    assert "left out" not in refusals_sentence(found)


def test_the_bundle_refuses_with_the_checks_that_are_left(
    toy_bundle_copy: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drawing is no chest X-ray, and drawings that the user trains on are answered."""
    drawn = refusals.attach_packaged_checker(Bundle.open(toy_bundle_copy), images[:20], threads=1)
    assert drawn.left_out["not_chest"] == 20
    bundle = Bundle.open(toy_bundle_copy)
    screener = Screener(bundle, reference(bundle))
    assert screener.screen_file(images[0]).outcome.outcome == "answered"
    blank = images[0].with_name("blank.png")
    cv2.imwrite(str(blank), np.random.default_rng(1).integers(90, 100, (128, 128), np.uint8))
    assert screener.screen_file(blank).outcome.reason.code == "blank"


def test_at_most_400_images_are_checked(
    toy_bundle_copy: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuses(monkeypatch, {})
    assert attach_packaged_checker(Bundle.open(toy_bundle_copy), images * 5, threads=1).refused.n == 400
