"""Folders of own data: the folders above an image in, its label, and patient and study if they are there, out.

FOLDER/LABEL/IMAGE, FOLDER/LABEL/PATIENT/IMAGE and FOLDER/LABEL/PATIENT/STUDY/IMAGE, also below train, validation and test
folders. An option gives other levels, such as site/label/patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from training.data.own.cells import SPLIT_WORDS
from training.data.own.facts import Facts

__all__ = ["facts_of", "folder_notes", "folders_of", "levels_of"]

_LEVELS = ("label", "patient", "study")
_MANY = 20  # images of one patient


def folders_of(key: str) -> tuple[str, ...]:
    """Return the folders above an image, from the root."""
    return tuple(key.split("/")[:-1])


def levels_of(keys: Iterable[str], given: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what each level of folders names: as given, else label/patient/study, below train and test if these are there."""
    if given:
        return tuple(given)
    first = {folders[0].lower() for key in keys if (folders := folders_of(key))}
    return ("split", *_LEVELS) if first and first <= set(SPLIT_WORDS) else _LEVELS


def facts_of(key: str, levels: Sequence[str]) -> Facts:
    """Return what the folders above an image state; folders below the last level state nothing."""
    named = dict(zip(levels, folders_of(key), strict=False))
    return Facts(
        label=named.get("label", ""),
        patient=named.get("patient", ""),
        study=named.get("study", ""),
        site=named.get("site", ""),
        view=named.get("view", ""),
        split=named.get("split", ""),
    )


def folder_notes(keys: Sequence[str], levels: Sequence[str]) -> list[str]:
    """Return sentences on what the levels were taken for."""
    depth = max((len(folders_of(key)) for key in keys), default=0)
    if not depth:
        return []
    notes = [f"folders: {'/'.join(levels[:depth])} (another reading: --layout, such as site/label/patient)"]
    if "patient" in levels[:depth]:
        counts = Counter(facts_of(key, levels).patient for key in keys)
        del counts[""]
        notes.append(f"{len(counts)} folders below the labels are taken as patients")
        if counts and counts.total() > _MANY * len(counts):
            notes.append(
                f"they hold {counts.total() / len(counts):.0f} images each, which is many for a patient: if they are sites, "
                "say --layout label/site"
            )
    return notes
