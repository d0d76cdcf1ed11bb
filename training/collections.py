"""Readers of the published chest X-ray collections: a folder in its published layout in, a table of records out.

Each reader knows one layout and nothing else; `collect` puts them together and counts what it leaves out. A patient is
named `source/number`, so that two collections never share one by accident. What a record says comes from file names,
tables and DICOM headers: no pixels are read here.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxr_edge.errors import InputError
from training.findings import FRONTAL_VIEWS, LABELS, FindingTable, label_of_finding, projection
from training.published_tables import find_table, read_rows

__all__ = [
    "DEFAULT_COLLECTIONS",
    "FOLDERS",
    "Collected",
    "Record",
    "collect",
    "collections_of",
    "covid_collection",
    "gather",
    "kermany",
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


@dataclass(frozen=True, kw_only=True)
class Collected:
    """records: sorted by key. dropped: reason, such as `ccx: view L` -> images that a collection lists and no record has."""

    records: list[Record]
    dropped: Mapping[str, int]


def gather(
    data: Path,
    *,
    collections: Sequence[str] | None = None,
    views: Collection[str] | None = None,
    modalities: Collection[str] = ("X-ray",),
    findings: FindingTable = "full",
    require_all: bool = True,
) -> list[Record]:
    """The records of `collect`, which takes the same arguments."""
    return collect(
        data,
        collections=collections,
        views=views,
        modalities=modalities,
        findings=findings,
        require_all=require_all,
    ).records


def collect(
    data: Path,
    *,
    collections: Sequence[str] | None = None,
    views: Collection[str] | None = None,
    modalities: Collection[str] = ("X-ray",),
    findings: FindingTable = "full",
    require_all: bool = True,
) -> Collected:
    """The records of the collections below `data`, and what was left out.

    collections: names from FOLDERS; default: DEFAULT_COLLECTIONS. views, modalities: those to take, as the collections
    word them, or a projection, which takes all its views (`AP`: also `AP Supine`); default: FRONTAL_VIEWS of ccx and all
    that the others hold ("unknown" of twitter), and X-rays only. findings: which table gives CCX's labels, FINDINGS
    (`full`) or FLANNEL_FINDINGS. require_all: False takes those of the named collections whose folder is there. Raises
    InputError if a collection is missing or not laid out as published, or if nothing is left.
    """
    if not data.is_dir():
        raise InputError(f"the data folder {data} does not exist: give it with --data or in CXR_EDGE_DATA")
    names = _present(data, DEFAULT_COLLECTIONS if collections is None else collections, require_all)
    records, dropped = [], Counter[str]()
    for name in names:
        read, left_out = _read(name, data, views, modalities, findings)
        dropped += left_out
        for r in read:
            reason = _left_out(r.view, r.modality, views, modalities)
            if reason is None:
                records.append(replace(r, key=r.path.relative_to(data).as_posix()))
            else:
                dropped[f"{r.source}: {reason}"] += 1
    if not records:
        raise InputError(f"no image in {', '.join(names)} has a view of {views} and a modality of {modalities}")
    return Collected(records=sorted(records, key=lambda r: r.key), dropped=dict(sorted(dropped.items())))


def _left_out(view: str, modality: str, views: Collection[str] | None, modalities: Collection[str]) -> str | None:
    """Why an image is not taken: its modality or its view; None if it is."""
    if modality not in modalities:
        return f"modality {modality or 'not stated'}"
    if views is None or view in views or projection(view) in views:
        return None
    return f"view {view or 'not stated'}"


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


def _read(
    name: str, data: Path, views: Collection[str] | None, modalities: Collection[str], findings: FindingTable
) -> tuple[list[Record], Counter[str]]:
    folder = data / FOLDERS[name]
    if name == "ccx":
        masks = data / FOLDERS["tuberculosis"] / "covid-chestxray-masks"
        return _covid_collection(folder, masks, FRONTAL_VIEWS if views is None else views, modalities, findings)
    if name == "rsna":
        return _rsna(folder, not_normal=False)
    readers = {"kcx": kermany, "twitter": twitter, "tuberculosis": tuberculosis_sets}
    return readers[name](folder), Counter()


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
    findings: FindingTable = "full",
) -> list[Record]:
    """The COVID-19 image collection (CCX): metadata.csv, old or new, + the folders that it names (images/, volumes/).

    masks: folder of lung masks named as the images; images without one stay in the table. Rows of other views or
    modalities (lateral, CT), and rows whose image is not there, are left out. findings: as `collect` takes it. Raises
    InputError for another layout.
    """
    return _covid_collection(folder, masks, views, modalities, findings)[0]


def _covid_collection(
    folder: Path,
    masks: Path | None,
    views: Collection[str],
    modalities: Collection[str],
    findings: FindingTable,
) -> tuple[list[Record], Counter[str]]:
    table = folder / "metadata.csv"
    if not table.is_file():
        raise InputError(f"{folder} holds no metadata.csv: expected the layout of the public COVID-19 image collection")
    rows = read_rows(table, {"patientid", "finding", "view", "modality", "filename"})
    reasons = [_left_out(r["view"].strip(), r["modality"].strip(), views, modalities) for r in rows]
    dropped = Counter(f"ccx: {reason}" for reason in reasons if reason is not None)
    taken = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    records = dict.fromkeys(_covid_record(folder, row, masks, findings) for row in taken)
    present = [r for r in records if r.path.is_file()]
    dropped += Counter(
        {"ccx: file not there": len(records) - len(present), "ccx: row twice": len(taken) - len(records)}
    )
    for path, count in Counter(r.path for r in present).items():
        if count > 1:
            raise InputError(
                f"{table} names {path} {count} times and says different things of it: keep one of its rows"
            )
    _some([r.path for r in present], folder, f"images/ with the files that metadata.csv names, of views {tuple(views)}")
    return present, dropped


def _covid_record(folder: Path, row: dict[str, str], masks: Path | None, findings: FindingTable) -> Record:
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
        label_of_finding(row["finding"], findings),
        source="ccx",
        view=row["view"].strip(),
        finding=row["finding"],
        adult=True,
        mask=mask if mask is not None and mask.is_file() else None,
    )
    return replace(record, modality=row["modality"].strip())


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


_NOT_NORMAL = "No Lung Opacity / Not Normal"
_RSNA_CLASSES = {"Normal": "normal", "Lung Opacity": "pneumonia", _NOT_NORMAL: "other"}


def rsna(folder: Path, *, not_normal: bool = False) -> list[Record]:
    """The RSNA pneumonia challenge: stage_2_train_images/PATIENT.dcm, and the tables of labels and of detailed classes.

    Normal is normal, Lung Opacity is pneumonia (of unknown type). not_normal: also take "No Lung Opacity / Not Normal",
    as other; R20's 6012 + 6012 images are normal and opacities only. Tables may be .csv, .csv.gz or .csv.zip, with or
    without `kaggle_` before the name. View and age come from stage_2_train_images_dicom_headers where there is one, else
    from the files' headers; an age below 18 years is no adult. Raises InputError for another layout, for an image
    without a row, and where the two tables disagree.
    """
    return _rsna(folder, not_normal=not_normal)[0]


def _rsna(folder: Path, *, not_normal: bool) -> tuple[list[Record], Counter[str]]:
    paths = _images(folder.glob("stage_2_train_images/*.dcm"))
    labels = _rsna_table(folder, "stage_2_train_labels", {"patientId", "Target"})
    details = _rsna_table(folder, "stage_2_detailed_class_info", {"patientId", "class"})
    _some(paths, folder, "stage_2_train_images/*.dcm beside the tables")
    targets = {r["patientId"]: r["Target"].strip() for r in labels}
    classes = {r["patientId"]: r["class"].strip() for r in details}
    found = {p: _rsna_class(p, targets, classes) for p in paths}
    taken = [p for p in paths if not_normal or _RSNA_CLASSES[found[p]] != "other"]
    headers = _rsna_headers(folder)
    dropped = Counter({f"rsna: class {_NOT_NORMAL}": len(paths) - len(taken)})
    return [_rsna_record(p, found[p], headers.get(p.stem)) for p in taken], dropped


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
