"""R20's Tables 2 to 7: the results of a run (`training.recipes.r20.results`) in, tables with the printed rows out.

Tables of stages that were not run are left out. The columns are the paper's: AUC over all pairs of image and label (micro),
which matches its rows of voting; the others average over classes weighted by their images, so that `Sens.` equals accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from training.evaluation.metrics import Figure, interval
from training.evaluation.statistics import PaperRow
from training.evaluation.unseen import unseen_tables
from training.markdown import Table
from training.recipes.before import ModelRow, beside
from training.recipes.page import label_in_words
from training.recipes.r20.published import ENSEMBLES, MODALITY, PRUNED, TASK
from training.recipes.r20.records import Hyperparameters, PrunedMember, Results

__all__ = ["tables"]


def tables(found: Results, before: Results | None = None) -> dict[str, Table]:
    """Return file name -> table, in the paper's order. before: results of an earlier run, to be set beside."""
    made = {"table-2-hyperparameters": _hyperparameters(found)}
    if found.modality is not None:
        made["table-3-modality"] = _models(found, "Table 3", "modality-specific learning", ("modality",), MODALITY)
    if found.multiclass is not None:
        made["table-4-task"] = _models(found, "Table 4", "the target tasks", ("binary", "multiclass"), TASK)
    if found.ensembles is not None:
        made["table-5-ensembles"] = _ensembles(found, "Table 5", {"unpruned": found.ensembles.unpruned})
    if found.ensembles is not None and found.ensembles.pruned is not None:
        made["table-6-pruned"] = _pruned(found, found.pruned or {})
        rows = {"unpruned": found.ensembles.unpruned, "pruned": found.ensembles.pruned}
        made["table-7-pruned-ensembles"] = _ensembles(found, "Table 7", rows)
        made["by-label"] = _by_label(found, found.ensembles.pruned)
    if found.unseen is not None:
        n = sum(found.unseen.images.values())
        titles = [_caption(found, "Unseen sources", what, n) for what in ("every model", "paired comparisons")]
        made |= unseen_tables(found.unseen, (titles[0], titles[1]), {})
    if before is not None:
        made |= beside(_rows(before), _rows(found), _caption(found, "Before and now", "the models of both runs", "-"))
    return made


def _rows(found: Results) -> dict[str, ModelRow]:
    """Return the figures of members and ensembles, by name."""
    rows = {f"{m}, unpruned": single.row for m, single in found.stage("multiclass").items()}
    rows |= {f"{m}, pruned": pruned.row for m, pruned in (found.pruned or {}).items()}
    if found.ensembles is not None:
        rows |= {f"{s}, unpruned": row for s, row in found.ensembles.unpruned.items()}
        rows |= {f"{s}, pruned": row for s, row in (found.ensembles.pruned or {}).items()}
    return {
        name: ModelRow(n=row.images, accuracy=row.accuracy, macro_f=row.f.macro, macro_auc=row.auc.macro)
        for name, row in rows.items()
    }


_HEAD = ("Acc.", "AUC", "Sens.", "Prec.", "F", "MCC", "macro-AUC", "weighted AUC", "macro-F")
# One-hot votes of 3 classes give a micro-AUC of (3 Acc. + 1) / 4: 0.9807 and 0.9866, as printed for majority voting.
_AVERAGES = (
    "Acc. exact (Clopper-Pearson). AUC: micro, over all pairs of image and label, which the paper's rows of voting fit; "
    "macro-AUC and weighted AUC: mean over the classes against the rest, plain and by their images; intervals {auc}. Sens., "
    "Prec. and F weighted by the classes' images, as in the paper."
)


_VOTES = "Our voting is ranked by shares of votes; the paper's majority voting by one-hot votes: (3 Acc. + 1) / 4."


def _caption(found: Results, number: str, what: str, n: int | str) -> str:
    return f"{number}: {what} (preset {found.preset}, n = {n}, {found.split}, seed {found.seed})"


def _figures(row: PaperRow) -> tuple[str, ...]:
    short = (row.sensitivity.weighted, row.precision.weighted, row.f.weighted, row.mcc)
    long = (row.auc.macro, row.auc.weighted, row.f.macro)
    return (
        interval(row.accuracy),
        interval(row.auc.micro),
        *(_number(v) for v in short),
        *(interval(v) for v in long),
    )


def _number(figure: Figure) -> str:
    return "-" if np.isnan(figure.value) else f"{figure.value:.4f}"


def _note(rows: Iterable[PaperRow]) -> str:
    kinds = sorted({row.auc_interval for row in rows})
    return _AVERAGES.format(auc=" and ".join(kinds))


def _hyperparameters(found: Results) -> Table:
    rows = [
        (member, *("-" if v is None else str(v) for v in _in_columns(h))) for member, h in found.hyperparameters.items()
    ]
    paper = "The paper: pretrained networks M 0.95, ILR 1e-3, L2 1e-6; custom CNN D 0.5, SGD, ReLU. Trials 0: set, not searched."
    title = f"Table 2: hyper-parameters (preset {found.preset}, {found.config}, seed {found.seed})"
    return Table(
        title=title,
        head=("model", "M", "ILR", "L2", "D", "optimizer", "activation", "trials"),
        rows=_t(rows),
        note=paper,
    )


def _in_columns(h: Hyperparameters) -> tuple[object, ...]:
    return h.momentum, h.learning_rate, h.weight_decay, h.dropout, h.optimizer, h.activation, h.trials


def _t(rows: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row) for row in rows)


def _task(stage: str, positive: str) -> str:
    binary = f"normal / {label_in_words(positive)}"
    return {"modality": "normal / abnormal", "binary": binary, "multiclass": "all labels"}[stage]


def _models(
    found: Results, number: str, what: str, stages: Sequence[str], paper: Mapping[tuple[str, str], Sequence[str]]
) -> Table:
    rows, printed = [], []
    done = {stage: members for stage in stages if (members := found.stage(stage))}
    for stage, members in done.items():
        task = _task(stage, found.positive)
        rows += [(f"{task}: {name}", *_figures(m.row), f"{m.parameters:,}") for name, m in members.items()]
        papers = _task(stage, "covid-19")
        printed += [(f"paper, {papers}: {name}", *_printed(v)) for (s, name), v in paper.items() if s == stage]
    of_models = [m.row for members in done.values() for m in members.values()]
    positive = "the second class is the positive one of sensitivity by class; averages are over both"
    return Table(
        title=_caption(found, number, what, " and ".join(map(str, sorted({row.images for row in of_models})))),
        head=("task and model", *_HEAD, "Param."),
        rows=_t([*rows, *printed]),
        note=f"{_note(of_models)} In two-class rows {positive}.",
    )


def _printed(values: Sequence[str]) -> tuple[str, ...]:
    """Return a printed row (Acc., AUC with interval, Sens., Prec., F, MCC and, if printed, Param.) in our columns."""
    return (*values[:6], "", "", "", *values[6:])


def _ensembles(found: Results, number: str, rows_of: Mapping[str, Mapping[str, PaperRow]]) -> Table:
    """rows_of: `unpruned` or `pruned` -> strategy -> row."""
    rows = [
        (f"{strategy}, {kind}", *_figures(own[strategy]))
        for strategy in rows_of["unpruned"]
        for kind, own in rows_of.items()
        if strategy in own
    ]
    printed = [
        (f"paper: {strategy}, {kind}", *_printed(v)) for (strategy, kind), v in ENSEMBLES.items() if kind in rows_of
    ]
    all_rows = [row for own in rows_of.values() for row in own.values()]
    return Table(
        title=_caption(found, number, "ensembles", all_rows[0].images),
        head=("combination", *_HEAD),
        rows=_t([*rows, *printed]),
        note=f"{_note(all_rows)} {_VOTES}",
    )


def _pruned(found: Results, members: Mapping[str, PrunedMember]) -> Table:
    rows = []
    for name, p in members.items():
        costs = _costs(p.unpruned_parameters, p.unpruned_macs, p.unpruned_milliseconds)
        rows.append((f"{name}, unpruned", *_figures(p.unpruned_row), *costs, "", ""))
        less = ((p.parameters, p.unpruned_parameters), (p.macs, p.unpruned_macs))
        reductions = (f"{100 * (1 - now / before):.2f}" for now, before in less)
        costs = _costs(p.parameters, p.macs, p.milliseconds)
        rows.append((f"{name}, pruned (step {p.step})", *_figures(p.row), *costs, *reductions))
    printed = [(f"paper: {name}", *_printed(v[:7]), "", "", v[7], "") for name, v in PRUNED.items()]
    columns = ("Param.", "million MACs", "ms", "% fewer parameters", "% fewer MACs")
    own = [p.row for p in members.values()]
    return Table(
        title=_caption(found, "Table 6", "pruned against unpruned", own[0].images),
        head=("model", *_HEAD, *columns),
        rows=_t([*rows, *printed]),
        note=f"{_note(own)} ms: an image through ONNX Runtime on this machine's CPU.",
    )


def _costs(parameters: int, macs: int, milliseconds: float | None) -> tuple[str, str, str]:
    return f"{parameters:,}", f"{macs / 1e6:.1f}", "-" if milliseconds is None else f"{milliseconds:.2f}"


def _by_label(found: Results, pruned: Mapping[str, PaperRow]) -> Table:
    """Return one row per pruned ensemble and label, with that label as the positive class."""
    rows = [
        (strategy, label, *(interval(of.per_class[label]) for of in (row.sensitivity, row.precision, row.f, row.auc)))
        for strategy, row in pruned.items()
        for label in found.labels
    ]
    images = next(iter(pruned.values())).images
    return Table(
        title=_caption(found, "By class", "pruned ensembles; the class of a row is its positive class", images),
        head=("combination", "positive class", "sensitivity", "precision", "F", "AUC"),
        rows=_t(rows),
        note="Intervals by drawing patients anew." if found.preset == "sane" else "",
    )
