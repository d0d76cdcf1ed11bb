"""R20's Tables 2 to 7: the results of a run (`training.recipes.r20.results`) in, tables with the printed rows out.

Tables of stages that were not run are left out. The columns are the paper's: AUC over all pairs of image and label (micro),
which matches its rows of voting; the others average over classes weighted by their images, so that `Sens.` equals accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from training.markdown import Table, interval
from training.recipes.r20.published import ENSEMBLES, MODALITY, PRUNED, TASK

__all__ = ["tables"]

Json = Mapping[str, Any]


def tables(found: Json) -> dict[str, Table]:
    """Return file name -> table, in the paper's order."""
    made = {"table-2-hyperparameters": _hyperparameters(found)}
    if "modality" in found:
        made["table-3-modality"] = _models(found, "Table 3", "modality-specific learning", ("modality",), MODALITY)
    if "multiclass" in found:
        stages = tuple(s for s in ("binary", "multiclass") if s in found)
        made["table-4-task"] = _models(found, "Table 4", "the target tasks", stages, TASK)
    if "ensembles" in found:
        made["table-5-ensembles"] = _ensembles(found, "Table 5", ("unpruned",))
    if "pruned" in found:
        made["table-6-pruned"] = _pruned(found)
        made["table-7-pruned-ensembles"] = _ensembles(found, "Table 7", ("unpruned", "pruned"))
        made["by-label"] = _by_label(found)
    return made


_HEAD = ("Acc.", "AUC", "Sens.", "Prec.", "F", "MCC", "macro-AUC", "weighted AUC", "macro-F")
# One-hot votes of 3 classes give a micro-AUC of (3 Acc. + 1) / 4: 0.9807 and 0.9866, as printed for majority voting.
_AVERAGES = (
    "Acc. exact (Clopper-Pearson). AUC: micro, over all pairs of image and label, which the paper's rows of voting fit; "
    "macro-AUC and weighted AUC: mean over the classes against the rest, plain and by their images; intervals {auc}. Sens., "
    "Prec. and F weighted by the classes' images, as in the paper."
)


_VOTES = "Our voting is ranked by shares of votes; the paper's majority voting by one-hot votes: (3 Acc. + 1) / 4."


def _caption(found: Json, number: str, what: str, n: int | str) -> str:
    return f"{number}: {what} (preset {found['preset']}, n = {n}, {found['split']}, seed {found['seed']})"


def _figures(row: Json) -> tuple[str, ...]:
    short = (row["sensitivity"]["weighted"], row["precision"]["weighted"], row["f"]["weighted"], row["mcc"])
    long = (row["auc"]["macro"], row["auc"]["weighted"], row["f"]["macro"])
    return (
        interval(row["accuracy"]),
        interval(row["auc"]["micro"]),
        *(_number(v) for v in short),
        *(interval(v) for v in long),
    )


def _number(figure: Json) -> str:
    return "-" if figure["value"] is None else f"{figure['value']:.4f}"


def _note(rows: Iterable[Json]) -> str:
    kinds = sorted({row["auc_interval"] for row in rows})
    return _AVERAGES.format(auc=" and ".join(kinds))


def _hyperparameters(found: Json) -> Table:
    keys = ("momentum", "learning_rate", "weight_decay", "dropout", "optimizer", "activation", "trials")
    rows = [
        (member, *("-" if h[k] is None else str(h[k]) for k in keys)) for member, h in found["hyperparameters"].items()
    ]
    paper = "The paper: pretrained networks M 0.95, ILR 1e-3, L2 1e-6; custom CNN D 0.5, SGD, ReLU. Trials 0: set, not searched."
    title = f"Table 2: hyper-parameters (preset {found['preset']}, {found['config']}, seed {found['seed']})"
    return Table(
        title=title,
        head=("model", "M", "ILR", "L2", "D", "optimizer", "activation", "trials"),
        rows=_t(rows),
        note=paper,
    )


def _t(rows: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row) for row in rows)


_TASKS = {
    "modality": "normal / abnormal",
    "binary": "normal / COVID-19",
    "multiclass": "all labels",
}


def _models(
    found: Json, number: str, what: str, stages: Sequence[str], paper: Mapping[tuple[str, str], Sequence[str]]
) -> Table:
    rows, printed = [], []
    for stage in stages:
        for member, m in found[stage].items():
            rows.append((f"{_TASKS[stage]}: {member}", *_figures(m["row"]), f"{m['parameters']:,}"))
        printed += [(f"paper, {_TASKS[s]}: {name}", *_printed(v)) for (s, name), v in paper.items() if s == stage]
    images = {found[s][m]["row"]["images"] for s in stages for m in found[s]}
    positive = "the second class is the positive one of sensitivity by class; averages are over both"
    return Table(
        title=_caption(found, number, what, " and ".join(map(str, sorted(images)))),
        head=("task and model", *_HEAD, "Param."),
        rows=_t([*rows, *printed]),
        note=f"{_note(found[s][m]['row'] for s in stages for m in found[s])} In two-class rows {positive}.",
    )


def _printed(values: Sequence[str]) -> tuple[str, ...]:
    """Return a printed row (Acc., AUC with interval, Sens., Prec., F, MCC and, if printed, Param.) in our columns."""
    return (*values[:6], "", "", "", *values[6:])


def _ensembles(found: Json, number: str, kinds: Sequence[str]) -> Table:
    rows, printed = [], []
    for strategy in found["ensembles"]["unpruned"]:
        for kind in kinds:
            if strategy in found["ensembles"].get(kind, {}):
                rows.append((f"{strategy}, {kind}", *_figures(found["ensembles"][kind][strategy])))
    for (strategy, kind), values in ENSEMBLES.items():
        if kind in kinds:
            printed.append((f"paper: {strategy}, {kind}", *_printed(values)))
    all_rows = [r for kind in kinds for r in found["ensembles"][kind].values()]
    return Table(
        title=_caption(found, number, "ensembles", all_rows[0]["images"]),
        head=("combination", *_HEAD),
        rows=_t([*rows, *printed]),
        note=f"{_note(all_rows)} {_VOTES}",
    )


def _pruned(found: Json) -> Table:
    rows = []
    for member, p in found["pruned"].items():
        rows.append((f"{member}, unpruned", *_figures(p["unpruned_row"]), *_costs(p, "unpruned_"), "", ""))
        less = [f"{100 * (1 - p[k] / p[f'unpruned_{k}']):.2f}" for k in ("parameters", "macs")]
        rows.append((f"{member}, pruned (step {p['step']})", *_figures(p["row"]), *_costs(p, ""), *less))
    printed = [(f"paper: {name}", *_printed(v[:7]), "", "", v[7], "") for name, v in PRUNED.items()]
    costs = ("Param.", "million MACs", "ms", "% fewer parameters", "% fewer MACs")
    images = next(iter(found["pruned"].values()))["row"]["images"]
    return Table(
        title=_caption(found, "Table 6", "pruned against unpruned", images),
        head=("model", *_HEAD, *costs),
        rows=_t([*rows, *printed]),
        note=f"{_note(p['row'] for p in found['pruned'].values())} ms: an image through ONNX Runtime on this machine's CPU.",
    )


def _costs(pruned: Json, prefix: str) -> tuple[str, str, str]:
    ms = pruned[f"{prefix}milliseconds"]
    macs = f"{pruned[f'{prefix}macs'] / 1e6:.1f}"
    return f"{pruned[f'{prefix}parameters']:,}", macs, "-" if ms is None else f"{ms:.2f}"


def _by_label(found: Json) -> Table:
    """Return one row per pruned ensemble and label, with that label as the positive class."""
    rows = []
    for strategy, row in found["ensembles"]["pruned"].items():
        for label in found["labels"]:
            own = [row[k]["per_class"][label] for k in ("sensitivity", "precision", "f", "auc")]
            rows.append((strategy, label, *(interval(v) for v in own)))
    images = next(iter(found["ensembles"]["pruned"].values()))["images"]
    return Table(
        title=_caption(found, "By class", "pruned ensembles; the class of a row is its positive class", images),
        head=("combination", "positive class", "sensitivity", "precision", "F", "AUC"),
        rows=_t(rows),
        note="Intervals by drawing patients anew." if found["preset"] == "sane" else "",
    )
