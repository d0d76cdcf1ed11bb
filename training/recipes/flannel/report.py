"""Report of a FLANNEL run: results in; Tables 1 and 3 (Markdown and CSV), figures (PNG) and a page out.

`index.md` is the page and `results.json` its data, in the same folder; every number on the page comes from there.
`python -m training.recipes.flannel.report FOLDER` writes page and tables again from results.json.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from training.evaluation.figures import CamRow, bars_picture, cam_picture, compared_picture, confusion_picture
from training.evaluation.mean_maps import mean_row
from training.evaluation.metrics import Figure
from training.json_records import read_json, write_json
from training.markdown import picture_links, write_results
from training.models import load_network
from training.recipes.arguments import write_pages_again
from training.recipes.before import BEFORE
from training.recipes.flannel.combine import FLANNEL
from training.recipes.flannel.records import Results, Summary
from training.recipes.flannel.results import Table3Predictions, weights_of
from training.recipes.flannel.run import FlannelRun
from training.recipes.flannel.tables import in_words, tables
from training.recipes.page import RESULTS, caption, earlier_in_words, label_in_words, leakage_of, share_in_words

__all__ = ["main", "write", "write_page"]

_CURVES: tuple[tuple[Literal["roc", "precision-recall"], str], ...] = (
    ("roc", "ROC"),
    ("precision-recall", "Precision and recall"),
)


def _captions(found: Results) -> dict[str, str]:
    """Return picture -> caption, in the order of the page."""
    word, f1 = label_in_words(found.positive), f"f1-{found.positive}"
    return {
        f1: f"F1 for {word}, mean and standard deviation over the folds (the paper's Figure 2)",
        "roc": f"ROC for {word} against the rest (Figure 3)",
        "precision-recall": f"Precision and recall for {word} against the rest (Figure 3)",
        "confusion": "Confusion matrix of FLANNEL (Figure 4)",
        f"{f1}-ap": f"F1 for {word} on AP views (Figure 5)",
        "cam": f"Where each learner looks: its class activation map for {word}, mean over all {word} test images, with its mean "
        "probability and the mean weight that the module gave it, over a synthetic X-ray. Single cases (Figure 6) are in the run "
        "folder, cam-cases.png: the collections' images are not ours to publish",
    }


def write(run: FlannelRun, found: Results, folder: Path) -> Path:
    """Write page, tables, figures and results.json to `folder`. Returns the path of the page."""
    write_json(folder / RESULTS, found)
    _draw(run, found, folder)
    return write_page(folder)


def write_page(folder: Path) -> Path:
    """Write page and tables from the folder's results.json, with the pictures in it. Returns the path of the page."""
    found = read_json(Results, folder / RESULTS)
    opening = [
        f"# FLANNEL reproduced: {found.config}",
        *earlier_in_words(found),
        _opening(found),
        *([_bundle(found)] if (folder / "bundle.md").exists() else []),
    ]
    pictures = {name: text for name, text in _captions(found).items() if (folder / f"{name}.png").exists()}
    before = read_json(Results, folder / BEFORE) if (folder / BEFORE).exists() else None
    return write_results(tables(found, before), folder, opening=opening, rest=["## Figures", *picture_links(pictures)])


def _opening(found: Results) -> str:
    leak, data = leakage_of(found.leakage), found.data
    leak_text = "**It leaks**" if leak.divided_patients + found.divided_by_folds else "Nothing leaks"
    return (
        f"Made by `python -m training.reproduce flannel`; every figure comes from "
        f"`results.json` beside this page. Preset `{found.preset}`, split {found.split}, seed {found.seed}: "
        f"{data['split, training'][0]} training and {data['split, test'][0]} test images. Intervals are 95 %. What is fitted or "
        f"chosen is so on training images and their folds; test images are asked once. Stage 2 is fitted on {found.fitted_on} "
        f"predictions of training images.\n\n"
        f"{leak_text}: {leak.divided_patients} patients stand on both sides of the split and {found.divided_by_folds} in "
        f"several folds. The source alone tells {share_in_words(leak.label_by_source)} of all labels."
    )


def _bundle(found: Results) -> str:
    return (
        f"The bundle holds the model of fold {found.chosen_fold}, the best on its own fold's images; judged through the "
        f"deployed path (adult normals, each source, the lungs painted over): [bundle.md](bundle.md)."
    )


def _draw(run: FlannelRun, found: Results, folder: Path) -> None:
    word, positive, n, table = (
        label_in_words(found.positive),
        found.positive,
        found.flannel.images,
        Table3Predictions(run),
    )
    _bars(found.methods, positive, caption(found, f"F1 for {word}", n), folder / f"f1-{positive}.png")
    _draw_curves(table, found, folder)
    title = caption(found, "Confusion, FLANNEL, all folds' models together", n)
    confusion_picture(found.flannel.together.confusion, run.config.labels, title, folder / "confusion.png")
    if ap := {name: m.ap for name, m in found.methods.items() if m.ap is not None}:
        title = caption(found, f"F1 for {word}, AP view only", ap[FLANNEL].images)
        _bars(ap, positive, title, folder / f"f1-{positive}-ap.png")
    if cases := [i for i in run.test_rows.tolist() if run.samples[i].record.label == positive]:
        title = caption(found, f"Class activation maps for {word}, model of fold {table.chosen_fold}", len(cases))
        cam_picture(_case_rows(run, table, cases), title, run.out / "cam-cases.png")  # patients: not for a page
        cam_picture([_mean_row(run, table, cases)], f"Mean of {title[0].lower()}{title[1:]}", folder / "cam.png")


def _draw_curves(table: Table3Predictions, found: Results, folder: Path) -> None:
    k = found.labels.index(found.positive)
    scores = {in_words(m): table.averaged(m).probabilities[:, k] for m in found.methods}
    positive, word = table.averaged(FLANNEL).true == k, label_in_words(found.positive)
    for kind, name in _CURVES:
        what = f"{name}, {word} against the rest, all folds' models together"
        compared_picture(
            scores, positive, caption(found, what, found.flannel.images), folder / f"{kind}.png", kind=kind
        )


def _bars(methods: Mapping[str, Summary], label: str, title: str, file: Path) -> None:
    values = {}
    for name, method in methods.items():
        mean, sd = method.mean.f1[label], method.sd.f1[label]
        figure = Figure(value=mean, low=mean - sd, high=mean + sd, n=len(method.folds))
        values[in_words(name)] = {"F1": figure}
    quantity = f"F1 for {label_in_words(label)}"
    bars_picture(values, title, file, quantity=quantity, whiskers="standard deviation over the folds")


def _case_rows(run: FlannelRun, table: Table3Predictions, cases: Sequence[int]) -> list[CamRow]:
    """Return a selection of cases, evenly spread: each learner's map, probability and weight."""
    c, fold = run.config, table.chosen_fold
    k, stored, weights = c.labels.index(c.positive), table.folds[fold], weights_of(table, fold)
    shown = [cases[at] for at in np.linspace(0, len(cases) - 1, min(c.cam_cases, len(cases))).round().astype(int)]
    rows = []
    for i, maps in zip(shown, _maps(run, fold, shown), strict=True):
        captions = {
            name: f"{stored.probabilities[name][i, k]:.3f}, weight {weights[i, m]:+.2f}"
            for m, name in enumerate(c.learners)
        }
        truth = f"{label_in_words(c.positive)}\nFLANNEL: {stored.probabilities[FLANNEL][i, k]:.3f}"
        rows.append(CamRow(image=run.canvases.lungs[i], label=truth, maps=maps, captions=captions))
    return rows


def _mean_row(run: FlannelRun, table: Table3Predictions, cases: Sequence[int]) -> CamRow:
    """Return each learner's mean map over all cases, with its mean probability and weight."""
    c, fold = run.config, table.chosen_fold
    k, stored = c.labels.index(c.positive), table.folds[fold]
    weights = weights_of(table, fold)[list(cases)].mean(axis=0)
    maps_of_cases = _maps(run, fold, cases)
    captions = {
        name: f"{stored.probabilities[name][list(cases), k].mean():.3f}, weight {w:+.2f}"
        for name, w in zip(c.learners, weights, strict=True)
    }
    maps = {name: [of_case[name] for of_case in maps_of_cases] for name in c.learners}
    return mean_row(c.positive, maps, c.member_spec, captions)


def _maps(run: FlannelRun, fold: int, rows: Sequence[int]) -> list[dict[str, npt.NDArray[np.float32]]]:
    """Return each learner's class activation map for the positive label, for each image."""
    c, k = run.config, run.config.labels.index(run.config.positive)
    networks = {name: load_network(run.fold(fold).network_folder(name))[0] for name in c.learners}
    images = [run.input_of(i) for i in rows]
    with torch.no_grad():
        return [{name: n(image).cam[0, k].numpy() for name, n in networks.items()} for image in images]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write page and tables of finished runs again from results.json; figures do not change. Returns the exit status."""
    return write_pages_again(
        "training.recipes.flannel.report", arguments, write_page, example="docs/results/flannel-cpu"
    )


if __name__ == "__main__":
    sys.exit(main())
