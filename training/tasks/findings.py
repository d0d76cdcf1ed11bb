"""Task of findings that do not exclude each other: images with findings present, absent or unknown in; loss and score out.

Drawing is balanced over findings and sources: an image counts as its rarest present finding at its source, or as one of the
source's images without a finding, each in proportion to the square root of their number. Loss `bce` also weights positives
towards balance. Both change the prevalence that the network sees; the loss adds that change to the logits, so that the
network's own outputs keep the prevalence of the training images and can be calibrated. `focal` and `asymmetric` are not
calibrated by themselves: thresholds on validation patients suit them, probabilities less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_edge.compiler.auc import auc
from training.data.dataset import Sample
from training.data.finding_counts import check_findings, truth_of
from training.data.records import Record
from training.tasks.finding_losses import FindingLoss, finding_loss
from training.tasks.images import ImageTask, MemberData, Sampling
from training.tasks.predict import input_batches, predict_logits

__all__ = ["FindingWeights", "FindingsTask", "finding_figures", "finding_probabilities", "finding_weights"]

Floats = npt.NDArray[np.float64]

_MOST = 10.0  # of a weight: rarer findings, and those known in fewer images, would let a few images rule a batch


@dataclass(frozen=True, kw_only=True)
class FindingWeights:
    """Weights of the findings in the loss, each (K,)."""

    weights: Tensor  # a finding known in few images weighs as much as one known in all
    positive_weights: Tensor
    offsets: Tensor


def finding_probabilities(records: Sequence[Record]) -> Floats:
    """Return the probability of each image (N,) in a draw that is balanced over findings and sources."""
    pairs = [[(name, r.source) for name, v in (r.findings or {}).items() if v] or [("", r.source)] for r in records]
    counts = Counter(pair for own in pairs for pair in own)
    weights = np.array([max(counts[pair] ** -0.5 for pair in own) for own in pairs])
    probabilities: Floats = weights / weights.sum()
    return probabilities


def finding_weights(truth: npt.NDArray[np.float32], probabilities: Floats, *, kind: FindingLoss) -> FindingWeights:
    """Return the weights for images (N, K) that are drawn with these probabilities (N,).

    Positive weights, of `bce` only, are absent over present among the drawn images, from 0.1 to 10.
    """
    known, present = ~np.isnan(truth), truth == 1
    share = probabilities @ known
    drawn, own = _odds(probabilities @ present, share), _odds(present.mean(axis=0), known.mean(axis=0))
    positive = np.clip(1 / drawn, 1 / _MOST, _MOST) if kind == "bce" else np.ones_like(drawn)
    offsets = np.log(positive * drawn / own) if kind == "bce" else np.zeros_like(drawn)
    as_tensors = (torch.from_numpy(v.astype(np.float32)) for v in (1 / np.clip(share, 1 / _MOST, 1), positive, offsets))
    weights, positive_weights, shifts = as_tensors
    return FindingWeights(weights=weights, positive_weights=positive_weights, offsets=shifts)


def _odds(present: Floats, known: Floats) -> Floats:
    """Return the odds of findings (K,); both kinds occur (`check_findings`)."""
    odds: Floats = present / (known - present)
    return odds


class FindingsTask(ImageTask):
    """Training of a classifier of findings.

    kind: of the loss.
    smoothing: of the truth, in the loss.
    by_loss: select the epoch by the log loss on validation patients, not by the mean AUROC.
    """

    def __init__(
        self,
        model: nn.Module,
        data: MemberData,
        sampling: Sampling,
        *,
        kind: FindingLoss,
        smoothing: float,
        by_loss: bool = False,
    ) -> None:
        self.kind, self.smoothing, self.by_loss = kind, smoothing, by_loss
        super().__init__(model, data, sampling, truth_of([s.record for s in data.samples], data.target.labels))
        drawn = self._probabilities if sampling.balance == "draw" else np.full(len(self._train), 1 / len(self._train))
        self._weights = finding_weights(self._targets[self._train], drawn, kind=kind)

    def _check(self, trained: Sequence[Sample]) -> None:
        check_findings(self.data.target.labels, [s.record for s in trained], min_images=self.sampling.min_images)

    def _without_levels(self, trained: Sequence[Sample]) -> Floats:
        return finding_probabilities([s.record for s in trained])

    def _loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        w, device = self._weights, truth.device
        return finding_loss(
            logits,
            truth,
            kind=self.kind,
            smoothing=self.smoothing,
            weights=w.weights.to(device),
            positive_weights=w.positive_weights.to(device),
            offsets=w.offsets.to(device),
        )

    def score(self, model: nn.Module) -> dict[str, float]:
        logits = predict_logits(model, self.data.canvases.lungs[self._validation], self.data.spec)
        figures = finding_figures(logits, self._targets[self._validation], self.data.target.labels)
        return {**figures, "score": -figures["log_loss"]} if self.by_loss else figures

    def validation_images(self) -> Iterator[Tensor]:
        """Yield batches (N, C, S, S) of the validation canvases, on which pruning counts zeros.

        With balance `draw` each finding, and none, has the same number of images: a channel that is active for one finding only
        is zero for all others, and would seem the less useful the rarer it is.
        """
        rows = self._validation
        if self.sampling.balance == "draw":
            present = self._targets[rows] == 1
            kinds = [rows[mask] for mask in (*present.T, ~present.any(axis=1)) if mask.any()]
            rows = np.concatenate([_evenly(own, -(-len(rows) // len(kinds))) for own in kinds])
        return input_batches(self.data.canvases.lungs[rows], self.data.spec)


def _evenly(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return `count` of the rows, spread over all; repeated if there are fewer."""
    return np.resize(rows, count) if len(rows) <= count else rows[np.arange(count) * len(rows) // count]


def finding_figures(
    logits: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], labels: Sequence[str]
) -> dict[str, float]:
    """Return `score` of predictions (N, K), for selection: the mean AUROC over the findings with both kinds of images.

    Each finding's AUROC is over the images in which it is known. Without a finding of both kinds the score is minus the log loss.
    """
    known, areas = ~np.isnan(truth), dict[str, float]()
    for k, label in enumerate(labels):
        own = known[:, k]
        area = auc(logits[own, k], truth[own, k] == 1) if own.any() else float("nan")
        areas |= {} if np.isnan(area) else {f"auroc_{label}": area}
    total = float(finding_loss(torch.from_numpy(logits), torch.from_numpy(truth))) * known.size
    loss = total / max(1, int(known.sum()))
    mean = float(np.mean(list(areas.values()))) if areas else -loss
    return {"score": mean, "macro_auroc": mean if areas else float("nan"), "log_loss": loss, **areas}
