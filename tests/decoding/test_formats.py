"""Registry of file formats: every row decodes, and help, messages and documentation name every format."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_edge.cli.main import main
from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.decoding.formats import FORMAT_LIST, FORMATS, HOW_TO_CONVERT, identify_format
from tests.builders.dicom_files import dataset, file_bytes, xray_pixels
from tests.decoding.results import error_message

ROOT = Path(__file__).parents[2]
PIXELS = xray_pixels(8).astype(np.uint8)
LABELS = [row.label for row in FORMATS]


def sample_file(name: str) -> bytes:
    if name == "dicom":
        return file_bytes(dataset(PIXELS, bits=8))
    return cv2.imencode(f".{name}", PIXELS)[1].tobytes()


@pytest.mark.parametrize("row", FORMATS, ids=LABELS)
def test_every_format_is_identified_and_decoded(row) -> None:
    data = sample_file(row.name)
    assert identify_format(data) is row
    image = decode_bytes(data, source="x")
    assert (image.format, image.pixels.shape) == (row.name, PIXELS.shape)


def test_magic_bytes_are_unambiguous() -> None:
    for row in FORMATS:
        assert [other.name for other in FORMATS if other.magic.match(sample_file(row.name))] == [row.name]


@pytest.mark.parametrize("page", ["README.md", "docs/images.md"])
def test_documentation_names_every_format(page) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert FORMAT_LIST in text
    assert [label for label in LABELS if label not in text] == []


def test_help_and_error_messages_name_every_format(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["screen", "--help"])
    assert FORMAT_LIST in " ".join(capsys.readouterr().out.split())
    message = error_message(b"plain text")
    assert f"expected {FORMAT_LIST}" in message
    assert message.endswith(HOW_TO_CONVERT)
    assert all(label in HOW_TO_CONVERT for label in LABELS)
