"""Builder of own data of two hospitals: drawn images in folders site/label/patient, a tiny preset, and a run on them."""

from __future__ import annotations

from pathlib import Path

from tests.builders.own_data import write_image
from training.recipes.own.presets import Preset

__all__ = ["LAYOUT", "TINY", "write_two_sites"]

LAYOUT = "site/label/patient"
TINY = Preset(
    minutes=10,
    members=("plain", "inverted"),
    scratch_members=("plain", "inverted"),
    candidates=("plain", "balanced"),
    scratch_epochs=(1, 1),
    epoch_images=32,
    canvas_px=32,
    resamples=5,
    range_images=4,
    known_answers=2,
)


def write_two_sites(root: Path, *, patients: int = 20, sites: tuple[str, ...] = ("Harbour", "Mill Lane")) -> Path:
    """Write one image of each of `patients` patients of each label and site. Returns `root`."""
    for s, site in enumerate(sites):
        for k, label in enumerate(("normal", "opacity")):
            for i in range(patients):
                write_image(root / site / label / f"P{s}{label[0]}{i}" / "x.png", 200 * s + 100 * k + i, side_px=64)
    return root
