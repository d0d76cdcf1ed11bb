"""Task of findings: losses by hand and masked, weights, drawing, the score, and the images on which zeros are counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.canvases import make_canvases
from tests.builders.finding_records import finding_record
from training.data.targets import Target
from training.models import build_member
from training.parallel import World
from training.tasks.finding_losses import FINDING_LOSSES, FindingLoss, finding_loss
from training.tasks.findings import FindingsTask, finding_figures, finding_probabilities, finding_weights
from training.tasks.images import MemberData, Sampling
from training.tasks.mixing import Mixing

SPEC = PreprocessSpec(canvas_px=32, crop_px=32)
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
NAN = float("nan")
# c is rare, and unknown in every other image; each fifth image validates.
VALUES = [f"{int(i % 2 == 0)}{int(i % 4 == 1)}{'?' if i % 2 else int(i % 12 == 0)}" for i in range(60)]


def _task(kind: FindingLoss = "bce", **changes: Any) -> FindingsTask:
    samples, canvases = make_canvases(VALUES, validates_every=5)
    records = [finding_record(f"{i}", v, source=f"s{i % 3}") for i, v in enumerate(VALUES)]
    samples = [replace(s, record=r) for s, r in zip(samples, records, strict=True)]
    target = Target(labels=("a", "b", "c"), multi_label=True)
    data = MemberData(samples=samples, canvases=canvases, spec=SPEC, target=target)
    torch.manual_seed(0)
    by_loss = changes.pop("by_loss", False)
    sampling = Sampling(**{"batch": 8, "seed": 1, "epoch_images": 24, **changes})
    return FindingsTask(build_member("plain", 3), data, sampling, kind=kind, smoothing=0.0, by_loss=by_loss)


def _by_hand(kind: FindingLoss, p: float, y: int) -> float:
    p_true = p if y else 1 - p
    if kind == "bce":
        return float(-np.log(p_true))
    if kind == "focal":
        return float(-((1 - p_true) ** 2) * np.log(p_true))
    shifted = max(p - 0.05, 0)
    return float(-np.log(p)) if y else float(-(shifted**4) * np.log(1 - shifted))


@pytest.mark.parametrize("kind", FINDING_LOSSES)
@pytest.mark.parametrize("z", [-4.0, -0.3, 2.0])
@pytest.mark.parametrize("y", [0, 1])
def test_a_loss_is_the_papers_formula(kind: FindingLoss, z: float, y: int) -> None:
    found = finding_loss(torch.tensor([[z]], dtype=torch.float64), torch.tensor([[float(y)]]), kind=kind)
    assert found.item() == pytest.approx(_by_hand(kind, float(1 / (1 + np.exp(-z))), y), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("kind", FINDING_LOSSES)
def test_an_unknown_finding_has_no_loss_and_no_gradient(kind: FindingLoss) -> None:
    logits = torch.tensor([[1.0, -2.0], [30.0, 0.5]], requires_grad=True)
    loss = finding_loss(logits, torch.tensor([[1.0, NAN], [NAN, 0.0]]), kind=kind, smoothing=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad == 0).tolist() == [[False, True], [True, False]]
    other = finding_loss(
        torch.tensor([[1.0, 9.0], [-9.0, 0.5]]), torch.tensor([[1.0, NAN], [NAN, 0.0]]), kind=kind, smoothing=0.1
    )
    assert other.item() == pytest.approx(loss.item())


@pytest.mark.parametrize("kind", FINDING_LOSSES)
def test_gradients_are_finite_for_extreme_logits(kind: FindingLoss) -> None:
    logits = torch.tensor([[-200.0, 200.0, -200.0, 200.0]], requires_grad=True)
    finding_loss(logits, torch.tensor([[1.0, 1.0, 0.0, 0.0]]), kind=kind).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_weights_balance_and_offsets_keep_the_prevalence() -> None:
    """The best constant logit under weights and drawing is the log odds of the training images."""
    rng = np.random.default_rng(0)
    truth = (rng.random((300, 2)) < [0.1, 0.5]).astype(np.float32)
    truth[::3, 0] = np.nan
    drawn = rng.random(300) + 5 * (truth[:, 1] == 1)
    w = finding_weights(truth, drawn / drawn.sum(), kind="bce")
    odds = np.nanmean(truth, axis=0) / (1 - np.nanmean(truth, axis=0))
    z = torch.from_numpy(np.log(odds).astype(np.float32)).requires_grad_()
    y = torch.from_numpy(truth)
    terms = [
        share * finding_loss(z[None], row[None], positive_weights=w.positive_weights, offsets=w.offsets)
        for share, row in zip((drawn / drawn.sum()).tolist(), y, strict=True)
    ]
    (gradient,) = torch.autograd.grad(torch.stack(terms).sum(), z)
    assert gradient.tolist() == pytest.approx([0, 0], abs=1e-4)
    assert 5 < w.positive_weights[0] <= 10
    assert w.weights[0] > w.weights[1] == 1


def test_positive_weights_are_capped() -> None:
    truth = np.zeros((500, 1), np.float32)
    truth[0] = 1
    uniform = np.full(500, 1 / 500)
    assert finding_weights(truth, uniform, kind="bce").positive_weights.tolist() == [10]
    for kind in ("focal", "asymmetric"):
        w = finding_weights(truth, uniform, kind=kind)
        assert (w.positive_weights.tolist(), w.offsets.tolist()) == ([1], [0])


def test_rare_findings_and_sources_are_drawn_more_often() -> None:
    records = [finding_record(f"{i}", "100") for i in range(16)] + [finding_record("r", "110")]
    records += [finding_record(f"o{i}", "100", source="t") for i in range(4)] + [
        finding_record(f"n{i}", "000") for i in range(9)
    ]
    p = finding_probabilities(records)
    shares = p / p[0] * 17**-0.5
    assert shares[[16, 17, 21]] == pytest.approx([1, 1 / 2, 1 / 3])
    assert p.sum() == pytest.approx(1)


def test_a_batch_has_the_truth_and_two_processes_draw_the_same() -> None:
    task = _task()
    halves = [World(rank=r, size=2, device=torch.device("cpu")) for r in (0, 1)]
    parts = zip(*(task.batches(0, process) for process in halves), strict=True)
    for whole, two in zip(task.batches(0, ALONE), parts, strict=True):
        np.testing.assert_array_equal(whole[1], torch.cat([two[0][1], two[1][1]]))
        assert whole[1].shape == (8, 3)
        assert torch.isnan(whole[1]).any()
        loss, share = task.loss(task.model.eval(), whole), [task.loss(task.model, b) for b in two]
        assert loss.item() == pytest.approx((share[0] + share[1]).item() / 2, rel=1e-5)


def test_mixed_images_have_the_loss_of_both_truths() -> None:
    task = _task(mixing=Mixing(mixup=1.0), augmentation=None)
    images, truth, other, share = next(iter(task.batches(0, ALONE)))
    task.model.eval()
    both = [task.loss(task.model, (images, t)) for t in (truth, other)]
    expected = share * both[0] + (1 - share) * both[1]
    assert task.loss(task.model, (images, truth, other, share)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_score_is_the_mean_auroc_where_findings_are_known() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 3)).astype(np.float32)
    truth = rng.integers(0, 2, (60, 3)).astype(np.float32)
    truth[::2, 0], truth[:, 2] = np.nan, 0
    found = finding_figures(logits, truth, ("a", "b", "c"))
    areas = [roc_auc_score(truth[1::2, 0], logits[1::2, 0]), roc_auc_score(truth[:, 1], logits[:, 1])]
    assert found["score"] == found["macro_auroc"] == pytest.approx(np.mean(areas))
    assert set(found) == {"score", "macro_auroc", "log_loss", "auroc_a", "auroc_b"}
    known = ~np.isnan(truth)
    expected = log_loss(truth[known], 1 / (1 + np.exp(-logits[known].astype(np.float64))))
    assert found["log_loss"] == pytest.approx(expected, rel=1e-5)
    assert finding_figures(logits, truth * 0, ("a", "b", "c"))["score"] < 0


def test_by_loss_scores_by_the_validation_loss() -> None:
    task = _task(by_loss=True)
    figures = task.score(task.model)
    assert figures["score"] == -figures["log_loss"]


def test_zeros_are_counted_on_as_many_images_of_each_finding() -> None:
    task = _task()
    rows = task._validation
    images = torch.cat(list(task.validation_images()))
    present = task._targets[rows] == 1
    kinds = [*present.T, ~present.any(axis=1)]
    assert len(images) == -(-len(rows) // 4) * sum(bool(k.any()) for k in kinds)
    whole = torch.cat(list(_task(balance="none").validation_images()))
    assert len(whole) == len(rows)
    rare = whole[torch.from_numpy(present[:, 2])]
    assert sum(any(torch.equal(image, r) for r in rare) for image in images) >= 3 > len(rare)


def test_a_finding_without_both_kinds_is_refused() -> None:
    samples, canvases = make_canvases(["1", "1", "?"] * 4, validates_every=4)
    samples = [replace(s, record=finding_record(s.group, s.record.label, "a")) for s in samples]
    data = MemberData(samples=samples, canvases=canvases, spec=SPEC, target=Target(labels=("a",), multi_label=True))
    with pytest.raises(InputError, match="a is present in 6 and absent in 0"):
        FindingsTask(build_member("plain", 1), data, Sampling(batch=2, seed=1), kind="bce", smoothing=0.0)
