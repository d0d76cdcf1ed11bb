"""Builds with a bundle's gate set: which images count, what they can show, and answers that this machine must give."""

from __future__ import annotations

import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr_edge import engines
from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.bundle.gate_file import GateFile, pack_images, pack_surrogate
from cxr_edge.bundle.gate_set import attach_gate_set, read_gate_set
from cxr_edge.bundle.surrogate import SurrogateModel, SurrogateSize, draw_images
from cxr_edge.compiler import samples
from cxr_edge.compiler.build_bundle import build
from cxr_edge.compiler.image_set import ImageSet
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import BuildSettings
from cxr_edge.errors import ContractError
from cxr_edge.phantoms import make_phantom
from cxr_edge.records import Image
from cxr_edge.screening.screener import Screener
from tests.builders.toy_bundle import LABELS, build_toy_bundle

pytestmark = pytest.mark.usefixtures("exact_int8")

FP32 = BuildSettings(precision="fp32")


def answered(bundle: Bundle, file: GateFile) -> GateFile:
    """Return the file with the answers of the bundle's reference."""
    screener = Screener(bundle, engines.reference(bundle))
    found = [screener.screen(Image.from_array(p)) for p in file.images()]
    return file.answered(np.array([s.probabilities for s in found]), [s.forced_decision for s in found])


def gated(bundle: Bundle, file: GateFile) -> Bundle:
    return attach_gate_set(bundle, answered(bundle, file), licence="CC0-1.0", attribution="drawn for tests")


def phantoms(count: int, truth: tuple[int, ...]) -> GateFile:
    pixels = [make_phantom(LABELS[i % 4], size_px=64, seed=i).pixels for i in range(count)]
    return pack_images(pixels, truth, LABELS, np.full((count, 4), 0.25), ["normal"] * count)


def surrogate(draws: int = 8) -> GateFile:
    rng = np.random.default_rng(2)
    size = SurrogateSize(
        side_px=64, grid_px=16, map_px=4, components=6, octaves=1, labels=4, tones=1, draws=draws, seed=1
    )
    model = SurrogateModel(
        size=size,
        mean=np.full(256, 32 * 120, np.int16),
        components=rng.integers(-40, 40, (6, 256)).astype(np.int8),
        coefficients=rng.integers(-60, 60, (draws, 6)).astype(np.int8),
        tones=np.zeros(draws, np.uint8),
        texture=np.full((4, 1, 16), 30, np.uint8),
        curves=np.arange(256, dtype=np.uint8)[None],
    )
    truth = [i % 4 for i in range(draws)]
    return pack_surrogate(model, truth, LABELS, np.full((draws, 4), 0.25), ["normal"] * draws)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_toy_bundle(tmp_path_factory.mktemp("plain") / "toy").root


@pytest.fixture
def bundle(plain: Path, tmp_path: Path) -> Bundle:
    shutil.copytree(plain, tmp_path / "toy")
    return Bundle.open(tmp_path / "toy")


def test_a_build_is_judged_on_the_gate_set(bundle, tmp_path):
    report = build(gated(bundle, surrogate()), FP32, tmp_path / "engines")
    assert report.images == "8 images of the bundle's gate set, draws of a surrogate of its training images"
    assert report.ensemble.images == 8
    assert report.image_set.kind == "surrogate"
    assert not report.operating_point.drawn
    assert report.operating_point.labels == ()  # a drawing's label is no diagnosis
    text = "\n".join(report.lines())
    assert "dAUC is macro one-vs-rest against the reference's labels." in text
    assert "So many images notice engines that decide 31.2% of all images otherwise" in text
    assert "decision agreement 1.000 [0.631, 1.000]" in text
    assert report.as_json()["ensemble"]["agreement_interval"] == report.ensemble.interval


def test_real_images_of_a_gate_set_count_as_x_rays(bundle, tmp_path):
    report = build(gated(bundle, phantoms(4, (0, 1, 2, 3))), FP32, tmp_path / "engines")
    assert report.images == "4 images of the bundle's gate set, real images"
    assert not report.operating_point.drawn
    assert {own.label for own in report.operating_point.labels} == {"covid-19"}
    assert "dAUC is macro one-vs-rest against true labels." in "\n".join(report.lines())


def test_a_calibration_folder_comes_first(bundle, tmp_path):
    folder = tmp_path / "xrays"
    folder.mkdir()
    shutil.copy(next(bundle.root.glob("known*.png")), folder)
    changed = gated(bundle, surrogate())
    report = build(changed, replace(FP32, calibration=folder), tmp_path / "engines")
    assert report.images == f"1 in {folder}"
    assert report.image_set.kind == "folder"


def test_without_a_gate_set_known_answers_count(bundle, tmp_path):
    report = build(bundle, FP32, tmp_path / "engines")
    assert report.images == "3 synthetic known-answer images of the bundle"
    assert report.image_set.kind == "known answers"


def test_ranges_are_measured_on_the_gate_set_where_the_bundle_has_none(bundle, tmp_path):
    report = build(gated(bundle, surrogate()), BuildSettings(precision="int8", max_loss=0.5), tmp_path / "engines")
    assert {r.status for r in report.rows if r.precision == "uint8"} <= {"selected", "passed", "rejected"}
    assert (tmp_path / "engines" / "ranges" / "plain.json").read_text().count('"source": "gate set"') == 1


def test_without_both_int8_is_skipped(bundle, tmp_path):
    report = build(bundle, BuildSettings(precision="int8"), tmp_path / "engines")
    assert {r.status for r in report.rows} == {"skipped"}


def test_a_machine_that_answers_otherwise_is_refused(bundle, tmp_path):
    file = answered(bundle, surrogate())
    other = file.answered(np.roll(np.array(file.probabilities), 1, axis=1), file.decisions)
    changed = attach_gate_set(bundle, other, licence="CC0-1.0", attribution="drawn")
    with pytest.raises(ContractError, match=r"not compute what made the bundle's gate set: on [78] of 8 images"):
        build(changed, FP32, tmp_path / "engines")


def test_one_image_of_a_hundred_may_differ(bundle):
    gate = read_gate_set(gated(bundle, surrogate(60)))
    own = samples.gate_set(Bundle.open(bundle.root), engines.reference(bundle), threads=1)
    moved = replace(gate, probabilities=np.where(np.arange(60)[:, None] == 3, 0.1, gate.probabilities))
    samples.check_gate_answers(moved, own)
    moved = replace(gate, probabilities=np.where(np.arange(60)[:, None] < 2, 0.1, gate.probabilities))
    with pytest.raises(ContractError, match="on 2 of 60 images"):
        samples.check_gate_answers(moved, own)


def of(kind: samples.ImageKind, count: int) -> samples.Samples:
    image = decode(make_phantom("normal", size_px=64, seed=1).pixels)
    item = samples.Sample(source=image, label=0, screening=None, inputs={})  # type: ignore[arg-type]
    return samples.Samples(description="", kind=kind, items=(item,) * count)


@pytest.mark.parametrize(
    ("kind", "count", "left"), [("surrogate", 200, 50), ("images", 61, 31), ("surrogate", 60, 60), ("folder", 200, 200)]
)
def test_single_networks_see_an_even_selection_of_a_gate_set(kind, count, left):
    assert len(of(kind, count).for_networks().items) == left


def test_what_so_many_images_can_show():
    found = ImageSet.of(of("surrogate", 200), of("surrogate", 50), 0.01)
    assert found.noticed_from == pytest.approx(1 - 0.05 ** (1 / 200))
    assert found.refused_from == pytest.approx(0.03112, abs=1e-4)  # P(at most 2 of 200) is 5 % there
    assert found.line() == (
        "So many images notice engines that decide 1.5% of all images otherwise, and refuse those that decide 3.1% "
        "otherwise, with 95 % confidence; single networks are compared on 50 of them."
    )


def test_few_images_notice_only_large_losses():
    found = ImageSet.of(of("known answers", 20), of("known answers", 20), 0.01)
    assert found.noticed_from == found.refused_from == pytest.approx(1 - 0.05 ** (1 / 20))
    assert "compared on" not in found.line()


def test_the_images_are_those_of_the_file(bundle):
    file = surrogate(3)
    changed = gated(bundle, file)
    model = SurrogateModel.of_bytes(zlib.decompress(file.payload), file.surrogate)
    expected = list(draw_images(model, [0, 1, 2]))
    assert all(np.array_equal(i.pixels, e) for i, e in zip(read_gate_set(changed).images, expected, strict=True))
    assert write_bundle(changed.root, changed.manifest).digest == changed.digest
