"""Leave-sites-out loop: variants of a training and folds of sources in; trained networks and predictions on unseen sites out.

Each fold leaves some sources out; each variant trains a network without them and predicts all their images, and the validation
patients of the sources that trained it. Choices are made by the left-out sites (`training.evaluation.sites`), never by the
mixed validation patients, on which a network that recognises the source looks as good as one that recognises the disease.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from cxr_edge.ops.combine import Combiner
from cxr_edge.specs.combination import Combination
from training.config import plan
from training.data.dataset import Sample
from training.data.finding_counts import truth_of
from training.data.splits import SHARES, Side
from training.data.targets import Target
from training.ensembles import multi_label
from training.ensembles.fit import fit
from training.loop.plan import Plan
from training.recipes.config import RunConfig, StagedMember, parse_segmenter, parse_staged_members
from training.recipes.run import PREDICTIONS, Run, SampleLogits
from training.recipes.staged import train_stages
from training.tasks.classify import Balance
from training.toml_tables import check_keys, construct, parse_table, read_toml, require_table

__all__ = ["SitePredictions", "SitesConfig", "SitesRun", "Variant", "load_sites", "parse_sites", "stacked"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of training, compared with the others on unseen sites."""

    about: str  # what is different, for the page
    member: str = ""  # name of a network of the configuration
    average: tuple[str, ...] = ()  # or: other variants whose mean probabilities are this one's predictions
    plan: Mapping[str, Any] = field(default_factory=dict)  # values that differ from the member's plan of the task
    settings: Mapping[str, Any] = field(default_factory=dict)  # values that differ from the configuration
    sources: tuple[str, ...] = ()  # sources that train; empty for all that the fold does not leave out


@dataclass(frozen=True, kw_only=True)
class SitesConfig(RunConfig):
    """Configuration of the loop."""

    takes_findings: ClassVar[bool] = True
    folds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> sources that are left out together
    members: Mapping[str, StagedMember] = field(default_factory=dict)  # by name
    variants: Mapping[str, Variant] = field(default_factory=dict)  # by name; the others are compared with the first
    before: str | None = None  # bundle that is shown beside the variants, on sources that it was not trained on
    # Share of the guarded label that thresholds find, on average over sites; None: thresholds of the best objective.
    found: float | None = None
    least_site_images: int = 20  # a source with fewer images of a kind is reported and not counted in mean and worst

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.folds or not self.variants:
            raise InputError("give at least one fold ([folds] NAME = [sources]) and one variant ([variants.NAME])")
        if self.found is not None and not 0 < self.found <= 1:
            raise InputError(
                f"found is a share above 0, at most 1, such as 0.85; got {self.found}: change it, or leave it out"
            )
        for name, variant in self.variants.items():
            self._check(name, variant)
            self.of_variant(name)

    def _check(self, name: str, variant: Variant) -> None:
        if not variant.average:
            if variant.member not in self.members:
                raise InputError(
                    f"variants.{name}: no member is called {variant.member!r}: known are {', '.join(self.members)}"
                )
            return
        trained = [n for n, v in self.variants.items() if not v.average]
        if unknown := sorted(set(variant.average) - set(trained)):
            raise InputError(
                f"variants.{name}: average is of variants that are trained, {', '.join(trained)}; got {', '.join(unknown)}"
            )
        if variant.member or variant.plan or variant.settings or variant.sources:
            raise InputError(
                f"variants.{name}: an average has no member, plan, settings or sources: give average and about"
            )

    @property
    def side_shares(self) -> Mapping[Side, float]:
        return SHARES

    @property
    def balance(self) -> Balance:
        return "draw"

    def of_variant(self, name: str) -> SitesConfig:
        """Return the configuration with the settings of one variant, and this variant only."""
        variant = self.variants[name]
        check_keys(variant.settings, RunConfig, f"variants.{name}.settings")
        if fixed := {"canvas_px", "source_px", "seed", "collections", "without"} & set(variant.settings):
            raise InputError(
                f"variants.{name}: {', '.join(sorted(fixed))} is of the whole run, whose canvases and split all variants share: "
                "make a second configuration"
            )
        own = replace(variant, settings={})
        return construct(
            lambda: replace(self, **dict(variant.settings), variants={name: own}) if variant.settings else self,
            f"variants.{name}",
        )

    def member_of(self, name: str) -> StagedMember:
        """Return the member of a variant, with the variant's plan."""
        variant = self.variants[name]
        member = self.members[variant.member]
        return replace(member, train=plan(variant.plan, member.train, f"variants.{name}.plan"))

    def selected(self, names: Sequence[str]) -> SitesConfig:
        """Return the configuration with some variants, and those that they average."""
        wanted = {*names, *(part for name in names for part in self.variants[name].average)}
        return replace(self, variants={name: v for name, v in self.variants.items() if name in wanted})


def load_sites(file: Path) -> SitesConfig:
    """Load a TOML file. Raises InputError for a missing file, unknown keys, invalid values, and without a guarded label."""
    config = parse_sites(read_toml(file), str(file))
    if config.guard is None:
        raise InputError(f"{file}: the loop compares how a guarded label fares on unseen sites: name it (guard)")
    return config


def parse_sites(table: Mapping[str, Any], where: str) -> SitesConfig:
    """Return the configuration of a table. where: file and table, for messages. Raises InputError as `load_sites`."""
    values = dict(table)
    base = Plan(epochs=6, keep="last", threads=values.get("threads", 2), seed=values.get("seed", 1))
    parse_segmenter(values, base, where)
    base = plan(values.pop("train", {}), base, f"{where}: train")
    values["members"] = parse_staged_members(values.get("members", {}), base, f"{where}: members")
    variants = values.get("variants", {})
    require_table(variants, f"{where}: variants")
    values["variants"] = {k: parse_table(Variant, v, f"{where}: variants.{k}") for k, v in variants.items()}
    return parse_table(SitesConfig, values, where)


@dataclass(frozen=True, kw_only=True)
class SitePredictions:
    """Probabilities of a variant in one fold."""

    rows: npt.NDArray[np.int64]  # (N,), indices of the run's samples
    left_out: npt.NDArray[np.bool_]  # (N,); the others are validation patients of the sources that trained
    probabilities: npt.NDArray[np.float64]  # (N, K)


class SitesRun(Run):
    """Run of the loop."""

    config: SitesConfig

    def tasks(self) -> Iterator[tuple[str, Target, list[Sample]]]:
        for fold in self.config.folds:
            for name in (n for n, v in self.config.variants.items() if not v.average):
                sources = self.sources(name, fold)
                own = [s for s in self.apart(fold) if s.record.source in sources]
                if self.config.member_of(name).modality is not None:
                    yield f"modality of {name} without {fold}", self.modality_target, own
                yield f"{name} without {fold}", self.config.of_variant(name).target, own

    def sources(self, variant: str, fold: str) -> tuple[str, ...]:
        """Return the sources that train a variant in a fold."""
        self._check_sources([*self.config.folds[fold], *self.config.variants[variant].sources])
        wanted = self.config.variants[variant].sources
        known = {s.record.source for s in self.samples} - set(self.config.folds[fold])
        return tuple(sorted(known & set(wanted) if wanted else known))

    def apart(self, fold: str) -> list[Sample]:
        """Return the run's samples for a fold: a copy of a left-out picture in another source, and its patient, train nothing."""
        left_out = self.config.folds[fold]
        groups = {s.group for s in self.samples if s.record.source in left_out}
        return [
            replace(s, side="test") if s.group in groups and s.record.source not in left_out else s
            for s in self.samples
        ]

    def evaluated(self, variant: str, fold: str) -> npt.NDArray[np.int64]:
        """Return the rows that a network predicts: all images left out, and validation patients of its own sources."""
        left_out, own = self.config.folds[fold], self.sources(variant, fold)
        return np.array(
            [
                i
                for i, s in enumerate(self.apart(fold))
                if s.record.source in left_out or (s.side == "validation" and s.record.source in own)
            ]
        )

    def train(self, variant: str, fold: str) -> list[SampleLogits]:
        """Return the predictions of a variant's networks in a fold; one is trained unless its folder holds it."""
        if averaged := self.config.variants[variant].average:
            return [found for name in averaged for found in self.train(name, fold)]
        config, member = self.config.of_variant(variant), self.config.member_of(variant)
        folder, sources = self.out / "folds" / variant / fold, self.sources(variant, fold)
        rows, samples = self.evaluated(variant, fold), self.apart(fold)
        trained = train_stages(self._with(config), member, config.target, folder, rows, sources, samples)
        return [SampleLogits.load(trained / PREDICTIONS)]

    def predict_fold(self, variant: str, fold: str) -> SitePredictions:
        """Return a variant's probabilities in a fold, combined and calibrated on its validation patients as a bundle's are."""
        parts = self.train(variant, fold)
        logits, rows = stacked(parts), parts[0].rows
        left_out = np.array([self.samples[i].record.source in self.config.folds[fold] for i in rows], dtype=bool)
        combination = self.combination(logits[~left_out], rows[~left_out], self.config.of_variant(variant).target)
        probabilities, _ = Combiner(combination, labels=logits.shape[2]).run(logits)
        return SitePredictions(rows=rows, left_out=left_out, probabilities=probabilities.astype(np.float64))

    def combination(self, logits: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], target: Target) -> Combination:
        """Return the average of the networks, calibrated on validation patients' images. logits: (N, networks, K)."""
        if target.multi_label:
            truth = truth_of([self.samples[i].record for i in rows], target.labels)
            return multi_label.fit("average", logits, truth, seed=self.config.seed)
        true = self.truth(rows, target)
        return fit("average", logits[true >= 0], true[true >= 0], seed=self.config.seed)

    def _with(self, config: SitesConfig) -> SitesRun:
        """Return this run with another configuration; samples and canvases are shared."""
        run = SitesRun(config, self.data, self.out)
        shared: Sequence[str] = ("samples", "canvases", "views")
        run.__dict__.update({name: self.__dict__[name] for name in shared if name in self.__dict__})
        return run

    def further_settings(self) -> dict[str, Any]:
        c = self.config
        return {
            "label_smoothing": c.label_smoothing,
            "labels": list(c.labels),
            "partial": {k: list(v) for k, v in c.partial.items()},
            "renamed": dict(c.renamed),
            **({"multi_label": True} if c.multi_label else {}),
            "epoch_images": c.epoch_images,
        }

    def plans(self) -> dict[str, Any]:
        """Return variant -> its member with all plans, as JSON, for the results."""
        return {name: asdict(self.config.member_of(name)) for name, v in self.config.variants.items() if not v.average}


def stacked(parts: Sequence[SampleLogits]) -> npt.NDArray[np.float32]:
    """Return logits (N, networks, K). Raises InputError for networks with other images or labels."""
    first = parts[0]
    if any(not np.array_equal(p.rows, first.rows) or p.logits.shape != first.logits.shape for p in parts):
        raise InputError("an average is of variants with the same labels and sources: change its list")
    return np.ascontiguousarray(np.stack([p.logits for p in parts], axis=1))
