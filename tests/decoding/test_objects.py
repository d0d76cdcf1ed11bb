"""Images of Pillow, data sets, bytes and open files: each gives the image of its file; other objects are refused."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from PIL import ImageOps
from pydicom import uid
from pydicom.sequence import Sequence

from cxr_edge import Image, InputError, load_image
from tests.builders.dicom_files import PATIENT, compressed_file, dataset, file_bytes, xray_pixels
from tests.decoding.image_files import pillow_file
from tests.decoding.results import assert_same, refusal
from tests.fuzz.dicom_seeds import dicom_seeds
from tests.fuzz.image_seeds import Seed, bmp_seeds, jpeg_seeds, png_seeds
from tests.fuzz.mutate import make_source, mutate

GRAY = xray_pixels(8).astype(np.uint8)
DEEP = xray_pixels(16)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def rgb(gray: np.ndarray) -> np.ndarray:
    return np.dstack([gray] * 3)


# Pillow ---------------------------------------------------------------------------------------------------------------

L = Pillow.fromarray(GRAY)
LA = Pillow.fromarray(np.dstack([GRAY, 255 - GRAY]))
RGBA = Pillow.fromarray(np.dstack([rgb(GRAY), 255 - GRAY]))
ROTATED = Pillow.Exif()
ROTATED[274] = 6


def saved(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


PILLOW_FILES = {
    "1": lambda: saved(L.convert("1")),
    "L": lambda: saved(L),
    "I;16": lambda: pillow_file(DEEP, "PNG"),
    "I;16B": lambda: cv2.imencode(".tiff", DEEP)[1].tobytes(),
    "P": lambda: saved(L.convert("P")),
    "LA": lambda: saved(LA),
    "RGB": lambda: saved(L.convert("RGB")),
    "RGBA": lambda: saved(RGBA),
    "transparent gray": lambda: saved(L, transparency=int(GRAY[3, 3])),
    "transparent bit": lambda: saved(L.convert("1"), transparency=0),
    "transparent colour": lambda: saved(L.convert("RGB"), transparency=(int(GRAY[3, 3]),) * 3),
    "transparent palette": lambda: saved(L.convert("P"), transparency=bytes(range(256))),
    "EXIF of a PNG": lambda: saved(L, exif=ROTATED),
    "EXIF of a JPEG": lambda: saved(L, "JPEG", exif=ROTATED),
    "pixel aspect": lambda: saved(L, "TIFF", dpi=(100, 200)),
    "BMP": lambda: saved(L, "BMP"),
}


@pytest.mark.parametrize("kind", PILLOW_FILES)
def test_an_image_of_pillow_is_read_as_its_file(kind) -> None:
    data = PILLOW_FILES[kind]()
    assert_same(load_image(Pillow.open(io.BytesIO(data))), load_image(data))


def test_modes_that_no_file_of_ours_gives() -> None:
    for straight, premultiplied in ((LA, "La"), (RGBA, "RGBa")):
        blended = load_image(straight).pixels.astype(int)
        np.testing.assert_allclose(load_image(straight.convert(premultiplied)).pixels, blended, atol=1)
    assert_same(Image.from_array(L.convert("I"), range=(0, 255)), Image.from_array(GRAY))
    assert_same(Image.from_array(L.convert("F"), range=(0, 255)), Image.from_array(GRAY.astype(float), range=(0, 255)))
    assert_same(load_image(L.convert("RGB").convert("RGBX")), load_image(L))


def test_an_image_that_pillow_has_rotated_is_not_rotated_again() -> None:
    data = saved(L, exif=ROTATED)
    image = load_image(ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))))
    assert image.flags == ()
    np.testing.assert_array_equal(image.pixels, load_image(data).pixels)


def test_other_images_of_pillow_are_refused_with_a_remedy() -> None:
    for mode in ("CMYK", "YCbCr", "HSV"):
        assert f'mode {mode} are not supported: pass image.convert("RGB")' in refusal(L.convert("RGB").convert(mode))
    assert "int32 from 35 to 219" in refusal(L.convert("I"))
    assert "pass the path of the file" in refusal(
        Pillow.open(io.BytesIO(saved(Pillow.fromarray(DEEP), transparency=9)))
    )
    pages = Pillow.open(io.BytesIO(saved(L, "TIFF", save_all=True, append_images=[L])))
    assert "2 frames or pages: pass the one to screen, as image.copy()" in refusal(pages)
    assert_same(load_image(pages.copy()), load_image(L))
    assert "Pillow cannot decode this image (OSError)" in refusal(Pillow.open(io.BytesIO(saved(L)[:400])))
    closed = Pillow.open(io.BytesIO(saved(L)))
    closed.close()
    assert "the file is damaged or closed" in refusal(closed)
    assert "3x3 px are too small" in refusal(Pillow.new("L", (3, 3)))


def test_the_size_is_checked_before_pillow_decodes() -> None:
    lazy = Pillow.open(io.BytesIO(saved(L)))
    assert "exceed the limit" in refusal(lazy, max_pixels=100)
    assert lazy.fp is not None  # closed once it is decoded


# Data sets ------------------------------------------------------------------------------------------------------------


def voi_lut() -> Sequence:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "OW", (np.arange(4096) ** 1.3).astype("<u2").tobytes())
    return Sequence([item])


DEEP_12 = xray_pixels(12)
WINDOWED = file_bytes(dataset(DEEP_12, WindowCenter="2000.5", WindowWidth="900"))
DICOM_FILES = {
    "plain": lambda: file_bytes(dataset(DEEP_12)),
    "MONOCHROME1, window": lambda: file_bytes(
        dataset(DEEP_12, PhotometricInterpretation="MONOCHROME1", WindowCenter=2000, WindowWidth=1500)
    ),
    "VOI LUT": lambda: file_bytes(dataset(DEEP_12, VOILUTSequence=voi_lut())),
    "geometry": lambda: file_bytes(dataset(DEEP_12, PixelSpacing=[0.1, 0.2], PatientOrientation=["R", "F"])),
    "padding": lambda: file_bytes(dataset(DEEP_12, PixelPaddingValue=int(DEEP_12[3, 3]))),
    "colour": lambda: file_bytes(dataset(rgb(GRAY), bits=8)),
    "decimal comma": lambda: WINDOWED.replace(b"2000.5", b"2000,5"),
    "implicit": lambda: file_bytes(dataset(DEEP_12), uid.ImplicitVRLittleEndian),
    **{
        uid.UID(syntax).name: lambda s=syntax: compressed_file(dataset(DEEP_12), s)
        for syntax in (
            uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLossless,
            uid.JPEGLSLossless, uid.JPEG2000Lossless,
        )
    },
    "JPEG baseline": lambda: compressed_file(dataset(xray_pixels(8), bits=8), uid.JPEGBaseline8Bit),
}  # fmt: skip


@pytest.mark.parametrize("kind", DICOM_FILES)
def test_a_data_set_is_read_as_its_file(kind) -> None:
    data = DICOM_FILES[kind]()
    read = pydicom.dcmread(io.BytesIO(data))
    image = load_image(read)
    assert_same(image, load_image(data))
    assert image.format == "dicom"
    assert image.sha256 == hashlib.sha256(read.PixelData).hexdigest()
    if kind != "decimal comma":  # which pydicom refuses to convert
        list(read)
        assert_same(load_image(read), load_image(data))


@pytest.mark.parametrize("elements", [{"Modality": "CT"}, {"NumberOfFrames": 2}, {"Rows": 20000, "Columns": 20000}])
def test_a_data_set_is_refused_as_its_file(elements) -> None:
    data = file_bytes(dataset(DEEP_12, **elements))
    with pytest.raises(InputError) as of_file:
        load_image(data, source="x")
    assert refusal(pydicom.dcmread(io.BytesIO(data)), source="x") == str(of_file.value)


def test_data_sets_made_in_memory() -> None:
    expected = load_image(file_bytes(dataset(DEEP_12)))
    without_meta = dataset(DEEP_12)
    del without_meta.file_meta
    buffered = dataset(DEEP_12)
    buffered.PixelData = io.BytesIO(buffered.PixelData)
    numbers = dataset(DEEP_12)
    numbers.Rows = np.int64(DEEP_12.shape[0])
    compressed = dataset(DEEP_12)
    compressed.compress(uid.RLELossless, encoding_plugin="pydicom")
    of_bytes = dataset(DEEP_12)
    of_bytes.file_meta.TransferSyntaxUID, of_bytes.PixelData = uid.RLELossless, compressed.PixelData
    of_bytes["PixelData"].is_undefined_length = False
    decompressed = pydicom.dcmread(io.BytesIO(compressed_file(dataset(DEEP_12), uid.JPEGLSLossless)))
    decompressed.decompress()
    for data_set in (dataset(DEEP_12), without_meta, buffered, buffered, numbers, compressed, of_bytes, decompressed):
        assert_same(load_image(data_set), expected)


def test_data_sets_without_an_image_are_refused_with_a_remedy(tmp_path) -> None:
    (tmp_path / "a.dcm").write_bytes(file_bytes(dataset(DEEP_12)))
    assert "none of the elements of an X-ray image" in refusal(pydicom.Dataset())
    message = refusal(pydicom.dcmread(tmp_path / "a.dcm", stop_before_pixels=True))
    assert message.startswith(
        f"{tmp_path / 'a.dcm'}: the data set has no pixel data: read the file without stop_before"
    )
    array = dataset(DEEP_12)
    array["PixelData"]._value = DEEP_12
    assert "is ndarray, expected bytes: set it to array.tobytes()" in refusal(array)
    deferred = pydicom.dcmread(tmp_path / "a.dcm", defer_size=100)
    assert_same(load_image(deferred), load_image(tmp_path / "a.dcm"))
    deferred = pydicom.dcmread(tmp_path / "a.dcm", defer_size=100)
    (tmp_path / "a.dcm").unlink()
    assert "PixelData (7FE0,0010) of the data set cannot be read: read the file again" in refusal(deferred)
    directory = pydicom.Dataset()
    directory.DirectoryRecordSequence = Sequence()
    assert "this is a DICOMDIR" in refusal(directory)
    assert PATIENT not in message


# Files ----------------------------------------------------------------------------------------------------------------


def test_bytes_and_open_files_are_read_as_the_file(tmp_path) -> None:
    path = tmp_path / "film.png"
    path.write_bytes(png(GRAY))
    expected = load_image(path)
    with path.open("rb") as file:
        image = load_image(file)
        assert "the file object is at its end: seek(0) first" in refusal(file)
    assert image.source == str(path)
    for data in (png(GRAY), bytearray(png(GRAY)), memoryview(png(GRAY)), io.BytesIO(png(GRAY)), Pieces(png(GRAY))):
        image = load_image(data, source=str(path))
        assert (image.source, image.sha256, image.format) == (expected.source, expected.sha256, "png")
        assert_same(image, expected)


class Pieces:
    """A stream that returns less than is requested, has no position, and no name."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def read(self, size: int) -> bytes:
        size = min(size, max(100, len(self._rest) // 4))
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


class Asynchronous:
    async def read(self, size: int = -1) -> bytes:
        return b""


def test_an_open_file_is_read_from_its_position() -> None:
    stream = io.BytesIO(b"header" + png(GRAY))
    stream.seek(6)
    assert_same(load_image(stream), load_image(png(GRAY)))


def test_other_streams_are_refused_with_a_remedy(tmp_path) -> None:
    (tmp_path / "film.png").write_bytes(png(GRAY))
    with (tmp_path / "film.png").open(encoding="latin-1") as text:
        assert 'open in text mode: open it in binary mode (open(path, "rb"))' in refusal(text)
    assert "read() of the file object returned coroutine, expected bytes" in refusal(Asynchronous())
    closed = io.BytesIO(png(GRAY))
    closed.close()
    assert "the file object cannot be read (ValueError): open it again" in refusal(closed)
    assert "the file is empty (0 bytes)" in refusal(io.BytesIO())
    assert "the file is too large for an image of at most 100 pixels" in refusal(
        Pieces(bytes(65 << 20)), max_pixels=100
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (None, "found None, which OpenCV returns for a file that it cannot read"),
        (3, "found int"),
        ({}, "found dict"),
        (GRAY.tolist(), "found a list: pass the images one by one, or pixels as numpy.asarray(pixels)"),
        ((GRAY, GRAY), "found a tuple"),
        (np.ndarray, "found the class ndarray"),
        (io.BytesIO, "found the class BytesIO"),
        (Path, "found the class Path"),
    ],
)
def test_other_objects_are_refused_by_their_type(other, expected) -> None:
    message = refusal(other)
    assert "expected a path, a file's bytes, an open binary file, a NumPy array" in message
    assert expected in message


def test_options_of_arrays_are_refused_for_what_states_its_own(tmp_path) -> None:
    for given in (tmp_path / "film.png", png(GRAY), io.BytesIO(png(GRAY)), dataset(DEEP_12), Image.from_array(GRAY)):
        assert "leave them out" in refusal(given, range=(0, 1))
        assert "leave them out" in refusal(given, inverted=True)


def test_an_image_stays_as_it_is() -> None:
    image = Image.from_array(GRAY, source="a")
    assert load_image(image) == image
    assert load_image(image, source="b").source == "b"
    assert "exceed the limit" in refusal(image, max_pixels=100)


def test_no_library_is_imported_that_the_caller_has_not_imported() -> None:
    code = (
        "import numpy, sys, cxr_edge; cxr_edge.Image.from_array(numpy.arange(1600).reshape(40, 40).astype('u2'));"
        "print([m for m in ('torch', 'PIL', 'pydicom') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def mutants(seeds: Iterable[Seed], count: int) -> Iterator[bytes]:
    random, sources = Random(0), tuple(map(make_source, seeds))
    for _ in range(count):
        yield mutate(random.choice(sources), sources, random)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom and Pillow, while they open a damaged file
@pytest.mark.parametrize(
    "opened", [lambda d: pydicom.dcmread(io.BytesIO(d), force=True), lambda d: Pillow.open(io.BytesIO(d))]
)
def test_damaged_objects_raise_only_input_errors(opened) -> None:
    outcomes = set()
    for data in mutants([*dicom_seeds(), *jpeg_seeds(), *png_seeds(), *bmp_seeds()], 500):
        try:
            given = opened(data)
        except Exception:
            continue
        try:
            outcomes.add(type(load_image(given, max_pixels=1_000_000)))
        except InputError as error:
            outcomes.add(type(error))
    assert outcomes == {Image, InputError}


def test_a_data_set_whose_meta_information_is_damaged_is_refused() -> None:
    data = file_bytes(dataset(DEEP_12))
    at = data.index(b"UI", data.index(b"\2\0\2\0"))
    damaged = pydicom.dcmread(io.BytesIO(data[:at] + b"VI" + data[at + 2 :]))
    assert "MediaStorageSOPClassUID of the data set's file_meta cannot be read" in refusal(damaged)
