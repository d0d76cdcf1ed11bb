"""A member's training: canvases and labels in, the best weights out; and what it is chosen by.

`draw` balances by drawing: a batch draws label and source together, each pair by the square root of its size, so that
neither the children drown the adults nor the one scanner the other. `weigh` is R20's way: every image once an epoch, rare
labels weigh more in the loss. `none` leaves it to what comes after, as FLANNEL does. Tuberculosis is abnormal and not
COVID-19, and may say so without being made a pneumonia (`Target.partial`, `losses.allowed_label_loss`): without it every
abnormal adult that a member sees has COVID-19.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn

from cxr_edge.errors import InputError
from cxr_edge.ops.preprocess import normalize
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.augment import Augmentation, histogram_cdf, pa_as_ap
from training.data.canvases import Canvases
from training.data.dataset import Sample
from training.data.findings import projection
from training.data.targets import Target, check_labels
from training.loop.batches import Batch, Batches
from training.parallel import World
from training.tasks.losses import allowed_label_loss
from training.tasks.mixing import Mixing
from training.tasks.predict import images_of, logits_of

__all__ = ["Balance", "ClassifyTask", "balanced_weights", "drawing_weights", "validation_figures"]

Balance = Literal["draw", "weigh", "none"]


def drawing_weights(samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
    """The chance of each sample to be drawn: all of a (label, source) pair together as the square root of their number."""
    pairs = [(s.record.label, s.record.source) for s in samples]
    counts = Counter(pairs)
    weights = np.array([counts[p] ** -0.5 for p in pairs])
    return weights / weights.sum()


def balanced_weights(truth: npt.NDArray[np.int64], labels: int) -> npt.NDArray[np.float32]:
    """Weight of each label in the loss: images / (labels x images of the label), as scikit-learn's `balanced`."""
    counts = np.bincount(truth[truth >= 0], minlength=labels)
    return (counts.sum() / (labels * np.maximum(counts, 1))).astype(np.float32)


class ClassifyTask:
    """samples and canvases in the same order; which of them train and which validate is the samples' side, less those in
    `left_out` sources (for measuring what a member says of a site it never saw).

    epoch_images: images drawn an epoch with balance `draw`; else an epoch is every training image once (the last partial
    batch dropped). augmentation: None for none. by_loss: choose the epoch by validation loss, as R20, not by score.
    turn_pa: make PA images look like AP ones in training (FLANNEL's text). least: training images that each label must have.
    mixing: mix the images of a batch.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Sequence[Sample],
        canvases: Canvases,
        spec: PreprocessSpec,
        target: Target,
        *,
        batch: int,
        seed: int,
        smoothing: float,
        epoch_images: int | None = None,
        balance: Balance = "draw",
        left_out: Sequence[str] = (),
        augmentation: Augmentation | None = None,
        by_loss: bool = False,
        turn_pa: bool = False,
        least: int = 1,
        mixing: Mixing | None = None,
    ) -> None:
        self.model, self.samples, self.canvases, self.spec, self.target = model, samples, canvases, spec, target
        self.batch, self.seed, self.smoothing, self.balance, self.by_loss = batch, seed, smoothing, balance, by_loss
        self.augmentation, self.turn_pa, self.mixing = augmentation, turn_pa, mixing
        self._allowed = np.stack([target.allowed(s.record.label) for s in samples])
        self._truth = np.array([target.truth(s.record.label) for s in samples])
        taken = [i for i, s in enumerate(samples) if self._allowed[i].any() and s.record.source not in left_out]
        self._train = np.array([i for i in taken if samples[i].side == "train"])
        self._validation = [i for i in taken if samples[i].side == "validation" and self._truth[i] >= 0]
        check_labels(target, [samples[i].record for i in self._train], least=least)
        if not self._validation:
            raise InputError(f"no images to validate {target.labels}: which collections were read?")
        self._draw = drawing_weights([samples[i] for i in self._train])
        weights = balanced_weights(self._truth[self._train], len(target.labels))
        self._weights = torch.from_numpy(weights if balance == "weigh" else np.ones_like(weights))
        self._cdfs = {int(i): histogram_cdf(canvases.lungs[i]) for i in self._train}
        images = len(self._train) if balance != "draw" or epoch_images is None else epoch_images
        if balance != "draw" and images < batch:
            raise InputError(f"{images} training images do not fill a batch of {batch}: choose a smaller batch")
        self.batches_per_epoch = max(1, images // batch)

    def batches(self, epoch: int, here: World) -> Batches:
        order = list(self._order(np.random.default_rng([self.seed, epoch])))
        share = here.share(self.batch)

        def made(b: int) -> Batch:
            # Each image has random numbers of its own, so that a process need not draw those of the others' images.
            rngs = [np.random.default_rng([self.seed, epoch, b, r]) for r in range(share.start, share.stop)]
            mine = order[b][share]
            images = [normalize(self.altered(int(i), rng), self.spec) for i, rng in zip(mine, rngs, strict=True)]
            batch = torch.from_numpy(np.stack(images)), torch.from_numpy(self._allowed[mine])
            return self.mixing.mixed(*batch, np.random.default_rng([self.seed, epoch, b])) if self.mixing else batch

        return Batches(len(order), made)

    def _order(self, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
        """The images of each batch of an epoch."""
        if self.balance == "draw":
            for _ in range(self.batches_per_epoch):
                yield rng.choice(self._train, self.batch, p=self._draw)
            return
        order = rng.permutation(self._train)
        for b in range(self.batches_per_epoch):
            yield order[b * self.batch : (b + 1) * self.batch]

    def altered(self, i: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """An image's canvas (S, S) as training sees it once."""
        canvas = self._augmented(i, rng)
        return pa_as_ap(canvas, rng) if self.turn_pa and projection(self.samples[i].record.view) == "PA" else canvas

    def _augmented(self, i: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        if self.augmentation is None:
            return self.canvases.lungs[i]
        warp = self.augmentation.warp(tuple(self.canvases.boxes[i]), self.spec.canvas_px, rng)
        border = (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101)[rng.integers(3)]
        other = self._cdfs[int(rng.choice(self._train, p=self._draw))]
        return self.augmentation.gray(warp.apply(self.canvases.wide[i], border=border), rng, other=other)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, allowed, *mixed = batch
        logits = model(images.contiguous(memory_format=torch.channels_last)).logits.float()
        own = self._loss(logits, allowed)
        if not mixed:
            return own
        others, share = mixed
        return share * own + (1 - share) * self._loss(logits, others)

    def _loss(self, logits: Tensor, allowed: Tensor) -> Tensor:
        weights = self._weights.to(allowed.device)
        return allowed_label_loss(logits, allowed, smoothing=self.smoothing, weights=weights)

    def score(self, model: nn.Module) -> dict[str, float]:
        logits = logits_of(model, self.canvases.lungs[self._validation], self.spec)
        chosen = [self.samples[i] for i in self._validation]
        figures = validation_figures(logits, chosen, self.target)
        if not self.by_loss:
            return figures
        loss = allowed_label_loss(
            torch.from_numpy(logits), torch.from_numpy(self._allowed[self._validation]), smoothing=0.0
        )
        return {**figures, "score": -float(loss)}

    def validation_images(self) -> Iterator[Tensor]:
        """Batches (N, C, S, S) of the validation canvases, as pruning counts zeros on them.

        With balance `draw` every label has as many images, those of the rarer ones in turn again: a channel that answers to
        one label is silent on all others, and the rarer its label, the more it would seem to be of no use.
        """
        rows = np.array(self._validation)
        if self.balance == "draw":
            own = [rows[self._truth[rows] == k] for k in np.unique(self._truth[rows])]
            rows = np.concatenate([np.resize(r, max(map(len, own))) for r in own])
        return images_of(self.canvases.lungs[rows], self.spec)


def validation_figures(logits: npt.NDArray[np.float32], samples: Sequence[Sample], target: Target) -> dict[str, float]:
    """macro_f1 and score; where COVID-19 is asked for also its F1 and its specificity on adult normals, half of which the
    score adds to macro-F1: a member that takes adults for COVID-19 must not win."""
    truth, labels = np.array([target.truth(s.record.label) for s in samples]), target.labels
    said = logits.argmax(axis=1)
    f1 = f1_score(truth, said, labels=range(len(labels)), average=None, zero_division=0)
    macro = float(f1.mean())
    if "covid-19" not in labels:
        return {"score": macro, "macro_f1": macro}
    covid = labels.index("covid-19")
    adult_normal = np.array([s.record.adult and s.record.label == "normal" for s in samples])
    specificity = float((said[adult_normal] != covid).mean()) if adult_normal.any() else 1.0
    figures = {"score": macro + 0.5 * specificity, "macro_f1": macro, "covid_f1": float(f1[covid])}
    viral = {"viral_f1": float(f1[labels.index("viral")])} if "viral" in labels else {}
    return {**figures, **viral, "adult_spec": specificity}
