"""Images of a classifier's training, of labels or of findings: samples, canvases and a target in; training batches out.

Balance of the labels: `draw` samples pairs of label and source in proportion to the square root of their number of images, so
that neither age groups nor scanners dominate, or by nested levels such as label, source and view (`nested_probabilities`),
so that within a label the source, and within a source the view, tells as little as the collections allow. `weigh`, as in R20,
uses every image once per epoch and gives rare labels more weight in the loss. `none` does neither, as in FLANNEL, which
balances later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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
from training.data.targets import Target
from training.loop.batches import Batch, Batches
from training.parallel import World
from training.tasks.mixing import Mixing

__all__ = [
    "Balance",
    "ImageTask",
    "Level",
    "MemberData",
    "Sampling",
    "nested_probabilities",
    "sampling_probabilities",
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
        """Return the rows of a side with a label, or a known finding, of the target; a partial label only trains."""
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
        uses = self.target.is_trained if sample.side == "train" else self.target.is_evaluated
        return uses(sample.record) and sample.record.source not in self.left_out


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


class ImageTask(ABC):
    """Training of a network on the images of `data`, drawn and altered as `sampling` has it.

    targets: (N, K), a row per sample, of which a batch has those of its images.
    """

    def __init__(self, model: nn.Module, data: MemberData, sampling: Sampling, targets: npt.NDArray[Any]) -> None:
        self.model, self.data, self.sampling, self._targets = model, data, sampling, targets
        self._train, self._validation = data.rows("train"), data.rows("validation")
        trained = [data.samples[i] for i in self._train]
        self._check(trained)
        if not len(self._validation):
            raise InputError(f"no images to validate {data.target.labels}: which collections were read?")
        self._probabilities = self._drawn(trained)
        self._cdfs = {int(i): histogram_cdf(data.canvases.lungs[i]) for i in self._train}
        self.batches_per_epoch = _batches_per_epoch(sampling, len(trained))

    @abstractmethod
    def _check(self, trained: Sequence[Sample]) -> None:
        """Raise InputError for training images from which the target cannot be learnt."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of a batch of `batches`; of mixed images by the shares of their targets."""
        images, targets, *mixed = batch
        logits = model(images.contiguous(memory_format=torch.channels_last)).logits.float()
        loss = self._loss(logits, targets)
        if not mixed:
            return loss
        other_targets, share = mixed
        return share * loss + (1 - share) * self._loss(logits, other_targets)

    @abstractmethod
    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits (B, labels) against targets (B, K)."""

    @abstractmethod
    def score(self, model: nn.Module) -> dict[str, float]:
        """Return figures on validation patients; the best epoch has the highest `score`."""

    @abstractmethod
    def validation_images(self) -> Iterator[Tensor]:
        """Yield batches (N, C, S, S) of the validation canvases, on which pruning counts zeros."""

    def _drawn(self, trained: Sequence[Sample]) -> npt.NDArray[np.float64]:
        levels = self.sampling.levels
        if not levels:
            return self._without_levels(trained)
        return nested_probabilities([self.data.level(name, self._train) for name in levels], list(levels.values()))

    def _without_levels(self, trained: Sequence[Sample]) -> npt.NDArray[np.float64]:
        """Return the probability of each training image (N,), unless levels of balance are configured."""
        return sampling_probabilities(trained)

    def batches(self, epoch: int, process: World) -> Batches:
        seed, mixing, spec = self.sampling.seed, self.sampling.mixing, self.data.spec
        order = list(self._order(np.random.default_rng([seed, epoch])))
        share = process.share(self.sampling.batch)

        def make(b: int) -> Batch:
            # Each image has its own random numbers, so that a process need not draw those of other processes' images.
            rngs = [np.random.default_rng([seed, epoch, b, r]) for r in range(share.start, share.stop)]
            rows = order[b][share]
            images = [normalize(self.augmented(int(i), rng), spec) for i, rng in zip(rows, rngs, strict=True)]
            batch = torch.from_numpy(np.stack(images)), torch.from_numpy(self._targets[rows])
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


def _batches_per_epoch(sampling: Sampling, train: int) -> int:
    images = train if sampling.balance != "draw" or sampling.epoch_images is None else sampling.epoch_images
    if sampling.balance != "draw" and images < sampling.batch:
        raise InputError(f"{images} training images do not fill a batch of {sampling.batch}: choose a smaller batch")
    return max(1, images // sampling.batch)
