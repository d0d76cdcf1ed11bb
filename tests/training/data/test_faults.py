"""Damaged files of all collections: named at once, counted by reason, listed in the run folder, before anything is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.image_collections import write_collections, write_rsna
from training.data.canvases import cut_frames
from training.data.collections import DEFAULT_COLLECTIONS, read_collections
from training.data.dataset import UNUSABLE, prepare
from training.data.faults import Fault, foreign_content, refuse
from training.data.leakage import SplitSettings
from training.tasks.segment import FrameWithMask, SegmentTask, frames_with_masks

SETTINGS = SplitSettings(seed=1)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """All five collections."""
    folder = write_collections(tmp_path / "data", patients=3, size_px=48)
    write_rsna(folder / "rsna", patients=2)
    return folder


def _prepare(data: Path, out: Path, *, everything: bool = False) -> object:
    settings = SplitSettings(seed=1, collections=(*DEFAULT_COLLECTIONS, "rsna")) if everything else SETTINGS
    return prepare(data, out, settings, threads=2)


def _halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_all_damaged_files_of_all_collections_are_named_at_once(data: Path, tmp_path: Path) -> None:
    kcx, ccx, lungs = data / "chest_xray/train", data / "covid-chestxray-dataset", data / "lung-masks"
    (kcx / "NORMAL/IM-0000-0001.jpeg").write_bytes(b"")
    (kcx / "NORMAL/IM-0001-0001.jpeg").write_bytes(b"")
    _halve(kcx / "PNEUMONIA/person0_bacteria_0.jpeg")
    shutil.copy(kcx / "NORMAL/IM-0002-0001.jpeg", kcx / "NORMAL/holiday.jpeg")
    (ccx / "images/covid-0.png").write_bytes(b"<!DOCTYPE html><title>Not found</title>")
    (data / "twitter-covid/EX0.jfif").write_bytes(LFS)
    _halve(lungs / "CXR_png/CHNCXR_0000_0.png")
    _halve(lungs / "masks/MCUCXR_0002_0.png")
    (data / "rsna/stage_2_train_images/p2.dcm").write_bytes(LFS)
    table = ccx / "metadata.csv"
    table.write_text(table.read_text().replace("1,COVID-19", "1,Broken rib"))
    with pytest.raises(InputError) as error:
        _prepare(data, tmp_path / "run", everything=True)
    text = str(error.value)
    expected = {
        "IM-0000-0001.jpeg: the file is empty (0 bytes)": 1,
        "2 times: the file is empty (0 bytes)": 1,
        "person0_bacteria_0.jpeg: ": 1,
        "holiday.jpeg: expected a name such as": 1,
        "covid-0.png: this is a web page, not the file": 1,
        "metadata.csv, covid-1.png: the finding 'Broken rib'": 1,
        "EX0.jfif: this is a Git LFS pointer": 1,
        "CHNCXR_0000_0.png: ": 1,
        "masks/MCUCXR_0002_0.png: the lung mask of lung-masks/CXR_png/MCUCXR_0002_0.png cannot be read": 1,
        "p2.dcm: this is a Git LFS pointer": 1,
        "10 files or rows of the collections cannot be used": 1,
    }
    assert {part: text.count(part) for part in expected} == expected
    listed = (tmp_path / "run" / UNUSABLE).read_text().splitlines()
    assert len(listed) == 10
    assert str(tmp_path / "run" / UNUSABLE) in text
    assert not (tmp_path / "run" / "table.csv").exists()


def test_a_mended_collection_is_prepared(data: Path, tmp_path: Path) -> None:
    images = sorted((data / "twitter-covid").iterdir())
    whole = images[0].read_bytes()
    for image in images[:2]:
        image.write_bytes(b"")
    with pytest.raises(InputError, match="2 files or rows"):
        _prepare(data, tmp_path / "run")
    images[0].write_bytes(whole)
    images[1].unlink()
    _prepare(data, tmp_path / "run")
    assert not (tmp_path / "run" / UNUSABLE).exists()


def test_one_damaged_file_is_one_sentence(data: Path, tmp_path: Path) -> None:
    (data / "twitter-covid/EX0.jfif").write_bytes(bytes(100))
    with pytest.raises(InputError, match=r"EX0\.jfif: the file contains only zero bytes: copy or export it again$"):
        _prepare(data, tmp_path / "run")


def test_collections_in_another_layout_are_named_at_once(data: Path) -> None:
    (data / "covid-chestxray-dataset/metadata.csv").unlink()
    shutil.rmtree(data / "chest_xray/train")
    with pytest.raises(InputError) as error:
        read_collections(data)
    assert "no images in" in str(error.value)
    assert "holds no metadata.csv" in str(error.value)


def test_rows_that_contradict_each_other_are_named(data: Path) -> None:
    details = data / "rsna/stage_2_detailed_class_info.csv"
    details.write_text(details.read_text() + "p0,Lung Opacity\n")
    with pytest.raises(
        InputError, match=r"stage_2_detailed_class_info, p0: class Lung Opacity and Normal: keep the rows"
    ):
        read_collections(data, collections=("rsna",))


@pytest.mark.parametrize("name", ["/etc/hostname", "a" * 300, ""])
def test_names_in_a_table_that_are_no_image_of_the_collection(name: str, data: Path) -> None:
    table = data / "covid-chestxray-dataset/metadata.csv"
    table.write_text(f"{table.read_text()}9,COVID-19,PA,X-ray,images,{name}\n")
    if name.startswith("/"):
        with pytest.raises(InputError, match="outside of the collection"):
            read_collections(data, collections=("ccx",))
    else:
        assert read_collections(data, collections=("ccx",)).dropped == {"ccx: file not there": 1}


def test_many_faults_are_counted_and_the_first_are_listed(tmp_path: Path) -> None:
    faults = [Fault(where=f"{k}.png", reason="empty" if k % 3 else "torn") for k in range(50)]
    with pytest.raises(InputError) as error:
        refuse(faults, tmp_path / "run" / UNUSABLE)
    lines = str(error.value).splitlines()
    assert lines[0] == "50 files or rows of the collections cannot be used:"
    assert lines[1:21] == [f"  {fault}" for fault in faults[:20]]
    assert lines[21:] == [
        "  and 30 more",
        "33 times: empty",
        "17 times: torn",
        f"All are listed in {tmp_path / 'run' / UNUSABLE}. Mend or delete them, then start again",
    ]
    assert (tmp_path / "run" / UNUSABLE).read_text().splitlines() == [str(fault) for fault in faults]
    refuse([], tmp_path / "run" / UNUSABLE)
    assert not (tmp_path / "run" / UNUSABLE).exists()


def test_content_of_images_and_tables_is_not_foreign() -> None:
    for data in (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"patientid,finding\n", b"", b"version,html\n"):
        assert foreign_content(data) is None
    assert foreign_content(LFS) is not None


def test_a_bitmap_is_an_image_of_a_collection(data: Path) -> None:
    shutil.copy(data / "twitter-covid/EX0.jfif", data / "twitter-covid/EX9.BMP")
    assert len(read_collections(data, collections=("twitter",)).records) == 4


def test_images_damaged_after_the_split_are_named_at_once(data: Path, tmp_path: Path) -> None:
    samples = prepare(data, tmp_path / "run", SETTINGS, threads=1)
    for name in ("EX0.jfif", "EX1.jfif"):
        (data / "twitter-covid" / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"(?s)2 files or rows .*EX0.*EX1.*2 times: the file is empty"):
        cut_frames(samples, PreprocessSpec(canvas_px=16, crop_px=16), threads=2)
    masked = [s for s in samples if s.record.mask is not None]
    for s in masked[:2]:
        s.record.mask.write_bytes(b"")  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"(?s)2 files or rows .*covid-0.*covid-1"):
        frames_with_masks(masked, 16)


def test_a_segmenter_without_validation_frames_is_refused() -> None:
    """Its score would be the mean of nothing, and the training would end with advice about the learning rate."""
    frame = FrameWithMask(frame=np.zeros((24, 24), np.uint8), mask=np.zeros((24, 24), np.uint8))
    with pytest.raises(InputError, match="no image with a mask validates the segmenter"):
        SegmentTask([frame] * 4, [], PreprocessSpec(canvas_px=16, crop_px=16), batch=4, seed=1)
