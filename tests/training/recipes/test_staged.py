"""Members with stages of their own: normal/abnormal first, the task, pruning; what is finished stays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from cxr_edge.errors import InputError
from tests.builders.image_collections import write_collections
from tests.training.data.test_splits import record
from training import starter
from training.data.dataset import Sample, data_folder
from training.data.splits import SIDES
from training.models import load_network
from training.models.files import SPEC
from training.pruning.prune import steps_of
from training.recipes.config import load_config
from training.starter import StarterRun

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = """
name = "staged"
threads = 1
segmenter_of = "starter"
canvas_px = 32
epoch_images = 16

[members.whole]
architecture = "narrow-vgg"
epochs = 1
batch = 8

[members.staged]
architecture = "narrow-vgg"
epochs = 2
batch = 8
learning_rate = 1e-3

[members.staged.modality]
epochs = 1

[members.staged.prune]
step = 0.25
until = 0.25
ahead = 4.0
retrain = { epochs = 1 }
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, configuration and a run whose members are trained."""
    folder = tmp_path_factory.mktemp("staged")
    write_collections(folder / "data", patients=8, size_px=64)
    (folder / "c.toml").write_text(CONFIG)
    for stage in ("segment", "canvases", "members"):
        assert _start(folder, stage) == 0
    return folder


def _start(folder: Path, stage: str) -> int:
    options = {"--data": folder / "data", "--config": folder / "c.toml", "--out": folder / "run", "--stage": stage}
    return starter.main([str(v) for pair in options.items() for v in pair])


def test_plans_of_the_stages_differ_from_the_members_own(finished: Path) -> None:
    member = load_config(finished / "c.toml").members["staged"]
    assert member.modality is not None
    assert member.prune is not None
    plans = [member.train, member.modality, member.prune.retrain]
    assert [(p.epochs, p.batch, p.learning_rate, p.threads) for p in plans] == [(e, 8, 1e-3, 1) for e in (2, 1, 1)]


def test_each_stage_has_its_network(finished: Path) -> None:
    folder = finished / "run" / "staged"
    labels = [load_network(f)[1].labels for f in (folder / "modality", folder)]
    assert labels == [2, 4]
    assert [s.number for s in steps_of(folder / "pruned")] == [0, 1]
    assert not (finished / "run" / "whole" / "modality").exists()


def test_the_pruned_network_is_exported(finished: Path) -> None:
    sizes = {
        name: sum(len(i.raw_data) for i in onnx.load(finished / "run" / f"{name}.onnx").graph.initializer)
        for name in ("whole", "staged")
    }
    assert sizes["staged"] < sizes["whole"]


def test_a_finished_stage_is_not_repeated(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.recipes.run.fit", lambda *_, **__: pytest.fail("trained again"))
    run = StarterRun(load_config(finished / "c.toml"), data_folder(finished / "data"), finished / "run")
    assert (run.train_member("staged") / SPEC).exists()


def test_one_member_is_trained_by_itself(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"--data": finished / "data", "--config": finished / "c.toml", "--out": tmp_path / "run"}
    arguments = [str(v) for pair in options.items() for v in pair]
    assert starter.main([*arguments, "--member", "whole"]) == 0
    assert (tmp_path / "run" / "whole" / SPEC).exists()
    assert not (tmp_path / "run" / "staged").exists()
    assert starter.main([*arguments, "--member", "other"]) == 2
    assert "no member is called other: the configuration has whole, staged" in capsys.readouterr().err


def test_another_start_is_refused(finished: Path) -> None:
    config = finished / "other.toml"
    config.write_text(CONFIG.replace("[members.staged.modality]\nepochs = 1\n", ""))
    with pytest.raises(InputError, match="weights_of"):
        StarterRun(load_config(config), data_folder(finished / "data"), finished / "run").train_member("staged")


def test_a_members_modality_stage_is_checked_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a normal image there is nothing to learn normal against abnormal from."""
    write_collections(tmp_path / "data", patients=8, size_px=64)
    own = 'labels = ["bacterial", "viral"]\nguard = ""\ncollections = ["kcx"]\nwithout = ["kcx/normal"]\n'
    (tmp_path / "c.toml").write_text(CONFIG.replace("threads = 1\n", f"threads = 1\n{own}", 1))
    assert _start(tmp_path, "segment") == 2
    assert "stage modality of staged: the task normal / abnormal has 0 of normal" in capsys.readouterr().err
    assert not (tmp_path / "run" / "whole").exists()


def test_a_modality_stage_trains_on_every_label_of_own_data(tmp_path: Path) -> None:
    """Also on one that the task does not have."""
    own = 'labels = ["normal", "silicosis"]\nguard = ""\ncollections = ["own"]\n'
    (tmp_path / "c.toml").write_text(CONFIG.replace("threads = 1\n", f"threads = 1\n{own}", 1))
    run = StarterRun(load_config(tmp_path / "c.toml"), tmp_path, tmp_path / "run")
    labels = ["normal", "silicosis", "asbestosis"]
    run.__dict__["samples"] = [
        Sample(record=record(f"{side} {i}", i, labels[i % 3], "own"), group=f"{side} {i}", side=side)
        for side in SIDES
        for i in range(6)
    ]
    run.check_tasks()
    train = [s.record.label for s in run.samples if s.side == "train"]
    assert Counter(run.modality_target.label_index(label) for label in train) == {0: 2, 1: 4}
