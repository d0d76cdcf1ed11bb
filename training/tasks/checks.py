"""Task of the checker network: staged frames of chests, slices and pictures in; altered batches, loss and validation score out.

Each image of a batch is drawn by itself: a frontal chest, good or with one or two of the alterations, a lateral view, a slice, a
picture or a drawing. What an image says nothing about, such as left and right of a cat's photograph, is NaN and has no loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_edge.compiler.auc import auc
from cxr_edge.ops.preprocess import canvas, normalize
from cxr_edge.records import Roi
from cxr_edge.specs.checks import AP_SCORE
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.alterations import ALTERATIONS, Alteration, Box, altered, mildly
from training.data.augment import Augmentation, Gray
from training.data.drawings import TRAINED, draw
from training.loop.batches import Batch, Batches
from training.parallel import World
from training.tasks.finding_losses import finding_loss

__all__ = ["OUTPUTS", "CheckTask", "FrameFacts", "Kind", "StagedFrames", "good_inputs"]

Kind = Literal["frontal", "lateral", "slice", "picture"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Outputs of the network; all but the last are codes of refusals.
OUTPUTS = ("not_chest", "inverted", "turned", "lateral", "mirrored", "cut_off", "photo", "marks", "child", AP_SCORE)

# Shares of a batch; the rest are frontal chests.
_SHARES: Mapping[Kind | Literal["drawing"], float] = {"lateral": 0.06, "slice": 0.05, "picture": 0.12, "drawing": 0.09}
_ALTERED = 0.6  # share of the chests with an alteration
_TWICE = 0.15  # share of these with a second one

_MILD = Augmentation(
    shift=0.03, zoom=0.06, stretch=0.1, flip=0.0, histogram_swap=0.0, curve=0.8, equalize=0.05, letters=0.0, erase=0.0
)
_VALIDATED = 768  # images of the validation score


@dataclass(frozen=True, kw_only=True)
class FrameFacts:
    """Known facts of a staged image."""

    kind: Kind
    source: str
    box: Box  # of the lungs; of other kinds the full image
    child: bool | None = None  # None: not known
    ap: bool | None = None  # AP, not PA


@dataclass(frozen=True, kw_only=True)
class StagedFrames:
    """Images of one side of the split, a row each."""

    frames: npt.NDArray[np.uint8]  # (N, S, S), the full image resized to a square
    facts: Sequence[FrameFacts]


class CheckTask:
    """Training of a checker network.

    spec: the network's preprocessing; frames may be larger than its canvas.
    epoch_images: images per epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        train: StagedFrames,
        validation: StagedFrames,
        spec: PreprocessSpec,
        *,
        batch: int,
        seed: int,
        epoch_images: int,
    ) -> None:
        self.model, self.spec, self.batch, self.seed = model, spec, batch, seed
        self.batches_per_epoch = max(1, epoch_images // batch)
        self._train = _Pool(train)
        self._validation = _stack(_Pool(validation), spec, [[seed, 1 << 20, i] for i in range(_VALIDATED)])

    def batches(self, epoch: int, process: World) -> Batches:
        share = process.share(self.batch)

        def make(b: int) -> Batch:
            # Each image has its own random numbers, in whichever process.
            return _stack(self._train, self.spec, [[self.seed, epoch, b, r] for r in range(share.start, share.stop)])

        return Batches(self.batches_per_epoch, make)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, truth = batch
        return finding_loss(model(images.contiguous(memory_format=torch.channels_last)).float(), truth)

    @torch.no_grad()
    def score(self, model: nn.Module) -> dict[str, float]:
        """Return the mean AUROC over the outputs, and each, on altered images of validation patients."""
        model.eval()
        images, truth = self._validation
        device = next(model.parameters()).device
        parts = [model(part.to(device)).float().cpu() for part in torch.split(images, self.batch)]
        logits, known = torch.cat(parts).numpy(), truth.numpy()
        areas = {name: _area(logits[:, k], known[:, k]) for k, name in enumerate(OUTPUTS)}
        found = {name: area for name, area in areas.items() if not np.isnan(area)}
        return {"score": float(np.mean(list(found.values()) or [0.0])), **found}


def good_inputs(staged: StagedFrames, spec: PreprocessSpec, *, seed: int) -> npt.NDArray[np.float32]:
    """Return the inputs (N, 1, S, S) of the frontal chests, mildly changed: what the network is to be familiar with."""
    rows = [i for i, facts in enumerate(staged.facts) if facts.kind == "frontal"]
    inputs = []
    for i in rows:
        rng = np.random.default_rng([seed, i])
        image, _ = mildly(staged.frames[i], staged.facts[i].box, rng)
        inputs.append(normalize(_to_canvas(image, spec, rng), spec))
    return np.stack(inputs)


def _area(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]) -> float:
    known = ~np.isnan(truth)
    return float(auc(logits[known], truth[known] == 1)) if known.any() else float("nan")


class _Pool:
    """Draws images of one side: a kind, then a source (of chests by the square root of its size), then an image."""

    def __init__(self, staged: StagedFrames) -> None:
        self._staged = staged
        self._rows: dict[str, dict[str, list[int]]] = {kind: {} for kind in KINDS}
        for i, facts in enumerate(staged.facts):
            self._rows[facts.kind].setdefault(facts.source, []).append(i)
        present = {kind: share for kind, share in _SHARES.items() if kind == "drawing" or self._rows[kind]}
        self._kinds = [*present, "frontal"]
        self._shares = [*present.values(), 1 - sum(present.values())]

    def draw(self, rng: np.random.Generator) -> tuple[Gray, npt.NDArray[np.float32]]:
        """Return an altered image and its truth (K,)."""
        kind = self._kinds[rng.choice(len(self._kinds), p=self._shares)]
        if kind == "drawing":
            return draw(str(rng.choice(TRAINED)), rng), _truth(not_chest=True)
        by_source = self._rows[kind]
        names = list(by_source)
        # A package of many small icons counts as one of few photographs.
        weights = np.array([1.0 if kind == "picture" else len(by_source[name]) ** 0.5 for name in names])
        rows = by_source[names[rng.choice(len(names), p=weights / weights.sum())]]
        row = rows[rng.integers(len(rows))]
        image, facts = self._staged.frames[row], self._staged.facts[row]
        return {"frontal": _frontal, "lateral": _lateral}.get(kind, _picture)(image, facts, rng)


def _stack(pool: _Pool, spec: PreprocessSpec, seeds: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    images, truths = [], []
    for seed in seeds:
        rng = np.random.default_rng(list(seed))
        image, truth = pool.draw(rng)
        images.append(normalize(_to_canvas(image, spec, rng), spec))
        truths.append(truth)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(truths))


def _to_canvas(image: Gray, spec: PreprocessSpec, rng: np.random.Generator) -> Gray:
    """Resize as deployed, or with a small rotation; then change the gray values."""
    height, width = image.shape
    if rng.random() < 0.4:
        small = np.asarray(canvas(image, Roi.full(width, height), spec), dtype=np.uint8)
    else:
        border = (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101)[rng.integers(3)]
        small = _MILD.warp((0, 0, width, height), spec.canvas_px, rng).apply(image, border=border)
    changed = _MILD.gray(small, rng) if rng.random() < 0.7 else small
    return small if changed.min() == changed.max() else changed


def _frontal(image: Gray, facts: FrameFacts, rng: np.random.Generator) -> tuple[Gray, npt.NDArray[np.float32]]:
    kinds: frozenset[Alteration] = frozenset()
    if rng.random() < _ALTERED:
        count = 2 if rng.random() < _TWICE else 1
        kinds = frozenset(ALTERATIONS[i] for i in rng.choice(len(ALTERATIONS), count, replace=False))
    mild, box = mildly(image, facts.box, rng)
    truth = _truth(
        not_chest=False,
        lateral=False,
        child=facts.child,
        ap=facts.ap,
        **{kind: kind in kinds for kind in ALTERATIONS},
    )
    if kinds & {"turned", "cut_off"}:
        truth[OUTPUTS.index("mirrored")] = np.nan
    return altered(mild, box, kinds, rng), truth


def _lateral(image: Gray, facts: FrameFacts, rng: np.random.Generator) -> tuple[Gray, npt.NDArray[np.float32]]:
    """Return a lateral view, from either side; rarely with an alteration that leaves it one."""
    mild, box = mildly(image, facts.box, rng)
    mild = np.ascontiguousarray(mild[:, ::-1]) if rng.random() < 0.5 else mild
    kinds: frozenset[Alteration] = frozenset(kind for kind in ("inverted", "turned", "photo") if rng.random() < 0.08)
    truth = _truth(not_chest=False, lateral=True, **{kind: kind in kinds for kind in ("inverted", "turned", "photo")})
    return altered(mild, box, kinds, rng), truth


def _picture(image: Gray, facts: FrameFacts, rng: np.random.Generator) -> tuple[Gray, npt.NDArray[np.float32]]:
    """Return a part of a picture or of a slice, in any orientation."""
    side = image.shape[0]
    if rng.random() < 0.5:
        part = int(side * rng.uniform(0.4 if facts.kind == "picture" else 0.8, 1.0))
        x, y = rng.integers(0, side - part + 1, 2)
        image = image[y : y + part, x : x + part]
    image = np.ascontiguousarray(np.rot90(image, int(rng.integers(4)) if rng.random() < 0.3 else 0))
    image = np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image
    return (255 - image if rng.random() < 0.15 else image), _truth(not_chest=True, lateral=False)


def _truth(**known: bool | None) -> npt.NDArray[np.float32]:
    """Return the truth (K,): 1, 0, or NaN for what is not known."""
    values = [known.get(name) for name in OUTPUTS]
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float32)
