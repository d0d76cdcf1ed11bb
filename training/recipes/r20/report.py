"""Report of an R20 run: results in; Tables 2 to 7 (Markdown and CSV), figures (PNG) and a page out.

`index.md` is the page and `results.json` its data, in the same folder; every number on the page comes from there.
`python -m training.recipes.r20.report FOLDER` writes page and tables again from results.json.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.evaluation.auc_pages import AUC_NOTE, auc_differences
from training.evaluation.figures import (
    CamRow,
    PruningPoint,
    cam_picture,
    confusion_picture,
    pruning_picture,
    roc_picture,
)
from training.evaluation.gradcam import agreement, grad_cam
from training.evaluation.mean_maps import mean_row
from training.evaluation.metrics import interval
from training.json_records import read_json, write_json
from training.markdown import picture_links, table, write_results
from training.models import load_network
from training.pruning.prune import Step
from training.recipes.arguments import write_pages_again
from training.recipes.before import BEFORE
from training.recipes.page import RESULTS, Leakage, caption, earlier_in_words, leakage_of, share_in_words
from training.recipes.r20.records import CamAgreement, PrunedMember, Results
from training.recipes.r20.results import Ensembles
from training.recipes.r20.run import R20Run
from training.recipes.r20.stages import chosen_step
from training.recipes.r20.tables import tables

__all__ = ["cam_agreement", "main", "write", "write_page"]

_MEAN_OF = 50
_SHOWN = "weighted average of the pruned members"
_CAM_CAPTION = (
    f"Where the pruned members look: Grad-CAM for the true label, mean over up to {_MEAN_OF} test images of it, over synthetic "
    "X-rays. Single cases (the paper's Figure 6) are in the run folder, grad-cam-cases.png: the collections' images are not ours "
    "to publish"
)


def write(run: R20Run, found: Results, folder: Path) -> Path:
    """Write page, tables, figures and results.json to `folder`. Returns the path of the page."""
    write_json(folder / RESULTS, found)
    if found.pruned is not None:
        _draw(run, found, folder)
    return write_page(folder)


def write_page(folder: Path) -> Path:
    """Write page and tables from the folder's results.json; figures need the run. Returns the path of the page."""
    found = read_json(Results, folder / RESULTS)
    rest = [*_pruning(found), *_paired(found), *_pictures(found)]
    before = read_json(Results, folder / BEFORE) if (folder / BEFORE).exists() else None
    opening = [f"# R20 reproduced: {found.config}", *earlier_in_words(found), _opening(found)]
    return write_results(tables(found, before), folder, opening=opening, rest=rest)


def _title(found: Results, what: str) -> str:
    return caption(found, what, next(iter(found.stage("multiclass").values())).row.images)


def _opening(found: Results) -> str:
    sides = "; ".join(
        f"{side}: {n.images} images of {n.patients} patients ("
        + ", ".join(f"{label} {count}" for label, count in n.labels.items())
        + ")"
        for side, n in found.sides.items()
    )
    leak = leakage_of(found.leakage)
    return (
        f"Made by `python -m training.reproduce r20`; every figure comes from "
        f"`results.json` beside this page. Preset `{found.preset}`, split {found.split}, seed {found.seed}. {sides}. "
        f"Intervals are 95 %. All that is fitted or chosen is so on validation patients; test patients are asked once.\n\n"
        f"Leakage: {leak.divided_patients} patients and "
        f"{leak.divided_pairs} pairs of equal images on two sides; {leak.same_image_pairs} pairs of equal "
        f"images were found. The source alone tells {share_in_words(leak.label_by_source)} of all labels.{_unread(leak)}\n\n"
        f"The bundle that these networks make, judged through the deployed path (specificity on adult normals, each source, the "
        f"lungs painted over, what a source classifier can tell): [bundle.md](bundle.md)."
    )


def _unread(leak: Leakage) -> str:
    """Return the text on listed images that the run did not read; empty for results of earlier versions, without counts."""
    listed = ", ".join(f"{reason} {n}" for reason, n in (leak.dropped or {}).items())
    return f" Not read: {listed}." if listed else ""


def _pruning(found: Results) -> list[str]:
    """Return the pruning curves of each member, and of the segmenter if it was pruned, as tables."""
    parts = []
    for member, p in (found.pruned or {}).items():
        text = "The step in bold was chosen, by validation score."
        parts.append(f"### Pruning {member}\n\n{text}\n\n{_curve(p.steps, p.step, 'macro_f1', 'macro-F1')}")
    if found.segmenter_steps is not None:
        text = "Its score is the Dice of validation images; the step in bold is deployed, and made all crops."
        curve = _curve(found.segmenter_steps, found.segmenter_step, "worst", "worst Dice")
        parts.append(f"### Pruning the segmenter\n\n{text}\n\n{curve}")
    return parts


def _curve(steps: Sequence[Step], chosen: int | None, figure: str, figure_name: str) -> str:
    head = ["step", "channels", "parameters", "million MACs", "ms", "validation score", figure_name]
    rows = [
        [
            f"**{s.number}**" if s.number == chosen else s.number,
            s.channels,
            f"{s.parameters:,}",
            f"{s.macs / 1e6:.1f}",
            "-" if s.milliseconds is None else f"{s.milliseconds:.2f}",
            f"{s.score:.4f}",
            f"{s.figures.get(figure, float('nan')):.4f}",
        ]
        for s in steps
    ]
    return table(head, rows)


def _paired(found: Results) -> list[str]:
    if not found.comparisons:
        return []
    head = [
        "compared",
        "n",
        "accuracy, difference",
        "macro-F, difference",
        "only first right",
        "only second right",
        "p (McNemar)",
    ]
    names = [f"{c.a} against {c.b}" for c in found.comparisons]
    rows = [
        [
            name,
            c.n,
            interval(c.difference),
            interval(c.macro_f_difference),
            c.mcnemar.b,
            c.mcnemar.c,
            f"{c.mcnemar.p:.3g}",
        ]
        for name, c in zip(names, found.comparisons, strict=True)
    ]
    parts = [
        "## Paired comparisons\n\nOn the same test images; differences are first minus second, intervals by drawing patients, p "
        f"exact and two-sided, not corrected for the number of rows.\n\n{table(head, rows)}"
    ]
    if areas := auc_differences(found.comparisons, found.labels):
        head = ["compared", "micro-AUC", *(f"AUC {label}" for label in found.labels)]
        parts.append(f"{table(head, ([name, *row] for name, row in zip(names, areas, strict=True)))}\n\n{AUC_NOTE}")
    return [*parts, *([] if found.not_compared is None else [f"Not compared: {found.not_compared}."])]


def _draw(run: R20Run, found: Results, folder: Path) -> None:
    labels, pruned = run.config.labels, Ensembles.load(run, "pruned")
    predictions = pruned.predictions("weighted-average")
    confusion = predictions.confusion(len(labels))
    confusion_picture(confusion, labels, _title(found, f"Confusion, {_SHOWN}"), folder / "confusion.png")
    roc_picture(predictions, labels, _title(found, f"ROC, {_SHOWN}"), folder / "roc.png")
    points = {m: _points(p) for m, p in (found.pruned or {}).items()}
    pruning_picture(points, _title(found, "Iterative pruning"), folder / "pruning.png")
    title = _title(found, "Grad-CAM of the pruned members")
    cam_picture(_cam_rows(run, pruned), title, run.out / "grad-cam-cases.png")  # patients: not for a page
    cam_picture(_mean_rows(run, pruned), _title(found, "Mean Grad-CAM of the pruned members"), folder / "grad-cam.png")


def _pictures(found: Results) -> list[str]:
    """Return the Markdown of the figures with their captions."""
    if found.pruned is None:
        return []
    captions = {
        "confusion": f"Confusion matrix of the {_SHOWN} (the paper's Figure 7)",
        "roc": f"ROC of the {_SHOWN} (the paper's Figure 8)",
        "pruning": "Channels, parameters, MACs, milliseconds and validation score over pruning",
        "grad-cam": _CAM_CAPTION,
    }
    return [f"## Figures\n\n{_agreement_text(found.cam_agreement or {})}", *picture_links(captions)]


def _points(pruned: PrunedMember) -> list[PruningPoint]:
    return [
        PruningPoint(
            channels=s.channels,
            parameters=s.parameters,
            macs=s.macs,
            milliseconds=float("nan") if s.milliseconds is None else s.milliseconds,
            score=s.score,
            chosen=s.number == pruned.step,
        )
        for s in pruned.steps
    ]


def _cam_cases(run: R20Run, pruned: Ensembles) -> list[int]:
    """Return random indices of test samples, of each label in turn; the guarded one first, as in the paper."""
    rng, config = np.random.default_rng(run.config.seed), run.config
    test = pruned.rows[pruned.side_mask("test")]
    labels = sorted(config.labels, key=lambda label: label != config.guard)
    queues = [rng.permutation([i for i in test if run.samples[i].record.label == label]).tolist() for label in labels]
    taken = [q[k] for k in range(config.cam_cases) for q in queues if k < len(q)]
    return taken[: config.cam_cases]


def _cam_rows(run: R20Run, pruned: Ensembles) -> list[CamRow]:
    networks = {m: load_network(chosen_step(run, m))[0] for m in pruned.members}
    rows, config = [], run.config
    for i in _cam_cases(run, pruned):
        canvas, label = run.canvases.lungs[i], run.samples[i].record.label
        image = run.input_of(i)
        maps = {m: grad_cam(n, image, config.labels.index(label)) for m, n in networks.items()}
        with torch.no_grad():
            probabilities = {m: n(image).logits.softmax(dim=1)[0] for m, n in networks.items()}
        captions = {
            m: f"predicted {config.labels[int(p.argmax())]} {float(p.max()):.2f}" for m, p in probabilities.items()
        }
        rows.append(CamRow(image=canvas, label=label, maps=maps, captions=captions))
    return rows


def _mean_rows(run: R20Run, pruned: Ensembles) -> list[CamRow]:
    """Return one row per label: the mean of each member's maps for it."""
    networks = {m: load_network(chosen_step(run, m))[0] for m in pruned.members}
    test, spec, rows = pruned.rows[pruned.side_mask("test")], run.config.member_spec, []
    for k, label in enumerate(run.config.labels):
        own = [i for i in test if run.samples[i].record.label == label][:_MEAN_OF]
        images = [run.input_of(i) for i in own]
        if images:
            maps = {m: [grad_cam(n, image, k) for image in images] for m, n in networks.items()}
            rows.append(mean_row(label, maps, spec, dict.fromkeys(networks, f"mean of {len(images)}")))
    return rows


def cam_agreement(run: R20Run, *, images: int = _MEAN_OF) -> dict[str, CamAgreement]:
    """Return member -> mean agreement of its gradient-free class activation map with Grad-CAM.

    On up to `images` test images of the guarded label; without one, of `RunConfig.positive`.
    """
    pruned, config = Ensembles.load(run, "pruned"), run.config
    test = [i for i in pruned.rows[pruned.side_mask("test")] if run.samples[i].record.label == config.positive]
    inputs = [run.input_of(i) for i in test[:images]]
    k = config.labels.index(config.positive)
    return {m: _agreement_of(load_network(chosen_step(run, m))[0], inputs, k, config.positive) for m in pruned.members}


def _agreement_of(network: nn.Module, inputs: Sequence[Tensor], k: int, label: str) -> CamAgreement:
    agreed = []
    for image in inputs:
        with torch.no_grad():
            cam = network(image).cam[0, k].numpy()
        agreed.append(agreement(grad_cam(network, image, k), cam))
    return CamAgreement(
        label=label,
        images=len(inputs),
        correlation=float(np.mean([a.correlation for a in agreed])),
        top_overlap=float(np.mean([a.top_overlap for a in agreed])),
    )


def _agreement_text(agreements: Mapping[str, CamAgreement]) -> str:
    label = next((a.label for a in agreements.values()), "COVID-19")
    rows = [[member, a.images, f"{a.correlation:.4f}", f"{a.top_overlap:.4f}"] for member, a in agreements.items()]
    head = ["member", f"{label} images", "correlation", "overlap of the hottest tenth"]
    return f"Grad-CAM against the map that the engine gives without gradients, mean over images:\n\n{table(head, rows)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write page and tables of finished runs again from results.json; figures do not change. Returns the exit status."""
    return write_pages_again("training.recipes.r20.report", arguments, write_page, example="docs/results/r20-cpu")


if __name__ == "__main__":
    sys.exit(main())
