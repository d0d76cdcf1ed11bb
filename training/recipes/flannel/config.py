"""Configuration of FLANNEL's pipeline: a TOML file in, a validated dataclass out.

The preset selects between the text, the published code and good practice where they differ; the tables of the file give sizes
and training plans. configs/flannel-*.toml have only the values that differ from the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PreprocessSpec, preset
from training.config import plan, prune_plan
from training.data.augment import Augmentation
from training.data.findings import FRONTAL_VIEWS, UNKNOWN_VIEW, FindingTable
from training.data.splits import FLANNEL_SHARES, Side
from training.ensembles.neural_weights import FitPlan
from training.loop.plan import Plan
from training.models import NetworkSpec
from training.models.networks import COVID_NETS, GRAY_ONLY
from training.pruning.prune import PrunePlan
from training.recipes.config import MemberPlan, RunConfig, parse_members, parse_segmenter
from training.tasks.classify import Balance
from training.toml_tables import parse_table, read_toml

__all__ = ["FlannelConfig", "load_flannel"]

# Crop over canvas: the text's 224 of 256, the code's 224 of 336.
_CROPS: Mapping[str, tuple[int, int]] = {"paper": (7, 8), "code": (2, 3)}
FitOn = Literal["out-of-fold", "in-sample", "augmented"]
_VIEWS: Mapping[str, tuple[str, ...]] = {
    "frontal": FRONTAL_VIEWS,
    "any": (*FRONTAL_VIEWS, UNKNOWN_VIEW),
    "ap": ("AP",),
}
_FIT_ON: Mapping[str, FitOn] = {"sane": "out-of-fold", "paper": "in-sample", "code": "augmented"}


@dataclass(frozen=True, kw_only=True)
class FlannelConfig(RunConfig):
    """Configuration of a FLANNEL run.

    Preset `sane` splits by patient, gives members the lung box and fits the module on out-of-fold predictions. `paper` and
    `code` give the full frame, resized and cropped, and fit the module on predictions of the learners' own training images;
    `code` also splits by image.
    """

    labels: tuple[str, ...] = ("covid-19", "viral", "bacterial", "normal")
    collections: tuple[str, ...] = ("kcx", "ccx")  # of Table 1, the only ones that learners see
    # Collections that are read in addition, for their lung masks and to evaluate finished models on.
    outside: tuple[str, ...] = ("tuberculosis", "twitter")
    # `frontal` (AP of any wording, and PA), `any` to include images without a stated view, or `ap` for AP views only.
    view: Literal["frontal", "any", "ap"] = "frontal"
    folds: int = 5  # of the training side
    # Mirror PA images and add noise in training, as in the text; the published code does not.
    pa_to_ap: bool = False
    # Predictions on training images that the module is fitted on: `out-of-fold`, `in-sample` (by the networks that trained on
    # them) or `augmented` (in-sample, on augmented copies); None is the preset's.
    fit_on: FitOn | None = None
    copies: int = 4  # of each image, for `augmented`
    balance: Balance = "none"
    label_smoothing: float = 0.0
    partial: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    learners: dict[str, MemberPlan] = field(default_factory=dict)  # by name, in the order of the module's inputs
    baselines: dict[str, MemberPlan] = field(default_factory=dict)  # networks of Table 3 that are not learners
    learners_of: str | None = None  # run folder of the same split and folds, to copy trained learners from
    prune: PrunePlan | None = None  # prunes every learner before stage 2
    learn: Plan = field(default_factory=lambda: Plan(epochs=200))  # stage 1
    fit: FitPlan = field(default_factory=FitPlan)  # stage 2
    cam_cases: int = 3  # rows of the picture of class activation maps

    def __post_init__(self) -> None:
        if len(set(self.labels)) < max(2, len(self.labels)):
            raise InputError(
                f"FLANNEL separates the guarded label from the rest: give two labels or more, each once, got {self.labels}"
            )
        super().__post_init__()
        if self.view not in _VIEWS:
            raise InputError(f"view is one of {', '.join(_VIEWS)}, got {self.view!r}")
        if self.fit_on not in (None, *_FIT_ON.values()):
            raise InputError(f"fit_on is one of {', '.join(_FIT_ON.values())}, got {self.fit_on!r}")
        if self.folds < 2 or self.copies < 1:
            raise InputError(f"folds are 2 or more and copies 1 or more, got {self.folds} and {self.copies}")
        if len(self.learners) < 2:
            raise InputError("give two learners or more ([learners.NAME] with an architecture)")
        if both := set(self.learners) & set(self.baselines):
            raise InputError(f"{sorted(both)} are learners and baselines: give each a name of its own")
        if both := set(self.collections) & set(self.outside):
            raise InputError(f"{sorted(both)} are in collections and in outside: learners see them, or they do not")
        self._check_networks()
        if self.balance not in ("none", "draw", "weigh"):
            raise InputError(f"balance is none (the paper), draw or weigh, got {self.balance!r}")

    def _check_networks(self) -> None:
        for name, m in self.networks.items():
            if m.architecture in COVID_NETS and name in self.learners and not m.head_maps:
                raise InputError(
                    f"learners.{name}: {m.architecture} has no class activation map; make it a baseline, or give it head_maps"
                )
            if m.architecture in GRAY_ONLY and self.member_spec.channels != 1:
                raise InputError(
                    f"{name}: {m.architecture} takes one gray channel, and preset {self.preset!r} has three; choose another "
                    "network, such as narrow-vgg"
                )

    @property
    def side_shares(self) -> Mapping[Side, float]:
        return FLANNEL_SHARES

    @property
    def read_collections(self) -> tuple[str, ...]:
        return (*self.collections, *self.outside)

    @property
    def networks(self) -> dict[str, MemberPlan]:
        """Learners, then baselines."""
        return {**self.learners, **self.baselines}

    @property
    def effective_fit_on(self) -> FitOn:
        """Predictions that stage 2 is fitted on: `fit_on`, or the preset's."""
        return _FIT_ON[self.preset] if self.fit_on is None else self.fit_on

    @property
    def selected_views(self) -> Sequence[str]:
        """Projections of the images that train and evaluate."""
        return _VIEWS[self.view]

    @property
    def findings(self) -> FindingTable:
        """Table that maps CCX's findings to labels: the published code's in preset `code`."""
        return "flannel-code" if self.preset == "code" else "full"

    @property
    def by_loss(self) -> bool:
        return False

    @property
    def turn_pa(self) -> bool:
        return self.pa_to_ap

    @property
    def augmentation(self) -> Augmentation:
        """Augmentation of the preset.

        `sane`: simulates acquisition differences, so that collections cannot be identified.
        `paper`: crop, flip, scaling and noise.
        `code`: crop and flip.
        """
        if self.preset == "sane":
            return Augmentation(**self.augment)
        crop, canvas = _CROPS[self.preset]
        none = Augmentation(
            shift=(canvas - crop) / canvas / 2,
            zoom=0.0,
            stretch=0.0,
            rotation_deg=0.0,
            **dict.fromkeys(_GRAY_PROBABILITIES, 0.0),
        )
        return replace(none, zoom=0.1, noise=0.5) if self.preset == "paper" else none

    @property
    def member_spec(self) -> PreprocessSpec:
        """Preprocessing of every member at `canvas_px`: the lung box in `sane`, else the frame's centre crop."""
        if self.preset == "sane":
            return PreprocessSpec(region="lungs", canvas_px=self.canvas_px, crop_px=self.canvas_px, standardize="image")
        crop, canvas = _CROPS[self.preset]
        spec = preset(f"flannel-{self.preset}")
        return replace(spec, canvas_px=self.canvas_px, crop_px=self.canvas_px * crop // canvas)

    def network(self, name: str) -> NetworkSpec:
        """Return the spec of a learner or baseline."""
        return self.networks[name].network(len(self.labels), self.member_spec.channels)


_GRAY_PROBABILITIES = (
    "histogram_swap", "curve", "shading", "equalize", "resample", "blur", "sharpen", "noise", "jpeg", "letters", "erase",
)  # fmt: skip


def load_flannel(file: Path) -> FlannelConfig:
    """Load a TOML file. Raises InputError for a missing file, unknown keys and invalid values."""
    values = read_toml(file)
    base = Plan(epochs=200, threads=values.get("threads", 2), seed=values.get("training_seed", values.get("seed", 1)))
    # Selecting the epoch on its fold's images would bias out-of-fold predictions upwards.
    learn = replace(base, keep="last") if values.get("preset", "sane") == "sane" else base
    values["learn"] = plan(values.get("learn", {}), learn, f"{file}: learn")
    parse_segmenter(values, base, file)
    if "prune" in values:
        values["prune"] = prune_plan(values["prune"], learn, f"{file}: prune")
    if "fit" in values:
        values["fit"] = parse_table(FitPlan, values["fit"], f"{file}: fit")
    for kind in ("learners", "baselines"):
        # The papers' networks end in global pooling and one dense layer: R20's head convolution only if configured.
        values[kind] = parse_members(values.get(kind, {}), base, f"{file}: {kind}", head_maps=0, dropout=0.0)
    return parse_table(FlannelConfig, values, str(file))
