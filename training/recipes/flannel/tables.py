"""FLANNEL's Tables 1 and 3: the results of a run (`training.recipes.flannel.results`) in, tables with the printed rows out.

Columns are the paper's: F1 of each label against the rest, and their mean. Rows that the paper lacks have no printed row below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from training.evaluation.auc_pages import AUC_NOTE, auc_differences
from training.markdown import Table, interval
from training.recipes.flannel.published import LABELS, PRINTED_COVID, TABLE_1, TABLE_3

__all__ = ["in_words", "tables"]

Json = Mapping[str, Any]

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


def tables(found: Json) -> dict[str, Table]:
    """Return file name -> table, in the order of the page."""
    made = {
        "table-1-data": _data(found),
        "findings": _findings(found),
        "dropped": _dropped(found),
        "networks": _networks(found),
        "table-3-methods": _methods(found),
        "against-the-paper": _against_the_paper(found),
        "together": _together(found),
        "covid-19": _covid(found),
        "comparisons": _comparisons(found),
        **_auc_comparisons(found),
        "weights": _weights(found),
        "temperature": _temperature(found),
        "outside": _outside(found),
    }
    return made if found["methods"]["flannel"]["ap"] is None else {**made, "ap-view": _ap(found)}


def caption(found: Json, what: str, n: int | None = None) -> str:
    """Return a title with preset, n, split and seed."""
    images = found["methods"]["flannel"]["together"]["images"] if n is None else n
    return f"{what} (preset {found['preset']}, {found['config']}, n = {images}, {found['split']}, seed {found['seed']})"


def _folds(found: Json) -> int:
    return len(found["methods"]["flannel"]["folds"])


def _rows(rows: Iterable[Sequence[object]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(v) for v in row) for row in rows)


def _data(found: Json) -> Table:
    rows = []
    for name, counts in found["data"].items():
        first, second = name.split(", ")
        rows.append([name, *counts])
        paper = TABLE_1.get((first, second))
        if paper is not None:
            rows.append([f"paper: {name}", paper[0], *_by_label(paper[1:], found["labels"])])
    title = f"Table 1: data (preset {found['preset']}, {found['config']}, {found['split']}, seed {found['seed']})"
    note = (
        "AP with AP supine, AP semi erect and the like, as the paper counts. The paper's files are those of spring 2020; where "
        f"the public set's other normals went is not known. {_ccx_labels(found)}"
    )
    return Table(title=title, head=("images", "total", *found["labels"]), rows=_rows(rows), note=note)


_FINDING_TABLES = {
    "full": "every bacterium is bacterial, COVID-19 with ARDS is COVID-19 (`training/data/findings.py`, FINDINGS)",
    "flannel-code": "the published code's exact table (`training/data/findings.py`, FLANNEL_FINDINGS)",
}


def _ccx_labels(found: Json) -> str:
    """Return the text that lists CCX's findings per label, and the table that maps them."""
    table = _FINDING_TABLES[found.get("finding_table", "full")]
    by_label: dict[str, list[str]] = {label: [] for label in (*found["labels"], "other")}
    for f in found["findings"]:
        if f["source"] == "ccx":
            by_label.setdefault(f["label"], []).append(f"{f['finding']} {f['images']}")
    listed = "; ".join(f"{label}: {', '.join(names)}" for label, names in by_label.items() if names)
    return f"CCX's findings by {table}: {listed or 'none'}."


def _by_label(printed: Sequence[object], labels: Sequence[str]) -> list[object]:
    """Return the printed values of our labels, in our order; a dash for a label that the paper lacks."""
    known = dict(zip(LABELS, printed, strict=True))
    return [known.get(label, "-") for label in labels]


def _findings(found: Json) -> Table:
    rows = [[f["source"], f["finding"], f["label"], f["images"]] for f in found["findings"]]
    title = f"Findings and labels (preset {found['preset']}, {found['config']}, seed {found['seed']})"
    note = "`other` is abnormal of a cause that no label holds: it neither trains nor judges. Views as in Table 1."
    return Table(title=title, head=("source", "finding", "label", "images"), rows=_rows(rows), note=note)


def _dropped(found: Json) -> Table:
    """Return the reasons why images of the two collections are not in Table 1."""
    dropped = found.get("dropped", {})
    title = f"Left out (preset {found['preset']}, {found['config']}, seed {found['seed']})"
    note = (
        "Images that Table 1's collections list and that neither train nor judge."
        if dropped
        else "Not counted, or none."
    )
    return Table(title=title, head=("reason", "images"), rows=_rows(dropped.items()), note=note)


def _networks(found: Json) -> Table:
    rows = []
    for name, n in found["networks"].items():
        rows.append([name, n["architecture"], *_size(n)])
        if "unpruned" in n:
            rows.append([f"{name}, unpruned", n["architecture"], *_size(n["unpruned"])])
    title = f"The networks (preset {found['preset']}, {found['config']}, seed {found['seed']})"
    pruned = "Learners are pruned; means over the folds." if found["pruned"] else ""
    return Table(
        title=title, head=("network", "architecture", "parameters", "million MACs"), rows=_rows(rows), note=pruned
    )


def _size(network: Json) -> tuple[str, str]:
    return f"{network['parameters']:,.0f}", f"{network['macs'] / 1e6:.1f}"


def _over_folds(method: Json, key: str) -> str:
    return f"{method['mean'][key]:.4f} ({method['sd'][key]:.2f})"


def _methods(found: Json) -> Table:
    rows = []
    for name, method in found["methods"].items():
        rows.append([in_words(name), *(_over_folds(method, k) for k in (*found["labels"], "macro"))])
        if name in TABLE_3 and set(found["labels"]) == set(LABELS):
            row, printed = TABLE_3[name]
            values = (*_by_label(printed[:-1], found["labels"]), printed[-1])
            rows.append([f"paper: {row}", *(str(v).replace("(", " (") for v in values)])
    note = "F1, one label against the rest: mean (standard deviation) of the folds' models on the same test images."
    return Table(
        title=caption(found, f"Table 3: F1 over {_folds(found)} folds"),
        head=("method", *found["labels"], "macro"),
        rows=_rows(rows),
        note=note,
    )


def _against_the_paper(found: Json) -> Table:
    """Return FLANNEL's figures next to the printed ones, and the position of these relative to our interval."""
    method, (_, printed) = found["methods"]["flannel"], TABLE_3["flannel"]
    papers = {**dict(zip((*LABELS, "macro"), printed, strict=True)), **PRINTED_COVID}
    own = {k: method["together"]["labels"][k]["f1"] for k in found["labels"]}
    covid = method["together"]["labels"]["covid-19"]
    together = {
        **own,
        "macro": method["together"]["macro_f1"],
        "precision": covid["precision"],
        "recall": covid["recall"],
    }
    rows = []
    for key, figure in together.items():
        paper = float(papers[key].split("(")[0]) if key in papers else None
        words = {"macro": "macro-F1", "precision": "COVID-19 precision", "recall": "COVID-19 recall"}.get(
            key, f"F1 {key}"
        )
        position = "-" if paper is None else _position(figure, paper)
        rows.append(
            [words, _over_folds(method, key), interval(figure), papers.get(key, "-").replace("(", " ("), position]
        )
    note = (
        "Comparable: the two collections, the task, the module, the loss, five folds, the mean over five models. Not comparable: "
        "the images (Table 1; twice the COVID-19, other normals), the test patients, ImageNet's weights and learners' sizes, the "
        "split (the published code splits by image), and what stage 2 is fitted on."
    )
    head = ("FLANNEL", "ours, mean (sd)", "ours, the models together", "the paper", "the printed figure is")
    return Table(title=caption(found, "Against the paper"), head=head, rows=_rows(rows), note=note)


def _position(figure: Json, paper: float) -> str:
    if figure["value"] is None:
        return "-"
    if paper < figure["low"]:
        return "below our interval: ours is better"
    return "above our interval: ours is worse" if paper > figure["high"] else "within our interval"


def _together(found: Json) -> Table:
    rows = []
    for name, method in found["methods"].items():
        t = method["together"]
        values = [t["labels"][label]["f1"] for label in found["labels"]] + [
            t["macro_f1"],
            t["accuracy"],
            t["macro_auc"],
        ]
        rows.append([in_words(name), *(interval(v) for v in values)])
    note = (
        "The folds' models together: the mean of their probabilities. Intervals of F1 and AUC by drawing patients anew."
    )
    head = ("method", *found["labels"], "macro-F1", "accuracy", "macro-AUC")
    return Table(title=caption(found, f"The {_folds(found)} models together"), head=head, rows=_rows(rows), note=note)


def _covid(found: Json) -> Table:
    rows = []
    for name, method in found["methods"].items():
        own = method["together"]["labels"]["covid-19"]
        rows.append(
            [
                in_words(name),
                *(_over_folds(method, k) for k in ("precision", "recall")),
                *(interval(own[k]) for k in ("precision", "recall", "specificity", "auc")),
            ]
        )
    rows.append(
        ["paper: FLANNEL", *(PRINTED_COVID[k].replace("(", " (") for k in ("precision", "recall")), "", "", "", ""]
    )
    head = ("method", "precision, folds", "recall, folds", "precision", "recall", "specificity", "AUC")
    return Table(
        title=caption(found, "COVID-19 against the rest"),
        head=head,
        rows=_rows(rows),
        note="First over the folds' models, then of all of them together, with exact intervals of shares.",
    )


def _ap(found: Json) -> Table:
    n = found["methods"]["flannel"]["ap"]["images"]
    rows = [
        [in_words(m), _over_folds(v["ap"], "covid-19"), _over_folds(v["ap"], "macro"), interval(_covid_f(v["ap"]))]
        for m, v in found["methods"].items()
    ]
    covid = found["methods"]["flannel"]["ap"]["together"]["labels"]["covid-19"]["images"]
    note = (
        f"Test images of AP view only, {covid} of them COVID-19; the same models. The paper shows F1 as bars (Figure 5) and "
        "prints no numbers."
    )
    head = ("method", "COVID-19 F1, folds", "macro-F1, folds", "COVID-19 F1, together")
    return Table(title=caption(found, "AP view (Figure 5)", n), head=head, rows=_rows(rows), note=note)


def _covid_f(part: Json) -> Json:
    f: Json = part["together"]["labels"]["covid-19"]["f1"]
    return f


def _comparisons(found: Json) -> Table:
    rows = []
    for c in found["comparisons"]:
        by_fold = c["macro_f_by_fold"]
        rows.append(
            [
                f"{in_words(c['a'])} against {in_words(c['b'])}",
                interval(c["macro_f_difference"]),
                interval(c["covid_f_difference"]),
                interval(c["difference"]),
                c["mcnemar"]["b"],
                c["mcnemar"]["c"],
                f"{c['mcnemar']['p']:.3g}",
                f"{by_fold['mean']:+.4f} ({by_fold['sd']:.4f})",
                f"{by_fold['wins']}/{_folds(found)}",
            ]
        )
    head = (
        "compared", "macro-F1", "COVID-19 F1", "accuracy", "only first right", "only second right", "p (McNemar)",
        "macro-F1 by fold", "folds won",
    )  # fmt: skip
    note = (
        "First minus second on the same test images, the folds' models together; intervals by drawing patients, p exact and "
        "two-sided, not corrected for the number of rows. Then mean (sd) over the folds' models, which share training "
        "images: no test is made of those."
    )
    return Table(title=caption(found, "Paired comparisons"), head=head, rows=_rows(rows), note=note)


def _auc_comparisons(found: Json) -> dict[str, Table]:
    """Return the comparison of the same pairs by AUC; nothing for results of earlier versions, which lack it."""
    rows = auc_differences(found["comparisons"], found["labels"])
    if not rows:
        return {}
    names = [f"{in_words(c['a'])} against {in_words(c['b'])}" for c in found["comparisons"]]
    table = Table(
        title=caption(found, "Paired comparisons of AUC"),
        head=("compared", "micro-AUC", *(f"AUC {label}" for label in found["labels"])),
        rows=_rows([name, *row] for name, row in zip(names, rows, strict=True)),
        note=f"{AUC_NOTE} The folds' models together.",
    )
    return {"comparisons-auc": table}


def _weights(found: Json) -> Table:
    rows = [[label, *(f"{w[m]:.3f}" for m in found["learners"])] for label, w in found["weights"].items()]
    note = "Mean over the folds' modules and the test images of a label; -1 to 1."
    return Table(
        title=caption(found, "The module's weights"), head=("truth", *found["learners"]), rows=_rows(rows), note=note
    )


def _temperature(found: Json) -> Table:
    t = found["temperature"]
    rows = [
        [name, f"{t[k]['log_loss']:.4f}", f"{t[k]['calibration_error']:.4f}", f"{t[k]['largest']:.4f}"]
        for name, k in (("as published", "raw"), ("with temperature", "scaled"))
    ]
    listed = ", ".join(f"{v:g}" for v in t["temperatures"])
    note = f"No published answer can pass {t['most']:.4f}. Temperatures of the folds: {listed}."
    head = ("FLANNEL's probabilities", "log loss", "calibration error", "largest")
    return Table(title=caption(found, "Calibration, means over the folds"), head=head, rows=_rows(rows), note=note)


def _outside(found: Json) -> Table:
    shown = ("flannel", "voting", found["best_learner"])
    rows = [[name, *(interval(of[m]) for m in shown)] for name, of in found["outside"].items()]
    note = (
        "Share called COVID-19, the folds' models together. Of normals and tuberculosis it should be 0: these are adults of "
        "hospitals that no learner saw. The paper's mix has children for normals and adults for COVID-19, and it shows."
    )
    n = sum(next(iter(of.values()))["n"] for of in found["outside"].values())
    return Table(
        title=caption(found, "Called COVID-19 outside Table 1's collections", n),
        head=("source, label", *(in_words(m) for m in shown)),
        rows=_rows(rows),
        note=note,
    )
