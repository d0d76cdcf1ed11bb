"""Arrays and tensors: each gives the image of the file with the same pixels, or is refused with a remedy."""

from __future__ import annotations

import hashlib
from typing import Any

import cv2
import numpy as np
import pytest

from cxr_edge import Image, InputError, load_image
from tests.builders.dicom_files import xray_pixels
from tests.decoding.image_files import pillow_file
from tests.decoding.results import assert_same, flag_codes, refusal
from tests.decoding.tiff_files import strip, tiff

GRAY = xray_pixels(8).astype(np.uint8)
DEEP = xray_pixels(16)
UNIT = GRAY / 255


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def rgb(gray: np.ndarray) -> np.ndarray:
    return np.dstack([gray] * 3)


def tiff_file(pixels: np.ndarray, *, bits: int, photometric: int = 1) -> bytes:
    """Return a TIFF of that many bits for a sample, with rows that begin at a byte. photometric: 0 if white is zero."""
    rows = (pixels[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    body = np.packbits(rows.reshape(len(pixels), -1).astype(np.uint8), axis=1).tobytes()
    entries = strip(body, width=pixels.shape[1], height=pixels.shape[0], bits=bits)
    return tiff([(*entry[:3], photometric) if entry[0] == 262 else entry for entry in entries], data=body)


# Arrays ---------------------------------------------------------------------------------------------------------------


def marked(dtype: Any) -> np.ndarray:
    """Return gray with a few coloured pixels, red first."""
    pixels = rgb(GRAY.astype(dtype) * (257 if dtype == np.uint16 else 1))
    pixels[5:8, 5:8, 0] = np.iinfo(dtype).max
    return pixels


@pytest.mark.parametrize(
    "pixels",
    [
        GRAY,
        DEEP,
        xray_pixels(12),
        xray_pixels(10),
        xray_pixels(7),
        rgb(GRAY),
        rgb(DEEP),
        marked(np.uint8),
        marked(np.uint16),
    ],
    ids=["8 bit", "16 bit", "12 in 16", "10 in 16", "7 in 16", "rgb", "rgb 16", "marked", "marked 16"],
)
def test_an_array_is_read_as_the_png_with_the_same_pixels(pixels) -> None:
    of_file = load_image(png(pixels[..., ::-1] if pixels.ndim == 3 else pixels))
    assert_same(Image.from_array(pixels), of_file)


def test_alpha_is_blended_as_in_a_png() -> None:
    rgba, la = np.dstack([rgb(GRAY), 255 - GRAY]), np.dstack([GRAY, 255 - GRAY])
    assert_same(Image.from_array(rgba), load_image(pillow_file(rgba, "PNG")))
    assert_same(Image.from_array(la), load_image(pillow_file(la, "PNG")))
    assert flag_codes(Image.from_array(la)) == {"alpha_composited"}


LAYOUTS = {
    "transposed": lambda p: np.ascontiguousarray(p.T).T,
    "Fortran order": np.asfortranarray,
    "negative strides": lambda p: p[::-1, ::-1].copy()[::-1, ::-1],
    "every second": lambda p: np.repeat(np.repeat(p, 2, 0), 2, 1)[::2, ::2],
    "other byte order": lambda p: p.astype(p.dtype.newbyteorder()),
    "one channel": lambda p: p[..., None] if p.ndim == 2 else p,
    "nothing masked": np.ma.masked_array,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pixels", [GRAY, DEEP, rgb(GRAY), rgb(DEEP)], ids=["gray", "deep", "rgb", "rgb deep"])
def test_the_memory_layout_does_not_matter(layout, pixels) -> None:
    changed = LAYOUTS[layout](pixels)
    before = changed.copy()
    assert_same(Image.from_array(changed), Image.from_array(pixels))
    np.testing.assert_array_equal(changed, before)


def test_a_memory_mapped_file_and_read_only_bytes_are_read(tmp_path) -> None:
    (tmp_path / "raw").write_bytes(DEEP.tobytes())
    mapped = np.memmap(tmp_path / "raw", np.uint16, "r", shape=DEEP.shape)
    assert_same(Image.from_array(mapped), Image.from_array(DEEP))
    assert_same(Image.from_array(np.frombuffer(DEEP.tobytes(), np.uint16).reshape(DEEP.shape)), Image.from_array(DEEP))


@pytest.mark.parametrize(
    "pixels", [GRAY, DEEP, rgb(GRAY), np.dstack([GRAY, GRAY])], ids=["gray", "deep", "rgb", "alpha"]
)
@pytest.mark.parametrize("inverted", [False, True])
def test_the_array_is_copied_and_not_changed(pixels, inverted) -> None:
    given = pixels.copy()
    image = Image.from_array(given, inverted=inverted)
    np.testing.assert_array_equal(given, pixels)
    before = image.pixels.copy()
    given[:] = 7
    np.testing.assert_array_equal(image.pixels, before)


def test_a_stated_range_is_the_depth() -> None:
    of_tiff = load_image(tiff_file(xray_pixels(12), bits=12))
    assert of_tiff.flags == ()
    assert_same(Image.from_array(xray_pixels(12), range=(0, 4095)), of_tiff)
    dark = DEEP // 100  # without the range the depth would be derived from the largest value
    np.testing.assert_array_equal(Image.from_array(dark, range=(0, 65535)).pixels, dark)
    assert flag_codes(Image.from_array(dark)) == {"assumed_bits"}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int64, np.uint64])
def test_whole_numbers_of_eight_bits_give_the_image_of_eight_bits(dtype) -> None:
    assert_same(Image.from_array(GRAY.astype(dtype), range=(0, 255)), Image.from_array(GRAY))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_floating_point_numbers_are_read_with_their_range(dtype) -> None:
    image = Image.from_array(UNIT.astype(dtype), range=(0.0, 1.0))
    assert (image.pixels.dtype, image.stored_bits, image.flags) == (np.uint16, 16, ())
    np.testing.assert_allclose(image.pixels / 65535, UNIT, atol=1e-3 if dtype == np.float16 else 1e-5)
    signed = Image.from_array((2 * UNIT - 1).astype(np.float64), range=(-1, 1))
    np.testing.assert_allclose(signed.pixels / 65535, UNIT, atol=1e-5)


def test_floating_point_colour_is_read_with_its_range() -> None:
    assert_same(Image.from_array(rgb(UNIT), range=(0, 1)), Image.from_array(UNIT, range=(0, 1)))
    opaque = np.dstack([rgb(UNIT), np.ones_like(UNIT)])
    assert_same(Image.from_array(opaque, range=(0, 1)), Image.from_array(UNIT, range=(0, 1)))


def test_inverted_is_as_a_tiff_whose_white_is_zero() -> None:
    image = Image.from_array(255 - GRAY, inverted=True)
    assert_same(image, load_image(tiff_file(255 - GRAY, bits=8, photometric=0)))
    assert flag_codes(image) == {"inverted"}
    np.testing.assert_array_equal(image.pixels, GRAY)


def test_name_and_digest() -> None:
    image = Image.from_array(GRAY)
    assert (image.source, image.format) == ("ndarray", "array")
    assert image.sha256 == hashlib.sha256(GRAY.tobytes()).hexdigest()
    assert Image.from_array(GRAY.T).sha256 == hashlib.sha256(GRAY.T.tobytes()).hexdigest()
    assert Image.from_array(GRAY, source="bed 4").source == "bed 4"
    assert refusal(GRAY[:3], source="bed 4").startswith("bed 4: ")


def test_sizes_and_content_are_checked_as_of_a_file() -> None:
    for pixels, options in [(GRAY[:31], {}), (GRAY, {"max_pixels": 100}), (GRAY, {"min_side_px": 50}), (GRAY * 0, {})]:
        with pytest.raises(InputError) as of_file:
            load_image(png(pixels), source="x", **options)
        assert refusal(pixels, source="x", **options) == str(of_file.value)
    assert "exceed the limit" in refusal(np.broadcast_to(GRAY[:1, :1], (20000, 20000)))
    assert "colour image" in refusal(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


REFUSED = {
    "(3, H, W)": (np.moveaxis(rgb(GRAY), -1, 0), {}, "numpy.moveaxis(pixels, 0, -1)"),
    "(1, H, W)": (GRAY[None], {}, "pass pixels[0]"),
    "(1, 1, H, W)": (GRAY[None, None], {}, "pass pixels.squeeze()"),
    "a batch": (np.stack([rgb(GRAY)] * 2), {}, "one by one"),
    "one row": (GRAY[0], {}, "shape (33,), expected (height, width)"),
    "a number": (np.float64(3), {}, "shape ()"),
    "five channels": (np.dstack([GRAY] * 5), {}, "(height, width, 3 or 4)"),
    "empty": (GRAY[:0], {}, "the array is empty (shape (0, 33))"),
    "bool": (GRAY > 9, {}, "a mask"),
    "complex": (GRAY * 1j, {}, "the type complex128"),
    "objects": (GRAY.astype(object), {}, "the type object"),
    "text": (np.array([["a", "b"]]), {}, "the type <U1"),
    "records": (np.zeros((40, 40), [("a", "u1")]), {}, "the type [('a', 'u1')]"),
    "times": (np.zeros((40, 40), "M8[s]"), {}, "the type datetime64[s]"),
    "int64": (GRAY.astype(np.int64), {}, "int64 from 35 to 219, which does not say what is black and white"),
    "float": (UNIT, {}, "as in range=(0.0, 1.0)"),
    "NaN": (np.where(GRAY.max() == GRAY, np.nan, UNIT), {"range": (0, 1)}, "not finite (NaN or infinity)"),
    "NaN, no range": (np.where(GRAY.max() == GRAY, np.nan, UNIT), {}, "not finite"),
    "infinity": (np.where(GRAY.max() == GRAY, np.inf, UNIT), {"range": (0, 1)}, "not finite"),
    "above the range": (GRAY.astype(float), {"range": (0, 1)}, "from 35 to 219, outside range=(0, 1)"),
    "below the range": (UNIT - 1, {"range": (0, 1)}, "numpy.clip(pixels, 0, 1)"),
    "more bits": (DEEP, {"range": (0, 4095)}, "outside range=(0, 4095)"),
    "masked": (np.ma.masked_array(GRAY, GRAY > 99), {}, "pixels.filled(0)"),
    "range reversed": (UNIT, {"range": (1, 0)}, "use inverted=True"),
    "range of one": (UNIT, {"range": (1, 1)}, "range is two finite numbers"),
    "range of NaN": (UNIT, {"range": (0, float("nan"))}, "range is two finite numbers"),
    "range too wide": (UNIT, {"range": (-1.7e308, 1.7e308)}, "range is two finite numbers"),
    "range of text": (UNIT, {"range": "01"}, "got '01'"),
    "range of one number": (UNIT, {"range": 255}, "got 255"),
    "inverted by a number": (GRAY, {"inverted": 1}, "inverted is True or False, got 1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_arrays_are_refused_with_a_remedy(kind) -> None:
    pixels, options, expected = REFUSED[kind]
    assert expected in refusal(pixels, **options)


def test_objects_with_an_array_are_read() -> None:
    class Labelled:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return GRAY

    class OnTheGpu:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            raise TypeError("implicit conversion is not allowed")

    assert_same(Image.from_array(Labelled()), Image.from_array(GRAY))
    assert "NumPy cannot view this OnTheGpu as an array (TypeError)" in refusal(OnTheGpu())


# Tensors --------------------------------------------------------------------------------------------------------------


def test_tensors_are_read_as_their_arrays() -> None:
    torch = pytest.importorskip("torch")
    assert_same(Image.from_array(torch.from_numpy(GRAY)), Image.from_array(GRAY))
    assert_same(Image.from_array(torch.from_numpy(DEEP)), Image.from_array(DEEP))
    of_unit = Image.from_array(UNIT, range=(0, 1))
    assert_same(Image.from_array(torch.tensor(UNIT, requires_grad=True), range=(0, 1)), of_unit)
    for dtype in (torch.float16, torch.bfloat16):
        image = Image.from_array(torch.tensor(UNIT).to(dtype), range=(0, 1))
        np.testing.assert_allclose(image.pixels / 65535, UNIT, atol=4e-3)


def test_tensors_without_an_array_are_refused_with_a_remedy() -> None:
    torch = pytest.importorskip("torch")
    assert "on the device meta, expected the CPU: pass tensor.cpu()" in refusal(torch.empty(40, 50, device="meta"))
    assert "pass tensor.to_dense()" in refusal(torch.tensor(UNIT).to_sparse())
    assert "pass tensor.float()" in refusal(torch.tensor(UNIT).to(torch.float8_e4m3fn), range=(0, 1))
    assert "numpy.moveaxis" in refusal(torch.from_numpy(np.moveaxis(rgb(GRAY), -1, 0).copy()))
