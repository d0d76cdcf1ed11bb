"""The shortcut probe finds the one family that predicts the label, and no other, and describes files and images as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from cxr_edge.errors import InputError
from training.data.dataset import Sample
from training.data.records import Record
from training.evaluation.metrics import Bootstrap
from training.evaluation.probe import (
    ALL_TOGETHER,
    PIXELS_TOGETHER,
    Answer,
    Probe,
    Stages,
    answer,
    overview,
    probe,
    probe_as_markdown,
    questions,
)
from training.evaluation.probe_features import (
    FAMILIES,
    PIXELS,
    at_common_size,
    canvas_features,
    file_features,
    jpeg_quality,
    pixel_features,
    published_features,
    view_features,
)
from training.json_records import as_json, from_json

Gray = npt.NDArray[np.uint8]
DRAWS = Bootstrap(seed=0, resamples=50)
SIDE_PX = 128


def _sample(i: int, label: str, **changes: object) -> Sample:
    record = Record(
        path=Path(f"{i}.bmp"),
        key=f"{i}.bmp",
        patient=f"p/{i}",
        label=label,
        source="a",
        view="PA",
        finding=label,
        adult=True,
    )
    record = replace(record, **changes)  # type: ignore[arg-type]
    return Sample(record=record, group=record.patient, side="train")


def _smooth(rng: np.random.Generator, height: int, width: int, *, bimodal: bool = False) -> Gray:
    """Draw blurred blocks of gray values of one mean and deviation; if `bimodal`, the inner blocks have two values."""
    coarse = rng.uniform(79, 121, (6, 6)).astype(np.float32)
    if bimodal:
        coarse[1:5, 1:5] = rng.permutation([88, 112] * 8).reshape(4, 4)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def _speckled(image: Gray, rng: np.random.Generator, *, grain_px: int) -> Gray:
    grains = rng.choice([-2, 2], [side // grain_px for side in image.shape])
    return (image + np.kron(grains, np.ones((grain_px, grain_px), np.int64))).clip(0, 255).astype(np.uint8)


def _flat_border(image: Gray) -> Gray:
    """Replace the outer 1/32 of each side by its mean."""
    image, depth = image.copy(), SIDE_PX // 32
    for strip in (image[:depth], image[-depth:], image[:, :depth], image[:, -depth:]):
        strip[:] = round(float(strip.mean()))
    return image


def _with_letter(image: Gray, corner: tuple[int, int] = (8, 8)) -> Gray:
    """Draw a gray block of 3 x 3 pixels."""
    image, (y, x) = image.copy(), corner
    image[y : y + 3, x : x + 3] = 170
    return image


def _write_drawn(folder: Path, plant: str, n: int) -> list[Sample]:
    """Write n images, every second one covid-19, which differ from the others in `plant` only."""
    samples = []
    for i in range(n):
        rng, sick = np.random.default_rng(i), bool(i % 2)
        shape = (SIDE_PX + 16, SIDE_PX) if plant == "size" and sick else (SIDE_PX, SIDE_PX + 16)
        image = _speckled(
            _smooth(rng, *shape, bimodal=plant == "histogram, standardised" and sick),
            rng,
            grain_px=1 if plant == "sharpness" and sick else 4,
        )
        image = _with_letter(image, (-12, -12)) if rng.random() < 0.5 else image  # whatever the label
        if sick and plant in _CHANGES:
            image = _CHANGES[plant](image)
        path = folder / f"{i}.{'png' if plant == 'compression' else 'bmp'}"
        path.write_bytes(_encode(path.suffix, image, 9 if sick else 0))
        view = "AP Supine" if plant == "view" and sick else "PA"
        samples.append(_sample(i, "covid-19" if sick else "normal", path=path, view=view))
    return samples


_CHANGES: dict[str, Callable[[Gray], Gray]] = {
    "border": _flat_border,
    "corners": _with_letter,
    "histogram": lambda image: image + np.uint8(50),
}


def _encode(suffix: str, image: Gray, png_level: int) -> bytes:
    options = [cv2.IMWRITE_PNG_COMPRESSION, png_level] if suffix == ".png" else []
    return cv2.imencode(suffix, image, options)[1].tobytes()  # type: ignore[no-any-return]


def _constant(n: int) -> dict[str, npt.NDArray[np.float64]]:
    return dict.fromkeys(FAMILIES, np.ones((n, 2)))


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        ("nothing", set()),
        ("size", {"size"}),
        ("compression", {"compression"}),
        ("view", {"view"}),
        ("sharpness", {"sharpness"}),
        ("border", {"border"}),
        ("corners", {"corners"}),
        ("histogram", {"histogram", "border"}),  # the border of a brighter image is brighter
        ("histogram, standardised", {"histogram, standardised", "histogram"}),
    ],
)
def test_a_planted_family_predicts_the_label_and_no_other_does(tmp_path: Path, plant: str, found: set[str]) -> None:
    samples = _write_drawn(tmp_path, plant, n := 200)
    before = published_features(samples, threads=1)
    stages = Stages(before=before, canvases=_constant(n), augmented=_constant(n))
    (question, *_) = questions(samples, "covid-19")
    figures = {name: row.before for name, row in answer(question, samples, stages, DRAWS).families.items()}
    values = {name: 0.5 if figure is None else figure.value for name, figure in figures.items()}
    assert {name for name in FAMILIES if values[name] > 0.8} == found, values
    assert all(0.3 < values[name] < 0.75 for name in set(FAMILIES) - found), values
    assert (values[ALL_TOGETHER] > 0.8) == bool(found)
    assert (values[PIXELS_TOGETHER] > 0.8) == bool(found & set(PIXELS))


def test_families_are_measured_on_canvases_too() -> None:
    samples = [_sample(i, ("normal", "covid-19")[i % 2]) for i in range(100)]
    plain = [_smooth(np.random.default_rng(i), 64, 64) for i in range(100)]
    lettered = [_with_letter(image) if i % 2 else image for i, image in enumerate(plain)]
    views = [s.record.view for s in samples]
    stages = Stages(
        before=_constant(100), canvases=canvas_features(lettered, views), augmented=canvas_features(plain, views)
    )
    (question, *_) = questions(samples, "covid-19")
    found = answer(question, samples, stages, DRAWS).families
    assert found["corners"].canvases.value > 0.85
    assert found["corners"].augmented is None  # without letters neither white pixels nor edges
    assert 0.3 < found["border"].augmented.value < 0.7
    for name in ("size", "compression", "view"):  # canvases have one size, no file, and here one view
        assert found[name].before is found[name].canvases is found[name].augmented is None
    assert found["corners"].canvases.low <= found["corners"].canvases.value <= found["corners"].canvases.high


def test_images_of_a_patient_are_not_on_both_sides_of_a_fold() -> None:
    # Ten images a patient, with a number that only the patient has: a fit that has seen the patient would be right.
    label, patients = ("normal", "covid-19"), np.repeat(np.arange(40), 10)
    secret = np.random.default_rng(0).permutation(40)
    samples = [_sample(i, label[p % 2], patient=f"p/{p}") for i, p in enumerate(patients)]
    features = {**_constant(400), "view": secret[patients][:, None].astype(np.float64)}
    stages = Stages(before=features, canvases=_constant(400), augmented=_constant(400))
    (question, *_) = questions(samples, "covid-19")
    assert answer(question, samples, stages, DRAWS).families["view"].before.value < 0.75


def _mixed() -> list[Sample]:
    """Return 40 covid-19 and 40 normal of source a, 40 normal children of b, and 3 viral of a."""
    kinds = [("covid-19", "a", True), ("normal", "a", True), ("normal", "b", False)]
    samples = [_sample(i, label, source=source, adult=adult) for i, (label, source, adult) in enumerate(kinds * 40)]
    return [*samples, *(_sample(1000 + i, "viral") for i in range(3))]


def test_questions_are_the_guarded_label_label_source_and_pairs_within_a_source() -> None:
    samples = _mixed()
    found = {q.name: q for q in questions(samples, "covid-19")}
    assert list(found) == ["covid-19 among adults", "label", "source", "covid-19 or normal within a"]
    sizes = {name: dict(zip(q.classes, np.bincount(q.true).tolist(), strict=True)) for name, q in found.items()}
    assert sizes["covid-19 among adults"] == {"covid-19": 40, "not covid-19": 43}  # without the children
    assert sizes["label"] == {"covid-19": 40, "normal": 80}  # viral has too few
    assert sizes["source"] == {"a": 83, "b": 40}
    assert sizes["covid-19 or normal within a"] == {"covid-19": 40, "normal": 40}
    for q in found.values():
        for i, k in zip(q.rows[:5], q.true[:5], strict=True):
            assert q.classes[k] in (samples[i].record.label, samples[i].record.source, "not covid-19")


def test_without_a_guarded_label_the_others_are_left() -> None:
    assert questions(_mixed(), None)[0].name == "label"


def test_a_source_with_one_label_has_no_question_of_its_own() -> None:
    assert not any(q.name.endswith("within b") for q in questions(_mixed(), "covid-19"))


def test_a_class_needs_a_patient_for_each_fold() -> None:
    samples = [_sample(i, "covid-19", patient=f"p/{i % 4}") for i in range(40)]
    samples += [_sample(100 + i, "normal") for i in range(40)]
    with pytest.raises(
        InputError, match=r"two labels or two sources with 30 images of 5 patients .* got a/covid-19 40, "
    ):
        questions(samples, "covid-19")


def test_the_source_has_a_balanced_accuracy() -> None:
    samples = _mixed()
    right = np.array([[float(s.record.source == "b")] for s in samples])
    stages = Stages(
        before={**_constant(123), "size": right}, canvases=_constant(123), augmented={**_constant(123), "view": -right}
    )
    question = next(q for q in questions(samples, "covid-19") if q.name == "source")
    found = answer(question, samples, stages, DRAWS)
    assert (found.chance, found.measure) == (0.5, "balanced accuracy")
    assert found.families["size"].before.value == found.families["view"].augmented.value == 1
    assert found.families["border"].before is None


def test_a_label_of_three_has_a_macro_auc_by_a_weighted_mean_of_no_class() -> None:
    # One label of three is known by the feature, the other two are not: (1 + 0.75 + 0.75) / 3, whatever their numbers.
    labels = ["covid-19"] * 40 + ["normal"] * 200 + ["viral"] * 200
    samples = [_sample(i, label) for i, label in enumerate(labels)]
    features = {**_constant(440), "view": np.array([[float(label == "covid-19")] for label in labels])}
    stages = Stages(before=features, canvases=_constant(440), augmented=_constant(440))
    question = next(q for q in questions(samples, None) if q.name == "label")
    found = answer(question, samples, stages, DRAWS).families["view"].before
    # Against the rest, one of the other two ranks above covid-19's 40, and among the 200 of the other at random.
    assert found.value == pytest.approx((1 + 2 * (40 + 0.5 * 200) / 240) / 3, abs=0.05)


@pytest.fixture(scope="module")
def result() -> Probe:
    samples = [_sample(i, ("normal", "covid-19")[i % 2]) for i in range(80)]
    images = [_smooth(np.random.default_rng(i), 32, 32) for i in range(80)]
    features = canvas_features(images, ["PA"] * 80)
    stages = Stages(before=features, canvases=features, augmented=features)
    return probe(samples, stages, DRAWS, guard="covid-19", configuration="tiny", preset="sane")


def test_the_result_is_read_back_from_its_json(result: Probe) -> None:
    assert from_json(Probe, as_json(result)) == result


def test_the_page_has_every_figure_of_the_result(result: Probe) -> None:
    page = probe_as_markdown(result)
    assert page.startswith("# Shortcut probe: tiny\n")
    assert "Generated by `training/probe.py`" in page
    assert overview(result) in page
    for a in result.answers:
        section = page.split(f"## {a.question[0].upper()}{a.question[1:]}\n")[1].split("\n## ")[0]
        assert "covid-19: 40 images of 40 patients; n" in section
        for name, row in a.families.items():
            (line,) = re.findall(rf"^\| {name} \|.*$", section, re.MULTILINE)
            assert line.count("constant") == 3 * (row.before is None)
            assert row.before is None or f"{row.before.value:.3f} [" in line


def test_equal_inputs_give_equal_figures_at_each_stage(result: Probe) -> None:
    rows = [row for a in result.answers for row in a.families.values()]
    assert all(row.before == row.canvases == row.augmented for row in rows)
    assert {a.question for a in result.answers} == {
        "covid-19 among adults",
        "label",
        "covid-19 or normal within a",
    }
    assert isinstance(result.answers[0], Answer)


@pytest.mark.parametrize("quality", [25, 35, 50, 75, 90, 100])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_the_jpeg_quality_is_that_of_the_encoder(quality: int, channels: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (32, 32, *channels), dtype=np.uint8)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    assert jpeg_quality(data) == pytest.approx(quality, abs=1)


_DQT = b"\xff\xdb"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\xff\xd8" + _DQT + b"\0\x43\0" + b"\x10" * 20,  # cut
        b"\xff\xd8" + _DQT + b"\0\x43\x01" + b"\x10" * 64 + b"\xff\xda\0\2",  # table 1 only
        b"\xff\xd8" + _DQT + b"\0\0" + b"\xff\xda",  # a length of 0
        b"\x89PNG\r\n\x1a\n" + _DQT + b"\0\x43\0" + b"\x10" * 64,
    ],
)
def test_data_without_a_luminance_table_have_the_quality_0(data: bytes) -> None:
    assert jpeg_quality(data) == 0


def test_tables_of_16_bits_after_others_and_fill_bytes_are_read() -> None:
    table = b"\x01" + b"\x05" * 64 + b"\x10" + b"\0\x3a" * 64  # table 1 of 8 bits, then table 0 of 16 bits
    data = b"\xff\xd8\xff\xe0\0\4ab\xff\xff" + _DQT + (2 + len(table)).to_bytes(2, "big") + table
    assert jpeg_quality(data) == pytest.approx(50, abs=1)  # 64 x 58 is near the sum of libjpeg's table at 50


def test_file_features_differ_by_size_suffix_format_and_bits() -> None:
    bmp, png = (cv2.imencode(s, np.zeros((20, 10), np.uint8))[1].tobytes() for s in (".bmp", ".png"))
    found = file_features(bmp, ".BMP", width_px=10, height_px=20)
    assert found["size"].tolist() == [10, 20, 0.5, np.log(200)]
    assert found["compression"][3] == 8 * len(bmp) / 200
    assert np.array_equal(found["compression"], file_features(bmp, ".bmp", width_px=10, height_px=20)["compression"])
    others = [(bmp, ".dib"), (png, ".bmp"), (b"", "")]
    rows = [file_features(d, s, width_px=10, height_px=20)["compression"][1:3].tolist() for d, s in others]
    assert len({tuple(r) for r in (found["compression"][1:3].tolist(), *rows)}) == 4


def test_views_are_ap_pa_or_unknown() -> None:
    numbers = [view_features(v)["view"].tolist() for v in ("AP", "AP Supine", "PA", "", "L", "unknown")]
    assert numbers == [[0], [0], [1], [-1], [-1], [-1]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 500), (8, 8), (33, 7)])
@pytest.mark.parametrize("value", [0, 255])
def test_features_of_tiny_and_uniform_images_are_finite(shape: tuple[int, int], value: int) -> None:
    image = np.full(shape, value, np.uint8)
    found = pixel_features(image, at_common_size(image))
    assert tuple(found) == PIXELS
    assert all(np.isfinite(row).all() for row in found.values())
    assert found["sharpness"].tolist() == [0] * 5
    assert found["border"].tolist() == [*[value, 0] * 4, value == 0, value == 255]
    assert found["histogram"].tolist() == [value] * 16


def test_sharpness_counts_frequencies_above_their_radius() -> None:
    x = np.arange(64)
    for frequency, above in ((1 / 32, [0, 0, 0, 0]), (0.19, [1, 1, 0, 0]), (0.45, [1, 1, 1, 1])):
        image = np.tile(128 + 100 * np.cos(2 * np.pi * frequency * x), (64, 1)).astype(np.uint8)
        assert pixel_features(image, image)["sharpness"][:4] == pytest.approx(above, abs=0.05)


def test_corners_are_measured_each_by_itself() -> None:
    image = np.full((60, 60), 100, np.uint8)
    image[-5:, :5] = 255
    white, edges = np.split(pixel_features(image, image)["corners"], 2)
    assert white.tolist() == [0, 0, 0.25, 0]
    assert edges[2] > 0
    assert edges[[0, 1, 3]].tolist() == [0, 0, 0]


def test_images_of_16_bits_have_the_features_of_their_upper_8(tmp_path: Path) -> None:
    image = _smooth(np.random.default_rng(0), 64, 64)
    rows = []
    for name, pixels in (("8", image), ("16", image.astype(np.uint16) * 257)):
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), pixels)
        rows.append(published_features([_sample(0, "normal", path=path)], threads=1))
    for family in PIXELS:
        assert np.array_equal(rows[0][family], rows[1][family])


def test_all_unreadable_images_are_named(tmp_path: Path) -> None:
    samples = _write_drawn(tmp_path, "nothing", 6)
    for i in (1, 4):
        samples[i].record.path.write_bytes(b"no image")
    with pytest.raises(InputError) as error:
        published_features(samples, threads=2)
    assert str(samples[1].record.path) in str(error.value)
    assert str(samples[4].record.path) in str(error.value)
