"""What a member is trained on: two ways of balance, class weights, and by what an epoch is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from cxr_edge.errors import InputError
from cxr_edge.preprocess import PreprocessSpec
from tests.training.made_canvases import made_canvases
from training.augment import Augmentation
from training.classify import ClassifyTask, balanced_weights, logits_of, validation_figures
from training.models import build_member
from training.parallel import World
from training.targets import Target, binary, modality

SPEC = PreprocessSpec(canvas_px=32, crop_px=32)
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
# 24 normal, 6 bacterial, 2 tuberculosis; each fourth validates.
LABELS = [("normal", "normal", "normal", "bacterial")[i % 4] if i % 16 != 15 else "tuberculosis" for i in range(32)]
TARGET = Target(labels=("normal", "bacterial"))


def _task(target: Target = TARGET, **changes: Any) -> ClassifyTask:
    samples, canvases = made_canvases(LABELS, validates_every=5)
    values = {"batch": 8, "seed": 1, "smoothing": 0.0, **changes}
    torch.manual_seed(0)
    return ClassifyTask(build_member("plain", len(target.labels)), samples, canvases, SPEC, target, **values)


def test_class_weights_are_sklearns_balanced() -> None:
    truth = np.array([0, 0, 0, 1, 2, 2, -1])
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=truth[truth >= 0])
    assert balanced_weights(truth, 3) == pytest.approx(wanted)


def test_weighing_shows_each_image_once_an_epoch_in_another_order() -> None:
    task = _task(balance="weigh", augmentation=None)
    epochs = []
    for epoch in (0, 1):
        images = torch.cat([batch[0] for batch in task.batches(epoch, ALONE)])
        epochs.append(images)
        assert len(torch.unique(images, dim=0)) == len(images) == 8 * task.batches_per_epoch
    assert not torch.equal(*epochs)


def test_an_epoch_is_the_same_whenever_it_is_drawn() -> None:
    task = _task(balance="draw", augmentation=Augmentation(), epoch_images=16)
    first, again = ([b[0] for b in task.batches(3, ALONE)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_two_processes_draw_what_one_does() -> None:
    task = _task(balance="draw", augmentation=Augmentation(), epoch_images=16)
    halves = [World(rank=r, size=2, device=torch.device("cpu")) for r in (0, 1)]
    parts = zip(*(task.batches(0, here) for here in halves), strict=True)
    for whole, two in zip(task.batches(0, ALONE), parts, strict=True):
        for k in (0, 1):
            assert torch.equal(whole[k], torch.cat([two[0][k], two[1][k]]))


def test_the_loss_is_cross_entropy_times_the_labels_weight() -> None:
    task = _task(balance="weigh", augmentation=None)
    trained = [LABELS[i] for i in range(32) if i % 5 != 4 and LABELS[i] in TARGET.labels]
    weights = balanced_weights(np.array([TARGET.labels.index(label) for label in trained]), 2)
    assert weights[1] > 2 * weights[0]
    images = torch.zeros(1, 1, 32, 32)
    task.model.eval()
    with torch.no_grad():
        odds = task.model(images).logits.log_softmax(dim=1)[0]
        for k in (0, 1):
            loss = task.loss(task.model, (images, torch.tensor([[k == 0, k == 1]])))
            assert loss.item() == pytest.approx(-weights[k] * odds[k].item(), rel=1e-5)


def test_the_published_way_chooses_by_loss() -> None:
    figures = _task(by_loss=True).score(build_member("plain", 2))
    assert figures["score"] < 0 < figures["macro_f1"]


def test_adults_called_covid_cost_the_score() -> None:
    samples, _ = made_canvases(["normal", "covid-19"] * 4, validates_every=2)
    right = np.eye(2, dtype=np.float32)[[0, 1] * 4]
    wrong = np.eye(2, dtype=np.float32)[[1, 1] * 4]
    good, bad = (validation_figures(logits, samples, binary()) for logits in (right, wrong))
    assert (good["score"], good["adult_spec"]) == (1.5, 1.0)
    assert bad["adult_spec"] == 0.0
    assert bad["score"] == pytest.approx(bad["macro_f1"])


def test_a_task_without_covid_is_scored_by_macro_f1_alone() -> None:
    samples, _ = made_canvases(["normal", "viral"] * 2, validates_every=2)
    figures = validation_figures(np.eye(2, dtype=np.float32)[[0, 1, 0, 1]], samples, modality())
    assert figures == {"score": 1.0, "macro_f1": 1.0}


def test_partial_labels_are_not_validated() -> None:
    target = Target(labels=("normal", "bacterial"), partial={"tuberculosis": ("bacterial",)})
    with_partial, without = _task(target), _task()
    count = [sum(len(b) for b in t.validation_images()) for t in (with_partial, without)]
    assert count[0] == count[1]
    assert len(with_partial._train) > len(without._train)


def test_zeros_are_counted_on_as_many_images_of_each_label() -> None:
    """Those of the rarer label are shown again; none is left out."""
    drawn, weighed = (torch.cat(list(_task(balance=b).validation_images())) for b in ("draw", "weigh"))
    counts = {LABELS[i]: sum(LABELS[j] == LABELS[i] for j in range(4, 32, 5)) for i in range(4, 32, 5)}
    known = [counts[label] for label in TARGET.labels]
    assert len(weighed) == sum(known)
    assert len(drawn) == 2 * max(known)
    assert len(torch.unique(drawn, dim=0)) == len(weighed)


def test_logits_do_not_depend_on_the_batches() -> None:
    _, canvases = made_canvases(LABELS, validates_every=5)
    torch.manual_seed(0)
    network = build_member("plain", 2)
    many = np.concatenate([canvases.lungs] * 3)
    assert np.allclose(
        logits_of(network, many, SPEC, bfloat16=False)[:32],
        logits_of(network, canvases.lungs, SPEC, bfloat16=False),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"balance": "weigh", "batch": 64}, "smaller batch"), ({"left_out": ("a",)}, "no images to train")],
)
def test_too_few_images_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        _task(**changes)
