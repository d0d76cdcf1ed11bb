"""DICOM seed files: every supported transfer syntax, and the elements that the display pipeline reads.

No input; gives `Seed`s of small drawn images. They exist so that mutations reach the element parser, each pixel decoder
and the arithmetic of windows, tables and padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.builders.dicom_files import (
    compressed_file,
    dataset,
    encapsulated_file,
    file_bytes,
    jpeg_baseline,
    jpeg_lossless,
)
from tests.fuzz.image_seeds import DEEP, GRAY, RGB, Seed

TWELVE = DEEP >> 4
_NEUTRAL_YBR = np.dstack([GRAY, np.full_like(GRAY, 128), np.full_like(GRAY, 128)])


def dicom_seeds() -> Iterator[Seed]:
    """Uncompressed and compressed syntaxes, and the display elements."""
    for name, data in {**_native(), **_codestreams(), **_displays()}.items():
        yield Seed(format="dicom", name=name, data=data)
    yield Seed(format="dicom", name="deflated", data=_deflated_syntax(file_bytes(dataset(TWELVE))), unpacked=True)


def _deflated_syntax(data: bytes) -> bytes:
    """Return the file with the deflated transfer syntax in its meta group, the data set not yet deflated."""
    plain, deflated = (
        b"\2\0\x10\0UI"
        + (len(syntax) + len(syntax) % 2).to_bytes(2, "little")
        + syntax.encode()
        + b"\0" * (len(syntax) % 2)
        for syntax in (uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian)
    )
    group_length = int.from_bytes(data[140:144], "little") + len(deflated) - len(plain)
    return (data[:140] + group_length.to_bytes(4, "little") + data[144:]).replace(plain, deflated)


def _native() -> dict[str, bytes]:
    implicit = file_bytes(dataset(TWELVE), uid.ImplicitVRLittleEndian)
    return {
        "explicit": file_bytes(dataset(TWELVE)),
        "implicit": implicit,
        "big endian": file_bytes(dataset(TWELVE), uid.ExplicitVRBigEndian),
        "big endian, odd": file_bytes(_odd_words(), uid.ExplicitVRBigEndian),
        "no preamble": file_bytes(dataset(TWELVE))[132:],
        "bare data set": implicit[implicit.index(b"\x08\0\x16\0") :],
        "8 bits": file_bytes(dataset(GRAY, bits=8)),
        "rgb": file_bytes(dataset(RGB, bits=8)),
        "rgb planes": file_bytes(dataset(RGB, bits=8, PlanarConfiguration=1, PixelData=GRAY.tobytes() * 3)),
        "ybr full": file_bytes(dataset(_NEUTRAL_YBR, bits=8, PhotometricInterpretation="YBR_FULL")),
        "palette": file_bytes(_palette()),
        "signed": file_bytes(dataset(TWELVE, PixelRepresentation=1)),
        "32 bits": file_bytes(_wide()),
        "1 bit": file_bytes(_one_bit()),
        "nested": file_bytes(_nested()),
    }


def _codestreams() -> dict[str, bytes]:
    deep, shallow = dataset(TWELVE), dataset(GRAY, bits=8)
    colour = dataset(RGB, bits=8, PhotometricInterpretation="YBR_FULL_422")
    reversible = dataset(RGB, bits=8, PhotometricInterpretation="YBR_RCT")
    streams: dict[str, tuple[Dataset, bytes, str]] = {
        "jpeg": (shallow, jpeg_baseline(GRAY), uid.JPEGBaseline8Bit),
        "jpeg colour": (colour, jpeg_baseline(RGB), uid.JPEGBaseline8Bit),
        "jpeg extended": (deep, imagecodecs.jpeg8_encode(TWELVE, bitspersample=12), uid.JPEGExtended12Bit),
        "jpeg lossless": (deep, jpeg_lossless(TWELVE, bits=12), uid.JPEGLosslessSV1),
        "jpeg lossless 4": (deep, jpeg_lossless(TWELVE, bits=12, predictor=4), uid.JPEGLossless),
        "jpeg lossless 8": (shallow, jpeg_lossless(GRAY, bits=8), uid.JPEGLosslessSV1),
        "jpeg lossless in 32": (_wide(), jpeg_lossless(TWELVE, bits=12), uid.JPEGLosslessSV1),
        "jpeg-ls": (deep, imagecodecs.jpegls_encode(TWELVE), uid.JPEGLSLossless),
        "jpeg-ls near": (shallow, imagecodecs.jpegls_encode(GRAY, 2), uid.JPEGLSNearLossless),
        "jpeg 2000": (deep, _jpeg_2000(TWELVE, reversible=True, bitspersample=12), uid.JPEG2000Lossless),
        "jpeg 2000 lossy": (shallow, _jpeg_2000(GRAY, level=40), uid.JPEG2000),
        "jpeg 2000 jp2": (shallow, imagecodecs.jpeg2k_encode(GRAY, codecformat="JP2", reversible=True), uid.JPEG2000),
        "jpeg 2000 rgb": (reversible, _jpeg_2000(RGB, reversible=True), uid.JPEG2000Lossless),
    }
    files = {name: encapsulated_file(*parts) for name, parts in streams.items()}
    files["rle"] = compressed_file(dataset(TWELVE), uid.RLELossless)
    files["rle 8"] = compressed_file(dataset(GRAY, bits=8), uid.RLELossless)
    files["fragments"] = encapsulated_file(
        dataset(GRAY, bits=8), jpeg_baseline(GRAY), uid.JPEGBaseline8Bit, fragments=3
    )
    return files


def _jpeg_2000(pixels: np.ndarray, **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="J2K", **options))


def _displays() -> dict[str, bytes]:
    table, modality = _table(list(range(0, 4096 * 16, 16)), bits=16), _table(list(range(4096)), bits=12)
    elements: dict[str, dict[str, Any]] = {
        "window": {"WindowCenter": 2000, "WindowWidth": 3000, "RescaleSlope": 2, "RescaleIntercept": -100},
        "windows": {"WindowCenter": ["2000.5", "1e3"], "WindowWidth": ["3000", "+12"], "VOILUTFunction": "SIGMOID"},
        "voi lut": {"VOILUTSequence": Sequence([table])},
        "modality lut": {"ModalityLUTSequence": Sequence([modality]), "VOILUTSequence": Sequence([table, table])},
        "monochrome1": {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        "padding": {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 900, "PhotometricInterpretation": "MONOCHROME1"},
        "orientation": {"PatientOrientation": ["H", "L"], "PixelAspectRatio": [2, 1], "PixelSpacing": ["0.2", "0.1"]},
        "kind": {
            "ViewPosition": "LL",
            "BodyPartExamined": "HAND",
            "PresentationIntentType": "FOR PROCESSING",
            "NumberOfFrames": 1,
        },
    }
    return {name: file_bytes(dataset(TWELVE, **extra)) for name, extra in elements.items()}


def _table(entries: list[int], *, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), 0, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return item


def _palette() -> Dataset:
    data = dataset(GRAY, bits=8, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        data.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        data.add_new(f"{colour}PaletteColorLookupTableData", "OW", (np.arange(256, dtype="<u2") * 257).tobytes())
    return data


def _wide() -> Dataset:
    data = dataset(TWELVE, BitsAllocated=32, BitsStored=32, HighBit=31)
    data.PixelData = TWELVE.astype("<u4").tobytes()
    return data


def _odd_words() -> Dataset:
    """8-bit samples of an odd number, in 16-bit words: the last word is half padding."""
    data = dataset(GRAY[:47, :39], bits=8)
    data["PixelData"].VR = "OW"
    return data


def _one_bit() -> Dataset:
    return dataset(GRAY, bits=8, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=np.packbits(GRAY > 120).tobytes())


def _nested() -> Dataset:
    """Sequences of undefined length in each other, and private elements, before and after the pixels."""
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "R-10206", "postero-anterior"
    outer = Dataset()
    outer.CodeMeaning, outer.ViewModifierCodeSequence = "frontal", Sequence([inner, inner])
    data = dataset(TWELVE, ViewCodeSequence=Sequence([outer]))
    for sequence in (data["ViewCodeSequence"], outer["ViewModifierCodeSequence"]):
        sequence.is_undefined_length = True
    inner.is_undefined_length_sequence_item = outer.is_undefined_length_sequence_item = True
    data.private_block(0x0009, "MAKER", create=True).add_new(1, "UN", b"\1\2\3\4")
    data.add_new("DataSetTrailingPadding", "OB", b"\0\0\0\0")
    return data
