"""Classification task: samples, canvases and a target in; training batches, loss and validation score out.

Balance of the labels: `draw` samples pairs of label and source in proportion to the square root of their number of images, so
that neither age groups nor scanners dominate, or by nested levels such as label, source and view (`nested_probabilities`),
so that within a label the source, and within a source the view, tells as little as the collections allow. `weigh`, as in R20,
uses every image once per epoch and gives rare labels more weight in the loss. `none` does neither, as in FLANNEL, which
balances later.

Tuberculosis is trained as 'any abnormal label except COVID-19' (`Target.partial`, `losses.partial_label_loss`): without it
every abnormal adult in the training data has COVID-19.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from cxr_edge.ops.preprocess import normalize
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.augment import Augmentation, histogram_cdf, pa_as_ap
from training.data.canvases import Canvases
from training.data.dataset import Sample
from training.data.findings import projection
from training.data.splits import Side
from training.data.targets import Target, check_labels
from training.loop.batches import Batch, Batches
from training.parallel import World
from training.tasks.confusion import confusion, f1_scores
from training.tasks.losses import partial_label_loss
from training.tasks.mixing import Mixing
from training.tasks.predict import input_batches, predict_logits

__all__ = [
    "Balance",
    "ClassifyTask",
    "Level",
    "MemberData",
    "Sampling",
    "class_weights",
    "nested_probabilities",
    "sampling_probabilities",
    "validation_figures",
]

Balance = Literal["draw", "weigh", "none"]
Level = Literal["label", "age", "source", "view"]


def sampling_probabilities(samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
    """Return the probability of each sample in a draw: a (label, source) pair has the square root of its size, shared equally."""
    pairs = [(s.record.label, s.record.source) for s in samples]
    counts = Counter(pairs)
    weights = np.array([counts[p] ** -0.5 for p in pairs])
    probabilities: npt.NDArray[np.float64] = weights / weights.sum()
    return probabilities


def nested_probabilities(groups: Sequence[Sequence[str]], powers: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the probability of each sample in a draw by nested levels: a group of the first level, one of its groups, and so on.

    groups: (levels, N), the name of each sample's group.
    powers: (levels,); within its parent a group's probability is in proportion to its size to this power: 0 for equal shares,
    1 for the shares that the images have. Images of the last level's groups have equal shares.
    """
    n = len(groups[0])
    paths: list[tuple[str, ...]] = [()] * n
    probabilities = np.ones(n)
    for names, power in zip(groups, powers, strict=True):
        parents, paths = paths, [(*path, name) for path, name in zip(paths, names, strict=True)]
        sizes = Counter(paths)
        totals: dict[tuple[str, ...], float] = defaultdict(float)
        for path, size in sizes.items():
            totals[path[:-1]] += size**power
        probabilities *= [sizes[path] ** power / totals[parent] for path, parent in zip(paths, parents, strict=True)]
    sizes = Counter(paths)
    found: npt.NDArray[np.float64] = probabilities / np.array([sizes[path] for path in paths])
    return found


def class_weights(label_indices: npt.NDArray[np.int64], labels: int) -> npt.NDArray[np.float32]:
    """Return the weight of each label in the loss: images / (labels x images of the label), scikit-learn's `balanced`."""
    counts = np.bincount(label_indices[label_indices >= 0], minlength=labels)
    weights: npt.NDArray[np.float32] = (counts.sum() / (labels * np.maximum(counts, 1))).astype(np.float32)
    return weights


@dataclass(frozen=True, kw_only=True)
class MemberData:
    """Images of a classifier's training; the samples' side determines which of them train and validate."""

    samples: Sequence[Sample]
    canvases: Canvases  # a row per sample, in the same order
    spec: PreprocessSpec
    target: Target
    left_out: Sequence[str] = ()  # sources that are not used, to measure generalisation to an unseen site
    views: Sequence[str] | None = None  # AP or PA of each sample, estimated where not stated; None: as stated

    def rows(self, side: Side) -> npt.NDArray[np.int64]:
        """Return the rows of a side with a label of the target; a partial label counts on the side `train` only."""
        return np.array([i for i, s in enumerate(self.samples) if s.side == side and self._is_used(s)], dtype=np.int64)

    def level(self, name: Level, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return the group of samples on a level of balance."""
        records = [self.samples[i].record for i in rows]
        if name == "view":
            return [projection(r.view) for r in records] if self.views is None else [self.views[i] for i in rows]
        if name == "age":
            return ["adult" if r.adult else "child" for r in records]
        return [r.label if name == "label" else r.source for r in records]

    def _is_used(self, sample: Sample) -> bool:
        label = sample.record.label
        known = self.target.target_mask(label).any() if sample.side == "train" else self.target.label_index(label) >= 0
        return bool(known) and sample.record.source not in self.left_out


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Drawing and altering of the batches of a training."""

    batch: int
    seed: int
    balance: Balance = "draw"
    # Nested levels of balance `draw` with their powers; empty: pairs of label and source by the square root of their size.
    levels: Mapping[Level, float] = field(default_factory=dict)
    # Images per epoch with balance `draw`; else an epoch is every training image once (without the last, partial batch).
    epoch_images: int | None = None
    augmentation: Augmentation | None = None
    turn_pa: bool = False  # make PA images look like AP ones in training (FLANNEL's text)
    mixing: Mixing | None = None  # of the images of a batch
    min_images: int = 1  # training images that each label must have


class ClassifyTask:
    """Training of a classifier.

    smoothing: of the labels, in the loss.
    by_loss: select the epoch by validation loss, as R20, not by score.
    """

    def __init__(
        self, model: nn.Module, data: MemberData, sampling: Sampling, *, smoothing: float, by_loss: bool = False
    ) -> None:
        self.model, self.data, self.sampling, self.smoothing, self.by_loss = model, data, sampling, smoothing, by_loss
        labels = [s.record.label for s in data.samples]
        self._target_masks = np.stack([data.target.target_mask(label) for label in labels])
        self._label_indices = np.array([data.target.label_index(label) for label in labels])
        self._train, self._validation = data.rows("train"), data.rows("validation")
        trained = [data.samples[i] for i in self._train]
        check_labels(data.target, [s.record for s in trained], min_images=sampling.min_images)
        if not len(self._validation):
            raise InputError(f"no images to validate {data.target.labels}: which collections were read?")
        self._probabilities = self._drawn(trained)
        weights = class_weights(self._label_indices[self._train], len(data.target.labels))
        self._weights = torch.from_numpy(weights if sampling.balance == "weigh" else np.ones_like(weights))
        self._cdfs = {int(i): histogram_cdf(data.canvases.lungs[i]) for i in self._train}
        self.batches_per_epoch = _batches_per_epoch(sampling, len(trained))

    def _drawn(self, trained: Sequence[Sample]) -> npt.NDArray[np.float64]:
        levels = self.sampling.levels
        if not levels:
            return sampling_probabilities(trained)
        return nested_probabilities([self.data.level(name, self._train) for name in levels], list(levels.values()))

    def batches(self, epoch: int, process: World) -> Batches:
        seed, mixing, spec = self.sampling.seed, self.sampling.mixing, self.data.spec
        order = list(self._order(np.random.default_rng([seed, epoch])))
        share = process.share(self.sampling.batch)

        def make(b: int) -> Batch:
            # Each image has its own random numbers, so that a process need not draw those of other processes' images.
            rngs = [np.random.default_rng([seed, epoch, b, r]) for r in range(share.start, share.stop)]
            rows = order[b][share]
            images = [normalize(self.augmented(int(i), rng), spec) for i, rng in zip(rows, rngs, strict=True)]
            batch = torch.from_numpy(np.stack(images)), torch.from_numpy(self._target_masks[rows])
            return mixing.mix(*batch, np.random.default_rng([seed, epoch, b])) if mixing else batch

        return Batches(len(order), make)

    def _order(self, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the row indices of each batch of an epoch."""
        batch = self.sampling.batch
        if self.sampling.balance == "draw":
            for _ in range(self.batches_per_epoch):
                yield rng.choice(self._train, batch, p=self._probabilities)
            return
        order = rng.permutation(self._train)
        for b in range(self.batches_per_epoch):
            yield order[b * batch : (b + 1) * batch]

    def augmented(self, i: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Return an image's canvas (S, S) with random augmentation."""
        canvas = self._augment(i, rng)
        turns = self.sampling.turn_pa and projection(self.data.samples[i].record.view) == "PA"
        return pa_as_ap(canvas, rng) if turns else canvas

    def _augment(self, i: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        canvases, augmentation = self.data.canvases, self.sampling.augmentation
        if augmentation is None:
            canvas: npt.NDArray[np.uint8] = canvases.lungs[i]
            return canvas
        warp = augmentation.warp(tuple(canvases.boxes[i]), self.data.spec.canvas_px, rng)
        border = (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101)[rng.integers(3)]
        other = self._cdfs[int(rng.choice(self._train, p=self._probabilities))]
        return augmentation.gray(warp.apply(canvases.wide[i], border=border), rng, other=other)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, target_masks, *mixed = batch
        logits = model(images.contiguous(memory_format=torch.channels_last)).logits.float()
        loss = self._loss(logits, target_masks)
        if not mixed:
            return loss
        other_masks, share = mixed
        return share * loss + (1 - share) * self._loss(logits, other_masks)

    def _loss(self, logits: Tensor, target_masks: Tensor) -> Tensor:
        weights = self._weights.to(target_masks.device)
        return partial_label_loss(logits, target_masks, smoothing=self.smoothing, weights=weights)

    def score(self, model: nn.Module) -> dict[str, float]:
        logits = predict_logits(model, self.data.canvases.lungs[self._validation], self.data.spec)
        samples = [self.data.samples[i] for i in self._validation]
        figures = validation_figures(logits, samples, self.data.target)
        if not self.by_loss:
            return figures
        loss = partial_label_loss(
            torch.from_numpy(logits), torch.from_numpy(self._target_masks[self._validation]), smoothing=0.0
        )
        return {**figures, "score": -float(loss)}

    def validation_images(self) -> Iterator[Tensor]:
        """Yield batches (N, C, S, S) of the validation canvases, on which pruning counts zeros.

        With balance `draw` all labels have the same number of images, those of rarer labels repeated: a channel that is active
        for one label only is zero for all others, and would seem the less useful the rarer its label.
        """
        rows = self._validation
        if self.sampling.balance == "draw":
            by_label = [rows[self._label_indices[rows] == k] for k in np.unique(self._label_indices[rows])]
            rows = np.concatenate([np.resize(r, max(map(len, by_label))) for r in by_label])
        return input_batches(self.data.canvases.lungs[rows], self.data.spec)


def _batches_per_epoch(sampling: Sampling, train: int) -> int:
    images = train if sampling.balance != "draw" or sampling.epoch_images is None else sampling.epoch_images
    if sampling.balance != "draw" and images < sampling.batch:
        raise InputError(f"{images} training images do not fill a batch of {sampling.batch}: choose a smaller batch")
    return max(1, images // sampling.batch)


def validation_figures(logits: npt.NDArray[np.float32], samples: Sequence[Sample], target: Target) -> dict[str, float]:
    """Return `macro_f1` and `score` of predictions (N, K), for selection.

    For a task with a guarded label also each label's F1 and the guarded label's specificity by subgroup; half of the lowest
    specificity is added to the score: a member that raises false alarms in a subgroup must not be selected.
    """
    records, labels, guard = [s.record for s in samples], target.labels, target.guard
    true, predicted = np.array([target.label_index(r.label) for r in records]), logits.argmax(axis=1)
    f1 = f1_scores(confusion(true, predicted, len(labels)))
    macro = float(f1.mean())
    if guard is None:
        return {"score": macro, "macro_f1": macro}
    flagged, masks = predicted == labels.index(guard.label), guard.group_masks(records)
    by_group = {name: float((~flagged[mask]).mean()) if mask.any() else 1.0 for name, mask in masks.items()}
    return {
        "score": macro + 0.5 * min(by_group.values(), default=1.0),
        "macro_f1": macro,
        **{f"f1_{label}": float(value) for label, value in zip(labels, f1, strict=True)},
        **{f"specificity_{name}": value for name, value in by_group.items()},
    }
