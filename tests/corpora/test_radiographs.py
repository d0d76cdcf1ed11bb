"""A real chest radiograph (pydicom-data, MIT) in every transfer syntax that holds it: equal pixels, equal answers.

The package has it four times: its own pixels uncompressed (RG1_UNCR) and in lossless JPEG 2000 (RG1_J2KR), and the pixels of a
lossy JPEG 2000 file (RG1_J2KI) with these uncompressed (RG1_UNCI). Two more syntaxes are written here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.decoding.decode import decode, decode_bytes
from cxr_edge.engines import reference
from cxr_edge.errors import InputError
from cxr_edge.records import Image, Screening
from cxr_edge.screening.screener import Screener
from tests.corpora.reference import decode_reference
from training.phantoms import radiograph

LOSSLESS, LOSSY = ("RG1_UNCR", "RG1_J2KR"), ("RG1_UNCI", "RG1_J2KI")
SYNTAXES = {
    "RG1_UNCR": "1.2.840.10008.1.2.1",
    "RG1_J2KR": "1.2.840.10008.1.2.4.90",
    "RG1_UNCI": "1.2.840.10008.1.2.1",
    "RG1_J2KI": "1.2.840.10008.1.2.4.91",
}
STORED_STEPS = 15  # bits: a step of the stored values is two of the 65536 gray levels
# The wavelet of lossy JPEG 2000 is computed in floating point: decoders may round a stored value up or down.
LOSSY_STEPS = 2
# What this file lost when it was compressed, measured: at most 880 gray levels of 65535 in a pixel, 110 in the mean.
LOST_MAX, LOST_MEAN = 900, 120
LOST_PROBABILITY = 0.005  # measured: 0.0013


def _package() -> Path | None:
    try:
        return radiograph("RG1_UNCR.dcm").parent
    except InputError:
        return None


PACKAGE = _package()
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="pydicom-data is not installed")


def file_bytes(name: str) -> bytes:
    return radiograph(f"{name}.dcm").read_bytes()


@pytest.fixture(scope="module")
def images() -> dict[str, Image]:
    return {name: decode_bytes(file_bytes(name), source=name) for name in SYNTAXES}


@pytest.fixture(scope="module")
def screenings(images: dict[str, Image]) -> dict[str, Screening]:
    """Return the screenings by the starter's fp32 networks."""
    bundle = Bundle.open("starter")
    screener = Screener(bundle, reference(bundle), answer_all=True)
    return {name: screener.screen(image) for name, image in images.items()}


@pytest.mark.parametrize("name", SYNTAXES)
def test_the_files_have_their_transfer_syntaxes(name: str) -> None:
    assert SYNTAXES[name].encode() + b"\0" * (len(SYNTAXES[name]) % 2) + b"\2\0" in file_bytes(name)[:600]


@pytest.mark.parametrize("name", ["RG1_UNCR", "RG1_J2KI"])  # the others have the same pixels
def test_pixels_are_those_of_an_independent_decoder(name: str, images: dict[str, Image]) -> None:
    expected = decode_reference(file_bytes(name), stored_bits=None).pixels
    found = images[name].pixels
    assert found.dtype == np.uint16
    assert (images[name].height_px, images[name].width_px) == (1955, 1841)
    steps = np.abs(found / 65535 - expected).max() * (2**STORED_STEPS - 1)
    assert steps <= (LOSSY_STEPS if name == "RG1_J2KI" else 0.5) + 0.01


def test_lossless_files_have_equal_pixels_and_equal_answers(
    images: dict[str, Image], screenings: dict[str, Screening]
) -> None:
    first, second = LOSSLESS
    assert np.array_equal(images[first].pixels, images[second].pixels)
    assert images[first].flags == images[second].flags
    assert screenings[first].probabilities == screenings[second].probabilities
    assert screenings[first].roi == screenings[second].roi
    assert screenings[first].forced_decision == screenings[second].forced_decision


def test_lossy_compression_changes_little(images: dict[str, Image], screenings: dict[str, Screening]) -> None:
    original, answer = images[LOSSLESS[0]], screenings[LOSSLESS[0]]
    for name in LOSSY:
        lost = np.abs(images[name].pixels.astype(int) - original.pixels)
        assert 0 < lost.max() <= LOST_MAX
        assert lost.mean() <= LOST_MEAN
        shift = np.abs(np.subtract(screenings[name].probabilities, answer.probabilities)).max()
        assert shift <= LOST_PROBABILITY
        assert screenings[name].forced_decision == answer.forced_decision


def test_a_lossy_file_has_the_pixels_that_it_decodes_to_uncompressed(images: dict[str, Image]) -> None:
    """The package's author decoded it once with another decoder."""
    uncompressed, compressed = (images[name].pixels.astype(int) for name in LOSSY)
    assert np.abs(uncompressed - compressed).max() <= 2 * LOSSY_STEPS


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.1.99"])
def test_its_pixels_survive_other_lossless_syntaxes(syntax: str, images: dict[str, Image], tmp_path: Path) -> None:
    """JPEG lossless, JPEG-LS and deflated, written here of the stored values."""
    import imagecodecs
    import pydicom
    from pydicom.encaps import encapsulate

    data = pydicom.dcmread(radiograph("RG1_UNCR.dcm"))
    stored = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)
    encoders = {
        "1.2.840.10008.1.2.4.70": lambda: imagecodecs.jpeg8_encode(stored, lossless=True, bitspersample=16),
        "1.2.840.10008.1.2.4.80": lambda: imagecodecs.jpegls_encode(stored),
    }
    if syntax in encoders:
        data.PixelData = encapsulate([bytes(encoders[syntax]())])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    data.save_as(tmp_path / "chest.dcm")
    assert np.array_equal(decode(tmp_path / "chest.dcm").pixels, images["RG1_UNCR"].pixels)
