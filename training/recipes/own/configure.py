"""Configuration of a run on own data: labels, sites and a preset in; the tables of its members and of its left-out sites out.

Both are tables in the form of the starter's and of `training.sites`' configurations, so that the same code reads them, and
config.toml of the run holds all that repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from training.models.imagenet import WEIGHT_PACKAGES
from training.recipes.config import Config, parse_config
from training.recipes.own.presets import BY_SITE, CANDIDATES, NETWORKS, Preset
from training.recipes.sites import SitesConfig, parse_sites

__all__ = ["Epochs", "Tables", "has_imagenet", "make_tables", "member_names", "members_config", "sites_config"]

Table = Mapping[str, Any]

# Of single-label bundles, where validation patients show it. With few of them a smaller share cannot be shown for most labels.
_BUDGET = {"max_wrong": 0.25, "confidence": 0.9, "coverage": 0.95}


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """Length of the trainings: a place between a preset's least and largest numbers of epochs."""

    share: float  # 0 to 1
    sites_share: float = 0.5  # epochs of a network without a site, as a share of a member's

    def of(self, preset: Preset, network: str) -> int:
        """Return the epochs of a member."""
        low, high = preset.epochs if "imagenet" in NETWORKS[network] else preset.scratch_epochs
        return round(low + self.share * (high - low))

    def without_a_site(self, preset: Preset, network: str) -> int:
        """Return the epochs of a network that a site is left out of, not below the least."""
        low, _ = preset.epochs if "imagenet" in NETWORKS[network] else preset.scratch_epochs
        return max(low, round(self.sites_share * self.of(preset, network)))


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Tables of config.toml."""

    training: Table  # of `Config`
    sites: Table | None  # of `SitesConfig`; None without left-out sites


def has_imagenet() -> bool:
    """Return whether the package with ImageNet weights of the presets' network is installed."""
    package = WEIGHT_PACKAGES["timm:tf_efficientnet_lite0"]
    return find_spec(package.replace("-", "_")) is not None


def member_names(preset: Preset) -> tuple[str, ...]:
    """Return the networks that a preset trains on this machine."""
    return preset.members if has_imagenet() else preset.scratch_members


def make_tables(
    preset: Preset,
    epochs: Epochs,
    *,
    name: str,
    labels: tuple[str, ...],
    sites: tuple[str, ...],
    multi_label: bool = False,
    guard: str,
    seed: int,
    epoch_images: int,
    segmenter_epochs: int,
    by_view: bool,
) -> Tables:
    """Return the tables of a run.

    sites: that are left out in turn. segmenter_epochs: to train a segmenter; 0 takes the packaged one.
    by_view: every image states AP or PA, so that candidates can balance by view.
    """
    common = {
        "name": _slug(name) or "own",
        "seed": seed,
        "collections": ["own"],
        "labels": labels,
        **({"multi_label": True} if multi_label else {}),
        "guard": guard,
        "guard_groups": _guard_groups(labels, guard),
        "watch": {},
        "auc_groups": {"all": {}} if guard else {},
        "partial": {},
        "canvas_px": preset.canvas_px,
        "source_px": 2 * preset.canvas_px,
        "epoch_images": epoch_images,
        **({} if segmenter_epochs else {"segmenter_of": "starter"}),
        "resamples": preset.resamples,
    }
    training = {
        **common,
        "half_weights": True,
        "range_images": preset.range_images,
        "known_answers": preset.known_answers,
        **({} if multi_label else {"budget": _BUDGET}),
        "members": _members(preset, epochs),
        **({"segmenter": {"epochs": segmenter_epochs}} if segmenter_epochs else {}),
    }
    return Tables(training=training, sites=_sites(preset, epochs, common, sites, by_view) if sites else None)


def _guard_groups(labels: tuple[str, ...], guard: str) -> Table:
    """Return the groups in which the guarded label's false alarms are limited: all others together, and each other label."""
    if not guard:
        return {}
    groups: dict[str, Table] = {"others": {}}
    if len(labels) > 2:
        groups.update({label: {"label": label} for label in labels if label != guard})
    return groups


def _members(preset: Preset, epochs: Epochs) -> Table:
    tables: dict[str, Table] = {}
    for i, name in enumerate(member_names(preset)):
        table = {**NETWORKS[name], "epochs": epochs.of(preset, name)}
        tables[name] = {**table, "prune": preset.prune} if preset.prune is not None and not i else table
    return tables


def _sites(preset: Preset, epochs: Epochs, common: Table, sites: tuple[str, ...], by_view: bool) -> Table:
    network = member_names(preset)[0]
    member = {**NETWORKS[network], "epochs": epochs.without_a_site(preset, network)}
    variants = {}
    for name in preset.candidates:
        about, settings = CANDIDATES[name]
        if by_view and "balance_levels" in settings:
            about, settings = f"{about}; views equal", {**settings, "balance_levels": {**BY_SITE, "view": 0.0}}
        variants[name] = {"about": about, "member": network, "settings": settings}
    folds = {f"{i}-{_slug(site)}": [site] for i, site in enumerate(sites, 1)}
    return {**common, "folds": folds, "members": {network: member}, "variants": variants}


def _slug(text: str) -> str:
    """Return a text as a name of files and bundles."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:60]


def members_config(tables: Tables, candidate: str, *, threads: int) -> Config:
    """Return the configuration of members, with the settings of a candidate. threads: of this process."""
    settings = {} if tables.sites is None else tables.sites["variants"][candidate].get("settings", {})
    return parse_config({**tables.training, **settings, "threads": threads}, "training")


def sites_config(tables: Tables, *, threads: int) -> SitesConfig:
    """Return the configuration of the left-out sites. threads: of this process."""
    assert tables.sites is not None
    return parse_sites({**tables.sites, "threads": threads}, "sites")
