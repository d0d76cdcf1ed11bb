"""The checker's run: a data folder in; split, frames, trained network, ONNX file and figures out, each made once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.dataset import Sample, prepare
from training.data.leakage import SplitSettings
from training.json_records import read_json, write_json
from training.loop.fit import fit, load_weights
from training.loop.plan import Plan
from training.models.checker import CheckerForExport, CheckerNetwork
from training.models.onnx_export import export
from training.recipes.checker.frames import lung_finder, stage
from training.recipes.checker.items import Item, chest_items, picture_items
from training.recipes.checker.measure import RefusalResults, Scorer, choose_checks, measure
from training.shared_files import exclusive_lock
from training.tasks.checks import OUTPUTS, CheckTask, StagedFrames, good_inputs

__all__ = ["CHECKER_SPEC", "ONNX", "RESULTS", "SCORES", "CheckerRun", "CheckerSettings"]

# The starter segmenter's own input: both share one tensor, so that the checker costs no second resize.
CHECKER_SPEC = PreprocessSpec(region="frame", canvas_px=128, crop_px=128)
SCORES = (*OUTPUTS, "unfamiliar")  # columns of the ONNX output
ONNX, RESULTS = "checker.onnx", "refusals.json"  # in the run folder

_COLLECTIONS = ("kcx", "ccx", "twitter", "tuberculosis", "adults")  # of the starter
_SHRINKAGE = 0.05  # of the features' covariance towards its diagonal
_PLAN = Plan(
    epochs=36, batch=64, learning_rate=3e-3, weight_decay=1e-2, ema=0.995, keep="last", threads=1, precision="fp32"
)


@dataclass(frozen=True, kw_only=True)
class CheckerSettings:
    """Settings of a run; the split is the starter's."""

    seed: int = 1
    collections: tuple[str, ...] = _COLLECTIONS
    without: tuple[str, ...] = ("siim/pneumonia",)
    plan: Plan = field(default=_PLAN)
    epoch_images: int = 6400
    left_out: tuple[str, ...] = ()  # sources that do not train, to measure on them


class CheckerRun:
    """One run folder `out`, of the collections in `data`."""

    def __init__(self, data: Path, out: Path, settings: CheckerSettings | None = None) -> None:
        self.data, self.out = data, out
        self.settings = settings or CheckerSettings()

    @cached_property
    def samples(self) -> list[Sample]:
        """Frontal images with their side, split by patient as the starter's."""
        s = self.settings
        split = SplitSettings(seed=s.seed, collections=s.collections, without=s.without)
        return prepare(self.data, self.out, split, threads=1)

    @cached_property
    def items(self) -> list[Item]:
        """All images of the run."""
        return [*chest_items(self.data, self.samples), *picture_items()]

    def side(self, name: str) -> list[Item]:
        """Return the items of one side, without the sources that are left out of the training."""
        left_out = self.settings.left_out if name != "test" else ()
        return [item for item in self.items if item.side == name and item.source not in left_out]

    @property
    def onnx(self) -> Path:
        """Path of the exported network."""
        return self.out / ONNX

    def staged(self, side: str) -> StagedFrames:
        """Return the frames of one side that trains or validates; made on first use."""
        return stage(self.side(side), self.out / f"frames-{side}.npz", find_lungs=lung_finder())

    def train(self) -> None:
        """Train and export the network, unless that is done."""
        with exclusive_lock(self.onnx):
            if not self.onnx.exists():
                self._train()

    def measure(self) -> RefusalResults:
        """Choose the limits on validation patients and measure on test patients, unless that is done."""
        file = self.out / RESULTS
        with exclusive_lock(file):
            if not file.exists():
                write_json(file, self._measure())
        return read_json(RefusalResults, file)

    def _measure(self) -> RefusalResults:
        scorer, find_lungs = Scorer(self.onnx, CHECKER_SPEC, SCORES), lung_finder()
        validation = [item for item in self.side("validation") if item.kind == "frontal"]
        checks = choose_checks(validation, scorer, find_lungs)
        seed = self.settings.seed
        return measure(validation, self.side("test"), scorer, checks, find_lungs=find_lungs, seed=seed)

    def _train(self) -> None:
        s, train = self.settings, self.staged("train")
        torch.manual_seed(s.plan.seed)
        network = CheckerNetwork(len(OUTPUTS), side_px=CHECKER_SPEC.crop_px)
        task = CheckTask(
            network,
            train,
            self.staged("validation"),
            CHECKER_SPEC,
            batch=s.plan.batch,
            seed=s.plan.seed,
            epoch_images=s.epoch_images,
        )
        load_weights(network, fit(task, s.plan, self.out / "network", name="checker"))
        network = network.cpu().eval()
        mean, whitening = _feature_statistics(network, good_inputs(train, CHECKER_SPEC, seed=s.seed))
        difference = export(CheckerForExport(network, mean, whitening), CHECKER_SPEC, ["scores"], self.onnx)
        print(f"{ONNX}: relative difference to torch at most {difference:.1e}", file=sys.stderr)


def _feature_statistics(network: CheckerNetwork, inputs: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean (F,) of the features of inputs (N, 1, S, S), and the matrix (F, F) that whitens them."""
    with torch.no_grad():
        parts: Sequence[torch.Tensor] = [
            network.features(torch.from_numpy(part)) for part in np.array_split(inputs, -(-len(inputs) // 64))
        ]
    features = torch.cat(list(parts)).double()
    mean = features.mean(dim=0)
    covariance = torch.cov((features - mean).T)
    covariance = (
        (1 - _SHRINKAGE) * covariance + _SHRINKAGE * torch.diag(torch.diag(covariance)) + 1e-6 * torch.eye(len(mean))
    )
    values, vectors = torch.linalg.eigh(covariance)
    return mean.float(), (vectors * values.clamp_min(1e-6).rsqrt()).float()
