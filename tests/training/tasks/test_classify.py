"""Classification task: three kinds of balance, class weights, mirrored views, and the selection of an epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from cxr_edge.errors import InputError
from cxr_edge.ops.preprocess import normalize
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.canvases import make_canvases
from tests.tolerances import assert_close
from training.data.augment import Augmentation
from training.data.guard import Guard, Subgroup
from training.data.targets import Target
from training.models import build_member
from training.parallel import World
from training.recipes.r20.tasks import binary, modality
from training.tasks.classify import (
    ClassifyTask,
    MemberData,
    Sampling,
    class_weights,
    nested_probabilities,
    validation_figures,
)
from training.tasks.predict import predict_logits

SPEC = PreprocessSpec(canvas_px=32, crop_px=32)
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
# 24 normal, 6 bacterial, 2 tuberculosis; each fourth validates.
LABELS = [("normal", "normal", "normal", "bacterial")[i % 4] if i % 16 != 15 else "tuberculosis" for i in range(32)]
TARGET = Target(labels=("normal", "bacterial"))


def _task(target: Target = TARGET, **changes: Any) -> ClassifyTask:
    samples, canvases = make_canvases(LABELS, validates_every=5)
    data = MemberData(
        samples=samples, canvases=canvases, spec=SPEC, target=target, left_out=changes.pop("left_out", ())
    )
    by_loss = changes.pop("by_loss", False)
    torch.manual_seed(0)
    sampling = Sampling(**{"batch": 8, "seed": 1, **changes})
    return ClassifyTask(build_member("plain", len(target.labels)), data, sampling, smoothing=0.0, by_loss=by_loss)


def test_class_weights_equal_sklearns_balanced() -> None:
    truth = np.array([0, 0, 0, 1, 2, 2, -1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=truth[truth >= 0])
    assert class_weights(truth, 3) == pytest.approx(expected)


def test_weigh_uses_each_image_once_per_epoch_in_another_order() -> None:
    task = _task(balance="weigh", augmentation=None)
    epochs = []
    for epoch in (0, 1):
        images = torch.cat([batch[0] for batch in task.batches(epoch, ALONE)])
        epochs.append(images)
        assert len(torch.unique(images, dim=0)) == len(images) == 8 * task.batches_per_epoch
    assert not torch.equal(*epochs)


def test_an_epoch_is_reproducible() -> None:
    task = _task(balance="draw", augmentation=Augmentation(), epoch_images=16)
    first, again = ([b[0] for b in task.batches(3, ALONE)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_two_processes_draw_the_same_as_one() -> None:
    task = _task(balance="draw", augmentation=Augmentation(), epoch_images=16)
    halves = [World(rank=r, size=2, device=torch.device("cpu")) for r in (0, 1)]
    parts = zip(*(task.batches(0, process) for process in halves), strict=True)
    for whole, two in zip(task.batches(0, ALONE), parts, strict=True):
        for k in (0, 1):
            assert torch.equal(whole[k], torch.cat([two[0][k], two[1][k]]))


def test_the_loss_is_cross_entropy_times_the_labels_weight() -> None:
    task = _task(balance="weigh", augmentation=None)
    trained = [LABELS[i] for i in range(32) if i % 5 != 4 and LABELS[i] in TARGET.labels]
    weights = class_weights(np.array([TARGET.labels.index(label) for label in trained]), 2)
    assert weights[1] > 2 * weights[0]
    images = torch.zeros(1, 1, 32, 32)
    task.model.eval()
    with torch.no_grad():
        odds = task.model(images).logits.log_softmax(dim=1)[0]
        for k in (0, 1):
            loss = task.loss(task.model, (images, torch.tensor([[k == 0, k == 1]])))
            assert loss.item() == pytest.approx(-weights[k] * odds[k].item(), rel=1e-5)


def test_by_loss_scores_by_validation_loss() -> None:
    figures = _task(by_loss=True).score(build_member("plain", 2))
    assert figures["score"] < 0 < figures["macro_f1"]


def test_adults_called_covid_cost_the_score() -> None:
    samples, _ = make_canvases(["normal", "covid-19"] * 4, validates_every=2)
    right = np.eye(2, dtype=np.float32)[[0, 1] * 4]
    wrong = np.eye(2, dtype=np.float32)[[1, 1] * 4]
    guard = Guard(label="covid-19", groups={"adult_normals": Subgroup(label="normal", adult=True)})
    good, bad = (validation_figures(logits, samples, binary(guard=guard)) for logits in (right, wrong))
    assert (good["score"], good["specificity_adult_normals"]) == (1.5, 1.0)
    assert bad["specificity_adult_normals"] == 0.0
    assert bad["score"] == pytest.approx(bad["macro_f1"])


def test_a_task_without_covid_is_scored_by_macro_f1_alone() -> None:
    samples, _ = make_canvases(["normal", "viral"] * 2, validates_every=2)
    figures = validation_figures(np.eye(2, dtype=np.float32)[[0, 1, 0, 1]], samples, modality())
    assert figures == {"score": 1.0, "macro_f1": 1.0}


def test_partial_labels_are_not_validated() -> None:
    target = Target(labels=("normal", "bacterial"), partial={"tuberculosis": ("bacterial",)})
    with_partial, without = _task(target), _task()
    count = [sum(len(b) for b in t.validation_images()) for t in (with_partial, without)]
    assert count[0] == count[1]
    assert len(with_partial._train) > len(without._train)


def test_validation_images_have_equal_label_counts() -> None:
    """Images of the rarer label are repeated; none is dropped."""
    drawn, weighed = (torch.cat(list(_task(balance=b).validation_images())) for b in ("draw", "weigh"))
    counts = {LABELS[i]: sum(LABELS[j] == LABELS[i] for j in range(4, 32, 5)) for i in range(4, 32, 5)}
    known = [counts[label] for label in TARGET.labels]
    assert len(weighed) == sum(known)
    assert len(drawn) == 2 * max(known)
    assert len(torch.unique(drawn, dim=0)) == len(weighed)


def test_logits_do_not_depend_on_the_batches() -> None:
    _, canvases = make_canvases(LABELS, validates_every=5)
    torch.manual_seed(0)
    network = build_member("plain", 2)
    many = np.concatenate([canvases.lungs] * 3)
    assert_close(predict_logits(network, many, SPEC)[:32], predict_logits(network, canvases.lungs, SPEC))


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"balance": "weigh", "batch": 64}, "smaller batch"), ({"left_out": ("a",)}, "0 of normal and 0 of bacterial")],
)
def test_too_few_images_raise(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        _task(**changes)


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_without_balance_every_image_is_used_once_per_epoch(augmentation: Augmentation | None) -> None:
    labels = ["normal"] * 20 + ["bacterial"] * 10
    samples, canvases = make_canvases(labels, validates_every=5)
    model = build_member("plain", 2)
    data = MemberData(samples=samples, canvases=canvases, spec=SPEC, target=TARGET)
    sampling = Sampling(batch=8, seed=1, balance="none", augmentation=augmentation, epoch_images=8)
    task = ClassifyTask(model, data, sampling, smoothing=0.0)
    assert task.batches_per_epoch == 3, "24 images train; epoch_images is for drawing"
    orders = []
    for epoch in (0, 1):
        images, allowed = (torch.cat(parts) for parts in zip(*task.batches(epoch, ALONE), strict=True))
        assert allowed.sum(dim=0).tolist() == [16, 8], "as often as the labels are"
        assert len(torch.unique(images, dim=0)) == 24
        if augmentation is None:
            expected = {normalize(canvases.lungs[i], SPEC).tobytes() for i in range(30) if samples[i].side == "train"}
            assert {image.numpy().tobytes() for image in images} == expected
        orders.append(allowed)
    assert not torch.equal(*orders)


def test_without_balance_all_class_weights_are_one() -> None:
    task = _task(balance="none", augmentation=None)
    images, truth = torch.randn(6, 1, 32, 32), torch.tensor([0, 1, 1, 0, 0, 1])
    task.model.eval()
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(task.model(images).logits, truth)
        loss = task.loss(task.model, (images, torch.nn.functional.one_hot(truth, 2).bool()))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("turn_pa", [True, False])
def test_pa_images_are_mirrored_in_training_and_not_in_validation(turn_pa: bool) -> None:
    """One label per view; every canvas is bright on the left, a mirrored one on the right."""
    views = {"normal": "PA", "viral": "AP", "bacterial": "AP Supine"}
    target = Target(labels=tuple(views))
    samples, canvases = make_canvases([*views] * 8, validates_every=3)
    samples = [replace(s, record=replace(s.record, view=views[s.record.label])) for s in samples]
    # Every third would be of one label: all three validate, and train.
    samples = [replace(s, side="validation" if i >= 18 else "train") for i, s in enumerate(samples)]
    canvases.lungs[..., :16] = 200
    data = MemberData(samples=samples, canvases=canvases, spec=SPEC, target=target)
    sampling = Sampling(batch=6, seed=1, balance="none", turn_pa=turn_pa)
    task = ClassifyTask(build_member("plain", 3), data, sampling, smoothing=0.0)
    images, allowed = (torch.cat(parts) for parts in zip(*task.batches(0, ALONE), strict=True))
    right = images[:, 0, :, 16:].mean((1, 2)) > images[:, 0, :, :16].mean((1, 2))
    assert len(images) == 18
    assert torch.equal(right, allowed[:, 0] & turn_pa)
    untouched = {normalize(canvas, SPEC).tobytes() for canvas in canvases.lungs}
    assert [image.numpy().tobytes() in untouched for image in images] == (~right).tolist()

    validation = torch.cat(list(task.validation_images()))
    expected = np.stack([normalize(canvas, SPEC) for canvas in canvases.lungs[18:]])
    assert np.array_equal(validation.numpy(), expected)
    plain = validation_figures(predict_logits(task.model, canvases.lungs[18:], SPEC), samples[18:], target)
    assert task.score(task.model) == plain


# Label, source and view of 14 images.
DRAWN = [("sick", "a", "AP")] * 6 + [("sick", "a", "PA")] * 2 + [("sick", "b", "AP")] * 2 + [("well", "b", "PA")] * 4


def _shares(probabilities: np.ndarray[Any, Any], depth: int) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for group, p in zip(DRAWN, probabilities, strict=True):
        found[group[:depth]] = found.get(group[:depth], 0.0) + float(p)
    return found


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_nested_levels_share_the_draws(power: float) -> None:
    groups = list(zip(*DRAWN, strict=True))
    found = nested_probabilities(groups, [0.0, power, 0.0])
    assert found.sum() == pytest.approx(1.0)
    assert _shares(found, 1) == pytest.approx({("sick",): 0.5, ("well",): 0.5})
    of_a = 8**power / (8**power + 2**power)
    assert _shares(found, 2)[("sick", "a")] == pytest.approx(0.5 * of_a)
    assert _shares(found, 3)[("sick", "a", "AP")] == pytest.approx(0.25 * of_a)
    assert len({round(float(p), 12) for p in found[:6]}) == 1


def test_one_level_with_power_one_draws_every_image_alike() -> None:
    assert nested_probabilities([[g[1] for g in DRAWN]], [1.0]) == pytest.approx(np.full(14, 1 / 14))


def test_levels_balance_the_views_of_each_label() -> None:
    samples, canvases = make_canvases(["normal", "bacterial"] * 20, validates_every=10)
    views = ["AP" if i % 8 == 0 else "PA" for i in range(40)]  # only of normals: every bacterial one is PA
    data = MemberData(samples=samples, canvases=canvases, spec=SPEC, target=TARGET, views=views)
    torch.manual_seed(0)
    levels: Any = {"label": 0.0, "view": 0.0}
    task = ClassifyTask(build_member("plain", 2), data, Sampling(batch=8, seed=1, levels=levels), smoothing=0.0)
    rows = np.concatenate(list(task._order(np.random.default_rng(0))) + list(task._order(np.random.default_rng(1))))
    drawn = np.concatenate([list(task._order(np.random.default_rng(i))) for i in range(60)]).ravel()
    assert set(rows) <= set(data.rows("train").tolist())
    assert np.mean([LABELS[0] == samples[i].record.label for i in drawn]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([views[i] == "AP" for i in drawn if i % 2 == 0]) == pytest.approx(0.5, abs=0.07)
