"""FLANNEL's Tables 1 and 3: the results of a run (`training.recipes.flannel.results`) in, tables with the printed rows out.

Columns are the paper's: F1 of each label against the rest, and their mean. Rows that the paper lacks have no printed row below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from training.evaluation.auc_pages import AUC_NOTE, auc_differences
from training.evaluation.metrics import Figure, interval
from training.evaluation.unseen import unseen_tables
from training.markdown import Table
from training.recipes.before import ModelRow, beside
from training.recipes.flannel.published import LABELS, PRINTED_COVID, TABLE_1, TABLE_3
from training.recipes.flannel.records import NetworkSize, Results, Summary
from training.recipes.page import caption, label_in_words

__all__ = ["in_words", "tables"]

_ORIGINAL = ("original data, kcx", "original data, ccx")  # rows of Table 1 with the paper's collections
COVID = "covid-19"  # the label of the printed figures

_WORDS = {
    "averaging": "averaging",
    "voting": "voting",
    "mlp-1": "MLP, one layer",
    "mlp-2": "MLP, two layers",
    "flannel-ce": "FLANNEL without focal loss",
    "flannel-ce-sampling": "FLANNEL without focal loss, with oversampling",
    "flannel": "FLANNEL",
}


def in_words(method: str) -> str:
    """Return the name of a method on pages; a network has its own name."""
    name, comma, rest = method.partition(", ")
    return _WORDS.get(name, name) + comma + rest


def tables(found: Results, before: Results | None = None) -> dict[str, Table]:
    """Return file name -> table, in the order of the page. before: results of an earlier run, to be set beside."""
    made = {
        "table-1-data": _data(found),
        "findings": _findings(found),
        "dropped": _dropped(found),
        "networks": _networks(found),
        "table-3-methods": _methods(found),
        "against-the-paper": _against_the_paper(found),
        "together": _together(found),
        found.positive: _positive(found),
        "comparisons": _comparisons(found),
        **_auc_comparisons(found),
        "weights": _weights(found),
        "temperature": _temperature(found),
        "outside": _outside(found),
        **_unseen(found),
    }
    ap = {name: m.ap for name, m in found.methods.items() if m.ap is not None}
    made |= {"ap-view": _ap(found, ap)} if ap else {}
    if before is not None:
        made |= beside(_model_rows(before), _model_rows(found), _caption(found, "Before and now"))
    return made


def _model_rows(found: Results) -> dict[str, ModelRow]:
    """Return the figures of all methods, the folds' models together."""
    return {
        in_words(name): ModelRow(
            n=m.together.images,
            accuracy=m.together.accuracy,
            macro_f=m.together.macro_f1,
            macro_auc=m.together.macro_auc,
        )
        for name, m in found.methods.items()
    }


def _caption(found: Results, what: str, n: int | None = None) -> str:
    """Return a title with the number of test images, or with `n`."""
    return caption(found, what, found.flannel.images if n is None else n)


def _folds(found: Results) -> int:
    return len(found.flannel.folds)


def _rows(rows: Iterable[Sequence[object]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(v) for v in row) for row in rows)


def _data(found: Results) -> Table:
    rows: list[Sequence[object]] = []
    for name, counts in found.data.items():
        first, second = name.split(", ")
        rows.append([name, *counts])
        paper = TABLE_1.get((first, second))
        if paper is not None:
            rows.append([f"paper: {name}", paper[0], *_by_label(paper[1:], found.labels)])
    title = f"Table 1: data (preset {found.preset}, {found.config}, {found.split}, seed {found.seed})"
    # Earlier versions, which do not count what they leave out, read no other wordings.
    wordings = "AP supine, AP semi erect and the like" if found.dropped else "AP supine"
    note = (
        f"AP with {wordings}, as the paper counts. The paper's files are those of spring 2020; where "
        f"the public set's other normals went is not known. {_ccx_labels(found)}"
    )
    return Table(title=title, head=("images", "total", *found.labels), rows=_rows(rows), note=note)


_FINDING_TABLES = {
    "full": "every bacterium is bacterial, COVID-19 with ARDS is COVID-19 (`training/data/findings.py`, FINDINGS)",
    "flannel-code": "the published code's exact table (`training/data/findings.py`, FLANNEL_FINDINGS)",
}


def _ccx_labels(found: Results) -> str:
    """Return the text that lists CCX's findings per label, and the table that maps them."""
    table = _FINDING_TABLES[found.finding_table]
    by_label: dict[str, list[str]] = {label: [] for label in (*found.labels, "other")}
    for f in found.findings:
        if f.source == "ccx":
            by_label.setdefault(f.label, []).append(f"{f.finding} {f.images}")
    listed = "; ".join(f"{label}: {', '.join(names)}" for label, names in by_label.items() if names)
    return f"CCX's findings by {table}: {listed or 'none'}."


def _by_label(printed: Sequence[object], labels: Sequence[str]) -> list[object]:
    """Return the printed values of our labels, in our order; a dash for a label that the paper lacks."""
    known = dict(zip(LABELS, printed, strict=True))
    return [known.get(label, "-") for label in labels]


def _findings(found: Results) -> Table:
    rows = [[f.source, f.finding, f.label, f.images] for f in found.findings]
    title = f"Findings and labels (preset {found.preset}, {found.config}, seed {found.seed})"
    note = "`other` is abnormal of a cause that no label holds: it neither trains nor judges. Views as in Table 1."
    return Table(title=title, head=("source", "finding", "label", "images"), rows=_rows(rows), note=note)


def _dropped(found: Results) -> Table:
    """Return the reasons why images of the learners' sources are not in Table 1."""
    title = f"Left out (preset {found.preset}, {found.config}, seed {found.seed})"
    note = (
        "Images that the learners' sources list and that neither train nor judge."
        if found.dropped
        else "Not counted, or none."
    )
    return Table(title=title, head=("reason", "images"), rows=_rows(found.dropped.items()), note=note)


def _networks(found: Results) -> Table:
    rows = []
    for name, n in found.networks.items():
        rows.append([name, n.architecture, *_size(n.size)])
        if n.unpruned is not None:
            rows.append([f"{name}, unpruned", n.architecture, *_size(n.unpruned)])
    title = f"The networks (preset {found.preset}, {found.config}, seed {found.seed})"
    pruned = "Learners are pruned; means over the folds." if found.pruned else ""
    return Table(
        title=title, head=("network", "architecture", "parameters", "million MACs"), rows=_rows(rows), note=pruned
    )


def _size(size: NetworkSize) -> tuple[str, str]:
    return f"{size.parameters:,.0f}", f"{size.macs / 1e6:.1f}"


def _spread(mean: float, sd: float) -> str:
    return f"{mean:.4f} ({sd:.2f})"


def _f1(method: Summary, label: str) -> str:
    return _spread(method.mean.f1[label], method.sd.f1[label])


def _macro(method: Summary) -> str:
    return _spread(method.mean.macro, method.sd.macro)


def _precision_and_recall(method: Summary) -> tuple[str, str]:
    mean, sd = method.mean, method.sd
    return _spread(mean.precision, sd.precision), _spread(mean.recall, sd.recall)


def _methods(found: Results) -> Table:
    rows = []
    for name, method in found.methods.items():
        rows.append([in_words(name), *(_f1(method, label) for label in found.labels), _macro(method)])
        if name in TABLE_3 and set(found.labels) == set(LABELS):
            row, printed = TABLE_3[name]
            values = (*_by_label(printed[:-1], found.labels), printed[-1])
            rows.append([f"paper: {row}", *(_spaced(str(v)) for v in values)])
    note = "F1, one label against the rest: mean (standard deviation) of the folds' models on the same test images."
    if set(found.labels) == set(LABELS):
        rows += _without_ours(found)
    return Table(
        title=_caption(found, f"Table 3: F1 over {_folds(found)} folds"),
        head=("method", *found.labels, "macro"),
        rows=_rows(rows),
        note=note,
    )


def _without_ours(found: Results) -> list[list[str]]:
    """Return the paper's rows for which this run has no network, each after a row that says so."""
    rows = []
    for name in (n for n in TABLE_3 if n not in found.methods):
        row, printed = TABLE_3[name]
        values = (*_by_label(printed[:-1], found.labels), printed[-1])
        rows.append([f"{in_words(name)}: not trained in this run", *("-" for _ in values)])
        rows.append([f"paper: {row}", *(_spaced(str(v)) for v in values)])
    return rows


def _spaced(printed: str) -> str:
    """Return the paper's `0.8168(0.03)` with a space."""
    return printed.replace("(", " (")


def _against_the_paper(found: Results) -> Table:
    """Return FLANNEL's figures next to the printed ones, and the position of these relative to our interval."""
    method, (_, values) = found.flannel, TABLE_3["flannel"]
    own, printed = method.together, dict(zip((*LABELS, "macro"), values, strict=True))
    word, positive = label_in_words(found.positive), own.labels[found.positive]
    papers = PRINTED_COVID if found.positive == COVID else {}
    precision, recall = _precision_and_recall(method)
    rows = [
        *(_beside(f"F1 {k}", _f1(method, k), own.labels[k].f1, printed.get(k)) for k in found.labels),
        _beside("macro-F1", _macro(method), own.macro_f1, printed["macro"]),
        _beside(f"{word} precision", precision, positive.precision, papers.get("precision")),
        _beside(f"{word} recall", recall, positive.recall, papers.get("recall")),
    ]
    note = (
        f"Comparable: the task, the module, the loss, {_folds(found)} folds, the mean over their models. Not comparable: the "
        f"images (Table 1; {_data_beside(found)}), the test patients, ImageNet's weights and learners' sizes, the split (the "
        "published code splits by image), and what stage 2 is fitted on."
    )
    head = ("FLANNEL", "ours, mean (sd)", "ours, the models together", "the paper", "the printed figure is")
    return Table(title=_caption(found, "Against the paper"), head=head, rows=_rows(rows), note=note)


def _data_beside(found: Results) -> str:
    """Return in words where a run's images differ from the paper's."""
    added = [
        name.partition(", ")[2] for name in found.data if name.startswith("original data") and name not in _ORIGINAL
    ]
    texts = [f"the collection {name} besides the paper's two" for name in added]
    if COVID in found.labels:
        images, papers = found.data["all, all"][1 + found.labels.index(COVID)], TABLE_1["all", "all"][1]
        texts.append(f"{images} COVID-19 images, the paper {papers}")
    return ", ".join([*texts, "other normals"])


def _beside(words: str, over_folds: str, figure: Figure, printed: str | None) -> list[str]:
    if printed is None:
        return [words, over_folds, interval(figure), "-", "-"]
    return [words, over_folds, interval(figure), _spaced(printed), _position(figure, float(printed.split("(")[0]))]


def _position(figure: Figure, paper: float) -> str:
    if np.isnan(figure.value):
        return "-"
    if paper < figure.low:
        return "below our interval: ours is better"
    return "above our interval: ours is worse" if paper > figure.high else "within our interval"


def _together(found: Results) -> Table:
    rows = []
    for name, method in found.methods.items():
        t = method.together
        values = [*(t.labels[label].f1 for label in found.labels), t.macro_f1, t.accuracy, t.macro_auc]
        rows.append([in_words(name), *(interval(v) for v in values)])
    note = (
        "The folds' models together: the mean of their probabilities. Intervals of F1 and AUC by drawing patients anew."
    )
    head = ("method", *found.labels, "macro-F1", "accuracy", "macro-AUC")
    return Table(title=_caption(found, f"The {_folds(found)} models together"), head=head, rows=_rows(rows), note=note)


def _positive(found: Results) -> Table:
    rows = []
    for name, method in found.methods.items():
        own = method.together.labels[found.positive]
        figures = (own.precision, own.recall, own.specificity, own.auc)
        rows.append([in_words(name), *_precision_and_recall(method), *map(interval, figures)])
    if found.positive == COVID:
        rows.append(["paper: FLANNEL", *(_spaced(PRINTED_COVID[k]) for k in ("precision", "recall")), "", "", "", ""])
    head = ("method", "precision, folds", "recall, folds", "precision", "recall", "specificity", "AUC")
    return Table(
        title=_caption(found, f"{label_in_words(found.positive)} against the rest"),
        head=head,
        rows=_rows(rows),
        note="First over the folds' models, then of all of them together, with exact intervals of shares.",
    )


def _ap(found: Results, methods: Mapping[str, Summary]) -> Table:
    positive, word = found.positive, label_in_words(found.positive)
    rows = [
        [in_words(name), _f1(ap, positive), _macro(ap), interval(ap.together.labels[positive].f1)]
        for name, ap in methods.items()
    ]
    flannel = methods["flannel"]
    note = (
        f"Test images of AP view only, {flannel.together.labels[positive].images} of them {word}; the same models. The paper "
        "shows F1 as bars (Figure 5) and prints no numbers."
    )
    head = ("method", f"{word} F1, folds", "macro-F1, folds", f"{word} F1, together")
    return Table(title=_caption(found, "AP view (Figure 5)", flannel.images), head=head, rows=_rows(rows), note=note)


def _pairs(found: Results) -> list[str]:
    return [f"{in_words(c.a)} against {in_words(c.b)}" for c in found.comparisons]


def _comparisons(found: Results) -> Table:
    rows = [
        [
            pair,
            *(interval(v) for v in (c.macro_f_difference, c.positive_f_difference, c.difference)),
            c.mcnemar.b,
            c.mcnemar.c,
            f"{c.mcnemar.p:.3g}",
            f"{c.macro_f_by_fold.mean:+.4f} ({c.macro_f_by_fold.sd:.4f})",
            f"{c.macro_f_by_fold.wins}/{_folds(found)}",
        ]
        for pair, c in zip(_pairs(found), found.comparisons, strict=True)
    ]
    head = (
        "compared", "macro-F1", f"{label_in_words(found.positive)} F1", "accuracy", "only first right", "only second right",
        "p (McNemar)", "macro-F1 by fold", "folds won",
    )  # fmt: skip
    note = (
        "First minus second on the same test images, the folds' models together; intervals by drawing patients, p exact and "
        "two-sided, not corrected for the number of rows. Then mean (sd) over the folds' models, which share training "
        "images: no test is made of those."
    )
    return Table(title=_caption(found, "Paired comparisons"), head=head, rows=_rows(rows), note=note)


def _auc_comparisons(found: Results) -> dict[str, Table]:
    """Return the comparison of the same pairs by AUC; nothing for results of earlier versions, which lack it."""
    rows = auc_differences(found.comparisons, found.labels)
    if not rows:
        return {}
    table = Table(
        title=_caption(found, "Paired comparisons of AUC"),
        head=("compared", "micro-AUC", *(f"AUC {label}" for label in found.labels)),
        rows=_rows([pair, *row] for pair, row in zip(_pairs(found), rows, strict=True)),
        note=f"{AUC_NOTE} The folds' models together.",
    )
    return {"comparisons-auc": table}


def _weights(found: Results) -> Table:
    rows = [[label, *(f"{w[m]:.3f}" for m in found.learners)] for label, w in found.weights.items()]
    note = "Mean over the folds' modules and the test images of a label; -1 to 1."
    return Table(
        title=_caption(found, "The module's weights"), head=("truth", *found.learners), rows=_rows(rows), note=note
    )


def _temperature(found: Results) -> Table:
    t = found.temperature
    rows = [
        [name, *(f"{v:.4f}" for v in (c.log_loss, c.calibration_error, c.largest))]
        for name, c in (("as published", t.raw), ("with temperature", t.scaled))
    ]
    listed = ", ".join(f"{v:g}" for v in t.temperatures)
    note = f"No published answer can pass {t.most:.4f}. Temperatures of the folds: {listed}."
    head = ("FLANNEL's probabilities", "log loss", "calibration error", "largest")
    return Table(title=_caption(found, "Calibration, means over the folds"), head=head, rows=_rows(rows), note=note)


def _unseen(found: Results) -> dict[str, Table]:
    """Return the tables of unseen sources; none for results without them."""
    if found.unseen is None:
        return {}
    n = sum(found.unseen.images.values())
    titles = [_caption(found, f"Unseen sources, {what}", n) for what in ("every method", "paired comparisons")]
    names = {m: in_words(m) for m in found.methods}
    return unseen_tables(found.unseen, (titles[0], titles[1]), names)


def _outside(found: Results) -> Table:
    shown, word = ("flannel", "voting", found.best_learner), label_in_words(found.positive)
    rows = [[name, *(interval(of[m]) for m in shown)] for name, of in found.outside.items()]
    note = (
        f"Share called {word}, the folds' models together. Of other labels it should be 0. No learner saw an image of these "
        "sources."
    )
    if found.positive == COVID and {k for k in found.data if k.startswith("original")} == set(_ORIGINAL):
        note += " The paper's mix has children for normals and adults for COVID-19, and it shows."
    return Table(
        title=_caption(
            found,
            f"Called {word} at sources that no learner saw",
            sum(next(iter(of.values())).n for of in found.outside.values()),
        ),
        head=("source, label", *(in_words(m) for m in shown)),
        rows=_rows(rows),
        note=note,
    )
