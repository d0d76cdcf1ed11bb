"""Shared files with several processes and kills: complete or absent, written once, and no process waits for a dead one."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest

from tests.builders.image_collections import write_collections
from tests.training.data.test_splits import record
from training.data import dataset
from training.data.canvases import Canvases
from training.data.dataset import Sample
from training.data.leakage import SplitSettings
from training.recipes import run as run_module
from training.recipes.config import MemberPlan
from training.recipes.flannel.config import FlannelConfig
from training.recipes.flannel.run import FlannelRun
from training.recipes.run import PREDICTIONS, SampleLogits
from training.shared_files import atomic_write, exclusive_lock, write_text

PROCESSES = 5
IMAGES, SIDE_PX = 300, 224  # 30 MB of canvases

# Forked by a server that has imported what they need, and nothing of which has threads yet.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


def _names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_a_reader_sees_the_old_or_the_new_file(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    write_text(file, "old")
    with atomic_write(file) as beside:
        beside.write_text("half")
        assert beside.suffix == ".csv", "NumPy would add its own"
        assert file.read_text() == "old"
    assert file.read_text() == "half"
    assert _names(tmp_path) == {"table.csv"}


def test_an_error_leaves_only_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "old")
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path / "a.json") as beside:
        (beside / "b").mkdir(parents=True) or beside.write_text("half")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.json") as beside:
        beside.write_text("half") and (tmp_path / "nowhere" / "b").touch()
    assert _names(tmp_path) == {"a.json"}
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_folder_appears_atomically(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "segmenter") as beside:
        beside.mkdir()
        (beside / "weights").write_text("w")
        assert not (tmp_path / "segmenter").exists()
    assert _names(tmp_path / "segmenter") == {"weights"}


def _folder_of(text: str, folder: Path) -> None:
    with atomic_write(folder) as beside:
        beside.mkdir()
        write_text(beside / "content", text)


def test_a_folder_is_replaced_atomically(tmp_path: Path) -> None:
    folder, done = tmp_path / "bundle", Event()
    _folder_of("0", folder)

    def seen() -> list[bool]:
        found = []
        while not done.is_set():
            found.append(folder.is_dir())
        return found

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(seen)
        try:
            for k in range(1, 200):
                _folder_of(str(k), folder)
        finally:
            done.set()
        assert reader.result().count(True) > 100
        assert False not in reader.result()
    assert _names(tmp_path) == {"bundle"}
    assert (folder / "content").read_text() == "199"


def test_a_folder_is_replaced_without_renameat2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(renameat2=lambda *_: -1))
    for text in ("old", "new"):
        _folder_of(text, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "content").read_text() == "new"
    assert _names(tmp_path) == {"bundle"}


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    _folder_of("old", tmp_path / "bundle")
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "bundle", "a file")
    assert (tmp_path / "bundle" / "content").read_text() == "old"


def test_leftovers_of_a_kill_are_removed_after_an_hour(tmp_path: Path) -> None:
    file, left = tmp_path / "a.npz", [tmp_path / f".a.{k}.unfinished.npz" for k in ("young", "old")]
    for path in left:
        path.write_bytes(b"half")
    os.utime(left[1], (time.time() - 4000,) * 2)
    other = tmp_path / ".b.old.unfinished.npz"
    other.write_bytes(b"of another file")
    os.utime(other, (0, 0))
    with atomic_write(file) as beside:
        beside.write_bytes(b"whole")
    assert _names(tmp_path) == {"a.npz", left[0].name, other.name}


def _hold(file: Path, seconds: float) -> None:
    with exclusive_lock(file):
        file.with_name("held").touch()
        time.sleep(seconds)
        write_text(file, "written")


def _holder(file: Path, seconds: float) -> multiprocessing.process.BaseProcess:
    process = _processes.Process(target=_hold, args=(file, seconds), daemon=True)
    process.start()
    deadline = time.monotonic() + 60
    while not file.with_name("held").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_waiting_prints_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = _holder(tmp_path / "a", 0.5)
    with exclusive_lock(tmp_path / "a"):
        assert (tmp_path / "a").read_text() == "written"
    assert capsys.readouterr().err.count("waiting for the process that writes") == 1
    holder.join(30)


def test_a_killed_process_releases_the_lock(tmp_path: Path) -> None:
    holder = _holder(tmp_path / "a", 3600)
    os.kill(holder.pid, signal.SIGKILL)
    begin = time.monotonic()
    with exclusive_lock(tmp_path / "a"):
        assert time.monotonic() - begin < 10
        assert not (tmp_path / "a").exists()
    holder.join(30)


def _run_in_five_processes(work: object, *args: object) -> None:
    """Run `work` in five processes that start at the same moment; each must end well."""
    start = _processes.Barrier(PROCESSES)
    processes = [_processes.Process(target=work, args=(start, k, *args), daemon=True) for k in range(PROCESSES)]  # type: ignore[arg-type]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * PROCESSES


def _samples() -> list[Sample]:
    records = [record(f"kcx/p{i}", i, label=("normal", "viral")[i % 2], source="kcx") for i in range(IMAGES)]
    return [Sample(record=r, group=r.patient, side="test" if i % 5 == 4 else "train") for i, r in enumerate(records)]


def _run(out: Path) -> FlannelRun:
    learners = dict.fromkeys(("vgg", "plain"), MemberPlan(architecture="narrow-vgg", head_maps=0, dropout=0.0))
    run = FlannelRun(FlannelConfig(name="made", learners=learners), Path("nowhere"), out)
    run.__dict__["samples"] = _samples()
    return run


def _cut_canvases(samples: list[Sample], out: Path) -> Canvases:
    """Return noise canvases like `cut`; write a line to `cuts` for each call."""
    with (out / "cuts").open("a") as lines:
        lines.write("cut\n")
    lungs = np.random.default_rng(0).integers(0, 256, (len(samples), SIDE_PX, SIDE_PX), dtype=np.uint8)
    wide = np.random.default_rng(1).integers(0, 256, (len(samples), *(round(1.4 * SIDE_PX),) * 2), dtype=np.uint8)
    boxes = np.zeros((len(samples), 4), np.float32)
    return Canvases(
        lungs=lungs, wide=wide, boxes=boxes, rois=boxes.astype(np.int32), failed=np.zeros(len(samples), bool)
    )


def _share_a_run(start: Barrier, fold: int, out: Path) -> None:
    """Do what `--fold` does before training, then save a network that two processes create at once."""
    run = _run(out)
    run._cut_canvases = lambda: _cut_canvases(run.samples, out)  # type: ignore[method-assign]
    start.wait(60)
    assert len(run.fold_of) == IMAGES
    assert run.canvases.lungs.shape == (IMAGES, SIDE_PX, SIDE_PX)
    start.wait(60)
    for k in range(20):
        SampleLogits(rows=run.all_rows, logits=np.full((IMAGES, 4), k, np.float32)).save(out / PREDICTIONS)
        assert SampleLogits.load(out / PREDICTIONS).logits.shape == (IMAGES, 4)


def test_five_processes_on_one_run_folder(tmp_path: Path) -> None:
    """Canvases of realistic size: writing takes long enough that all five would write at once."""
    _run_in_five_processes(_share_a_run, tmp_path)
    assert (tmp_path / "canvases.npz").stat().st_size > 40e6
    assert (tmp_path / "cuts").read_text() == "cut\n", "one process cut them, the others waited"
    assert not [p for p in _names(tmp_path) if "unfinished" in p]
    assert {"run.json", "folds.md", "canvases.npz", PREDICTIONS} <= _names(tmp_path)
    assert np.array_equal(Canvases.load(tmp_path / "canvases.npz").lungs, _cut_canvases(_samples(), tmp_path).lungs)


def _share_a_table(start: Barrier, k: int, data: Path, out: Path) -> None:
    check = dataset.check_leakage

    def checked(*args: object, **options: object) -> object:
        with (data / "splits").open("a") as lines:
            lines.write(f"{k}\n")
        return check(*args, **options)  # type: ignore[arg-type]

    dataset.check_leakage = checked  # type: ignore[assignment]
    start.wait(60)
    samples = dataset.prepare(data, out, SplitSettings(seed=1), threads=1)
    write_text(out / f"table-{k}", repr([(s.record.key, s.side) for s in samples]))


def test_five_processes_create_one_table(tmp_path: Path) -> None:
    write_collections(tmp_path / "data", patients=8, size_px=96)
    _run_in_five_processes(_share_a_table, tmp_path / "data", tmp_path / "run")
    assert len({(tmp_path / "run" / f"table-{k}").read_text() for k in range(PROCESSES)}) == 1
    assert len((tmp_path / "data" / "splits").read_text().splitlines()) == 1, (
        "one process split, the others read its table"
    )
    assert {"table.csv", "leakage.json", "leakage.md"} <= _names(tmp_path / "run")


def _share_a_network(start: Barrier, k: int, out: Path) -> None:
    """Replace training by a line in `fits` and a pause, in which the other processes arrive."""
    run, folder = _run(out), out / "networks" / "vgg"

    def fit(*_: object, **__: object) -> Path:
        with (out / "fits").open("a") as lines:
            lines.write(f"{k}\n")
        time.sleep(0.3)
        return folder

    def save(*_: object) -> None:
        SampleLogits(rows=run.all_rows, logits=np.zeros((IMAGES, 4), np.float32)).save(folder / PREDICTIONS)

    run_module.fit, run_module.load_weights, run_module.load_network = (
        fit,
        lambda *_: None,
        lambda folder: (folder, None),
    )  # type: ignore[assignment]
    run.save = save  # type: ignore[method-assign]
    start.wait(60)
    spec = run.config.network("vgg")
    run.train_or_load(lambda: SimpleNamespace(model=None), spec, run.config.learn, folder, run.all_rows)  # type: ignore[arg-type,return-value]


def test_five_processes_train_a_network_once(tmp_path: Path) -> None:
    _run_in_five_processes(_share_a_network, tmp_path)
    assert len((tmp_path / "fits").read_text().splitlines()) == 1
