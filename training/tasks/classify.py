"""Classification task of labels that exclude each other: images and a target in; loss and validation score out.

`training.tasks.images` draws the batches. Tuberculosis is trained as 'any abnormal label except COVID-19' (`Target.partial`,
`losses.partial_label_loss`): without it every abnormal adult in the training data has COVID-19.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.data.dataset import Sample
from training.data.targets import Target, check_labels
from training.tasks.confusion import confusion, f1_scores
from training.tasks.images import (
    Balance,
    ImageTask,
    Level,
    MemberData,
    Sampling,
    nested_probabilities,
    sampling_probabilities,
)
from training.tasks.losses import partial_label_loss
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


def class_weights(label_indices: npt.NDArray[np.int64], labels: int) -> npt.NDArray[np.float32]:
    """Return the weight of each label in the loss: images / (labels x images of the label), scikit-learn's `balanced`."""
    counts = np.bincount(label_indices[label_indices >= 0], minlength=labels)
    weights: npt.NDArray[np.float32] = (counts.sum() / (labels * np.maximum(counts, 1))).astype(np.float32)
    return weights


class ClassifyTask(ImageTask):
    """Training of a classifier.

    smoothing: of the labels, in the loss.
    by_loss: select the epoch by validation loss, as R20, not by score.
    """

    def __init__(
        self, model: nn.Module, data: MemberData, sampling: Sampling, *, smoothing: float, by_loss: bool = False
    ) -> None:
        self.smoothing, self.by_loss = smoothing, by_loss
        labels = [s.record.label for s in data.samples]
        super().__init__(model, data, sampling, np.stack([data.target.target_mask(label) for label in labels]))
        self._label_indices = np.array([data.target.label_index(label) for label in labels])
        weights = class_weights(self._label_indices[self._train], len(data.target.labels))
        self._weights = torch.from_numpy(weights if sampling.balance == "weigh" else np.ones_like(weights))

    def _check(self, trained: Sequence[Sample]) -> None:
        check_labels(self.data.target, [s.record for s in trained], min_images=self.sampling.min_images)

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
            torch.from_numpy(logits), torch.from_numpy(self._targets[self._validation]), smoothing=0.0
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
