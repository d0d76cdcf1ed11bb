"""Figures for the reports: tables, predictions and pruning steps in, PNG files out (matplotlib's Agg; returns the drawing).

No global state and no date in the file, so that the same numbers give the same picture. Colours are those of Okabe and Ito,
which colour-blind readers can distinguish, and lines also differ in dash. The caller's title names preset, n, split and seed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure as Drawing
from matplotlib.gridspec import SubplotSpec
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from training.evaluation.metrics import Figure, Predictions, auc
from training.shared_files import atomic_write

__all__ = [
    "CamRow",
    "PruningPoint",
    "bars_picture",
    "cam_picture",
    "compared_picture",
    "confusion_picture",
    "line_picture",
    "precision_recall_picture",
    "pruning_picture",
    "roc_picture",
    "shares_picture",
]

Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats, float]  # x, y, the value in the legend

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito 2008
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GRAY = "#767676"
_DPI = 150
_HIGH = 0.9  # sensitivity; the part with all curves above it is not drawn
_GRID = np.linspace(0, 1, 501)
_CAM_COLOURS = "inferno"  # lightness grows with the value, so it is readable without colours


@dataclass(frozen=True, kw_only=True)
class PruningPoint:
    """A network after a pruning step."""

    channels: int  # left in all prunable layers
    parameters: int
    macs: int  # per image
    milliseconds: float  # per image; NaN if not measured
    score: float  # on validation
    chosen: bool = False  # the selected step


@dataclass(frozen=True, kw_only=True)
class CamRow:
    """One case in a picture of activation maps."""

    image: npt.NDArray[np.generic]  # (H, W) or (H, W, 3), 0 to 255 or 0 to 1
    label: str
    maps: Mapping[str, npt.NDArray[np.floating]]  # model -> (h, w)
    captions: Mapping[str, str]  # model -> its prediction in words


def confusion_picture(
    table: npt.NDArray[np.number] | Sequence[Sequence[float]], labels: Sequence[str], title: str, file: Path | str
) -> Drawing:
    """Draw a confusion matrix with counts and shares. table: (K, K), rows are true labels; shares are of a row."""
    counts = np.asarray(table, np.float64)
    if counts.shape != (len(labels), len(labels)) or not counts.size:
        raise ValueError(f"a confusion of {len(labels)} labels must be square, not {counts.shape}")
    if counts.sum() == 0:
        raise ValueError("a confusion without an image cannot be drawn")
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
    drawing, axes = _blank(title, 2.4 + 1.25 * len(labels), 1.9 + 1.05 * len(labels))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share = f"\n{shares[row, column]:.1%}" if rows[row] else "\n-"
        colour = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, f"{count:,.0f}{share}", ha="center", va="center", color=colour, fontsize=11)
    axes.set_xticks(range(len(labels)), labels, rotation=0 if max(map(len, labels)) <= 10 else 25)
    axes.set_yticks(range(len(labels)), [f"{name}\nn = {n:,.0f}" for name, n in zip(labels, rows[:, 0], strict=True)])
    axes.set(xlabel="predicted", ylabel="true")
    drawing.colorbar(image, ax=axes, label="share of the true label's images", shrink=0.85)
    return _save(drawing, file)


def shares_picture(
    table: npt.NDArray[np.number], rows: Sequence[str], columns: Sequence[str], title: str, file: Path | str
) -> Drawing:
    """Draw counts of cases by row and column, with each row's shares. table: (rows, columns)."""
    counts = np.asarray(table, np.float64)
    if counts.shape != (len(rows), len(columns)) or not counts.size:
        raise ValueError(f"{len(rows)} rows and {len(columns)} columns were named, the table is {counts.shape}")
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    drawing, axes = _blank(title, 4.2 + 0.75 * len(columns), 1.8 + 0.42 * len(rows))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, f"{shares[row, column]:.1%}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    return _save(drawing, file)


def roc_picture(p: Predictions, labels: Sequence[str], title: str, file: Path | str) -> Drawing:
    """Draw the ROC of each class against the rest, of all pairs (micro) and their mean (macro), with AUC in the legend."""
    curves, absent = _curves(p, labels, _roc)
    curves["macro"] = _macro(curves, labels, lambda x, y: np.r_[0.0, np.interp(_GRID, x, y)], np.r_[0.0, _GRID])
    drawing, axes = _blank(title, 6.4, 6.2)
    _draw_curves(axes, curves, labels, "AUC")
    axes.plot([0, 1], [0, 1], color=_GRAY, lw=0.8, ls=(0, (2, 3)))
    axes.set(xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (sensitivity)")
    _square(axes, "lower right", absent)
    return _save(drawing, file)


def precision_recall_picture(p: Predictions, labels: Sequence[str], title: str, file: Path | str) -> Drawing:
    """Draw precision over recall of each class, micro and macro, with average precision (AP) and chance in the legend."""
    curves, absent = _curves(p, labels, _precision_recall)
    curves["macro"] = _macro(curves, labels, lambda x, y: y[np.searchsorted(x, _GRID).clip(max=len(x) - 1)], _GRID)
    chance = {label: float((p.true == k).mean()) for k, label in enumerate(labels)}
    drawing, axes = _blank(title, 6.4, 6.2)
    _draw_curves(axes, curves, labels, "AP", {"micro": 1 / len(labels), **chance})
    axes.set(xlabel="recall (sensitivity)", ylabel="precision (positive predictive value)")
    _square(axes, "lower left", absent)
    return _save(drawing, file)


def compared_picture(
    scores: Mapping[str, Floats],
    positive: npt.NDArray[np.bool_],
    title: str,
    file: Path | str,
    *,
    kind: Literal["roc", "precision-recall"],
) -> Drawing:
    """Draw curves of several models for one class against the rest.

    scores: model -> (N,).
    positive: (N,) booleans, with both values.

    The legend is sorted by area. A ROC's axis is cut where all curves are high: good models crowd on its left. Raises
    ValueError without a model, or without both kinds of images.
    """
    if not scores or positive.all() or not positive.any():
        raise ValueError("curves need a model, and images with and without the class")
    curve, figure = (_roc, "AUC") if kind == "roc" else (_precision_recall, "AP")
    curves = {model: curve(np.asarray(s, np.float64), positive) for model, s in scores.items()}
    drawing, axes = _blank(title, 8.6, 6.4)
    for k, (model, (x, y, value)) in enumerate(sorted(curves.items(), key=lambda item: -item[1][2])):
        colour, dash = _COLOURS[k % len(_COLOURS)], _DASHES[k // len(_COLOURS) % len(_DASHES)]
        _draw_curve(axes, x, y, figure, lw=1.5, color=colour, ls=dash, label=f"{model}: {figure} {value:.3f}")
    end = 1.0
    if kind == "roc":
        end = min(1.0, 1.2 * max(float(x[np.argmax(y >= _HIGH)]) for x, y, _ in curves.values()) + 0.02)
        cut = "" if end == 1 else f"\ncut at {end:.2f}: all curves are above {_HIGH} beyond it"
        axes.set(xlabel=f"false positive rate (1 - specificity){cut}", ylabel="true positive rate (sensitivity)")
    else:
        axes.axhline(positive.mean(), color=_GRAY, lw=0.8, ls=(0, (2, 3)), label=f"chance: {positive.mean():.3f}")
        axes.set(xlabel="recall (sensitivity)", ylabel="precision (positive predictive value)")
    axes.set(xlim=(-0.02 * end, 1.02 * end), ylim=(-0.02, 1.02))
    axes.grid(color="#E5E5E5")
    drawing.legend(loc="outside right center", fontsize=9, frameon=False)
    return _save(drawing, file)


def pruning_picture(steps: Mapping[str, Sequence[PruningPoint]], title: str, file: Path | str) -> Drawing:
    """Draw cost and score over the share of channels left; the selected step of each model is a star."""
    if not steps or not all(steps.values()):
        raise ValueError("a pruning picture needs a model, and each model a step")
    drawing = _titled(Drawing(figsize=(10, 7.4), layout="constrained"), title)
    panels: tuple[tuple[str, Callable[[PruningPoint], float]], ...] = (
        ("parameters, millions", lambda p: p.parameters / 1e6),
        ("MACs per image, billions", lambda p: p.macs / 1e9),
        ("milliseconds per image", lambda p: p.milliseconds),
        ("validation score", lambda p: p.score),
    )
    for axes, (name, value) in zip(drawing.subplots(2, 2, sharex=True).flat, panels, strict=True):
        _draw_pruning(axes, steps, name, value)
    handles, names = drawing.axes[0].get_legend_handles_labels()
    star = drawing.axes[0].scatter([], [], marker="*", s=190, color="white", edgecolor="black")
    drawing.legend([*handles, star], [*names, "selected step"], loc="outside lower center", ncols=4, frameon=False)
    return _save(drawing, file)


def cam_picture(rows: Sequence[CamRow], title: str, file: Path | str) -> Drawing:
    """Draw activation maps, one row per case: the image, then each model's map over it with its prediction.

    A map is clipped at 0 and divided by its own maximum: positions compare between panels, brightness does not.
    """
    if not rows or not rows[0].maps:
        raise ValueError("a picture of maps needs a case, and each case a model's map")
    models = list(rows[0].maps)
    if any(list(row.maps) != models for row in rows):
        raise ValueError(f"every case needs the maps of {', '.join(models)}, in this order")
    size = (2.5 * (1 + len(models)) + 0.9, 2.85 * len(rows) + 0.7)
    drawing = _titled(Drawing(figsize=size, layout="constrained"), title)
    grid = drawing.subplots(len(rows), 1 + len(models), squeeze=False)
    for panels, row in zip(grid, rows, strict=True):
        image = _as_picture(row.image)
        _draw_image(panels[0], image, f"true: {row.label}")
        for axes, model in zip(panels[1:], models, strict=True):
            _draw_image(axes, image, f"{model}\n{row.captions.get(model, '-')}")
            share = _as_shares(row.maps[model], image.shape[:2])
            axes.imshow(share, cmap=_CAM_COLOURS, vmin=0, vmax=1, alpha=0.65 * share, interpolation="bilinear")
    scale = ScalarMappable(cmap=_CAM_COLOURS)
    drawing.colorbar(scale, ax=grid[:, -1].tolist(), label="share of the map's maximum", shrink=0.8)
    return _save(drawing, file)


def bars_picture(
    values: Mapping[str, Mapping[str, Figure]],
    title: str,
    file: Path | str,
    *,
    quantity: str = "value",
    whiskers: str = "95 % interval",
) -> Drawing:
    """Draw values with their intervals, as dots with whiskers.

    values: model -> series -> figure; one series is enough.
    quantity: name of the axis, with its unit.
    whiskers: meaning of the whiskers.

    Values near 1 need an axis that does not begin at 0, where filled bars would mislead.
    """
    series = list(dict.fromkeys(name for of_model in values.values() for name in of_model))
    if not series:
        raise ValueError("a picture of values needs a model, and each model a value")
    drawing, axes = _blank(title, 8, 1.5 + len(values) * (0.28 + 0.3 * len(series)))
    for j, name in enumerate(series):
        for i, of_model in enumerate(values.values()):
            height = i + (j - (len(series) - 1) / 2) * 0.7 / len(series)
            _draw_interval(axes, of_model.get(name), height, j)
        axes.plot([], [], _MARKERS[j % len(_MARKERS)], color=_COLOURS[j % len(_COLOURS)], label=name)
    axes.set_yticks(range(len(values)), list(values))
    axes.set(xlabel=f"{quantity}, {whiskers}", ylim=(len(values) - 0.4, -0.6))
    axes.grid(axis="x", color="#E5E5E5")
    if len(series) > 1:
        drawing.legend(loc="outside lower center", ncols=4, frameon=False)
    return _save(drawing, file)


def line_picture(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    file: Path | str,
    *,
    x: str,
    y: str,
    diagonal: bool = False,
) -> Drawing:
    """Draw lines over shares, both axes from 0 to 1. lines: name -> x, y. x, y: names of the axes. diagonal: draw x = y."""
    drawing, axes = _blank(title, 7.2, 5.6)
    if diagonal:
        axes.plot([0, 1], [0, 1], color=_GRAY, lw=0.8, ls=(0, (2, 3)))
    for i, (name, (across, up)) in enumerate(lines.items()):
        marker = _MARKERS[i % len(_MARKERS)] if diagonal else None
        axes.plot(
            across, up, color=_COLOURS[i % len(_COLOURS)], ls=_DASHES[i % len(_DASHES)], marker=marker, label=name
        )
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1))
    axes.grid(color="#E5E5E5")
    drawing.legend(loc="outside lower center", ncols=2, frameon=False)
    return _save(drawing, file)


def _titled(drawing: Drawing, title: str) -> Drawing:
    drawing.suptitle("\n".join(textwrap.wrap(title, int(drawing.get_figwidth() * 11))), fontsize=11)
    return drawing


def _blank(title: str, width: float, height: float) -> tuple[Drawing, Axes]:
    drawing = _titled(Drawing(figsize=(width, height), layout="constrained"), title)
    axes = drawing.subplots()
    axes.set_axisbelow(True)
    return drawing, axes


def _save(drawing: Drawing, file: Path | str) -> Drawing:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(Path(file)) as beside:
        # matplotlib's version would differ
        drawing.savefig(beside, dpi=_DPI, format="png", metadata={"Software": None})
    return drawing


def _roc(scores: Floats, positive: npt.NDArray[np.bool_]) -> Curve:
    x, y, _ = roc_curve(positive, scores)
    return x, y, auc(scores, positive)


def _precision_recall(scores: Floats, positive: npt.NDArray[np.bool_]) -> Curve:
    precision, recall, _ = precision_recall_curve(positive, scores)
    return recall[::-1], precision[::-1], float(average_precision_score(positive, scores))


def _curves(
    p: Predictions, labels: Sequence[str], curve: Callable[[Floats, npt.NDArray[np.bool_]], Curve]
) -> tuple[dict[str, Curve], list[str]]:
    """Return the curves of micro and of each class with both kinds of images, and the names of the other classes."""
    if not len(p.true):
        raise ValueError("a curve needs an image")
    if p.probabilities.shape[1] != len(labels):
        raise ValueError(f"{len(labels)} labels, but probabilities are {p.probabilities.shape}")
    one_hot = p.true[:, None] == np.arange(len(labels))
    curves = {"micro": curve(p.probabilities.ravel(), one_hot.ravel())}
    drawable = one_hot.any(axis=0) & ~one_hot.all(axis=0)
    curves |= {labels[k]: curve(p.probabilities[:, k], one_hot[:, k]) for k in np.flatnonzero(drawable).tolist()}
    if not drawable.any():
        raise ValueError("a curve needs images of two classes")
    return curves, [label for label, one in zip(labels, drawable, strict=True) if not one]


def _macro(
    curves: Mapping[str, Curve], labels: Sequence[str], at_grid: Callable[[Floats, Floats], Floats], x: Floats
) -> Curve:
    classes = [curves[label] for label in labels if label in curves]
    return (
        x,
        np.mean([at_grid(a, b) for a, b, _ in classes], axis=0),
        float(np.mean([figure for _, _, figure in classes])),
    )


def _draw_curve(axes: Axes, x: Floats, y: Floats, figure: str, **style: Any) -> None:
    """Draw a ROC straight through ties, as its area counts them; precision in steps, as average precision does."""
    if figure == "AUC":
        axes.plot(x, y, **style)
    else:
        axes.step(x, y, where="pre", **style)


def _draw_curves(
    axes: Axes,
    curves: Mapping[str, Curve],
    labels: Sequence[str],
    figure: str,
    chance: Mapping[str, float] | None = None,
) -> None:
    for k, name in enumerate(label for label in labels if label in curves):
        x, y, value = curves[name]
        by_chance = f", chance {chance[name]:.2f}" if chance else ""
        style = {"color": _COLOURS[k % 6], "ls": _DASHES[k % 4]}
        _draw_curve(axes, x, y, figure, lw=1.6, label=f"{name}: {figure} {value:.3f}{by_chance}", **style)
    for name, ls, lw in (("micro", "-", 2.2), ("macro", (0, (1, 1)), 2.2)):
        x, y, value = curves[name]
        by_chance = f", chance {chance[name]:.2f}" if chance and name in chance else ""
        colour = "black" if name == "micro" else _GRAY
        axes.plot(x, y, color=colour, ls=ls, lw=lw, label=f"{name}: {figure} {value:.3f}{by_chance}")


def _square(axes: Axes, corner: str, absent: Sequence[str]) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.grid(color="#E5E5E5")
    title = f"no curve: {', '.join(absent)}" if absent else None
    axes.legend(loc=corner, fontsize=9, framealpha=0.9, title=title, title_fontsize=9)


def _draw_pruning(
    axes: Axes, steps: Mapping[str, Sequence[PruningPoint]], name: str, value: Callable[[PruningPoint], float]
) -> None:
    measured = False
    for k, (model, points) in enumerate(steps.items()):
        largest = max(p.channels for p in points)
        x, y = np.array([[100 * p.channels / largest, value(p)] for p in points]).T
        colour = _COLOURS[k % len(_COLOURS)]
        axes.plot(x, y, _MARKERS[k % 7], color=colour, ls=_DASHES[k % 4], ms=3.5, lw=1.4, label=model)
        chosen = [p.chosen for p in points]
        axes.scatter(x[chosen], y[chosen], marker="*", s=190, color=colour, edgecolor="black", zorder=3)
        measured |= bool(np.isfinite(y).any())
    if not measured:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=_GRAY)
        axes.set_yticks([])
    elif name != "validation score":
        axes.set_ylim(bottom=0)
    axes.grid(color="#E5E5E5")
    axes.set(ylabel=name)
    place = cast(SubplotSpec, axes.get_subplotspec())
    if place.is_last_row():
        axes.set(xlabel="channels left, %")
    if place.is_first_row() and place.is_first_col():
        axes.invert_xaxis()  # pruning proceeds to the right; the panels share this axis


def _as_picture(image: npt.NDArray[np.generic]) -> Floats:
    picture = np.asarray(image, np.float64)
    if picture.ndim not in (2, 3) or not picture.size:
        raise ValueError(f"an image is (H, W) or (H, W, 3), not {picture.shape}")
    picture = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    integers = np.issubdtype(np.asarray(image).dtype, np.integer) or picture.max() > 1
    return np.clip(picture / 255 if integers else picture, 0, 1)


def _as_shares(map_: npt.NDArray[np.floating], shape: tuple[int, int]) -> Floats:
    values = np.nan_to_num(np.asarray(map_, np.float64)).clip(0)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"a map is (h, w), not {values.shape}")
    smooth: Floats = cv2.resize(values, shape[::-1], interpolation=cv2.INTER_CUBIC).clip(0)
    return smooth / smooth.max() if smooth.max() > 0 else smooth


def _draw_image(axes: Axes, image: Floats, title: str) -> None:
    axes.imshow(image)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def _draw_interval(axes: Axes, figure: Figure | None, height: float, series: int) -> None:
    if figure is None or np.isnan(figure.value):
        axes.text(0.01, height, "-", transform=axes.get_yaxis_transform(), va="center", color=_GRAY)
        return
    colour, marker = _COLOURS[series % len(_COLOURS)], _MARKERS[series % len(_MARKERS)]
    if not np.isnan(figure.low):
        axes.plot([figure.low, figure.high], [height, height], color=colour, lw=2)
        axes.plot([figure.low, figure.high], [height, height], "|", color=colour, ms=7)
    axes.plot(figure.value, height, marker, color=colour, ms=6)
    axes.text(1.01, height, f"{figure.value:.4f}", transform=axes.get_yaxis_transform(), va="center", fontsize=9)
