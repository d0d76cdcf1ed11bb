"""A member's training: canvases and labels in, the best weights out; and what it is chosen by.

A batch draws label and source together, each pair by the square root of its size: neither the children drown the adults nor
the one scanner the other. Tuberculosis is abnormal and not COVID-19, and says so without being made a pneumonia (see
`losses.allowed_label_loss`): without it every abnormal adult that a member sees has COVID-19.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn

from cxr_edge.preprocess import PreprocessSpec, normalize
from training.augment import Augmentation, histogram_cdf
from training.canvases import Canvases
from training.dataset import Sample
from training.losses import allowed_label_loss

__all__ = ["ClassifyTask", "allowed_labels", "drawing_weights", "validation_figures"]


def allowed_labels(label: str, labels: Sequence[str], *, partial_tuberculosis: bool) -> npt.NDArray[np.bool_]:
    """Which of `labels` the truth may be: one, several (abnormal but not COVID-19), or none if it takes no part."""
    if label == "tuberculosis" and partial_tuberculosis:
        return np.array([name in ("bacterial", "viral") for name in labels])
    return np.array([name == label for name in labels])


def drawing_weights(samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
    """The chance of each sample to be drawn: all of a (label, source) pair together as the square root of their number."""
    pairs = [(s.record.label, s.record.source) for s in samples]
    counts = Counter(pairs)
    weights = np.array([counts[p] ** -0.5 for p in pairs])
    return weights / weights.sum()


class ClassifyTask:
    """samples and canvases in the same order; which of them train and which validate is the samples' side, less those in
    `left_out` sources (for measuring what a member says of a site it never saw)."""

    def __init__(
        self,
        model: nn.Module,
        samples: Sequence[Sample],
        canvases: Canvases,
        spec: PreprocessSpec,
        labels: Sequence[str],
        *,
        batch: int,
        seed: int,
        epoch_images: int,
        smoothing: float,
        partial_tuberculosis: bool,
        left_out: Sequence[str] = (),
        augmentation: Augmentation | None = None,
    ) -> None:
        self.model, self.samples, self.canvases, self.spec, self.labels = model, samples, canvases, spec, tuple(labels)
        self.batch, self.seed, self.smoothing = batch, seed, smoothing
        self.augmentation = augmentation or Augmentation()
        self.batches_per_epoch = max(1, epoch_images // batch)
        self._allowed = np.stack(
            [allowed_labels(s.record.label, labels, partial_tuberculosis=partial_tuberculosis) for s in samples]
        )
        taken = [i for i, s in enumerate(samples) if self._allowed[i].any() and s.record.source not in left_out]
        self._train = np.array([i for i in taken if samples[i].side == "train"])
        self._weights = drawing_weights([samples[i] for i in self._train])
        self._cdfs = [histogram_cdf(canvases.lungs[i]) for i in self._train]
        self._validation = [i for i in taken if samples[i].side == "validation" and samples[i].record.label in labels]

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        rng = np.random.default_rng([self.seed, epoch])
        for _ in range(self.batches_per_epoch):
            chosen = rng.choice(self._train, self.batch, p=self._weights)
            images = np.stack([normalize(self._altered(i, rng), self.spec) for i in chosen])
            yield torch.from_numpy(images), torch.from_numpy(self._allowed[chosen])

    def _altered(self, i: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        warp = self.augmentation.warp(tuple(self.canvases.boxes[i]), self.spec.canvas_px, rng)
        border = (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101)[rng.integers(3)]
        other = self._cdfs[rng.choice(len(self._cdfs), p=self._weights)]
        return self.augmentation.gray(warp.apply(self.canvases.wide[i], border=border), rng, other=other)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        images, allowed = batch
        return allowed_label_loss(model(images).logits.float(), allowed, smoothing=self.smoothing)

    def score(self, model: nn.Module) -> dict[str, float]:
        chosen = [self.samples[i] for i in self._validation]
        return validation_figures(self.logits(model, self._validation), chosen, self.labels)

    @torch.no_grad()
    def logits(self, model: nn.Module, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits (rows, labels) on the deployed canvases."""
        model.eval()
        parts = []
        for start in range(0, len(rows), 64):
            images = np.stack([normalize(self.canvases.lungs[i], self.spec) for i in rows[start : start + 64]])
            with torch.autocast("cpu", torch.bfloat16):
                parts.append(model(torch.from_numpy(images)).logits.float().numpy())
        return np.concatenate(parts)


def validation_figures(
    logits: npt.NDArray[np.float32], samples: Sequence[Sample], labels: Sequence[str]
) -> dict[str, float]:
    """score = macro-F1 + half the specificity for COVID-19 on adult normals; and both, and the F1 of COVID-19."""
    truth = np.array([labels.index(s.record.label) for s in samples])
    said = logits.argmax(axis=1)
    f1 = f1_score(truth, said, labels=range(len(labels)), average=None, zero_division=0)
    covid = labels.index("covid-19")
    adult_normal = np.array([s.record.adult and s.record.label == "normal" for s in samples])
    specificity = float((said[adult_normal] != covid).mean()) if adult_normal.any() else 1.0
    macro = float(f1.mean())
    return {
        "score": macro + 0.5 * specificity,
        "macro_f1": macro,
        "covid_f1": float(f1[covid]),
        "viral_f1": float(f1[labels.index("viral")]) if "viral" in labels else 0.0,
        "adult_spec": specificity,
    }
