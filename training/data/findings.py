"""Vocabulary of the collections: a finding or a view as a table words it in, our label or the projection out.

Two tables give CCX's labels: ours, and that of FLANNEL's published code, which knows fewer findings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from cxr_edge.errors import InputError

__all__ = [
    "FINDINGS",
    "FLANNEL_FINDINGS",
    "FRONTAL_VIEWS",
    "LABELS",
    "UNKNOWN_VIEW",
    "FindingTable",
    "label_of_finding",
    "projection",
]

FRONTAL_VIEWS = ("AP", "PA")
UNKNOWN_VIEW = "unknown"  # of a collection that states none; all its images are frontal

# Leaf of the finding -> label. `other` is abnormal of a cause that no class covers.
FINDINGS: Mapping[str, str] = {
    "COVID-19": "covid-19",
    "SARS": "viral",
    "MERS-CoV": "viral",
    "Influenza": "viral",
    "Varicella": "viral",
    "Herpes": "viral",
    "Viral": "viral",
    "Streptococcus": "bacterial",
    "Klebsiella": "bacterial",
    "E.Coli": "bacterial",
    "Legionella": "bacterial",
    "Chlamydophila": "bacterial",
    "Mycoplasma": "bacterial",
    "Nocardia": "bacterial",
    "Staphylococcus": "bacterial",
    "MRSA": "bacterial",
    "Bacterial": "bacterial",
    # A fungus; FLANNEL counts it as bacterial, and with 14 images it is no class of its own.
    "Pneumocystis": "bacterial",
    "No Finding": "normal",
    "Tuberculosis": "tuberculosis",
    "ARDS": "other",
    "Pneumonia": "other",
    "Aspiration": "other",
    "Lipoid": "other",
    "Fungal": "other",
    "Aspergillosis": "other",
    "todo": "other",
    "Unknown": "other",
}

# FLANNEL's published code (data_preprocess/get_covid_data_dict.py): these findings, word for word, and no other. So
# `COVID-19, ARDS` has no label, and of the bacteria only Streptococcus (with Pneumocystis, a fungus) is bacterial.
FLANNEL_FINDINGS: Mapping[str, str] = {
    "COVID-19": "covid-19",
    "SARS": "viral",
    "Pneumocystis": "bacterial",
    "Streptococcus": "bacterial",
    "No Finding": "normal",
}
FindingTable = Literal["full", "flannel-code"]

# `pneumonia`: of unknown type (R20's UP), for a collection that states only opacities consistent with it.
LABELS = frozenset({*FINDINGS.values(), "pneumonia"})


def projection(view: str) -> str:
    """Return AP or PA for a view in any wording (`AP Supine`, `Portable AP`), as FLANNEL's code does; others unchanged."""
    match = re.search(r"(?<![^\W_])(AP|PA)(?![^\W_])", view, re.IGNORECASE)
    return view.strip() if match is None else match[1].upper()


def label_of_finding(finding: str, table: FindingTable = "full") -> str:
    """Return the label of a finding, in the old form (`COVID-19, ARDS`) or the new (`Pneumonia/Viral/COVID-19`).

    table: `full` returns covid-19 if COVID-19 is anywhere in the finding, else the label of the last known word of the
    hierarchy; `flannel-code` looks up the full finding, or the last step of a path, in FLANNEL_FINDINGS, else `other`.
    Raises InputError for a finding without a known word.
    """
    words = [w.strip() for w in re.split(r"[,/]", finding)]
    known = [word for word in words if word in FINDINGS]
    if known and table == "flannel-code":
        return FLANNEL_FINDINGS.get(finding.split("/")[-1].strip(), "other")
    if "COVID-19" in words:
        return "covid-19"
    if known:
        return FINDINGS[known[-1]]
    raise InputError(f"the finding {finding!r} is in no row of FINDINGS: add it to training/data/findings.py")
