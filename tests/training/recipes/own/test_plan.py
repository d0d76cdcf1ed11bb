"""Sites that are left out, the time plan, and the tables that follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from cxr_edge.cli import train
from training.data.records import Record
from training.recipes.own import configure
from training.recipes.own.configure import Epochs, Tables, make_tables, members_config, sites_config
from training.recipes.own.folds import choose_folds
from training.recipes.own.left_out import found_labels
from training.recipes.own.plan import Machine, Work, fit_epochs, plan_lines, time_plan
from training.recipes.own.presets import PRESETS, Preset
from training.recipes.own.segmenter import segmenter_epochs
from training.recipes.own.speed import Speed, measure

LABELS = ("normal", "tb")


@pytest.fixture(autouse=True)
def _with_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configure, "has_imagenet", lambda: True)


def _records(**counts: tuple[int, int]) -> list[Record]:
    return [
        Record(path=Path("x"), key=f"{site}{label}{i}", patient=f"{site}{label}{i}", label=label, source=site, view="",
               finding="", adult=True)
        for site, numbers in counts.items() for label, n in zip(LABELS, numbers, strict=True) for i in range(n)
    ]  # fmt: skip


def test_sites_with_both_labels_are_left_out_the_largest_first() -> None:
    records = _records(small=(20, 25), large=(50, 60), one_label=(90, 0), few=(19, 40))
    folds = choose_folds(records, LABELS, most=3)
    assert folds.sites == ("large", "small")
    assert folds.reason.startswith("not left out: few, one_label: fewer than 20 patients of two labels")
    assert choose_folds(records, LABELS, most=1).sites == ("large",)
    assert "small: the preset leaves out 1 sites at most" in choose_folds(records, LABELS, most=1).reason


def test_a_site_that_holds_nearly_all_of_a_label_is_not_left_out() -> None:
    assert choose_folds(_records(a=(50, 50), b=(50, 19)), LABELS, most=5).sites == ()


def test_many_images_of_few_patients_are_few() -> None:
    records = _records(a=(50, 50), b=(50, 50))
    assert choose_folds(records, LABELS, most=5).sites == ("a", "b")
    same = [replace(r, patient=f"{r.source}{i % 19}") for i, r in enumerate(records)]
    assert choose_folds(same, LABELS, most=5).sites == ()


def test_one_site_has_a_reason() -> None:
    folds = choose_folds(_records(own=(50, 50)), LABELS, most=5)
    assert folds.sites == ()
    assert "all images are of one site, or none is stated" in folds.reason


def _make(
    preset: Preset, sites: tuple[str, ...] = ("A", "B c"), guard: str = "", segmenter_epochs: int = 0
) -> Callable[[Epochs], Tables]:
    def make(epochs: Epochs) -> Tables:
        return make_tables(
            preset, epochs, name="My hospital!", labels=LABELS, sites=sites, guard=guard, seed=3, epoch_images=1000,
            segmenter_epochs=segmenter_epochs, by_view=False,
        )  # fmt: skip

    return make


WORK = Work(images=2000, trained=1440, validated=260, tested=300, site_images={"1-A": 1200, "2-B-c": 800})


def _machine(images_s: float, processes: int = 2) -> Machine:
    names = PRESETS["thorough"].members
    speed = Speed(train=images_s, predict=4 * images_s)
    return Machine(processes=processes, threads=1, decoding_s=0.01, speeds=dict.fromkeys(names, speed))


def test_the_budget_decides_the_epochs() -> None:
    preset = PRESETS["standard"]
    epochs = []
    for minutes in (1, 20, 30, 40, 10_000):
        tables = fit_epochs(_make(preset), WORK, _machine(40), minutes)
        epochs.append(tables.training["members"]["lite0"]["epochs"])
        if minutes >= 20:
            assert time_plan(tables, WORK, _machine(40), minutes).minutes <= minutes
    assert epochs[0] == preset.epochs[0]
    assert epochs[-1] == preset.epochs[1]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == 5, "every budget between the least and the largest has its own"


def test_networks_without_a_site_are_shorter_unless_there_is_time() -> None:
    make, preset, machine = _make(PRESETS["quick"]), PRESETS["quick"], _machine(40)
    half = time_plan(make(Epochs(share=1.0)), WORK, machine, 60).minutes
    for minutes, share in ((half + 0.1, 0.5), (2 * half, 1.0)):
        tables = fit_epochs(make, WORK, machine, minutes)
        assert tables.sites is not None
        assert tables.training["members"]["lite0"]["epochs"] == preset.epochs[1]
        assert tables.sites["members"]["lite0"]["epochs"] == share * preset.epochs[1]


def test_a_slower_machine_needs_longer_and_two_processes_half() -> None:
    tables = _make(PRESETS["quick"])(Epochs(share=0.5))
    one, two, slow = (time_plan(tables, WORK, m, 60) for m in (_machine(40, 1), _machine(40), _machine(20)))
    assert two.of("members") == pytest.approx(one.of("members") / 2)
    assert slow.of("members") == pytest.approx(2 * two.of("members"))
    assert sum(s.minutes for s in two.stages) == two.minutes


def test_a_segmenter_of_its_own_is_planned() -> None:
    tables = _make(PRESETS["standard"], segmenter_epochs=30)(Epochs(share=0.0))
    work, machine = replace(WORK, masks=200), replace(_machine(40), segmenter=20.0)
    assert time_plan(tables, work, machine, 60).of("segmenter") == pytest.approx(1.2 * 30 * 200 / 20 / 60)
    assert members_config(tables, "plain", threads=1).segmenter_of is None
    assert time_plan(_make(PRESETS["standard"])(Epochs(share=0.0)), WORK, _machine(40), 60).of("segmenter") == 0
    assert [segmenter_epochs(n) for n in (40, 200, 5000)] == [60, 30, 12]


def test_lines_name_stages_end_and_what_does_not_fit() -> None:
    tables = _make(PRESETS["quick"])(Epochs(share=0.0))
    plan = time_plan(tables, WORK, _machine(10), 5)
    lines = plan_lines(plan, datetime(2026, 1, 31, 23, 50), spent_minutes=0.5)
    assert lines[0] == "time plan for this machine (2 at a time, 1 threads each), measured just now:"
    assert [line.split()[0] for line in lines[1:5]] == ["lung", "left-out", "members", "bundle"]
    assert "(2026-02-01), after 0.5 min of reading and checking" in lines[5]
    assert "the budget is 5 min, but fewer epochs teach too little" in lines[6]
    assert len(plan_lines(time_plan(tables, WORK, _machine(1000), 60), datetime(2026, 1, 1))) == 6


def test_tables_are_valid_configurations() -> None:
    for name, preset in PRESETS.items():
        tables = _make(preset, guard="tb")(Epochs(share=0.3))
        sites = sites_config(tables, threads=1)
        assert sites.folds == {"1-A": ("A",), "2-B-c": ("B c",)}
        assert tuple(sites.variants) == preset.candidates
        for candidate in preset.candidates:
            config = members_config(tables, candidate, threads=2)
            assert tuple(config.members) == preset.members, name
            assert config.name == "My-hospital"
            assert config.guard == "tb"
            assert bool(config.balance_levels) == (candidate != "plain")
        assert found_labels(sites) == ("tb",)


def test_the_command_knows_the_presets() -> None:
    assert set(train._PRESETS) == set(PRESETS)


def test_without_imagenet_small_networks_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configure, "has_imagenet", lambda: False)
    tables = _make(PRESETS["quick"])(Epochs(share=0.0))
    assert {k: v["epochs"] for k, v in tables.training["members"].items()} == {"inverted": 8, "plain": 8}


def test_speed_is_measured_with_the_real_task() -> None:
    config = members_config(
        _make(Preset(minutes=1, members=("plain",), canvas_px=32))(Epochs(share=0.0)), "plain", threads=1
    )
    speed = measure(config, "plain", processes=2, threads=1)
    assert 0 < speed.train < speed.predict
