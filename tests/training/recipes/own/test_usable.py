"""Images that train, and what no training could mend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_edge.errors import InputError
from training.data.faults import Fault
from training.data.own.records import OwnData, OwnRecord
from training.data.own.report import SamePicture
from training.recipes.own.usable import labels_of, require_trainable, usable, write_left_out


def _data(*counts: tuple[str, int], labels: tuple[str, ...] = ("tb", "normal")) -> OwnData:
    records = [
        OwnRecord(
            path=Path(f"/x/{label}{i}.png"), key=f"{label}{i}.png", findings=_one(label, labels), patient=f"{label}{i}"
        )
        for label, n in counts
        for i in range(n)
    ]
    return OwnData(source=Path("/x"), records=tuple(records), findings=labels, exclusive=True)


def _one(label: str, labels: tuple[str, ...]) -> Mapping[str, bool | None]:
    return {name: name == label for name in labels}


def test_pictures_with_two_labels_and_unreadable_files_are_left_out() -> None:
    data = _data(("tb", 12), ("normal", 13))
    silent = replace(data.records[0], findings={"tb": None, "normal": None})
    data = replace(data, records=(silent, *data.records[1:]))
    pair = SamePicture(first="tb2.png", second="normal5.png", equal=True, two_labels=True, two_patients=True)
    copy = SamePicture(first="tb3.png", second="tb4.png", equal=True, two_labels=False, two_patients=True)
    found = usable(data, [Fault(where="/x/normal1.png", reason="no image")], [pair, copy])
    assert [(i.key, i.kind) for i in found.left_out] == [
        ("tb0.png", "no label"),
        ("tb2.png", "the same picture under two labels"),
        ("normal1.png", "unreadable"),
        ("normal5.png", "the same picture under two labels"),
    ]
    assert found.left_out[1].reason == "the picture of normal5.png, which has another label"
    assert found.counts == {"no label": 1, "the same picture under two labels": 2, "unreadable": 1}
    assert len(found.data.records) == 21
    require_trainable(found)


def test_the_normal_label_is_the_first() -> None:
    assert labels_of(_data(("tb", 2), ("normal", 2))) == ("normal", "tb")
    assert labels_of(_data(("tb", 2), ("No Finding", 2), labels=("tb", "No Finding", "never"))) == ("No Finding", "tb")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_data(("tb", 30)), "all images have the label tb: a classifier needs two labels"),
        (_data(("tb", 9), ("normal", 10)), "each label needs 10 patients or more .* too few have tb 9"),
        (_data(), "no image of /x can be used .the source names none"),
        (
            replace(
                _data(("tb", 30), ("nodule", 9), ("No Finding", 5), labels=("tb", "nodule", "No Finding")),
                exclusive=False,
            ),
            r"too few have nodule .present in 9, absent in 35.: .* --ignore nodule",
        ),
    ],
)
def test_what_cannot_be_trained(data: OwnData, message: str) -> None:
    with pytest.raises(InputError, match=message):
        require_trainable(usable(data, [], []))


def test_ten_images_of_one_patient_are_not_ten_patients() -> None:
    data = _data(("tb", 10), ("normal", 10))
    same = tuple(replace(r, patient="one") if r.findings["tb"] else r for r in data.records)
    with pytest.raises(InputError, match="too few have tb 1"):
        require_trainable(usable(replace(data, records=same), [], []))


def test_an_unreadable_mask_costs_the_mask_alone(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    cv2.imwrite(str(good), np.full((8, 8), 255, np.uint8))
    bad.write_bytes(b"no mask")
    data = _data(("tb", 10), ("normal", 10))
    records = (replace(data.records[0], mask=good), replace(data.records[1], mask=bad), *data.records[2:])
    found = usable(replace(data, records=records), [], [])
    assert [r.mask for r in found.data.records[:3]] == [good, None, None]
    assert len(found.data.records) == 20
    assert [f.where for f in found.lost_masks] == ["tb1.png"]


def test_the_list_names_image_kind_and_reason(tmp_path: Path) -> None:
    found = usable(_data(("tb", 1)), [Fault(where="/x/tb0.png", reason="cut,\nhere")], [])
    write_left_out(found.left_out, tmp_path / "left-out.csv")
    assert (tmp_path / "left-out.csv").read_text().splitlines()[1] == 'tb0.png,unreadable,"cut,\\x0ahere"'
