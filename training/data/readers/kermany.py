"""Reader of the Kermany collection (KCX): children; normal, bacterial and viral pneumonia."""

from __future__ import annotations

import re
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.faults import each
from training.data.records import CollectedRecords, Record, Selection, image_paths, make_record, require_images

__all__ = ["read_kermany"]


def read_kermany(folder: Path, selection: Selection | None = None) -> CollectedRecords:
    """Read {train,test,val}/{NORMAL,PNEUMONIA}. The published split is not used, because it shares patients.

    personN is one patient for both kinds of pneumonia. For normals the best available guess at a patient is IM-N.
    """
    paths = [p for kind in ("NORMAL", "PNEUMONIA") for p in image_paths(folder.glob(f"*/{kind}/*"))]
    require_images(paths, folder, "{train,test,val}/{NORMAL,PNEUMONIA}/*.jpeg")
    records, faults = each(paths, _record)
    return CollectedRecords(records=records, faults=faults)


def _record(path: Path) -> Record:
    if m := re.match(r"(person\d+)_(bacteria|virus)_\d+", path.name):
        patient, finding = m[1], m[2]
        label = "bacterial" if finding == "bacteria" else "viral"
    elif m := re.match(r"(?:NORMAL\d*-)?(IM-\d+)-", path.name):
        patient, finding, label = m[1], "NORMAL", "normal"
    else:
        raise InputError("expected a name such as person12_virus_46.jpeg or IM-0115-0001.jpeg in this set")
    if (path.parent.name == "NORMAL") != (label == "normal"):
        raise InputError(f"{label} by its name, {path.parent.name} by its folder: the set is not as published")
    return make_record(path, f"kcx/{patient}", label, source="kcx", view="AP", finding=finding, adult=False)
