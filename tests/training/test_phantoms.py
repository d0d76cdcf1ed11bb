"""Phantoms: deterministic, in the requested shape, with opacities by label."""

import numpy as np
import pytest

from cxr_edge.decoding.decode import decode
from cxr_edge.errors import InputError
from training.phantoms import LABELS, copy_radiographs, make_phantom, write_samples


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_shape_range_and_mask(label, bits, dtype):
    phantom = make_phantom(label, size_px=(200, 180), seed=3, bits=bits)
    assert phantom.pixels.shape == phantom.lung_mask.shape == (200, 180)
    assert phantom.pixels.dtype == dtype
    assert 0.1 < phantom.lung_mask.mean() < 0.5
    lungs, rest = phantom.pixels[phantom.lung_mask], phantom.pixels[60:140, 80:100]
    assert lungs.mean() < rest.mean()  # lungs are darker than the mediastinum


def test_the_same_arguments_give_the_same_image():
    a, b, c = (make_phantom("viral", size_px=100, seed=s).pixels for s in (1, 1, 2))
    assert (a == b).all()
    assert (a != c).any()


def test_opacities_brighten_the_lungs():
    def lung_mean(label):
        phantoms = [make_phantom(label, size_px=128, seed=s, bits=16) for s in range(12)]
        return np.mean([p.pixels[p.lung_mask].mean() for p in phantoms])

    normal = lung_mean("normal")
    assert all(lung_mean(label) > normal for label in LABELS[1:])


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match="labels"):
        make_phantom("healthy")
    with pytest.raises(ValueError, match="8 or 16"):
        make_phantom("normal", bits=12)


def test_samples_have_several_formats_and_can_be_decoded(tmp_path):
    files = write_samples(tmp_path, count=8, size_px=300)
    assert {f.suffix for f in files} == {".jpg", ".png", ".dcm"}
    flags = set()
    for file in files:
        image = decode(file)
        assert (image.height_px, image.width_px) == (300, 270)
        assert (
            image.pixels[140:160, 130:140].mean() > image.pixels[:2, 200:].mean()
        )  # spine bright, corner dark, also when inverted
        flags |= {f.code for f in image.flags}
    assert "monochrome1_inverted" in flags
    assert {image.stored_bits for image in map(decode, files)} >= {8, 12, 16}


def test_radiographs_are_copied_from_an_installed_package(tmp_path, monkeypatch):
    copies = {path.name: decode(path) for path in copy_radiographs(tmp_path)}
    assert list(copies) == [
        "chest.dcm", "chest-jpeg-2000.dcm", "chest-jpeg-2000-lossy.dcm", "leg.dcm", "leg-jpeg-2000.dcm",
    ]  # fmt: skip
    assert copies["chest.dcm"].width_px == 1841
    same = [(copies[f"{name}.dcm"].pixels == copies[f"{name}-jpeg-2000.dcm"].pixels).all() for name in ("chest", "leg")]
    assert same == [True, True]
    monkeypatch.setattr("training.phantoms.importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pydicom-data"):
        copy_radiographs(tmp_path)
