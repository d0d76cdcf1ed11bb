"""Decoded files of a bundle: key of the manifest, drawing, and the comparison of this machine with them."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.bundle.decode_check import check_decoding, decode_results, package_versions
from cxr_edge.bundle.decoded_file import DecodedFile, pixels_sha256
from cxr_edge.bundle.manifest import MULTI_LABEL_SCHEMA, Manifest
from cxr_edge.bundle.networks import FileRef
from cxr_edge.compiler import decoded_files
from cxr_edge.compiler.decoded_files import DRAWN_FILES, add_decoded_files
from cxr_edge.decoding import formats
from cxr_edge.decoding.decode import decode, decode_bytes
from cxr_edge.errors import BundleError, ContractError
from tests.builders.toy_bundle import build_toy_bundle
from training.decoded_files import main

LOSSLESS_DICOM = ("uncompressed", "rle", "jpeg-lossless", "jpeg-ls", "jpeg-2000")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a toy bundle with decoded files, shared."""
    root = tmp_path_factory.mktemp("decoded") / "toy"
    return add_decoded_files(
        build_toy_bundle(root, members=("plain",), segmenter=False, cam=False, known_answers=False)
    )


@pytest.fixture
def own(bundle: Bundle, tmp_path: Path) -> Bundle:
    """Return a copy that the test may change."""
    return Bundle.open(shutil.copytree(bundle.root, tmp_path / "toy"))


def entry(bundle: Bundle, name: str) -> DecodedFile:
    return next(f for f in bundle.manifest.decoded_files if f.file.path.startswith(f"decoded/{name}."))


def changed(bundle: Bundle, name: str, **values: object) -> Bundle:
    """Return the bundle with other values in the entry of one file."""
    old = entry(bundle, name)
    files = tuple(
        dataclasses.replace(f, **values) if f == old else f  # type: ignore[arg-type]
        for f in bundle.manifest.decoded_files
    )
    return write_bundle(bundle.root, dataclasses.replace(bundle.manifest, decoded_files=files))


def test_every_format_and_every_kind_of_compression_is_drawn(bundle: Bundle) -> None:
    images = [decode(bundle.file(f.file)) for f in bundle.manifest.decoded_files]
    assert {image.format for image in images} == {row.name for row in formats.FORMATS}
    assert sum(image.format == "dicom" for image in images) == 7
    size = sum(bundle.file(f.file).stat().st_size for f in bundle.manifest.decoded_files)
    assert size < 100_000


def test_lossless_compression_changes_no_pixel(bundle: Bundle) -> None:
    entries = [entry(bundle, f"dicom-{name}") for name in LOSSLESS_DICOM]
    assert len({e.pixels_sha256 for e in entries}) == 1
    assert {(e.dtype, e.width_px, e.height_px, e.flags) for e in entries} == {
        ("uint16", 64, 80, ("monochrome1_inverted",))
    }
    assert entry(bundle, "png-16").pixels_sha256 == entry(bundle, "tiff-16").pixels_sha256


def test_the_window_is_applied_and_white_is_inverted(bundle: Bundle) -> None:
    """Against the standard's formula, written here once more: 12 bits, centre 1800, width 3000, MONOCHROME1."""
    pixels = decode(bundle.file(entry(bundle, "dicom-uncompressed").file)).pixels
    stored = 4095 - (decode(bundle.file(entry(bundle, "png-16").file)).pixels >> 4).astype(float)
    shown = np.clip((stored - 1799.5) / 2999 + 0.5, 0, 1) * 65535
    assert np.abs(pixels - (65535 - shown)).max() <= 0.5
    assert pixels.min() == 0


def test_this_machine_decodes_them_to_the_same_pixels(bundle: Bundle) -> None:
    assert check_decoding(bundle) == len(DRAWN_FILES) == 13


def test_the_manifest_keeps_them(bundle: Bundle) -> None:
    document = bundle.manifest.as_json()
    assert document["schema"] == MULTI_LABEL_SCHEMA
    assert set(document["decoded_files"][0]) == {"file", "pixels_sha256", "width_px", "height_px", "dtype", "flags"}
    assert Manifest.from_json(document) == bundle.manifest
    assert "decoded_files[0].file" in dict(bundle.manifest.files())
    assert bundle.unlisted_files() == ()


def test_a_bundle_without_them_has_no_such_key(tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path, members=("plain",), segmenter=False, cam=False, known_answers=False)
    assert "decoded_files" not in bundle.manifest.as_json()
    assert (check_decoding(bundle), decode_results(bundle)) == (0, ())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pixels_sha256", "ab", r"decoded_files\[1\]\.pixels_sha256 must be 64 lower-case hexadecimal digits"),
        ("width_px", 0, r"decoded_files\[1\]\.width_px must be a whole number, 1 or more"),
        ("height_px", True, r"decoded_files\[1\]\.height_px must be a whole number, 1 or more"),
        ("dtype", "float32", r"decoded_files\[1\]\.dtype must be one of uint8, uint16, got \"float32\""),
        ("flags", [""], r"decoded_files\[1\]\.flags\[0\] must be a printable text"),
        ("flags", "padding", r"decoded_files\[1\]\.flags must be a list"),
        ("surprise", 1, r"decoded_files\[1\]\.surprise is not a key of this format"),
    ],
)
def test_an_invalid_value_is_named(bundle: Bundle, key: str, value: object, message: str) -> None:
    document = bundle.manifest.as_json()
    document["decoded_files"][1][key] = value
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(document)


def test_an_empty_list_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"decoded_files must be a list of 1 or more, or absent, got \[\]"):
        Manifest.from_json({**bundle.manifest.as_json(), "decoded_files": []})


def test_schema_1_has_no_such_key(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"decoded_files is a key of cxr-edge-bundle/2"):
        Manifest.from_json({**bundle.manifest.as_json(), "schema": "cxr-edge-bundle/1"})


def test_other_pixels_are_a_contract_error_with_the_remedy(own: Bundle) -> None:
    bundle = changed(own, "png-16", pixels_sha256="0" * 64)
    message = (
        r"this machine does not decode files as training did: decoded/png-16\.png gives other pixels here: uint16 64x80 with "
        r"SHA-256 000000000000\.\.\. by the manifest, uint16 64x80 with SHA-256 [0-9a-f]{12}\.\.\. here; decoded by "
        r"imagecodecs [0-9.]+\. .*pip install --force-reinstall imagecodecs\), or in the versions of constraints\.txt"
    )
    with pytest.raises(ContractError, match=message):
        check_decoding(bundle)
    assert [r.expected.file.path for r in decode_results(bundle) if r.difference] == ["decoded/png-16.png"]


def test_other_flags_are_a_difference_too(own: Bundle) -> None:
    bundle = changed(own, "dicom-rle", flags=("padding", "tinted"))
    with pytest.raises(
        ContractError, match=r"other flags here: padding, tinted by the manifest, monochrome1_inverted here"
    ):
        check_decoding(bundle)


def test_a_package_that_is_missing_or_broken_is_a_difference(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import simplejpeg

    def broken(*_: object, **__: object) -> None:
        raise AttributeError("no such function")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", broken)
    with pytest.raises(
        ContractError, match=r"jpeg-baseline.jpg cannot be decoded \(AttributeError: no such function\)"
    ):
        check_decoding(bundle)


def test_a_file_that_cannot_be_decoded_is_a_difference(own: Bundle) -> None:
    ref = entry(own, "png-16").file
    data = bytearray(own.file(ref).read_bytes())
    data[60] ^= 1
    own.file(ref).write_bytes(data)
    result = next(r for r in decode_results(own) if r.expected.file == ref)
    assert result.difference is not None
    assert result.difference.startswith("cannot be decoded (a checksum in this PNG does not match its data")


def test_packages_are_named_with_their_versions() -> None:
    assert package_versions(("no-such-package",)) == ("no-such-package (not installed)",)
    assert package_versions(("numpy",)) == (f"numpy {np.__version__}",)
    assert all(row.packages for row in formats.FORMATS)


def test_the_digest_is_of_little_endian_rows() -> None:
    import hashlib

    image = decode_bytes(DRAWN_FILES[2].draw(), source="png")
    assert pixels_sha256(image) == hashlib.sha256(image.pixels.astype("<u2").tobytes()).hexdigest()
    assert DecodedFile.of_image(FileRef(path="a", sha256="0" * 64), image).dtype == "uint16"


def test_a_lossless_file_with_other_pixels_is_not_kept(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that encodes wrongly would otherwise set the digest for every machine."""
    wrong = dataclasses.replace(DRAWN_FILES[2], draw=DRAWN_FILES[3].draw, pixels=lambda: np.zeros((80, 64), np.uint16))
    monkeypatch.setattr(decoded_files, "DRAWN_FILES", (wrong,))
    with pytest.raises(ContractError, match=r"png-16.png \(PNG, 16 bits\) is lossless and does not give the pixels"):
        add_decoded_files(own)


def test_the_command_attaches_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = build_toy_bundle(tmp_path / "toy", members=("plain",), segmenter=False, cam=False, known_answers=False).root
    assert main(["--bundle", str(root)]) == 0
    assert re.search(r"toy: 13 decoded files, \d\d kB", capsys.readouterr().err)
    first = Bundle.open(root)
    assert main(["--bundle", str(root)]) == 0
    assert Bundle.open(root).manifest == first.manifest
    assert main(["--bundle", str(tmp_path)]) == 2
    assert "training.decoded_files: " in capsys.readouterr().err


def test_the_packaged_bundle_decodes_to_the_same_pixels_with_these_versions() -> None:
    """Its files were drawn once: so the lowest and the newest versions of the libraries are compared with each other."""
    bundle = Bundle.open("starter")
    if not bundle.manifest.decoded_files:
        pytest.skip("the packaged bundle has no decoded files yet")
    assert check_decoding(bundle) == len(DRAWN_FILES)
