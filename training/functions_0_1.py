"""Functions of version 0.1 whose successors take or return something else; until version 0.3 (`training.moved`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from training.data.collections import COLLECTIONS, DEFAULT_COLLECTIONS, read_collections
from training.data.findings import LABELS
from training.data.readers.covid import read_covid
from training.data.readers.kermany import read_kermany
from training.data.readers.rsna import read_rsna
from training.data.readers.tuberculosis import read_tuberculosis
from training.data.readers.twitter import read_twitter
from training.data.records import Record, Selection
from training.data.targets import Target
from training.loop import plan

__all__ = [
    "ABNORMAL",
    "FOLDERS",
    "Plan",
    "binary",
    "covid_collection",
    "gather",
    "kermany",
    "modality",
    "rsna",
    "tuberculosis_sets",
    "twitter",
]

ABNORMAL = "abnormal"
FOLDERS = {name: collection.folder for name, collection in COLLECTIONS.items()}


def gather(
    data: Path,
    *,
    collections: Sequence[str] | None = None,
    views: Collection[str] | None = None,
    modalities: Collection[str] = ("X-ray",),
    require_all: bool = True,
) -> list[Record]:
    """Return the records of `read_collections`."""
    selection = Selection(views=views, modalities=modalities)
    names = DEFAULT_COLLECTIONS if collections is None else tuple(collections)
    return read_collections(data, selection, collections=names, require_all=require_all).records


def kermany(folder: Path) -> list[Record]:
    """Return the records of `read_kermany`."""
    return read_kermany(folder).records


def covid_collection(folder: Path) -> list[Record]:
    """Return the records of `read_covid`."""
    return read_covid(folder).records


def twitter(folder: Path) -> list[Record]:
    """Return the records of `read_twitter`."""
    return read_twitter(folder).records


def tuberculosis_sets(folder: Path) -> list[Record]:
    """Return the records of `read_tuberculosis`."""
    return read_tuberculosis(folder).records


def rsna(folder: Path, *, not_normal: bool = False) -> list[Record]:
    """Return the records of `read_rsna`."""
    return read_rsna(folder, not_normal=not_normal).records


def modality() -> Target:
    """Return the task of R20's first stage: normal or abnormal."""
    return Target(labels=("normal", ABNORMAL), renamed=dict.fromkeys(sorted(LABELS - {"normal"}), ABNORMAL))


def binary(positive: str = "covid-19") -> Target:
    """Return the task normal or `positive`."""
    return Target(labels=("normal", positive))


def Plan(**settings: Any) -> plan.Plan:  # noqa: N802  # the class of 0.1 had a field `bfloat16`
    """Return a plan; bfloat16 (true or false) is converted to `precision`."""
    return plan.Plan(**plan.upgrade_keys(settings))
