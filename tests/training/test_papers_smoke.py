"""The full-size smoke's own code: what is drawn suffices for every stage, only lengths differ, hours are counted rightly."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cxr_edge.errors import InputError
from training import papers_smoke
from training.data.drawn_collections import Counts, draw
from training.data.splits import SIDES
from training.json_records import read_json
from training.loop.plan import Plan
from training.papers import hours as hours_module
from training.papers import speed
from training.papers.hours import Gpu, Hours, Work, hours, total, work_of
from training.papers.page import page
from training.papers.records import Done, Smoke
from training.papers.speed import PAPERS, Speed, networks_of, published
from training.papers_smoke import Command, shortened, toml
from training.recipes.flannel.config import load_flannel
from training.recipes.flannel.run import FlannelRun
from training.recipes.r20.config import load_r20
from training.recipes.r20.run import R20Run


def _config(paper: str, folder: Path) -> Any:
    """The shortened configuration, as a stage of the smoke reads it."""
    weights = {name: f"{name}.safetensors" for name in networks_of(published(paper))}
    file = folder / f"{paper}.toml"
    file.write_text(toml(speed.CONFIGS.absolute() / f"{paper}-full.toml", shortened(published(paper), weights)))
    return (load_r20 if paper == "r20" else load_flannel)(file)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("smoke") / "data", Counts(), size_px=128)


def test_what_is_drawn_suffices_for_every_stage_of_r20(data: Path, tmp_path: Path) -> None:
    run = R20Run(_config("r20", tmp_path), data, tmp_path / "run")
    assert len(run.samples) == Counts().images
    run.check_tasks()
    for stage, target, samples in run.tasks():
        train = [s.record for s in samples if s.side == "train"]
        sources = {r.source for r in train}
        for side in SIDES:
            own = [s.record for s in run.samples if s.side == side and s.record.source in sources]
            counts = Counter(target.label_index(r.label) for r in own)
            assert all(counts[k] for k in range(len(target.labels))), (stage, side, counts)
        fitting = [r for r in train if target.label_index(r.label) >= 0]
        assert len(fitting) >= getattr(run.config, stage).batch, stage
    masked = [s.side for s in run.samples if s.record.mask is not None]
    assert set(masked) == set(SIDES)
    assert masked.count("train") >= run.config.segmenter.batch


def test_what_is_drawn_suffices_for_every_fold_of_flannel(data: Path, tmp_path: Path) -> None:
    config = _config("flannel", tmp_path)
    for folds in (config.folds, published("flannel").folds):
        run = FlannelRun(replace(config, folds=folds), data, tmp_path / f"run-{folds}")
        run.check_tasks()
        for _, target, samples in run.tasks():
            train = [s.record for s in samples if s.side == "train"]
            assert len(train) >= config.learn.batch
            assert {r.label for r in train} == set(target.labels)
        assert {run.samples[i].record.label for i in run.test_rows} == set(config.labels)


_LENGTHS = {"epochs", "trials", "until", "folds", "known_answers", "range_images", "resamples", "cam_cases"}


@pytest.mark.parametrize("paper", PAPERS)
def test_only_lengths_differ_from_the_published_recipe(paper: str, tmp_path: Path) -> None:
    """Never networks, widths, input sizes, batches, optimizers or schedules."""
    before, now = _flat(asdict(published(paper))), _flat(asdict(_config(paper, tmp_path)))
    changed = {k for k in before | now if before.get(k) != now.get(k)}
    assert {k.split(".")[-1] for k in changed} <= {*_LENGTHS, "name", "imagenet"}
    assert any(k.endswith("epochs") for k in changed)


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for k, v in values.items():
        found |= _flat(v, f"{before}{k}.") if isinstance(v, dict) else {f"{before}{k}": v}
    return found


def _speed(**changed: Any) -> Speed:
    made = Speed(
        network="n", architecture="vgg16", parameters=10, macs=1_000_000_000, input=(3, 8, 8), batch=4, optimizer="sgd",
        threads=2, train_s=9.0, train_core_s=4.0, ask_s=0.25, ask_core_s=1.0,
    )  # fmt: skip
    return replace(made, **changed)


def test_hours_of_a_stage() -> None:
    work = [Work(stage="modality", network="n", epochs=(3, 10), trained=100, predicted=40, times=2)]
    (found,) = hours(work, {"n": _speed()}, [Gpu(name="g", peak_tflops=1.0, utilisation=(0.25, 0.5))])
    assert found.trained == (600, 2000)
    assert found.by_machine["CPU"] == pytest.approx((6 * 220 / 3600, 20 * 220 / 3600))
    # 2 x 1e9 operations a pass, three passes of 100 images and one of 40.
    flop = 2e9 * 340
    assert found.by_machine["g"] == pytest.approx((6 * flop / 5e11 / 3600, 20 * flop / 2.5e11 / 3600))
    assert total([found, found]).by_machine["g"] == pytest.approx(tuple(2 * h for h in found.by_machine["g"]))


def test_stage_2_takes_the_same_on_every_machine() -> None:
    (found,) = hours([Work(stage="combine", network="n", epochs=(2, 2), trained=10, predicted=0)], {"n": _speed()})
    assert set(found.by_machine.values()) == {(40 / 3600, 40 / 3600)}


def test_all_that_the_recipes_train_is_counted() -> None:
    r20, flannel = (work_of(published(paper)) for paper in PAPERS)
    assert {w.network for w in r20} == set(networks_of(published("r20")))
    assert {w.network for w in flannel} == set(networks_of(published("flannel")))
    search = [w for w in r20 if w.stage == "search"]
    assert sum(w.trained * w.epochs[0] * w.times for w in search) == 9741 * 4 * 40 * 9
    assert [w.times for w in r20 if w.stage == "prune"] == [25, 25, 25]
    learn = [w for w in flannel if w.stage == "learn" and w.trained]
    assert sum(w.trained * w.epochs[1] * w.times for w in learn) == 3524 * 200 * 5 * 5


def test_patience_ends_a_training_early() -> None:
    assert hours_module._epochs(Plan(epochs=32, patience=10)) == (11, 32)
    assert hours_module._epochs(Plan(epochs=8, patience=10)) == (8, 8)
    assert hours_module._epochs(Plan(epochs=200)) == (200, 200)


def _smoke(tmp_path: Path) -> papers_smoke._Smoke:
    return papers_smoke._Smoke(out=tmp_path, threads=1, precision="fp32", hub=False)


def test_a_process_is_measured_and_not_run_twice(tmp_path: Path) -> None:
    smoke = _smoke(tmp_path)
    text = f"open({str(tmp_path / 'runs')!r}, 'a').write('x'); block = b'x' * (150 << 20); print('{{\"images\": 3}}')"
    command = Command(name="r20 stage x", arguments=("-c", text))
    papers_smoke._run(smoke, command)
    taken = smoke.done["r20 stage x"]
    assert taken.output == {"images": 3}
    assert 150 < taken.peak_mib < 250  # the interpreter and the block, and nothing of what this process holds
    again = _smoke(tmp_path)
    papers_smoke._load(again, "r20")
    papers_smoke._run(again, command)
    assert (tmp_path / "runs").read_text() == "x"


def test_a_stage_that_fails_says_why(tmp_path: Path) -> None:
    command = Command(name="r20 stage x", arguments=("-c", "import sys; sys.exit('no images of rsna')"))
    with pytest.raises(InputError, match=r"(?s)r20 stage x ended with status 1.*no images of rsna"):
        papers_smoke._run(_smoke(tmp_path), command)
    assert not (tmp_path / "r20.json").exists()


def _done(output: Any) -> Done:
    return Done(seconds=1.0, cpu_s=1.0, peak_mib=1.0, resumed=False, output=output)


def test_it_fails_without_tables_engines_or_answers(tmp_path: Path) -> None:
    smoke, results = _smoke(tmp_path), tmp_path / "flannel" / "results"
    answer = {"source": "a.png", "probabilities": {"normal": 0.5, "covid-19": 0.5}}
    smoke.done = {
        "flannel build-engine": _done({"complete": True, "rows": []}),
        "flannel screen": _done({"results": [answer]}),
    }
    with pytest.raises(InputError, match=r"holds no table-1-data.csv, table-3-methods.csv"):
        papers_smoke._check(smoke, "flannel")
    results.mkdir(parents=True)
    for name in papers_smoke.TABLES["flannel"]:
        (results / name).touch()
    papers_smoke._check(smoke, "flannel")
    smoke.done["flannel build-engine"].output["complete"] = False
    with pytest.raises(InputError, match="a part of the bundle has no engine"):
        papers_smoke._check(smoke, "flannel")
    smoke.done["flannel build-engine"].output["complete"] = True
    for broken in ({"probabilities": {"normal": float("nan"), "covid-19": 0.5}}, {"error": "not an image"}):
        smoke.done["flannel screen"].output["results"] = [{"source": "a.png", **broken}]
        with pytest.raises(InputError, match=r"a\.png was not answered"):
            papers_smoke._check(smoke, "flannel")


def test_a_network_is_measured_at_its_own_size(tmp_path: Path) -> None:
    config = replace(published("r20"), canvas_px=32)
    found = speed.measured(config, "mobilenet-v2", tmp_path / "weights.safetensors")
    assert (found.batch, found.input, found.optimizer) == (16, (3, 32, 32), "sgd")
    assert found.macs > 0
    assert min(found.train_s, found.ask_s) > 0
    # The file is what the loader of ImageNet weights takes.
    run = R20Run(config, tmp_path, tmp_path)
    run.init_network(config.network("mobilenet-v2", 3), str(tmp_path / "weights.safetensors"), seed=2)


def test_the_page_is_made_from_the_json(tmp_path: Path) -> None:
    costs = {"seconds": 61.0, "cpu_s": 90.0, "peak_mib": 2048.0, "resumed": False}
    row = asdict(Hours(stage="modality", trained=(1.5e6, 3e6), by_machine={"CPU": (100.0, 200.0), "g": (1.0, 2.5)}))
    paper = {
        "changed": {"modality": {"epochs": 1}},
        "networks": {"vgg16": {**asdict(_speed(network="vgg16")), **costs}},
        "stages": {"stage modality": costs},
        "engines": [{"part": "vgg16", "precision": "fp32", "status": "selected", "reason": None}],
        "screened": 3,
        "hours": [row],
    }
    machine = {
        "processor": "a processor", "vectors": "AVX2", "precision": "fp32", "cores": 2, "threads": 2, "memory_gib": 23.4,
        "load": 0.1, "torch": "2",
    }  # fmt: skip
    found = {"made": "now", "machine": machine, "images": {"all": 56}, "imagenet": "random", "papers": {"r20": paper}}
    (tmp_path / "smoke.json").write_text(json.dumps(found))
    assert papers_smoke.main(["--page", "--results", str(tmp_path / "smoke")]) == 0
    text = (tmp_path / "smoke.md").read_text()
    assert text == page(read_json(Smoke, tmp_path / "smoke.json"))
    assert "| vgg16 | vgg16 | 10 | 1 | 3x8x8 | 4 | 0.111 | 0.5 | 4 | 2 | 2048 |" in text
    assert "All rows together: 2 minutes, 3 core minutes." in text
    assert "| modality | 1.5 to 3 | 100 to 200 | 1 to 2.5 |" in text


def test_no_results_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert papers_smoke.main(["--page", "--results", str(tmp_path / "none")]) == 1
    assert "none.json" in capsys.readouterr().err
