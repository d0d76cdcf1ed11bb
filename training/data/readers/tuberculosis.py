"""Reader of the Shenzhen and Montgomery tuberculosis collections with their lung masks."""

from __future__ import annotations

import re
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.faults import each
from training.data.records import CollectedRecords, Record, Selection, image_paths, make_record, require_images

__all__ = ["read_tuberculosis"]


def read_tuberculosis(folder: Path, selection: Selection | None = None) -> CollectedRecords:
    """Read Shenzhen (CHNCXR) and Montgomery (MCUCXR): CXR_png with masks, CXR_without_mask. _0 is normal, _1 tuberculosis."""
    paths = image_paths([*folder.glob("CXR_png/*"), *folder.glob("CXR_without_mask/*")])
    require_images(paths, folder, "CXR_png/{CHNCXR,MCUCXR}_NNNN_{0,1}.jpg, masks/ and CXR_without_mask/")
    records, faults = each(paths, lambda path: _record(path, folder / "masks"))
    return CollectedRecords(records=records, faults=faults)


def _record(path: Path, masks: Path) -> Record:
    m = re.fullmatch(r"(CHNCXR|MCUCXR)_(\d+)_([01])", path.stem)
    if m is None:
        raise InputError("expected a name such as CHNCXR_0001_0 or MCUCXR_0104_1")
    source = "shenzhen" if m[1] == "CHNCXR" else "montgomery"
    label = "normal" if m[3] == "0" else "tuberculosis"
    mask = masks / f"{path.stem}.png"
    return make_record(
        path,
        f"{source}/{m[2]}",
        label,
        source=source,
        view="PA",
        finding=label,
        adult=True,
        mask=mask if mask.is_file() else None,
    )
