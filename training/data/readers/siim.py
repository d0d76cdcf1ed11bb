"""Reader of the SIIM-FISABIO-RSNA COVID-19 challenge: tables of studies and images, and DICOM files or resized images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.csv_tables import find_table, read_rows
from training.data.demographics import is_adult, stated_age, stated_sex
from training.data.faults import Fault, each, one_value
from training.data.findings import UNKNOWN_VIEW
from training.data.readers.dicom_headers import Header, read_header
from training.data.records import CollectedRecords, Record, Selection, image_paths, make_record, require_images

__all__ = ["read_siim"]

_NAME = "siim-covid19"
_INDETERMINATE = "Indeterminate Appearance"
_APPEARANCES = {
    "Negative for Pneumonia": "normal",  # may have another finding
    "Typical Appearance": "covid-19",
    _INDETERMINATE: "other",
    "Atypical Appearance": "pneumonia",
}


@dataclass(frozen=True, kw_only=True)
class _Image:
    path: Path
    study: str
    appearance: str


def read_siim(folder: Path, selection: Selection | None = None, *, indeterminate: bool = False) -> CollectedRecords:
    """Read train_study_level.csv, train_image_level.csv and train/STUDY/SERIES/IMAGE.dcm, or train/IMAGE.png or .jpg.

    Negative is normal, typical is COVID-19, atypical is pneumonia. A patient is that of the DICOM header, else the study. Images
    of the table that are not there are dropped and counted. A study without exactly one appearance, an image without a row and an
    image in two files are faults. Raises InputError for another layout.

    indeterminate: also read indeterminate appearance, as `other`; by default it is dropped and counted, as it may be either.
    """
    paths = image_paths([*folder.glob("train/*"), *folder.glob("train/*/*/*")])
    appearances, faults = _appearances(_read_table(folder, "train_study_level", {*_APPEARANCES, "id"}))
    studies, contradicting = _studies(_read_table(folder, "train_image_level", {"id", "StudyInstanceUID"}))
    require_images(paths, folder, "train/STUDY/SERIES/IMAGE.dcm, or train/IMAGE.png, beside the tables")
    files, repeated = _files(paths)
    images, unknown = each(files.values(), lambda path: _image(path, studies, appearances))
    known = [image for image in images if image.appearance]
    selected = [image for image in known if indeterminate or image.appearance != _INDETERMINATE]
    records, unreadable = each(selected, _record, lambda image: image.path)
    dropped = {
        f"{_NAME}: {_INDETERMINATE}": len(known) - len(selected),
        f"{_NAME}: file not there": len(studies.keys() - files.keys()),
    }
    faults += [*contradicting, *repeated, *unknown, *unreadable]
    return CollectedRecords(records=records, dropped=Counter({k: n for k, n in dropped.items() if n}), faults=faults)


def _read_table(folder: Path, name: str, columns: set[str]) -> list[dict[str, str]]:
    table = find_table(folder, name)
    if table is None:
        raise InputError(
            f"{folder} holds no {name}.csv: expected the SIIM-FISABIO-RSNA COVID-19 challenge with train_study_level.csv, "
            "train_image_level.csv and train/"
        )
    return read_rows(table, columns)


def _appearances(rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], list[Fault]]:
    """Return study -> appearance, empty for a study with a fault, and the faults: a study has one appearance, in all its rows."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        stated = [name for name in _APPEARANCES if row[name].strip() in ("1", "1.0")]
        found[row["id"].strip().removesuffix("_study")] += stated or [""]
    single = {study: stated[0] if len(set(stated)) == 1 else "" for study, stated in found.items()}
    wrong = {study: " and ".join(filter(None, dict.fromkeys(found[study]))) for study, one in single.items() if not one}
    faults = [
        Fault(
            where=f"train_study_level, {study}",
            reason=f"{stated or 'no appearance'}: a study has one appearance, set to 1",
        )
        for study, stated in wrong.items()
    ]
    return single, faults


def _studies(rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], list[Fault]]:
    """Return image -> study, and a fault for each image with several studies."""
    return one_value(
        ((row["id"].strip().removesuffix("_image"), row["StudyInstanceUID"].strip()) for row in rows),
        lambda image, studies: Fault(
            where=f"train_image_level, {image}", reason=f"it is of {len(studies)} studies: keep the row of one of them"
        ),
    )


def _files(paths: Sequence[Path]) -> tuple[dict[str, Path], list[Fault]]:
    """Return image -> file, and a fault for each further file of an image: a resized one beside its DICOM file."""
    files: dict[str, Path] = {}
    further = [path for path in paths if files.setdefault(path.stem, path) != path]
    return files, [
        Fault(where=str(path), reason="an image has two files, such as .dcm and .png: keep one of them")
        for path in further
    ]


def _image(path: Path, studies: Mapping[str, str], appearances: Mapping[str, str]) -> _Image:
    """Return the image of a file; without an appearance if its study has a fault."""
    if path.stem not in studies:
        raise InputError(
            "it has no row in train_image_level: expected its name with _image as id; take the challenge's table"
        )
    study = studies[path.stem]
    if study not in appearances:
        raise InputError(f"its study {study} has no row in train_study_level: take the challenge's table")
    if path.parent.name != "train" and path.parents[1].name != study:
        raise InputError(
            f"it is in the folder of study {path.parents[1].name}, of {study} by train_image_level: copy it again"
        )
    return _Image(path=path, study=study, appearance=appearances[study])


def _record(image: _Image) -> Record:
    header = read_header(image.path) if image.path.suffix.lower() in (".dcm", ".dicom") else Header()
    age = stated_age(header.age)
    record = make_record(
        image.path,
        f"siim/{header.patient or image.study}",
        _APPEARANCES[image.appearance],
        source=_NAME,
        view=header.view or UNKNOWN_VIEW,
        finding=image.appearance,
        adult=is_adult(age),
    )
    return replace(record, basis="radiologists' panel", age_years=age, sex=stated_sex(header.sex))
