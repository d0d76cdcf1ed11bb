"""Figures: files are written, their text describes them, and unusual input is refused or handled."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.evaluation.figures import (
    CamRow,
    PruningPoint,
    bars_picture,
    cam_picture,
    compared_picture,
    confusion_picture,
    precision_recall_picture,
    pruning_picture,
    roc_picture,
)
from training.evaluation.metrics import Predictions, proportion

LABELS = ("normal", "bacterial", "covid-19")


def _predictions() -> Predictions:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 50)
    return Predictions(
        true=rng.integers(0, 3, 50), predicted=p.argmax(1), probabilities=p, patients=np.arange(50).astype(str)
    )


def _points(milliseconds: float = 2.0) -> list[PruningPoint]:
    channels = [100, 80, 60]
    return [
        PruningPoint(channels=c, parameters=c * 10, macs=c * 1000, milliseconds=milliseconds, score=0.9, chosen=c == 80)
        for c in channels
    ]


def _texts(drawing: object) -> str:
    found = [t.get_text() for t in drawing.findobj(lambda a: hasattr(a, "get_text"))]  # type: ignore[attr-defined]
    return " ".join(found)


def _is_picture(file: Path) -> bool:
    image = cv2.imread(str(file))
    return image is not None and min(image.shape[:2]) > 300 and int(image.std()) > 3


def test_confusion_shows_counts_by_true_label(tmp_path: Path) -> None:
    drawing = confusion_picture([[8, 2, 0], [1, 5, 0], [0, 0, 4]], LABELS, "preset sane, n = 20", tmp_path / "c.png")
    text = _texts(drawing)
    assert _is_picture(tmp_path / "c.png")
    for what in ("preset sane", "n = 10", "80.0%", "covid-19"):
        assert what in text
    with pytest.raises(ValueError, match="square"):
        confusion_picture([[1, 2]], LABELS, "t", tmp_path / "x.png")


@pytest.mark.parametrize("draw", [roc_picture, precision_recall_picture])
def test_curves_name_micro_macro_and_every_class(draw: object, tmp_path: Path) -> None:
    drawing = draw(_predictions(), LABELS, "title", tmp_path / "r.png")  # type: ignore[operator]
    assert _is_picture(tmp_path / "r.png")
    for what in ("micro", "macro", *LABELS):
        assert what in _texts(drawing)
    empty = Predictions(
        true=np.zeros(0, np.int64),
        predicted=np.zeros(0, np.int64),
        probabilities=np.zeros((0, 3)),
        patients=np.zeros(0, str),
    )
    with pytest.raises(ValueError, match="image"):
        draw(empty, LABELS, "t", tmp_path / "x.png")  # type: ignore[operator]


def test_a_class_without_images_has_no_curve_and_a_note(tmp_path: Path) -> None:
    a = _predictions()
    some = a.only(a.true != 2)
    assert "no curve: covid-19" in _texts(roc_picture(some, LABELS, "t", tmp_path / "r.png"))


def test_pruning_curves_with_and_without_times(tmp_path: Path) -> None:
    drawing = pruning_picture({"vgg": _points(), "custom": _points()}, "title", tmp_path / "p.png")
    assert _is_picture(tmp_path / "p.png")
    for what in ("vgg", "custom", "selected step", "channels left"):
        assert what in _texts(drawing)
    pruning_picture({"vgg": _points(float("nan"))}, "title", tmp_path / "n.png")
    assert _is_picture(tmp_path / "n.png")
    with pytest.raises(ValueError, match="needs a model"):
        pruning_picture({}, "t", tmp_path / "x.png")


def test_maps_over_images(tmp_path: Path) -> None:
    image = (np.arange(64 * 64) % 256).reshape(64, 64).astype(np.uint8)
    maps = {"a": np.eye(4), "b": np.zeros((4, 4)), "c": -np.ones((2, 3))}
    row = CamRow(image=image, label="covid-19", maps=maps, captions=dict.fromkeys(maps, "normal 0.5"))
    flat = CamRow(image=np.full((32, 32), 7), label="normal", maps=maps, captions=dict.fromkeys(maps, "normal 0.9"))
    drawing = cam_picture([row, flat], "title", tmp_path / "m.png")
    assert _is_picture(tmp_path / "m.png")
    assert "true: covid-19" in _texts(drawing)
    with pytest.raises(ValueError, match="needs a case"):
        cam_picture([], "t", tmp_path / "x.png")


def test_values_with_intervals(tmp_path: Path) -> None:
    values = {"vgg": {"whole": proportion(9, 10), "pruned": proportion(8, 10)}}
    assert "F1" in _texts(bars_picture(values, "title", tmp_path / "b.png", quantity="F1"))
    assert _is_picture(tmp_path / "b.png")


def test_the_same_input_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        roc_picture(_predictions(), LABELS, "title", tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def _scores(noise: dict[str, float], images: int = 80) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return scores per model with this noise, on images of which every fourth has the class."""
    rng, positive = np.random.default_rng(0), np.arange(images) % 4 == 0
    return {name: positive + rng.normal(0, s, images) for name, s in noise.items()}, positive


def _legend(drawing: object) -> list[str]:
    return [t.get_text() for t in drawing.legends[0].get_texts()]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "figure"), [("roc", "AUC"), ("precision-recall", "AP")])
def test_the_legend_is_sorted_by_area(kind: str, figure: str, tmp_path: Path) -> None:
    scores, positive = _scores({"worst": 3.0, "best": 0.1, "middle": 0.7, "guess": 50.0})
    drawing = compared_picture(scores, positive, "preset sane, n = 80", tmp_path / "c.png", kind=kind)  # type: ignore[arg-type]
    assert _is_picture(tmp_path / "c.png")
    assert "preset sane, n = 80" in _texts(drawing)
    names = [line.split(":")[0] for line in _legend(drawing)]
    assert names[:2] == ["best", "middle"]
    assert set(names[:4]) == set(scores)
    areas = [float(line.split()[-1]) for line in _legend(drawing)[:4]]
    assert areas == sorted(areas, reverse=True)
    assert all(f": {figure} " in line for line in _legend(drawing)[:4])
    assert names[4:] == ([] if kind == "roc" else ["chance"])
    if kind == "precision-recall":
        assert _legend(drawing)[4] == "chance: 0.250"


@pytest.mark.parametrize("kind", ["roc", "precision-recall"])
def test_curves_of_one_class_or_of_no_model_are_refused(kind: str, tmp_path: Path) -> None:
    scores, positive = _scores({"a": 1.0})
    for given, labels in (({}, positive), (scores, np.ones_like(positive)), (scores, np.zeros_like(positive))):
        with pytest.raises(ValueError, match="a model, and images with and without the class"):
            compared_picture(given, labels, "t", tmp_path / "x.png", kind=kind)  # type: ignore[arg-type]
    assert not (tmp_path / "x.png").exists()


def test_the_axis_is_cut_where_all_curves_are_high(tmp_path: Path) -> None:
    scores, positive = _scores({"a": 0.1, "b": 0.15})
    (axes,) = compared_picture(scores, positive, "t", tmp_path / "c.png", kind="roc").axes
    assert "cut at 0.02: all curves are above 0.9 beyond it" in axes.get_xlabel()
    assert axes.get_xlim()[1] < 0.05
    # With one bad model the axis is not cut; neither is that of precision and recall.
    bad = {**scores, "bad": -scores["a"]}
    (axes,) = compared_picture(bad, positive, "t", tmp_path / "c.png", kind="roc").axes
    assert "cut" not in axes.get_xlabel()
    assert axes.get_xlim()[1] == pytest.approx(1.02)
    (axes,) = compared_picture(scores, positive, "t", tmp_path / "c.png", kind="precision-recall").axes
    assert "cut" not in axes.get_xlabel()
    assert axes.get_xlim()[1] == pytest.approx(1.02)


def test_beyond_the_cut_every_curve_is_high(tmp_path: Path) -> None:
    scores, positive = _scores({"a": 0.3, "b": 0.4}, images=400)
    (axes,) = compared_picture(scores, positive, "t", tmp_path / "c.png", kind="roc").axes
    end = float(axes.get_xlabel().split("cut at ")[1].split(":")[0])
    assert 0.03 < end < 0.6
    for line in axes.lines[:2]:
        x, y = line.get_data()
        assert y[x > end].min() >= 0.9


def test_more_models_than_colours_differ_in_dashes(tmp_path: Path) -> None:
    scores, positive = _scores({f"model {k}": 0.5 + 0.05 * k for k in range(17)})
    drawing = compared_picture(scores, positive, "t", tmp_path / "c.png", kind="roc")
    looks = {(line.get_color(), line.get_linestyle()) for line in drawing.axes[0].lines}
    assert len(looks) == 17


def test_whiskers_are_named(tmp_path: Path) -> None:
    values = {"vgg": {"F1": proportion(9, 10)}}
    (axes,) = bars_picture(values, "t", tmp_path / "b.png", quantity="F1", whiskers="standard deviation").axes
    assert axes.get_xlabel() == "F1, standard deviation"
    (axes,) = bars_picture(values, "t", tmp_path / "b.png", quantity="F1").axes
    assert axes.get_xlabel() == "F1, 95 % interval"


def test_a_tie_is_a_straight_line_of_a_roc(tmp_path: Path) -> None:
    scores, positive = {"constant": np.full(40, 0.5)}, np.arange(40) % 4 == 0
    drawing = compared_picture(scores, positive, "t", tmp_path / "roc.png", kind="roc")
    (line,) = drawing.axes[0].lines
    assert line.get_drawstyle() == "default"
    assert line.get_xydata().tolist() == [[0, 0], [1, 1]]
