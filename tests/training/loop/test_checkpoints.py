"""Checkpoints after a power cut: cut, zeroed, empty or foreign files are named with the remedy, and the remedy works."""

from __future__ import annotations

import io
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cxr_edge.errors import InputError, OutputError
from tests.builders.damage import DAMAGES
from tests.training.loop.test_fit import PLAN, _network, _Task
from training.loop.checkpoints import LAST, PREVIOUS, load_checkpoint, save_checkpoint
from training.loop.fit import WEIGHTS, fit, load_weights

LONG = replace(PLAN, epochs=3)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a run without damage."""
    folder = tmp_path_factory.mktemp("straight")
    return load_weights(_network(), fit(_Task(), LONG, folder)).state_dict()


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that was killed in its third epoch."""
    with pytest.raises(KeyboardInterrupt):
        fit(_Task(killed_in=2), LONG, tmp_path / "net")
    return tmp_path / "net"


def _assert_ends_as(straight: dict[str, Tensor], folder: Path, task: _Task | None = None) -> None:
    actual = load_weights(_network(), fit(task or _Task(), LONG, folder)).state_dict()
    assert all(torch.equal(actual[n], straight[n]) for n in straight)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_offered(
    damage: Callable[[bytes], bytes], stopped: Path, straight: dict[str, Tensor]
) -> None:
    file = stopped / LAST
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        InputError, match=r"last\.pt cannot be read, .*: delete it .* goes on from previous\.pt, of epoch 1"
    ):
        fit(_Task(), LONG, stopped)
    file.unlink()
    _assert_ends_as(straight, stopped)


def test_without_a_checkpoint_before_it_the_training_is_repeated(stopped: Path, straight: dict[str, Tensor]) -> None:
    for name in (LAST, PREVIOUS):
        (stopped / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"last\.pt .*it is empty: delete the checkpoints of .*net \(\*\.pt\)"):
        fit(_Task(), LONG, stopped)
    (stopped / LAST).unlink()
    with pytest.raises(InputError, match=r"previous\.pt .*it is empty: delete the checkpoints of .*net \(\*\.pt\)"):
        fit(_Task(), LONG, stopped)
    for file in stopped.glob("*.pt"):
        file.unlink()
    _assert_ends_as(straight, stopped)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_weights_are_named_before_the_training_goes_on(
    damage: Callable[[bytes], bytes], stopped: Path, straight: dict[str, Tensor]
) -> None:
    file = stopped / WEIGHTS
    file.write_bytes(damage(file.read_bytes()))
    for call in (lambda: fit(_Task(killed_in=2), LONG, stopped), lambda: load_weights(_network(), file)):
        with pytest.raises(
            InputError, match=r"weights\.pt cannot be read, .*: delete it and start the same command again"
        ):
            call()
    file.unlink()
    _assert_ends_as(straight, stopped)


def test_missing_weights_are_written_from_the_checkpoint_that_holds_them(tmp_path: Path) -> None:
    file = fit(_Task(scores=(0.1, 0.2, 0.9)), LONG, tmp_path)
    expected = load_weights(_network(), file).state_dict()
    file.unlink()
    actual = load_weights(_network(), fit(_Task(killed_in=0), LONG, tmp_path)).state_dict()
    assert all(torch.equal(actual[n], expected[n]) for n in expected)


def test_missing_weights_of_an_earlier_epoch_are_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = (0.9, 0.2, 0.1)
    file = fit(_Task(scores=scores), LONG, tmp_path)
    expected = load_weights(_network(), file).state_dict()
    file.unlink()
    actual = load_weights(_network(), fit(_Task(scores=scores), LONG, tmp_path)).state_dict()
    assert all(torch.equal(actual[n], expected[n]) for n in expected)
    assert "weights.pt is missing: trained again from the first epoch" in capsys.readouterr().err


def test_a_kill_between_the_two_renames_goes_on_from_the_previous_checkpoint(
    stopped: Path, straight: dict[str, Tensor]
) -> None:
    (stopped / LAST).unlink()
    task = _Task()
    _assert_ends_as(straight, stopped, task)
    assert load_checkpoint(stopped / PREVIOUS)["epoch"] == 2


@pytest.mark.parametrize("values", [{}, {"model": {}}, {"epoch": 1, "best_epoch": 1, "average": 3}])
def test_a_checkpoint_of_another_version_or_network_is_named(values: dict[str, object], tmp_path: Path) -> None:
    save_checkpoint(values, tmp_path / LAST)
    save_checkpoint({"model": {}}, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match=r"last\.pt cannot be read, it is .* of another version"):
        fit(_Task(), PLAN, tmp_path)


@pytest.mark.parametrize("values", [[1, 2], object()])
def test_other_files_that_torch_wrote_are_named(values: object, tmp_path: Path) -> None:
    torch.save(values, tmp_path / LAST)
    with pytest.raises(InputError, match=r"last\.pt cannot be read"):
        fit(_Task(), PLAN, tmp_path)


def test_checkpoints_without_a_digest_are_read(tmp_path: Path) -> None:
    """As version 0.1 wrote them; and torch reads those with a digest."""
    file = tmp_path / "last.pt"
    save_checkpoint({"epoch": 3}, file)
    assert torch.load(file, weights_only=True) == {"epoch": 3}
    torch.save(torch.load(file, weights_only=True), file)
    assert load_checkpoint(file) == {"epoch": 3}


def test_a_changed_bit_is_found(tmp_path: Path) -> None:
    file, buffer = tmp_path / "last.pt", io.BytesIO()
    save_checkpoint({"model": torch.ones(1000)}, file)
    data = bytearray(file.read_bytes())
    middle = data.index(torch.ones(4).numpy().tobytes()) + 2000
    data[middle] ^= 1
    file.write_bytes(data)
    buffer.write(data)
    assert not torch.equal(torch.load(file, weights_only=True)["model"], torch.ones(1000)), "torch reads it"
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(file)


def test_a_full_disk_is_a_sentence_and_the_checkpoint_before_stays(tmp_path: Path) -> None:
    file = tmp_path / LAST
    save_checkpoint({"epoch": 1}, file)
    before, limit = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OutputError, match=r"last\.pt cannot be written .*: free space on its disk"):
            save_checkpoint({"epoch": 2, "model": torch.ones(10_000)}, file, keep_as=tmp_path / PREVIOUS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert [p.name for p in tmp_path.iterdir()] == [LAST]
    assert load_checkpoint(file) == {"epoch": 1}
