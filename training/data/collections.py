"""Readers of the published chest X-ray collections: a folder in its published layout in, a table of records out.

Each reader knows one layout and nothing else; `collect` puts them together and counts what it leaves out. A patient is
named `source/number`, so that two collections never share one by accident. What a record says comes from file names,
tables and DICOM headers: no pixels are read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.findings import FRONTAL_VIEWS, FindingTable
from training.data.readers.covid import read_covid_collection, reason_left_out
from training.data.readers.kermany import kermany
from training.data.readers.rsna import read_rsna
from training.data.readers.tuberculosis import tuberculosis_sets
from training.data.readers.twitter import twitter
from training.data.records import Record

__all__ = ["DEFAULT_COLLECTIONS", "FOLDERS", "Collected", "collect", "collections_of", "gather"]

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
            reason = reason_left_out(r.view, r.modality, views, modalities)
            if reason is None:
                records.append(replace(r, key=r.path.relative_to(data).as_posix()))
            else:
                dropped[f"{r.source}: {reason}"] += 1
    if not records:
        raise InputError(f"no image in {', '.join(names)} has a view of {views} and a modality of {modalities}")
    return Collected(records=sorted(records, key=lambda r: r.key), dropped=dict(sorted(dropped.items())))


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
        return read_covid_collection(folder, masks, FRONTAL_VIEWS if views is None else views, modalities, findings)
    if name == "rsna":
        return read_rsna(folder, not_normal=False)
    readers = {"kcx": kermany, "twitter": twitter, "tuberculosis": tuberculosis_sets}
    return readers[name](folder), Counter()


def collections_of(sources: Iterable[str]) -> tuple[str, ...]:
    """The names of the collections that records of these sources come from, in the order of FOLDERS."""
    named = {"tuberculosis" if s in ("shenzhen", "montgomery") else s for s in sources}
    return tuple(name for name in FOLDERS if name in named)
