"""Corpus comparison over synthetic files: equal, different, rejected, and decoders that raise, abort or never end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid

from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Image
from tests.builders.dicom_files import compressed_file, dataset, file_bytes, xray_pixels
from tests.corpora import run
from tests.corpora.reference import Reference
from tests.corpora.run import Options, compare_all, describe_difference, files_below, main
from tests.fuzz.dicom_seeds import dicom_seeds
from tests.fuzz.image_seeds import bmp_seeds, jpeg_seeds, png_seeds, tiff_seeds, webp_seeds

ROOT = Path(__file__).parents[2]
TWELVE = xray_pixels(12, rows=64, columns=50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder of all fuzzer seeds that are complete files, and a few files that both decoders reject."""
    root = tmp_path_factory.mktemp("corpus")
    for seed in (*dicom_seeds(), *tiff_seeds(), *png_seeds(), *jpeg_seeds(), *webp_seeds(), *bmp_seeds()):
        if not seed.unpacked:
            path = root / seed.format / f"{seed.name}.bin".replace(" ", "_")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(seed.data)
    (root / "text").write_bytes(b"no image")
    (root / "empty").write_bytes(b"")
    return root


def test_pixels_equal_those_of_independent_decoders_in_every_layout(folder, tmp_path) -> None:
    """In a separate process: forking this one, with its threads, could hang."""
    rows_file = tmp_path / "rows.json"
    command = [sys.executable, "-m", "tests.corpora.run", str(folder), "--json", str(rows_file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    rows = json.loads(rows_file.read_text())
    assert len(rows) == sum(path.is_file() for path in folder.rglob("*"))
    equal = {name: sum(row["format"] == name and row["status"] == "equal" for row in rows) for name in ("dicom", "png")}
    assert equal["dicom"] >= 25
    assert equal["png"] >= 15
    assert {"different", "error or crash of cxr_edge"}.isdisjoint(row["status"] for row in rows)
    assert f"| dicom | {sum(row['format'] == 'dicom' for row in rows)} | {equal['dicom']} |" in done.stdout
    assert "| other | 2 | 0 | 0 | 2 | 0 | 0 | 0 |" in done.stdout


def _faulty_decoder(data: bytes, *, source: str, limits: Limits) -> Image:
    """Decode with a fault selected by the byte of the patient's sex."""
    kind = data[data.index(b"\x10\0\x40\0CS\2\0") + 8 :][:1]
    if kind == b"A":
        os.abort()
    if kind == b"E":
        raise KeyError("a fault")
    if kind == b"H":
        time.sleep(60)
    if kind == b"M":
        bytearray(8 << 30)
    if kind == b"R":
        raise InputError("file: rejected for 5 reasons")
    image = decode_bytes(data, source=source, limits=limits)
    pixels = image.pixels.copy()
    pixels[3, 4] ^= 0x100 if kind == b"D" else 0
    return replace(image, pixels=pixels)


def _rows(folder: Path, monkeypatch, kinds: str) -> dict[str, tuple[str, str]]:
    for kind in kinds:
        (folder / kind).write_bytes(file_bytes(dataset(TWELVE, WindowCenter=2048, WindowWidth=4096, PatientSex=kind)))
    monkeypatch.setattr(run, "decode_bytes", _faulty_decoder)
    rows = compare_all(files_below(folder), Options(seconds=5, memory_mb=6000), jobs=2)
    return {Path(row.path).name: (row.status, row.detail) for row in rows}


def test_a_decoder_that_differs_raises_aborts_or_never_ends_is_reported(tmp_path, monkeypatch) -> None:
    rows = _rows(tmp_path, monkeypatch, "ADEHMORS")
    assert rows["O"] == rows["S"] == ("equal", "")
    assert rows["D"][0] == "different"
    assert rows["D"][1].startswith("off by 0.0039")
    assert rows["E"] == ("error or crash of cxr_edge", "KeyError: 'a fault'")
    assert rows["A"] == ("error or crash of cxr_edge", "cxr_edge ended by SIGABRT")
    assert rows["H"] == ("error or crash of cxr_edge", "cxr_edge still running after 5 s, or killed")
    assert rows["M"] == ("error or crash of cxr_edge", "MemoryError: ")
    assert rows["R"] == ("only cxr_edge rejects", "file: rejected for 5 reasons")


def test_a_crash_of_the_reference_is_not_an_error_of_cxr_edge(tmp_path, monkeypatch) -> None:
    (tmp_path / "x.dcm").write_bytes(file_bytes(dataset(TWELVE)))
    monkeypatch.setattr(run, "decode_reference", lambda data, *, stored_bits: os.abort())
    (row,) = compare_all(files_below(tmp_path), Options(), jobs=1)
    assert (row.status, row.detail) == ("only the reference rejects", "the reference ended by SIGABRT")


@pytest.mark.parametrize(("kind", "status"), [("O", 0), ("R", 0), ("D", 1), ("E", 1)])
def test_the_exit_status_is_1_for_differences_and_errors(tmp_path, monkeypatch, capsys, kind, status) -> None:
    (tmp_path / kind).write_bytes(file_bytes(dataset(TWELVE, PatientSex=kind)))
    monkeypatch.setattr(run, "decode_bytes", _faulty_decoder)
    assert main([str(tmp_path)]) == status
    out = capsys.readouterr().out
    assert (f"{tmp_path}/{kind}: " in out) == bool(status)
    assert ("1 dicom: rejected for N reasons" in out) == (kind == "R")


def test_a_folder_is_needed(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "missing")])
    assert "expected a folder of files" in capsys.readouterr().err


def test_any_modality_compares_files_of_other_modalities(tmp_path) -> None:
    (tmp_path / "ct.dcm").write_bytes(compressed_file(dataset(TWELVE, Modality="CT"), uid.RLELossless))
    statuses = []
    for any_modality in (False, True):
        (row,) = compare_all(files_below(tmp_path), Options(any_modality=any_modality), jobs=1)
        statuses.append(row.status)
    assert statuses == ["only cxr_edge rejects", "equal"]


def _image(pixels: np.ndarray) -> Image:
    return Image(pixels=pixels, source="x", format="png", stored_bits=8, sha256="")


@pytest.mark.parametrize("lossy", [False, True])
def test_tolerances(lossy) -> None:
    """Lossless: one step. Lossy: twelve steps at one pixel, one on average."""
    gray = np.full((40, 40), 100, np.uint8)

    def describe(*changes: tuple[slice | int, int]) -> str | None:
        other = gray.copy()
        for rows, step in changes:
            other[rows] += step
        return describe_difference(_image(gray), Reference(pixels=other / 255, lossy=lossy, steps=255))

    assert describe((slice(None), 1)) is None
    assert (describe((0, 2)) is None) == lossy
    assert (describe((0, 12)) is None) == lossy
    assert describe((0, 13)) is not None
    assert describe((slice(None), 2)) is not None
    rotated = describe_difference(_image(gray[:30]), Reference(pixels=gray[:, :30] / 255, lossy=lossy, steps=255))
    assert rotated == "shape (30, 40), the reference has (40, 30)"
