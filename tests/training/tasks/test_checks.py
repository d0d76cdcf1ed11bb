"""Task of the checker network: truth of each kind of image, the same batches again, a loss that falls, and the network's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxr_edge.ops.preprocess import normalize
from cxr_edge.specs.checks import SCORED_CODES
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.alterations import Box
from training.data.drawings import draw
from training.models.checker import CheckerForExport, CheckerNetwork
from training.parallel import world
from training.phantoms import make_phantom
from training.tasks import checks
from training.tasks.checks import OUTPUTS, CheckTask, FrameFacts, Kind, StagedFrames, good_inputs

SPEC = PreprocessSpec(region="frame", canvas_px=32, crop_px=32)
BOX = Box(x0=0.15, y0=0.1, x1=0.85, y1=0.8)


def _staged(kinds: tuple[Kind, ...], *, child: bool | None = None, ap: bool | None = None) -> StagedFrames:
    rng = np.random.default_rng(0)
    chest = {"frontal": lambda i: make_phantom("normal", size_px=48, seed=i).pixels}
    frames = [chest.get(kind, lambda i: draw("shapes", rng, size_px=48))(i) for i, kind in enumerate(kinds)]
    facts = [FrameFacts(kind=kind, source=kind, box=BOX, child=child, ap=ap) for kind in kinds]
    return StagedFrames(frames=np.stack(frames).astype(np.uint8), facts=facts)


def _task(staged: StagedFrames, *, batch: int = 16, images: int = 32) -> CheckTask:
    network = CheckerNetwork(len(OUTPUTS), side_px=32)
    return CheckTask(network, staged, staged, SPEC, batch=batch, seed=3, epoch_images=images)


@pytest.fixture(autouse=True)
def few_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_VALIDATED", 32)


def _truths(staged: StagedFrames, count: int = 200) -> dict[str, np.ndarray]:
    (batch,) = list(_task(staged, batch=count, images=count).batches(0, world()))
    return dict(zip(OUTPUTS, batch[1].numpy().T, strict=True))


def test_every_scored_code_but_two_is_an_output() -> None:
    assert {*SCORED_CODES} - {*OUTPUTS} == {"adult", "unfamiliar"}


def test_truth_of_chests_drawings_and_what_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    truths = _truths(_staged(("frontal",) * 4, child=True, ap=None))
    drawn = truths["not_chest"] == 1
    assert 0.02 < drawn.mean() < 0.2  # drawings
    assert np.isnan(truths["ap"]).all()
    assert (truths["child"][~drawn] == 1).all()
    for name in ("inverted", "turned", "photo", "marks", "cut_off"):
        assert set(truths[name][~drawn]) == {0.0, 1.0}
        assert np.isnan(truths[name][drawn]).all()
    unclear = (truths["turned"] == 1) | (truths["cut_off"] == 1)
    assert np.isnan(truths["mirrored"][unclear]).all()
    assert (
        0.4
        < np.nanmean(
            np.stack([truths[n] for n in ("inverted", "turned", "photo", "marks", "cut_off", "mirrored")])[
                :, ~drawn
            ].any(axis=0)
        )
        <= 1
    )


def test_truth_of_laterals_slices_and_pictures() -> None:
    truths = _truths(_staged(("frontal", "lateral", "slice", "picture")), count=400)
    lateral = truths["lateral"] == 1
    assert 0.02 < lateral.mean() < 0.12
    assert (truths["not_chest"][lateral] == 0).all()
    assert np.isnan(truths["mirrored"][lateral]).all()
    assert 0.15 < (truths["not_chest"] == 1).mean() < 0.4


def test_batches_are_the_same_for_the_same_epoch() -> None:
    task = _task(_staged(("frontal", "lateral")))
    first, again, other = (task.batches(epoch, world())[0] for epoch in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (16, 1, 32, 32)


def test_the_loss_falls_and_unknown_truth_has_none() -> None:
    torch.manual_seed(0)
    task = _task(_staged(("frontal",) * 6, child=False, ap=True))
    images, truth = task.batches(0, world())[0]
    optimizer = torch.optim.Adam(task.model.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = task.loss(task.model.train(), (images, truth))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    unknown = torch.full_like(truth, float("nan"))
    assert task.loss(task.model, (images, unknown)).item() == 0.0


def test_the_score_is_the_mean_area_over_outputs_with_both_kinds() -> None:
    figures = _task(_staged(("frontal",) * 4, child=False)).score(CheckerNetwork(len(OUTPUTS), side_px=32))
    assert "child" not in figures  # all are adults
    assert figures["score"] == pytest.approx(np.mean([v for k, v in figures.items() if k != "score"]))


def test_good_inputs_are_of_frontal_chests_alone() -> None:
    staged = _staged(("frontal", "lateral", "frontal", "picture"))
    assert good_inputs(staged, SPEC, seed=1).shape == (2, 1, 32, 32)
    assert (good_inputs(staged, SPEC, seed=1) == good_inputs(staged, SPEC, seed=1)).all()


def test_the_network_is_small() -> None:
    network = CheckerNetwork(len(OUTPUTS))
    assert sum(p.numel() for p in network.parameters()) <= 100_000
    with pytest.raises(ValueError, match="side_px must be a multiple of 16"):
        CheckerNetwork(3, side_px=100)


def test_the_exported_distance_is_mahalanobis() -> None:
    torch.manual_seed(0)
    network = CheckerNetwork(2, side_px=32).eval()
    image = torch.from_numpy(normalize(make_phantom("normal", size_px=32, seed=1).pixels, SPEC))[None]
    features = network.features(image)
    covariance = torch.diag(torch.linspace(0.5, 2.0, 96))
    mean = features[0].detach() - 0.3
    whitening = torch.diag(covariance.diagonal().rsqrt())
    scores = CheckerForExport(network, mean, whitening)(image).detach()
    assert scores.shape == (1, 3)
    expected = (0.3**2 / covariance.diagonal()).mean()
    assert float(scores[0, 2]) == pytest.approx(float(expected), rel=1e-4)
    assert float(scores[0, 0]) == pytest.approx(network(image).detach().sigmoid()[0, 0].item(), rel=1e-5)
