"""Readers of the published chest X-ray collections: a folder in its published layout in, a table of records out.

Each reader knows one layout and nothing else; `gather` puts them together. A patient is named `source/number`, so that
two collections never share one by accident. What a record says comes from file names and tables alone: no pixels are
read here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cxr_edge.errors import InputError

__all__ = [
    "FINDINGS",
    "FRONTAL_VIEWS",
    "Record",
    "covid_collection",
    "gather",
    "kermany",
    "label_of_finding",
    "tuberculosis_sets",
    "twitter",
]

FRONTAL_VIEWS = ("AP", "AP Supine", "PA")

# FLANNEL's table made explicit: leaf of the finding -> label. `other` is abnormal of a cause that no class holds.
FINDINGS = {
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

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".webp", ".dcm"})


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a collection.

    key: its path relative to the data folder, with forward slashes: the name in tables and caches. patient: unique over
    all collections, as far as the collection tells. label: normal, bacterial, viral, covid-19, tuberculosis or other.
    finding, view: as the collection words them. adult: whether the collection holds adults. mask: its lung mask, or None.
    """

    path: Path
    key: str
    patient: str
    label: str
    source: str
    view: str
    finding: str
    adult: bool
    mask: Path | None = None

    def __post_init__(self) -> None:
        if self.label not in {*FINDINGS.values()}:
            raise ValueError(f"unknown label {self.label!r} for {self.key}")


def gather(data: Path) -> list[Record]:
    """All collections below `data` (folders chest_xray, covid-chestxray-dataset, twitter-covid, lung-masks), sorted.

    Raises InputError if a collection is missing or not laid out as published.
    """
    if not data.is_dir():
        raise InputError(f"the data folder {data} does not exist: give it with --data or in CXR_EDGE_DATA")
    records = [
        *kermany(data / "chest_xray"),
        *covid_collection(data / "covid-chestxray-dataset", masks=data / "lung-masks" / "covid-chestxray-masks"),
        *twitter(data / "twitter-covid"),
        *tuberculosis_sets(data / "lung-masks"),
    ]
    keyed = [replace(r, key=r.path.relative_to(data).as_posix()) for r in records]
    return sorted(keyed, key=lambda r: r.key)


def kermany(folder: Path) -> list[Record]:
    """The paediatric set (KCX): {train,test,val}/{NORMAL,PNEUMONIA}. The published split shares patients: not used.

    personN is one patient whatever the class; IM-N is a guess at a patient, the best there is.
    """
    paths = [p for kind in ("NORMAL", "PNEUMONIA") for p in _images(folder.glob(f"*/{kind}/*"))]
    _some(paths, folder, "{train,test,val}/{NORMAL,PNEUMONIA}/*.jpeg")
    return [_kermany_record(p) for p in paths]


def _kermany_record(path: Path) -> Record:
    if m := re.match(r"(person\d+)_(bacteria|virus)_\d+", path.name):
        patient, finding = m[1], m[2]
        label = "bacterial" if finding == "bacteria" else "viral"
    elif m := re.match(r"(?:NORMAL\d*-)?(IM-\d+)-", path.name):
        patient, finding, label = m[1], "NORMAL", "normal"
    else:
        raise InputError(f"{path}: expected a name such as person12_virus_46.jpeg or IM-0115-0001.jpeg in this set")
    if (path.parent.name == "NORMAL") != (label == "normal"):
        raise InputError(f"{path}: the name says {label}, the folder {path.parent.name}: the set is not as published")
    return _record(path, f"kcx/{patient}", label, source="kcx", view="AP", finding=finding, adult=False)


def covid_collection(folder: Path, *, masks: Path | None = None) -> list[Record]:
    """The COVID-19 image collection (CCX): metadata.csv + images/. Frontal X-rays only; CT and lateral views are left out.

    masks: folder of lung masks named as the images; images without one stay in the table.
    """
    table = folder / "metadata.csv"
    if not table.is_file():
        raise InputError(f"{folder} holds no metadata.csv: expected the layout of the public COVID-19 image collection")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    missing = {"patientid", "finding", "view", "modality", "filename"} - set(rows[0] if rows else ())
    if missing:
        raise InputError(f"{table}: the columns {sorted(missing)} are missing")
    frontal = [r for r in rows if r["modality"] == "X-ray" and r["view"] in FRONTAL_VIEWS]
    records = [_covid_record(folder, row, masks) for row in frontal]
    present = [r for r in records if r.path.is_file()]
    _some([r.path for r in present], folder, "images/ with the files that metadata.csv names")
    return present


def _covid_record(folder: Path, row: dict[str, str], masks: Path | None) -> Record:
    path = folder / (row.get("folder") or "images") / row["filename"]
    mask = None if masks is None else masks / f"{path.stem}.png"
    return _record(
        path,
        f"ccx/{row['patientid']}",
        label_of_finding(row["finding"]),
        source="ccx",
        view=row["view"],
        finding=row["finding"],
        adult=True,
        mask=mask if mask is not None and mask.is_file() else None,
    )


def label_of_finding(finding: str) -> str:
    """The label of a finding, in the old form (`COVID-19, ARDS`) or the new (`Pneumonia/Viral/COVID-19`).

    COVID-19 anywhere wins; else the last known word of the hierarchy. Raises InputError for a finding of no known word.
    """
    words = [w.strip() for w in re.split(r"[,/]", finding)]
    if "COVID-19" in words:
        return "covid-19"
    for word in reversed(words):
        if word in FINDINGS:
            return FINDINGS[word]
    raise InputError(f"the finding {finding!r} is in no row of FINDINGS: add it to training/collections.py")


def twitter(folder: Path) -> list[Record]:
    """The COVID-19 set gathered from Twitter: JFIF files, no table. Every file counts as its own patient."""
    paths = _images(folder.glob("*"))
    _some(paths, folder, "*.jfif")
    return [
        _record(p, f"twitter/{p.stem}", "covid-19", source="twitter", view="unknown", finding="COVID-19", adult=True)
        for p in paths
    ]


def tuberculosis_sets(folder: Path) -> list[Record]:
    """Shenzhen (CHNCXR) and Montgomery (MCUCXR): CXR_png + masks, CXR_without_mask; _0 is normal, _1 tuberculosis."""
    paths = _images([*folder.glob("CXR_png/*"), *folder.glob("CXR_without_mask/*")])
    _some(paths, folder, "CXR_png/{CHNCXR,MCUCXR}_NNNN_{0,1}.jpg, masks/ and CXR_without_mask/")
    return [_tuberculosis_record(p, folder / "masks") for p in paths]


def _tuberculosis_record(path: Path, masks: Path) -> Record:
    m = re.fullmatch(r"(CHNCXR|MCUCXR)_(\d+)_([01])", path.stem)
    if m is None:
        raise InputError(f"{path}: expected a name such as CHNCXR_0001_0 or MCUCXR_0104_1")
    source = "shenzhen" if m[1] == "CHNCXR" else "montgomery"
    label = "normal" if m[3] == "0" else "tuberculosis"
    mask = masks / f"{path.stem}.png"
    return _record(
        path,
        f"{source}/{m[2]}",
        label,
        source=source,
        view="PA",
        finding=label,
        adult=True,
        mask=mask if mask.is_file() else None,
    )


def _record(
    path: Path, patient: str, label: str, *, source: str, view: str, finding: str, adult: bool, mask: Path | None = None
) -> Record:
    return Record(
        path=path,
        key=path.name,
        patient=patient,
        label=label,
        source=source,
        view=view,
        finding=finding,
        adult=adult,
        mask=mask,
    )


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for p in paths if p.suffix.lower() in _IMAGE_SUFFIXES and p.is_file())


def _some(paths: list[Path], folder: Path, layout: str) -> None:
    if not paths:
        raise InputError(f"no images in {folder}: expected the published layout, {layout}")
