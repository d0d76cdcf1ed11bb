"""Screening of images and files, on a toy bundle with its fp32 reference engines."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.decoding.decode import decode
from cxr_edge.digests import sha256_file
from cxr_edge.engines import reference
from cxr_edge.errors import BackendError, ContractError
from cxr_edge.records import Failure, Roi, Screening
from cxr_edge.screening import screener as screener_module
from cxr_edge.screening.folder import screen_files
from cxr_edge.screening.screener import Screener
from tests.tolerances import PROBABILITY_STORED, PROBABILITY_SUM


@pytest.fixture(scope="module")
def bundle(toy_bundle):
    return Bundle.open(toy_bundle)


@pytest.fixture(scope="module")
def screener(bundle):
    return Screener(bundle, reference(bundle))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return five gray files with two dark lung fields, a broken file and a missing one."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(5):
        pixels = np.random.default_rng(i).integers(150, 220, (200 + 10 * i, 260), dtype=np.uint8)
        cv2.ellipse(pixels, (80, 100), (35, 70), 0, 0, 360, 30 + 5 * i, -1)
        cv2.ellipse(pixels, (180, 100), (35, 70), 0, 0, 360, 40, -1)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return [*(folder / f"{i}.png" for i in range(5)), folder / "broken.png", folder / "missing.png"]


def test_a_screening_is_complete(screener, bundle, images):
    image = decode(images[0])
    screening = screener.screen(image, decode_ms=3.0)
    assert screening.labels == bundle.manifest.labels
    assert sum(screening.probabilities) == pytest.approx(1.0, abs=PROBABILITY_SUM)
    assert [m.member for m in screening.members] == [m.name for m in bundle.manifest.members]
    assert screening.sha256 == image.sha256
    assert (screening.width_px, screening.height_px) == (260, 200)
    assert screening.times.decode_ms == 3.0
    assert screening.times.total_ms > 3.0
    assert screening.heatmap is None


def test_the_known_answers_of_the_bundle_are_reproduced(screener, bundle):
    for known in bundle.manifest.known_answers:
        screening = screener.screen(decode(bundle.file(known.file)))
        assert screening.roi.as_tuple() == known.roi
        np.testing.assert_allclose(screening.probabilities, known.probabilities, atol=PROBABILITY_STORED)


def test_the_heat_map_is_computed_on_request_and_changes_nothing_else(screener, images):
    image = decode(images[0])
    plain, mapped = screener.screen(image), screener.screen(image, heatmap=True)
    assert mapped.heatmap is not None
    assert mapped.heatmap.dtype == np.float32
    assert 0.0 <= mapped.heatmap.min() <= mapped.heatmap.max() <= 1.0
    assert plain.probabilities == mapped.probabilities


def test_a_failed_lung_box_is_flagged(screener, images):
    image = decode(images[0])
    bright = replace(image, pixels=np.full_like(image.pixels, 255))
    screening = screener.screen(bright)
    assert screening.roi == Roi.full(260, 200)
    assert "lung_box_failed" in [f.code for f in screening.flags]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_and_bad_files_are_failures(screener, images, workers):
    results = list(screen_files(screener, images, workers=workers))
    assert [r.outcome.source for r in results] == [str(p) for p in images]
    assert [type(r.outcome) for r in results] == [Screening] * 5 + [Failure] * 2
    assert results[-1].outcome.reason.startswith("there is no such file")
    assert results[-1].image is None


def test_the_number_of_workers_does_not_change_the_probabilities(screener, images):
    one = [r.outcome.probabilities for r in screen_files(screener, images[:5], workers=1)]
    three = [r.outcome.probabilities for r in screen_files(screener, images[:5], workers=3)]
    assert one == three


def test_the_number_of_pending_images_is_bounded(screener, images):
    taken = []

    def paths():
        for i in range(50):
            taken.append(i)
            yield images[i % 5]

    results = screen_files(screener, paths(), workers=2)
    next(results)
    assert len(taken) <= 4


def failing_on(name, error, function):
    """Return `function`, changed to raise `error` for the file of that name."""

    def wrapped(path, **options):
        if path.name == name:
            raise error
        return function(path, **options)

    return wrapped


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("error", [OverflowError("too large"), MemoryError(), RecursionError(), KeyError("DOE^JOHN")])
def test_an_unexpected_exception_of_one_file_is_its_failure(screener, images, monkeypatch, workers, error):
    monkeypatch.setattr(screener_module, "decode", failing_on("1.png", error, decode))
    results = list(screen_files(screener, images[:5], workers=workers))
    assert [type(r.outcome) for r in results] == [Screening, Failure, *[Screening] * 3]
    assert results[1].outcome.source == str(images[1])
    assert results[1].outcome.reason.startswith(f"internal error: {type(error).__name__}")
    assert "failing_on" in results[1].traceback or "wrapped" in results[1].traceback
    assert results[0].traceback == ""


def test_a_failure_has_the_digest_of_what_was_read(screener, images):
    *_, broken, missing = images
    assert screener.screen_file(broken).outcome.sha256 == sha256_file(broken)
    assert screener.screen_file(missing).outcome.sha256 == ""


@pytest.mark.parametrize("error", [BackendError("out of memory"), KeyError("x")])
def test_an_image_that_fails_after_decoding_has_its_digest(screener, images, monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(screener, "screen", fail)
    failure = screener.screen_file(images[0]).outcome
    assert (type(failure), failure.sha256) == (Failure, sha256_file(images[0]))
    assert "sha256" not in failure.as_json()


def test_a_backend_that_fails_on_one_file_does_not_end_the_run(screener, images, monkeypatch):
    monkeypatch.setattr(
        screener_module, "decode", failing_on("1.png", BackendError("the GPU is out of memory"), decode)
    )
    results = list(screen_files(screener, images[:3], workers=1))
    assert [type(r.outcome) for r in results] == [Screening, Failure, Screening]
    assert (results[1].outcome.reason, results[1].traceback) == ("the GPU is out of memory", "")


def test_a_keyboard_interrupt_ends_the_run(screener, images, monkeypatch):
    monkeypatch.setattr(screener_module, "decode", failing_on("0.png", KeyboardInterrupt(), decode))
    with pytest.raises(KeyboardInterrupt):
        screener.screen_file(images[0])


def test_images_below_the_configured_side_are_rejected(screener, images):
    assert isinstance(screener.screen_file(images[0], min_side_px=200).outcome, Screening)
    rejected = [
        screener.screen_file(images[0], min_side_px=201),
        *screen_files(screener, images[:1], workers=1, min_side_px=201),
    ]
    assert [type(r.outcome) for r in rejected] == [Failure, Failure]
    assert all("201" in r.outcome.reason for r in rejected)


def test_a_wrong_number_of_engines_is_rejected(bundle):
    engines = reference(bundle)
    with pytest.raises(ContractError, match="build them again"):
        Screener(bundle, replace(engines, members=engines.members[:1]))
