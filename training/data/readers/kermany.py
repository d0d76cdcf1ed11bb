"""Reader of the Kermany collection (KCX): children, normal, bacterial and viral pneumonia."""

from __future__ import annotations

import re
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.records import Record, image_paths, record_of, require_images

__all__ = ["kermany"]


def kermany(folder: Path) -> list[Record]:
    """The paediatric set (KCX): {train,test,val}/{NORMAL,PNEUMONIA}. The published split shares patients: not used.

    personN is one patient whatever the class; IM-N is a guess at a patient, the best there is.
    """
    paths = [p for kind in ("NORMAL", "PNEUMONIA") for p in image_paths(folder.glob(f"*/{kind}/*"))]
    require_images(paths, folder, "{train,test,val}/{NORMAL,PNEUMONIA}/*.jpeg")
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
    return record_of(path, f"kcx/{patient}", label, source="kcx", view="AP", finding=finding, adult=False)
