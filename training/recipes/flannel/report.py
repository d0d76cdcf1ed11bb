"""Report of a FLANNEL run: results in; Tables 1 and 3 (Markdown and CSV), figures (PNG) and a page out.

`index.md` is the page and `results.json` its data, in the same folder; every number on the page comes from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from cxr_edge.ops.preprocess import normalize
from training.evaluation.figures import CamRow, bars_picture, cam_picture, compared_picture, confusion_picture
from training.evaluation.mean_maps import mean_row
from training.evaluation.metrics import Figure
from training.markdown import write_results
from training.models import load_network
from training.recipes.flannel.combine import FLANNEL
from training.recipes.flannel.results import COVID, Table3Predictions, as_figure, weights_of
from training.recipes.flannel.run import FlannelRun
from training.recipes.flannel.stages import network_folder
from training.recipes.flannel.tables import caption, in_words, tables
from training.shared_files import write_text

__all__ = ["write"]

Json = Mapping[str, Any]

_CAPTIONS = {
    "f1-covid-19": "F1 for COVID-19, mean and standard deviation over the folds (the paper's Figure 2)",
    "roc": "ROC for COVID-19 against the rest (Figure 3)",
    "precision-recall": "Precision and recall for COVID-19 against the rest (Figure 3)",
    "confusion": "Confusion matrix of FLANNEL (Figure 4)",
}
_CURVES: tuple[tuple[Literal["roc", "precision-recall"], str], ...] = (
    ("roc", "ROC"),
    ("precision-recall", "Precision and recall"),
)
_CAM_CAPTION = (
    "Where each learner looks: its class activation map for COVID-19, mean over all COVID-19 test images, with its mean "
    "probability and the mean weight that the module gave it, over a synthetic X-ray. Single cases (Figure 6) are in the run "
    "folder, cam-cases.png: the collections' images are not ours to publish"
)


def write(run: FlannelRun, found: Json, folder: Path) -> Path:
    """Write page, tables, figures and results.json to `folder`. Returns the path of the page."""
    by_name = tables(found)
    write_results(found, by_name, folder)
    pictures = _pictures(run, found, folder)
    opening = [_opening(found), *([_bundle(found)] if (folder / "bundle.md").exists() else [])]
    page = "\n\n".join([*opening, *(t.as_markdown() for t in by_name.values()), "## Figures", *pictures])
    write_text(folder / "index.md", page + "\n")
    return folder / "index.md"


def _opening(found: Json) -> str:
    leak, data = found["leakage"], found["data"]
    leaks = leak["divided_patients"] + found["divided_by_folds"]
    leak_text = "**It leaks**" if leaks else "Nothing leaks"
    return (
        f"# FLANNEL reproduced: {found['config']}\n\nMade by `python -m training.reproduce flannel`; every figure comes from "
        f"`results.json` beside this page. Preset `{found['preset']}`, split {found['split']}, seed {found['seed']}: "
        f"{data['split, training'][0]} training and {data['split, test'][0]} test images. Intervals are 95 %. What is fitted or "
        f"chosen is so on training images and their folds; test images are asked once. Stage 2 is fitted on {found['fitted_on']} "
        f"predictions of training images.\n\n"
        f"{leak_text}: {leak['divided_patients']} patients stand on both sides of the split and {found['divided_by_folds']} in "
        f"several folds. The source alone tells {100 * leak['label_by_source']:.0f} % of all labels."
    )


def _bundle(found: Json) -> str:
    return (
        f"The bundle holds the model of fold {found['chosen_fold']}, the best on its own fold's images; judged through the "
        f"deployed path (adult normals, each source, the lungs painted over): [bundle.md](bundle.md)."
    )


def _pictures(run: FlannelRun, found: Json, folder: Path) -> list[str]:
    table, labels = Table3Predictions(run), run.config.labels
    averaged = table.averaged(FLANNEL)
    methods = found["methods"]
    _bars(methods, caption(found, "F1 for COVID-19"), folder / "f1-covid-19.png")
    scores = {in_words(m): table.averaged(m).probabilities[:, labels.index(COVID)] for m in methods}
    positive = averaged.true == labels.index(COVID)
    for kind, name in _CURVES:
        title = caption(found, f"{name}, COVID-19 against the rest, all folds' models together")
        compared_picture(scores, positive, title, folder / f"{kind}.png", kind=kind)
    title = caption(found, "Confusion, FLANNEL, all folds' models together")
    confusion_picture(methods[FLANNEL]["together"]["confusion"], labels, title, folder / "confusion.png")
    captions = dict(_CAPTIONS)
    if methods[FLANNEL]["ap"] is not None:
        ap = {m: v["ap"] for m, v in methods.items()}
        title = caption(found, "F1 for COVID-19, AP view only", ap[FLANNEL]["images"])
        _bars(ap, title, folder / "f1-covid-19-ap.png")
        captions["f1-covid-19-ap"] = "F1 for COVID-19 on AP views (Figure 5)"
    if cases := [i for i in run.test_rows.tolist() if run.samples[i].record.label == COVID]:
        title = caption(found, f"Class activation maps for COVID-19, model of fold {table.chosen_fold}", len(cases))
        cam_picture(_case_rows(run, table, cases), title, run.out / "cam-cases.png")  # patients: not for a page
        cam_picture([_mean_row(run, table, cases)], f"Mean of {title[0].lower()}{title[1:]}", folder / "cam.png")
        captions["cam"] = _CAM_CAPTION
    return [f"![{text}]({name}.png)\n\n{text}." for name, text in captions.items()]


def _bars(methods: Json, title: str, file: Path) -> None:
    values: dict[str, dict[str, Figure]] = {}
    for name, method in methods.items():
        mean, sd = method["mean"][COVID], method["sd"][COVID]
        values[in_words(name)] = {"F1": as_figure(mean, sd, len(method["folds"]))}
    bars_picture(values, title, file, quantity="F1 for COVID-19", whiskers="standard deviation over the folds")


def _case_rows(run: FlannelRun, table: Table3Predictions, cases: Sequence[int]) -> list[CamRow]:
    """Return a selection of cases, evenly spread: each learner's map, probability and weight."""
    c, fold = run.config, table.chosen_fold
    covid, stored, weights = c.labels.index(COVID), table.folds[fold], weights_of(table, fold)
    shown = [cases[k] for k in np.linspace(0, len(cases) - 1, min(c.cam_cases, len(cases))).round().astype(int)]
    rows = []
    for i, maps in zip(shown, _maps(run, fold, shown), strict=True):
        captions = {
            name: f"{stored.probabilities[name][i, covid]:.3f}, weight {weights[i, k]:+.2f}"
            for k, name in enumerate(c.learners)
        }
        truth = f"COVID-19\nFLANNEL: {stored.probabilities[FLANNEL][i, covid]:.3f}"
        rows.append(CamRow(image=run.canvases.lungs[i], label=truth, maps=maps, captions=captions))
    return rows


def _mean_row(run: FlannelRun, table: Table3Predictions, cases: Sequence[int]) -> CamRow:
    """Return each learner's mean map over all cases, with its mean probability and weight."""
    c, fold = run.config, table.chosen_fold
    covid, stored = c.labels.index(COVID), table.folds[fold]
    weights = weights_of(table, fold)[list(cases)].mean(axis=0)
    maps_of_cases = _maps(run, fold, cases)
    captions = {
        name: f"{stored.probabilities[name][list(cases), covid].mean():.3f}, weight {w:+.2f}"
        for name, w in zip(c.learners, weights, strict=True)
    }
    maps = {name: [of_case[name] for of_case in maps_of_cases] for name in c.learners}
    return mean_row(COVID, maps, c.member_spec, captions)


def _maps(run: FlannelRun, fold: int, rows: Sequence[int]) -> list[dict[str, npt.NDArray[np.float32]]]:
    """Return each learner's class activation map for COVID-19, for each image."""
    c, covid = run.config, run.config.labels.index(COVID)
    networks = {name: load_network(network_folder(run, fold, name))[0] for name in c.learners}
    images = [torch.from_numpy(normalize(run.canvases.lungs[i], c.member_spec)[None]) for i in rows]
    with torch.no_grad():
        return [{name: n(image).cam[0, covid].numpy() for name, n in networks.items()} for image in images]
