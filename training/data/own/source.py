"""Reading own data: the path of a folder, a table or a DICOM tree in, `OwnData` with what was understood out.

A folder is read by its folders' names, or by a table at its top; a table names files, or images of its folder by SOP Instance
UID, study or patient. DICOM headers fill in what the table does not state. A bad row or file is a fault and ends nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from cxr_edge.errors import InputError
from training.data.faults import Fault
from training.data.own.columns import Columns, recognise
from training.data.own.facts import Entry, Facts
from training.data.own.files import Finder, find_images, is_dicom, key_below
from training.data.own.folders import facts_of, folder_notes, folders_of, levels_of
from training.data.own.headers import read_header
from training.data.own.interpret import Interpreter
from training.data.own.options import Options
from training.data.own.records import OwnData
from training.data.own.tables import TABLE_SUFFIXES, join, read_table, rows_by_path

__all__ = ["read_source"]

_LEAST_PATIENT_FOLDERS = 3
_MERGEABLE = 20  # images from which one name for all of them is no patient's


@dataclass(kw_only=True)
class _Reading:
    root: str  # keys are relative to it
    folders: list[Path]  # in which files are looked for
    entries: list[Entry] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    columns: Columns | None = None


def read_source(source: Path, options: Options | None = None, *, salt: bytes | None = None) -> OwnData:
    """Read a folder or a table of own images.

    options: what the source does not state. salt: of the pseudonyms (`identities.run_salt`); None for one of this process.
    Raises InputError if there is no such source, or its columns are ambiguous; files and rows that cannot be used are faults.
    """
    options = options or Options()
    if not source.exists():
        raise InputError(
            f"{source} does not exist: give a folder of images, or a table (CSV or Parquet) that names them"
        )
    reading = (
        _read_folder(source, options) if source.is_dir() else _read_with_table(source, _root(source, options), options)
    )
    if not reading.entries and not reading.faults:
        raise InputError(
            f"{source} holds no image: expected FOLDER/LABEL/IMAGE, a table beside the images, or DICOM files; ignored: "
            f"{', '.join(f'{n} {reason}' for reason, n in reading.ignored.items()) or 'nothing'}"
        )
    _set_patients(reading, options)
    return _interpreted(source, reading, options, salt)


def _root(table: Path, options: Options) -> Path:
    return Path(os.path.abspath(options.root or table.parent))


def _read_folder(folder: Path, options: Options) -> _Reading:
    root = Path(os.path.abspath(folder))
    if options.table is not None:
        return _read_with_table(options.table, root, options)
    tables = [] if options.layout else _tables_in(root)
    if len(tables) != 1:
        reading = _read_tree(root, options, labels=True)
        if tables:
            reading.notes.append(f"{len(tables)} tables beside the images are not read; to read one: --table NAME")
        return reading
    try:
        return _read_with_table(tables[0], root, options)
    except InputError as error:
        raise InputError(
            f"{error}. To read the folders without the table, give --layout, such as label/patient"
        ) from None


def _tables_in(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in TABLE_SUFFIXES and not p.name.startswith("."))
    return [p for p in paths if p.is_file()]


def _read_tree(root: Path, options: Options, *, labels: bool) -> _Reading:
    """Read the images below a folder. labels: folders name labels."""
    images = find_images(root)
    reading = _Reading(root=str(root), folders=[root], faults=images.faults, ignored=images.ignored)
    reading.entries = [Entry(path=path, where=path, facts=Facts()) for path in images.paths]
    _fill_from_headers(reading)
    keys = [key_below(e.path, reading.root) for e in reading.entries]
    levels = levels_of(keys, options.levels) if labels or options.levels else ()
    if levels and not options.levels and _are_patients(reading.entries, keys):
        reading.notes.append("each of the folders is one patient's, so they name no labels (else: --layout label)")
        levels = ()
    if levels:
        reading.notes += folder_notes(keys, levels)
    entries = zip(reading.entries, keys, strict=True)
    reading.entries = [_with_folders(e, facts_of(k, levels), stated=bool(options.levels)) for e, k in entries]
    return reading


def _with_folders(entry: Entry, folders: Facts, *, stated: bool) -> Entry:
    """Return an entry with the facts of its folders; those that the user stated have precedence over the header's."""
    return replace(entry, facts=folders.filled(entry.facts) if stated else entry.facts.filled(folders))


def _are_patients(entries: Sequence[Entry], keys: Sequence[str]) -> bool:
    """Return whether each first folder holds the images of one patient, by the headers, and each patient is in one folder."""
    pairs = {
        (folders[0] if (folders := folders_of(k)) else "", e.facts.patient) for e, k in zip(entries, keys, strict=True)
    }
    first, patients = {folder for folder, _ in pairs}, {patient for _, patient in pairs}
    one_to_one = len(pairs) == len(first) == len(patients) >= _LEAST_PATIENT_FOLDERS
    return one_to_one and "" not in patients and "" not in first


def _read_with_table(table: Path, root: Path, options: Options) -> _Reading:
    """Read the images that a table names. root: folder of the images."""
    sheet = read_table(table)
    try:
        columns = recognise(sheet, options)
    except InputError as error:
        raise InputError(f"{table}: {error}") from None
    if "path" not in columns.roles:
        reading = _read_tree(root, options, labels=not columns.has_labels)
        joined = join(reading.entries, sheet, columns, table)
    else:
        finder = Finder(list(dict.fromkeys((Path(os.path.abspath(table)).parent, root))))
        joined = rows_by_path(sheet, columns, table, finder)
        reading = _Reading(root=str(root), folders=[table.parent, root])
    reading.entries, reading.columns = joined.entries, columns
    reading.faults += joined.faults
    reading.ignored.update(joined.ignored)
    reading.notes += [f"table {table.name}: {len(sheet.rows)} rows", *columns.described(), *joined.notes]
    if "path" in columns.roles:
        _fill_from_headers(reading)
        _fill_from_folders(reading, columns, options)
    return reading


def _fill_from_folders(reading: _Reading, columns: Columns, options: Options) -> None:
    """Give images what their folders state: where the table has no labels, or the user names the levels."""
    if columns.has_labels and not options.levels:
        return
    keys = [key_below(e.path, reading.root) for e in reading.entries]
    levels = levels_of(keys, options.levels)
    reading.notes += folder_notes(keys, levels)
    entries = zip(reading.entries, keys, strict=True)
    reading.entries = [replace(e, facts=e.facts.filled(facts_of(k, levels))) for e, k in entries]


def _fill_from_headers(reading: _Reading) -> None:
    """Give DICOM files what their headers state and nothing else does; leave out those that are no radiographs."""
    dicom = {entry.path for entry in reading.entries if is_dicom(entry.path)}
    if not dicom:
        return
    kept, patients = [], defaultdict(set)
    for entry in tqdm(reading.entries, "headers", leave=False, disable=not sys.stderr.isatty()):
        if entry.path not in dicom:
            kept.append(entry)
            continue
        try:
            header = read_header(Path(entry.path))
        except InputError as error:
            reading.faults.append(Fault(where=entry.path, reason=str(error)))
            continue
        if header.unsuitable:
            reading.ignored[header.unsuitable] += 1
            continue
        if entry.facts.patient and header.facts.patient:
            patients[header.facts.patient].add(entry.facts.patient)
        kept.append(replace(entry, facts=entry.facts.filled(header.facts)))
    reading.entries = kept
    reading.notes.append(f"{len(dicom)} DICOM files; what is not stated otherwise is from their headers")
    if several := sum(len(names) > 1 for names in patients.values()):
        reading.notes.append(f"WARNING: {several} patients of DICOM headers have several names in the table")


def _set_patients(reading: _Reading, options: Options) -> None:
    """Apply the user's pattern; take away a name that all images have."""
    if options.patient_pattern:
        pattern = re.compile(options.patient_pattern)
        reading.entries = [_with_pattern(entry, pattern, reading.root) for entry in reading.entries]
    names = {entry.facts.patient for entry in reading.entries}
    if len(reading.entries) >= _MERGEABLE and len(names) == 1 and names != {""}:
        reading.notes.append(f"all {len(reading.entries)} images have the same patient's name, so it names nobody")
        reading.entries = [replace(e, facts=replace(e.facts, patient="")) for e in reading.entries]


def _with_pattern(entry: Entry, pattern: re.Pattern[str], root: str) -> Entry:
    match = pattern.search(key_below(entry.path, root))
    name = "" if match is None else next(filter(None, match.groups()), match[0])
    return replace(entry, facts=replace(entry.facts, patient=name))


def _interpreted(source: Path, reading: _Reading, options: Options, salt: bytes | None) -> OwnData:
    interpreter = Interpreter(reading.entries, reading.columns, Finder(reading.folders), options, salt)
    records = interpreter.records(reading.root)
    return OwnData(
        source=source,
        records=records,
        findings=interpreter.findings,
        exclusive=all(len(r.present) == 1 for r in records if r.is_labelled),
        faults=tuple(reading.faults),
        doubts=tuple(interpreter.doubts),
        understood=tuple(_once([*reading.notes, *interpreter.notes])),
        ignored=dict(sorted(reading.ignored.items())),
    )


def _once(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))
