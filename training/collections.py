"""Readers of the published chest X-ray collections: a folder in its published layout in, a table of records out.

Each reader knows one layout and nothing else; `gather` puts them together. A patient is named `source/number`, so that
two collections never share one by accident. What a record says comes from file names, tables and DICOM headers: no
pixels are read here.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxr_edge.errors import InputError
from training.published_tables import find_table, read_rows

__all__ = [
    "DEFAULT_COLLECTIONS",
    "FINDINGS",
    "FOLDERS",
    "FRONTAL_VIEWS",
    "LABELS",
    "Record",
    "collections_of",
    "covid_collection",
    "gather",
    "kermany",
    "label_of_finding",
    "rsna",
    "tuberculosis_sets",
    "twitter",
]

# Name of a collection -> its folder below the data folder.
FOLDERS: Mapping[str, str] = {
    "kcx": "chest_xray",
    "ccx": "covid-chestxray-dataset",
    "twitter": "twitter-covid",
    "tuberculosis": "lung-masks",
    "rsna": "rsna",
}
# RSNA is larger than the others together and asked for by name: R20 trains its first stage on it alone.
DEFAULT_COLLECTIONS = ("kcx", "ccx", "twitter", "tuberculosis")

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

# `pneumonia`: of a type nobody told (R20's UP), where a collection says no more than opacities like it.
LABELS = frozenset({*FINDINGS.values(), "pneumonia"})

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".webp", ".dcm"})


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a collection.

    key: its path relative to the data folder, with forward slashes: the name in tables and caches. patient: unique over
    all collections, as far as the collection tells. label: one of LABELS; other is abnormal of a cause that no class holds.
    finding, view, modality: as the collection words them. adult: whether the collection, or a header's age, says adult.
    mask: its lung mask, or None.
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
    modality: str = "X-ray"

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise ValueError(f"unknown label {self.label!r} for {self.key}")


def gather(
    data: Path,
    *,
    collections: Sequence[str] | None = None,
    views: Collection[str] | None = None,
    modalities: Collection[str] = ("X-ray",),
    require_all: bool = True,
) -> list[Record]:
    """The records of the collections below `data`, sorted by key.

    collections: names from FOLDERS; default: DEFAULT_COLLECTIONS. views, modalities: those to keep, as the collections
    word them; default: FRONTAL_VIEWS of ccx and all that the others hold ("unknown" of twitter), and X-rays only.
    require_all: False takes those of the named collections whose folder is there. Raises InputError if a collection is
    missing or not laid out as published, or if nothing is left.
    """
    if not data.is_dir():
        raise InputError(f"the data folder {data} does not exist: give it with --data or in CXR_EDGE_DATA")
    names = _present(data, DEFAULT_COLLECTIONS if collections is None else collections, require_all)
    records = [r for name in names for r in _read(name, data, views, modalities)]
    kept = [r for r in records if (views is None or r.view in views) and r.modality in modalities]
    if not kept:
        raise InputError(f"no image in {', '.join(names)} has a view of {views} and a modality of {modalities}")
    keyed = [replace(r, key=r.path.relative_to(data).as_posix()) for r in kept]
    return sorted(keyed, key=lambda r: r.key)


def _present(data: Path, names: Sequence[str], require_all: bool) -> list[str]:
    if unknown := sorted(set(names) - set(FOLDERS)):
        raise InputError(f"there is no collection {', '.join(unknown)}: known are {', '.join(FOLDERS)}")
    if not names:
        raise InputError(f"no collection was named: give some of {', '.join(FOLDERS)}")
    missing = [name for name in names if not (data / FOLDERS[name]).is_dir()]
    if missing and (require_all or len(missing) == len(names)):
        wanted = ", ".join(f"{name} in {data / FOLDERS[name]}" for name in missing)
        raise InputError(
            f"collections are missing, expected {wanted}: put them there, or name only those you have, as in "
            "collections=('kcx', 'ccx')"
        )
    return [name for name in dict.fromkeys(names) if name not in missing]


def _read(name: str, data: Path, views: Collection[str] | None, modalities: Collection[str]) -> list[Record]:
    folder = data / FOLDERS[name]
    if name == "ccx":
        masks = data / FOLDERS["tuberculosis"] / "covid-chestxray-masks"
        return covid_collection(
            folder, masks=masks, views=FRONTAL_VIEWS if views is None else views, modalities=modalities
        )
    readers = {"kcx": kermany, "twitter": twitter, "tuberculosis": tuberculosis_sets, "rsna": rsna}
    return readers[name](folder)


def collections_of(sources: Iterable[str]) -> tuple[str, ...]:
    """The names of the collections that records of these sources come from, in the order of FOLDERS."""
    named = {"tuberculosis" if s in ("shenzhen", "montgomery") else s for s in sources}
    return tuple(name for name in FOLDERS if name in named)


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


def covid_collection(
    folder: Path,
    *,
    masks: Path | None = None,
    views: Collection[str] = FRONTAL_VIEWS,
    modalities: Collection[str] = ("X-ray",),
) -> list[Record]:
    """The COVID-19 image collection (CCX): metadata.csv, old or new, + the folders that it names (images/, volumes/).

    masks: folder of lung masks named as the images; images without one stay in the table. Rows of other views or
    modalities (lateral, CT), and rows whose image is not there, are left out. Raises InputError for another layout.
    """
    table = folder / "metadata.csv"
    if not table.is_file():
        raise InputError(f"{folder} holds no metadata.csv: expected the layout of the public COVID-19 image collection")
    rows = read_rows(table, {"patientid", "finding", "view", "modality", "filename"})
    wanted = [r for r in rows if r["modality"].strip() in modalities and r["view"].strip() in views]
    records = dict.fromkeys(_covid_record(folder, row, masks) for row in wanted)
    present = [r for r in records if r.path.is_file()]
    for path, count in Counter(r.path for r in present).items():
        if count > 1:
            raise InputError(
                f"{table} names {path} {count} times and says different things of it: keep one of its rows"
            )
    _some([r.path for r in present], folder, f"images/ with the files that metadata.csv names, of views {tuple(views)}")
    return present


def _covid_record(folder: Path, row: dict[str, str], masks: Path | None) -> Record:
    path = folder / (row.get("folder") or "images") / row["filename"]
    # Spreadsheets turn a column of numbers into 97.0; later tables also hold numbers such as 324a.
    patient = row["patientid"].strip().removesuffix(".0")
    if not patient:
        raise InputError(
            f"{folder / 'metadata.csv'}: {row['filename']} has no patientid: give every image its patient's"
        )
    mask = None if masks is None else masks / f"{path.stem}.png"
    record = _record(
        path,
        f"ccx/{patient}",
        label_of_finding(row["finding"]),
        source="ccx",
        view=row["view"].strip(),
        finding=row["finding"],
        adult=True,
        mask=mask if mask is not None and mask.is_file() else None,
    )
    return replace(record, modality=row["modality"].strip())


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


_RSNA_CLASSES = {"Normal": "normal", "Lung Opacity": "pneumonia", "No Lung Opacity / Not Normal": "other"}


def rsna(folder: Path, *, not_normal: bool = False) -> list[Record]:
    """The RSNA pneumonia challenge: stage_2_train_images/PATIENT.dcm, and the tables of labels and of detailed classes.

    Normal is normal, Lung Opacity is pneumonia (of unknown type). not_normal: also take "No Lung Opacity / Not Normal",
    as other; R20's 6012 + 6012 images are normal and opacities only. Tables may be .csv, .csv.gz or .csv.zip, with or
    without `kaggle_` before the name. View and age come from stage_2_train_images_dicom_headers where there is one, else
    from the files' headers; an age below 18 years is no adult. Raises InputError for another layout, for an image
    without a row, and where the two tables disagree.
    """
    paths = _images(folder.glob("stage_2_train_images/*.dcm"))
    labels = _rsna_table(folder, "stage_2_train_labels", {"patientId", "Target"})
    details = _rsna_table(folder, "stage_2_detailed_class_info", {"patientId", "class"})
    _some(paths, folder, "stage_2_train_images/*.dcm beside the tables")
    targets = {r["patientId"]: r["Target"].strip() for r in labels}
    classes = {r["patientId"]: r["class"].strip() for r in details}
    found = {p: _rsna_class(p, targets, classes) for p in paths}
    kept = [p for p in paths if not_normal or _RSNA_CLASSES[found[p]] != "other"]
    headers = _rsna_headers(folder)
    return [_rsna_record(p, found[p], headers.get(p.stem)) for p in kept]


def _rsna_table(folder: Path, name: str, columns: set[str]) -> list[dict[str, str]]:
    table = find_table(folder, name)
    if table is None:
        raise InputError(
            f"{folder} holds no {name}.csv (or .csv.gz, .csv.zip): expected the RSNA pneumonia challenge with "
            "stage_2_train_images/, stage_2_train_labels.csv and stage_2_detailed_class_info.csv, which alone tells "
            "normal from abnormal without opacity"
        )
    return read_rows(table, columns)


def _rsna_class(path: Path, targets: Mapping[str, str], classes: Mapping[str, str]) -> str:
    for name, table in (("stage_2_train_labels", targets), ("stage_2_detailed_class_info", classes)):
        if path.stem not in table:
            raise InputError(f"{path} has no row in {name}: expected its name as patientId; take the tables of stage 2")
    found, target = classes[path.stem], targets[path.stem]
    if found not in _RSNA_CLASSES:
        raise InputError(f"{path} is of class {found!r}: expected one of {', '.join(_RSNA_CLASSES)}")
    if (found == "Lung Opacity") != (target == "1"):
        raise InputError(f"{path} is of class {found!r} and Target {target}: the tables are not of the same stage")
    return found


def _rsna_headers(folder: Path) -> dict[str, tuple[str, str]]:
    """Patient -> view and age, from the table of DICOM headers; empty without one."""
    table = find_table(folder, "stage_2_train_images_dicom_headers")
    if table is None:
        return {}
    rows = read_rows(table, {"PatientID", "ViewPosition", "PatientAge"})
    return {r["PatientID"]: (r["ViewPosition"], r["PatientAge"]) for r in rows}


def _rsna_record(path: Path, found: str, header: tuple[str, str] | None) -> Record:
    view, age = _dicom_view_and_age(path) if header is None else header
    years = _years(age)
    return _record(
        path,
        f"rsna/{path.stem}",
        _RSNA_CLASSES[found],
        source="rsna",
        view=view.strip() or "unknown",
        finding=found,
        adult=years is None or years >= 18,
    )


def _dicom_view_and_age(path: Path) -> tuple[str, str]:
    import pydicom  # a third of a second, and only RSNA without its table of headers needs it

    try:
        with warnings.catch_warnings():  # RSNA writes ages as bare numbers: one warning a file
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["ViewPosition", "PatientAge"])
            return str(header.get("ViewPosition") or ""), str(header.get("PatientAge") or "")
    except Exception:  # pydicom raises a dozen types on damaged files, and its messages quote values
        raise InputError(f"{path}: the DICOM header cannot be read: copy or download the file again") from None


def _years(age: str) -> float | None:
    """Years of a DICOM age (018M, 043Y; PS3.5 6.2) or of a bare number of years, as RSNA's; None if there is none."""
    m = re.fullmatch(r"(\d+(?:\.\d+)?)([DWMY]?)", age.strip())
    return None if m is None else float(m[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1, "": 1}[m[2]]


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
