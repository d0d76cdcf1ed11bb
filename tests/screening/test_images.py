"""Images in memory: the same pixels give the same screening, to the last bit, whether from a file, an array or a data set."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest

from cxr_edge import Bundle, Image, InputError, Screener, Screening, load_engines, load_image, screen_files
from cxr_edge.engines import reference
from cxr_edge.records import Failure
from tests.builders.dicom_files import dataset, file_bytes
from tests.builders.toy_bundle import toy_images

FILMS = toy_images()
GRAY, DEEP = FILMS["known-smooth.png"], FILMS["known-coarse.png"]


@pytest.fixture(scope="module")
def bundle(toy_bundle):
    return Bundle.open(toy_bundle)


@pytest.fixture(scope="module")
def screener(bundle):
    return Screener(bundle, reference(bundle))


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def answer(screening: Screening) -> dict[str, Any]:
    """Return everything but the digest, which is of the input's bytes, and the times."""
    return {k: v for k, v in screening.as_json().items() if k not in ("sha256", "times_ms")}


@pytest.mark.parametrize(
    ("pixels", "file"),
    [
        (GRAY, png(GRAY)),
        (DEEP, png(DEEP)),
        (DEEP >> 4, png(DEEP >> 4)),
        (np.dstack([GRAY] * 3), png(np.dstack([GRAY] * 3))),
        (pydicom.dcmread(io.BytesIO(file_bytes(dataset(DEEP >> 4)))), file_bytes(dataset(DEEP >> 4))),
    ],
    ids=["8 bit", "16 bit", "12 in 16 bit", "colour", "DICOM"],
)
def test_the_same_pixels_are_screened_alike(screener, pixels, file) -> None:
    of_file = screener.screen(load_image(file, source="film"), heatmap=True)
    in_memory = screener.screen(Image.from_array(pixels, source="film"), heatmap=True)
    assert answer(in_memory) == answer(of_file)
    np.testing.assert_array_equal(in_memory.heatmap, of_file.heatmap)


@pytest.mark.parametrize("given", ["film.png", b"", None, GRAY, io.BytesIO(png(GRAY))])
def test_screen_names_the_type_and_the_call_to_use(screener, given) -> None:
    expected = rf"screen takes an Image, found {type(given).__name__}: call screen\(load_image\(...\)\)"
    with pytest.raises(InputError, match=expected):
        screener.screen(given)


def test_files_and_images_in_memory_are_screened_in_order(screener, tmp_path) -> None:
    (tmp_path / "film.png").write_bytes(png(GRAY))
    inputs = [
        tmp_path / "film.png", Image.from_array(GRAY, source="bed 4"), DEEP, png(GRAY), dataset(DEEP >> 4),
        GRAY / 255, None, [GRAY],
    ]  # fmt: skip
    for workers in (1, 3):
        results = list(screen_files(screener, inputs, workers=workers))
        assert [type(r.outcome) for r in results] == [Screening] * 5 + [Failure] * 3
        assert [r.outcome.source for r in results[1:]] == [
            "bed 4", "ndarray", "bytes", "Dataset", "ndarray", "NoneType", "list",
        ]  # fmt: skip
        assert results[5].outcome.reason.startswith("the pixels are float64 from ")
    assert screener.screen_file(GRAY).outcome.probabilities == results[0].outcome.probabilities
    assert screener.screen_file(GRAY, max_pixels=100).outcome.reason.startswith("220x200 px exceed the limit")


@pytest.mark.parametrize("one", ["film.png", Path("film.png"), png(GRAY), Image.from_array(GRAY)])
def test_one_image_instead_of_several_is_refused(screener, one) -> None:
    with pytest.raises(InputError, match=f"found one {type(one).__name__}: put it in a list"):
        screen_files(screener, one, workers=1)
    with pytest.raises(InputError, match="workers is a whole number of 1 or more, got 0"):
        screen_files(screener, [one], workers=0)


def test_arguments_of_other_types_are_refused_with_the_call_to_use(screener, bundle) -> None:
    engines = reference(bundle)
    for refused, expected in [
        (lambda: Screener("starter", engines), r"found str: pass Bundle.open\(...\)"),
        (lambda: Screener(engines, bundle), r"found EngineSet: pass Bundle.open\(...\)"),
        (lambda: Screener(bundle, "engines"), r"found str: pass load_engines\(bundle\)"),
        (lambda: Screener(bundle, engines, threads="2"), "threads is a whole number of 1 or more, got '2'"),
        (lambda: Screener(bundle, engines, threads=2.0), "threads is a whole number of 1 or more, got 2.0"),
        (lambda: load_engines("starter"), r"load_engines takes an opened bundle, found str: pass Bundle.open\(...\)"),
        (lambda: screen_files(bundle, [GRAY], workers=1), "takes a Screener first, found Bundle"),
        (lambda: screen_files(screener, [GRAY], workers="1"), "workers is a whole number of 1 or more, got '1'"),
        (
            lambda: load_image(GRAY, max_pixels="9"),
            "max_pixels and min_side_px are numbers of 1 or more, got '9' and 32",
        ),
        (lambda: load_image(GRAY, min_side_px=0), "got 100000000 and 0"),
    ]:
        with pytest.raises(InputError, match=expected):
            refused()


def test_images_are_compared_by_their_pixels() -> None:
    image = Image.from_array(GRAY)
    changed = image.pixels.copy()
    changed[0, 0] ^= 1
    assert image == Image.from_array(GRAY)
    assert image != replace(image, pixels=changed)
    assert image != Image.from_array(GRAY, source="other")
    assert image != 3
    assert len({image, Image.from_array(GRAY)}) == 1
