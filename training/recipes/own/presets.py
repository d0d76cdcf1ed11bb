"""Presets of `cxr-edge train`: budget, networks, left-out sites and candidates by name; and what each network and candidate is.

Networks and learning rates are the starter's, which were chosen on ten sources (docs/decisions/0014-unseen-sites.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BY_SITE", "CANDIDATES", "FROM_SCRATCH", "NETWORKS", "PRESETS", "Preset"]

Table = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One preset. Epochs are a least and a largest number; the time decides between them."""

    minutes: float  # of the whole run, without --time
    members: tuple[str, ...]  # names of NETWORKS
    scratch_members: tuple[str, ...] = ("inverted", "plain")  # without ImageNet weights
    candidates: tuple[str, ...] = ("plain",)  # names of CANDIDATES; the one with the best worst site is trained
    epochs: tuple[int, int] = (3, 14)  # of a network with ImageNet weights
    scratch_epochs: tuple[int, int] = (8, 35)  # of others
    epoch_images: int = 2000  # drawn per epoch at most
    sites: int = 2  # left-out sites at most, largest first
    canvas_px: int = 128
    prune: Table | None = None  # of the first member
    own_segmenter: bool = False  # train the segmenter if there are masks enough
    resamples: int = 1000
    range_images: int = 100  # on which activation ranges are measured
    known_answers: int = 10


_PRUNE: Table = {
    "step": 0.1,
    "until": 0.3,
    "multiple_of": 8,
    "tolerance": 0.02,
    "retrain": {"epochs": 2, "learning_rate": 7e-4, "warmup_epochs": 0.1, "ema": 0.98},
}

PRESETS: dict[str, Preset] = {
    "quick": Preset(minutes=10, members=("lite0", "lite0-b")),
    "standard": Preset(
        minutes=60,
        members=("lite0", "lite0-b", "inverted"),
        candidates=("plain", "balanced"),
        epochs=(5, 30),
        scratch_epochs=(12, 60),
        epoch_images=4000,
        sites=3,
        prune=_PRUNE,
        own_segmenter=True,
    ),
    "thorough": Preset(
        minutes=300,
        members=("lite0", "lite0-b", "inverted", "plain"),
        candidates=("plain", "balanced", "balanced-strong"),
        epochs=(8, 40),
        scratch_epochs=(20, 100),
        epoch_images=8000,
        sites=5,
        canvas_px=160,
        prune={**_PRUNE, "until": 0.4},
        own_segmenter=True,
        resamples=2000,
    ),
}

_LITE0: Table = {
    "architecture": "timm:tf_efficientnet_lite0",
    "imagenet": "package",
    "dropout": 0.3,
    "keep": "last",
    "learning_rate": 1e-3,
    "ema": 0.99,
    "warmup_epochs": 0.5,
}
_SMALL: Table = {"keep": "last", "learning_rate": 2e-3, "ema": 0.995}
NETWORKS: Mapping[str, Table] = {
    "lite0": _LITE0,
    "lite0-b": {**_LITE0, "seed": 2},
    "inverted": {"architecture": "inverted", **_SMALL},
    "plain": {"architecture": "plain", **_SMALL},
}
FROM_SCRATCH = (
    "ImageNet weights are not installed (pip install 'cxr-edge[train]'): small networks start from random weights"
)

_STRONG: Table = {
    "histogram_swap": 0.6,
    "shading": 0.5,
    "equalize": 0.2,
    "resample": 0.5,
    "blur": 0.4,
    "sharpen": 0.4,
    "noise": 0.5,
    "jpeg": 0.5,
    "letters": 0.3,
    "erase": 0.4,
    "shift": 0.1,
    "zoom": 0.2,
    "stretch": 0.15,
}
BY_SITE: Mapping[str, float] = {"label": 0.5, "source": 0.5}
# Name -> what is different, and the settings that differ.
CANDIDATES: Mapping[str, tuple[str, Table]] = {
    "plain": ("pairs of label and site by the square root of their images", {}),
    "balanced": (
        "labels, and sites within a label, by the square root of their images",
        {"balance_levels": BY_SITE},
    ),
    "balanced-strong": (
        "as balanced, with stronger changes of contrast, sharpness, noise, framing, letters and erased parts",
        {"balance_levels": BY_SITE, "augment": _STRONG},
    ),
}
