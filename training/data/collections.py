"""Registry of the published chest X-ray collections: a data folder in the published layouts in, a table of records out.

Each reader (`training.data.readers`) knows one layout and nothing else; `read_collections` combines them and counts the
images that it drops. A patient is named `source/number`, so that two collections never share one by accident; where one
collection has images of another, its patients have the names of that one. Records come from file names, tables and DICOM
headers: no pixels are read here.

To add a collection, write a reader file and add a row to COLLECTIONS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.faults import each, refuse
from training.data.own.collection import read_own
from training.data.readers.adults import read_adults
from training.data.readers.covid import read_covid
from training.data.readers.kermany import read_kermany
from training.data.readers.nih import read_nih
from training.data.readers.rsna import read_rsna
from training.data.readers.siim import read_siim
from training.data.readers.tuberculosis import read_tuberculosis
from training.data.readers.twitter import read_twitter
from training.data.records import CollectedRecords, Selection

__all__ = [
    "COLLECTIONS",
    "DEFAULT_COLLECTIONS",
    "OWN",
    "Collection",
    "collect",
    "collection_names",
    "read_collections",
    "source_descriptions",
    "source_limits",
]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """One published collection."""

    name: str  # in configurations
    folder: str  # below the data folder
    read: Callable[[Path, Selection | None], CollectedRecords]  # folder and selection -> records
    sources: Mapping[
        str, str
    ]  # `Record.source` -> description for the model card, with terms where the publisher states them
    # Source -> limits of what its images teach, for the model card; a sentence or two.
    limits: Mapping[str, str] = field(default_factory=dict)
    is_default: bool = True  # read if a run names no collections


COLLECTIONS: Mapping[str, Collection] = {
    c.name: c
    for c in (
        Collection(
            name="kcx",
            folder="chest_xray",
            read=read_kermany,
            sources={
                "kcx": "Kermany et al., paediatric chest X-rays (Guangzhou), normal, bacterial, viral; children of 1 to 5 "
                "years"
            },
            limits={
                "kcx": "All images of kcx are children of one hospital: a label with images mostly from kcx may be predicted by "
                "age and hospital. Bacterial and viral pneumonia look alike; their labels in kcx rest on clinical findings."
            },
        ),
        Collection(
            name="ccx",
            folder="covid-chestxray-dataset",
            read=read_covid,
            sources={
                "ccx": "COVID-19 image data collection (Cohen et al., 2020), frontal X-rays only; adults, many hospitals"
            },
        ),
        Collection(
            name="twitter",
            folder="twitter-covid",
            read=read_twitter,
            sources={
                "twitter": "COVID-19 X-rays gathered from Twitter (a Spanish hospital's thread); adults, no patient data"
            },
        ),
        Collection(
            name="tuberculosis",
            folder="lung-masks",
            read=read_tuberculosis,
            sources={
                "shenzhen": "Shenzhen tuberculosis set (CHNCXR), normal and tuberculosis; adults; with lung masks",
                "montgomery": "Montgomery County tuberculosis set (MCUCXR), normal and tuberculosis; adults; with lung masks",
            },
        ),
        Collection(
            name="rsna",
            folder="rsna",
            read=read_rsna,
            sources={
                "rsna": "RSNA Pneumonia Detection Challenge (2018), normal and lung opacity; AP and PA views, all ages"
            },
            is_default=False,  # larger than the others together: R20 trains its first stage on it only
        ),
        Collection(
            name="adults",
            folder="adults",
            read=read_adults,
            sources={
                "siim": "SIIM-FISABIO-RSNA COVID-19 challenge, 256 px: negative, typical and atypical appearance by a panel "
                "of radiologists; a pool of about eleven hospitals of the Valencian region and several of North America and "
                "Turkey",
                "nih": "NIH ChestX-ray14, adults of a sample at 400 px: no finding and pneumonia, the same number of AP and PA "
                "in both; labels mined from reports; free to use with a link, a citation and thanks to the NIH Clinical "
                "Center",
                "armiro": "COVID-CXNet: COVID-19 from posts and case reports of 22 countries, RT-PCR as the poster states",
                "ccx-june": "COVID-19 image data collection, images of June 2020 that April 2020 did not have: mostly "
                "COVID-19, as published in case reports",
                "tbx11k": "TBX11K, hospitals in China: active tuberculosis with boxes by radiologists",
            },
            limits={
                "siim": "Normal in siim is negative for pneumonia: scars, effusions and devices may be there, and a test for "
                "COVID-19 may have been positive. COVID-19 in siim is a typical appearance without a test, pneumonia an "
                "atypical one, which may be COVID-19. The hospital of an image is not known; adults by appearance only.",
                "nih": "Labels of nih are mined from reports and wrong both ways.",
                "armiro": "Nearly all images of armiro and ccx-june are COVID-19, and publication figures of natural shape, "
                "often sharpened and with letters, where other sources are square: shape and sharpness alone tell the label.",
                "ccx-june": "Normal images of ccx-june are mostly follow-ups of COVID-19 patients.",
                "tbx11k": "All images of tbx11k are tuberculosis; adults by appearance only.",
            },
            is_default=False,  # the published runs are without
        ),
        Collection(
            name="nih-chestxray14",
            folder="nih-chestxray14",
            read=read_nih,
            sources={
                "nih-chestxray14": "NIH ChestX-ray14 (Wang et al., 2017), 112,120 images of one US hospital: no finding, "
                "pneumonia and thirteen other findings, labels mined from reports; AP and PA views, all ages; free to use "
                "with a link, a citation and thanks to the NIH Clinical Center"
            },
            limits={
                "nih-chestxray14": "Labels of nih-chestxray14 are mined from reports and wrong both ways; one hospital. rsna "
                "is a part of it with other names of patients."
            },
            is_default=False,
        ),
        Collection(
            name="siim-covid19",
            folder="siim-covid19",
            read=read_siim,
            sources={
                "siim-covid19": "SIIM-FISABIO-RSNA COVID-19 challenge (2021): negative, typical and atypical appearance by a "
                "panel of radiologists; hospitals of the Valencian region, North America and Turkey; terms of the challenge"
            },
            limits={
                "siim-covid19": "Normal in siim-covid19 is negative for pneumonia: another finding may be there, and a test "
                "for COVID-19 may have been positive. COVID-19 is a typical appearance without a test; pneumonia is an "
                "atypical one, which may be COVID-19."
            },
            is_default=False,
        ),
    )
}

OWN = "own"  # own data in a run folder (`training.data.own`), a collection whose labels and sources are the user's

_READABLE: Mapping[str, Collection] = {
    **COLLECTIONS,
    OWN: Collection(name=OWN, folder="own", read=read_own, sources={}, is_default=False),
}

DEFAULT_COLLECTIONS = tuple(c.name for c in COLLECTIONS.values() if c.is_default)


def read_collections(
    data: Path,
    selection: Selection | None = None,
    *,
    collections: Sequence[str] = DEFAULT_COLLECTIONS,
    require_all: bool = True,
) -> CollectedRecords:
    """Read collections below `data`: records sorted by key, and counts of what was dropped.

    selection: of images; None for frontal X-rays.
    collections: names from COLLECTIONS, or OWN, whose records keep their keys.
    require_all: False reads those of the named collections that are present.

    Raises InputError if a collection is missing or not in its published layout, has files or rows that cannot be used (all are
    named), or if no record is left.
    """
    collected = collect(data, selection, collections=collections, require_all=require_all)
    refuse(collected.faults)
    return collected


def collect(
    data: Path,
    selection: Selection | None = None,
    *,
    collections: Sequence[str] = DEFAULT_COLLECTIONS,
    require_all: bool = True,
) -> CollectedRecords:
    """Return what `read_collections` does, with the faults of all collections instead of an error for them."""
    if not data.is_dir():
        raise InputError(f"the data folder {data} does not exist: give it with --data or in CXR_EDGE_DATA")
    selection = selection or Selection()
    names = _present(data, collections, require_all)
    read, failed = each(names, lambda name: (name, _READABLE[name].read(_folder(data, name), selection)), lambda _: "")
    faults, records, dropped = [*failed], [], Counter[str]()
    for name, collected in read:
        faults += collected.faults
        dropped += Counter(collected.dropped)
        for r in collected.records:
            reason = selection.exclusion(r)
            if reason is None:
                records.append(r if name == OWN else replace(r, key=r.path.relative_to(data).as_posix()))
            else:
                dropped[f"{r.source}: {reason}"] += 1
    if not records and not faults:
        raise InputError(
            f"no image in {', '.join(names)} has a view of {selection.views} and a modality of {selection.modalities}"
        )
    return CollectedRecords(
        records=sorted(records, key=lambda r: r.key), dropped=dict(sorted(dropped.items())), faults=faults
    )


def _folder(data: Path, name: str) -> Path:
    return data / _READABLE[name].folder


def _present(data: Path, names: Sequence[str], require_all: bool) -> list[str]:
    """Return the names whose folder exists, each once."""
    if unknown := sorted(set(names) - set(_READABLE)):
        raise InputError(f"there is no collection {', '.join(unknown)}: known are {', '.join(_READABLE)}")
    if not names:
        raise InputError(f"no collection was named: give some of {', '.join(COLLECTIONS)}")
    missing = [name for name in names if not _folder(data, name).is_dir()]
    if missing and (require_all or len(missing) == len(names)):
        expected = ", ".join(f"{name} in {_folder(data, name)}" for name in missing)
        raise InputError(
            f"collections are missing, expected {expected}: put them there, or name only those you have, as in "
            "collections=('kcx', 'ccx')"
        )
    return [name for name in dict.fromkeys(names) if name not in missing]


def collection_names(sources: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the collections that records of these sources belong to, in the order of COLLECTIONS."""
    present = set(sources)
    return tuple(c.name for c in COLLECTIONS.values() if not present.isdisjoint(c.sources))


def source_descriptions() -> dict[str, str]:
    """Return source -> description of all collections, for the model card."""
    return {source: text for c in COLLECTIONS.values() for source, text in c.sources.items()}


def source_limits() -> dict[str, str]:
    """Return source -> its limits, for the model card; without sources that have none."""
    return {source: text for c in COLLECTIONS.values() for source, text in c.limits.items()}
