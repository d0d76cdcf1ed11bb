"""Guarded label: subgroups select records, version 0.1's figures are reproduced, and impossible settings are rejected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_edge.errors import InputError
from training.data.dataset import Sample
from training.data.guard import Guard, Subgroup
from training.data.records import Record
from training.ensembles.fit import choose_decision, fit
from training.evaluation.bundle import Screened, safety
from training.evaluation.results import Safety
from training.json_records import as_json
from training.recipes.config import Config, load_config
from training.tasks.classify import validation_figures

LABELS = ("normal", "bacterial", "viral", "covid-19")


def _record(label: str, *, adult: bool = True, source: str = "kcx", patient: str = "p") -> Record:
    return Record(
        path=Path("x.png"), key="x", patient=patient, label=label, source=source, view="PA", finding=label, adult=adult
    )


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (Subgroup(), [True, True, True, True]),
        (Subgroup(label="normal"), [True, True, False, False]),
        (Subgroup(adult=False), [False, True, False, False]),
        (Subgroup(label="normal", adult=True), [True, False, False, False]),
        (Subgroup(without=("tuberculosis",)), [True, True, True, False]),
    ],
)
def test_a_subgroup_selects_by_label_and_age(group: Subgroup, expected: list[bool]) -> None:
    records = [_record("normal"), _record("normal", adult=False), _record("covid-19"), _record("tuberculosis")]
    assert group.mask(records).tolist() == expected


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (Subgroup(view="AP"), [True, False, False, False]),
        (Subgroup(view="PA"), [False, True, False, False]),
        (Subgroup(sex="F"), [True, False, False, False]),
        (Subgroup(age=(18, 40)), [True, False, False, False]),
        (Subgroup(age=(39.9, 41)), [False, True, False, False]),
    ],
)
def test_a_subgroup_selects_by_what_is_stated(group: Subgroup, expected: list[bool]) -> None:
    first = replace(_record("normal"), view="AP Supine", age_years=18.0, sex="F")
    records = [
        first,
        replace(first, view="PA", age_years=40.0, sex="M"),
        replace(first, view="L", age_years=None, sex=""),
        replace(first, view="unknown", age_years=80.0, sex="M"),
    ]
    assert group.mask(records).tolist() == expected


def test_images_with_the_guarded_label_are_watched_for_being_found() -> None:
    sick = Subgroup(label="covid-19", view="PA")
    guard = Guard(label="covid-19", groups={"sick": sick}, watch={"sick": sick, "others": Subgroup(view="PA")})
    assert (set(guard.groups), set(guard.watch)) == (set(), {"sick", "others"})
    assert [guard.is_found_in(g) for g in guard.watch.values()] == [True, False]
    records = [_record("covid-19"), _record("covid-19"), _record("normal"), replace(_record("covid-19"), view="AP")]
    screened = Screened(
        samples=tuple(Sample(record=r, group=str(i), side="test") for i, r in enumerate(records)),
        probabilities=np.zeros((4, 4)),
        predicted=np.array([3, 0, 3, 3]),
        members=np.zeros((4, 1, 4)),
        flags=(frozenset(),) * 4,
    )
    watch = {"sick": sick, "others": Subgroup(view="PA")}
    found = safety(screened, LABELS, Config(resamples=10, watch=watch, auc_groups={}))
    assert {name: (f.hits, f.n) for name, f in found.found.items()} == {"sick": (1, 2)}
    assert {name: (f.hits, f.n) for name, f in found.watch.items()} == {"others": (0, 1)}


def test_a_subgroup_and_a_guard_name_their_labels() -> None:
    group = Subgroup(label="healthy", without=("tb",))
    guard = Guard(
        label="nodule", groups={"a": group}, watch={"b": Subgroup(label="normal")}, auc_groups={"c": Subgroup()}
    )
    assert group.labels == {"healthy", "tb"}
    assert guard.labels == {"healthy", "tb", "normal"}


def test_false_alarms_are_counted_on_images_without_the_label() -> None:
    guard = Guard(label="covid-19", groups={"adults": Subgroup(adult=True), "sick": Subgroup(label="covid-19")})
    masks = guard.group_masks([_record("normal"), _record("covid-19"), _record("normal", adult=False)])
    assert {name: mask.tolist() for name, mask in masks.items()} == {"adults": [True, False, False]}


@pytest.fixture(scope="module")
def example() -> tuple[list[Sample], np.ndarray, np.ndarray]:
    """120 samples of five labels, their label indices (-1 for tuberculosis) and noisy logits."""
    rng, n = np.random.default_rng(11), 120
    labels, adult = rng.choice([*LABELS, "tuberculosis"], n), rng.random(n) < 0.6
    sources = rng.choice(["kcx", "shenzhen", "ccx"], n)
    rows = zip(labels.tolist(), adult.tolist(), sources.tolist(), strict=True)
    records = [
        _record(label, adult=old or label == "covid-19", source=s, patient=f"p{i // 2}")
        for i, (label, old, s) in enumerate(rows)
    ]
    true = np.array([LABELS.index(r.label) if r.label in LABELS else -1 for r in records])
    logits = 2 * np.eye(5)[np.where(true < 0, 4, true)][:, :4] + rng.normal(0, 1.3, (n, 4))
    samples = [Sample(record=r, group=r.patient, side="test") for r in records]
    return samples, true, logits.astype(np.float32)


def test_the_default_guard_gives_the_figures_of_version_0_1(example: tuple[list[Sample], Any, Any]) -> None:
    """Expected values: computed by version 0.1 (commit 2c59138), which had covid-19 and adult normals in the code."""
    samples, true, logits = example
    records, known = [s.record for s in samples], true >= 0
    config = Config(resamples=50, seed=3)
    assert config.guarded is not None
    combination = fit("average", logits[known][:, None], true[known], seed=0)
    groups = config.guarded.group_masks(records)
    decided = choose_decision(combination, logits[:, None], true, LABELS, guard=config.guard, groups=groups)
    assert decided.as_json() == {
        "decision": {"thresholds": {"covid-19": 0.8}, "uncertain_below": 0.46},
        "f1": 0.5185185185185185,
        "specificity": 0.9702970297029703,
        "specificity_adult_normals": 1.0,
    }
    figures = validation_figures(logits[known], [s for s, k in zip(samples, known, strict=True) if k], config.target)
    old = {"score": 1.2183736187494283, "macro_f1": 0.7496236187494283, "f1_covid-19": 0.6857142857142857}
    assert {k: figures[k] for k in old} == old
    assert (figures["f1_viral"], figures["specificity_adult_normals"]) == (0.7659574468085106, 0.9375)


def test_the_default_safety_figures_are_those_of_version_0_1(example: tuple[list[Sample], Any, Any]) -> None:
    samples, _, logits = example
    p = np.exp(logits.astype(float))
    p /= p.sum(axis=1, keepdims=True)
    n = len(samples)
    screened = Screened(
        samples=tuple(samples),
        probabilities=p,
        predicted=p.argmax(axis=1),
        members=p[:, None],
        flags=(frozenset(),) * n,
    )
    found = safety(screened, LABELS, Config(resamples=50, seed=3))
    assert {name: (f.hits, f.n) for name, f in found.groups["adult_normals"].items()} == {
        "ccx": (8, 8), "kcx": (4, 5), "shenzhen": (3, 3), "together": (15, 16),
    }  # fmt: skip
    content = as_json(found)
    del content["specificity_adult_normals"]
    assert content == {
        "specificity_children": {"value": 0.87234, "low": 0.742586, "high": 0.951678, "n": 47, "hits": 41},
        "specificity_tuberculosis": {"value": 0.8, "low": 0.614333, "high": 0.922864, "n": 30, "hits": 24},
        "auc_among_adults": {"value": 0.851852, "low": 0.766129, "high": 0.926536, "n": 73, "hits": None},
        "auc_among_adults_without_tuberculosis": {
            "value": 0.87218, "low": 0.790987, "high": 0.952985, "n": 54, "hits": None,
        },
    }  # fmt: skip
    assert safety(screened, LABELS, Config(guard=None)) == Safety()


def test_without_a_guard_the_score_is_macro_f1_and_no_threshold_is_set(example: tuple[list[Sample], Any, Any]) -> None:
    samples, true, logits = example
    known = true >= 0
    combination = fit("average", logits[known][:, None], true[known], seed=0)
    decided = choose_decision(combination, logits[:, None], true, LABELS)
    assert (decided.decision.thresholds, decided.specificity, decided.by_group) == ({}, None, {})
    target = Config(guard=None).target
    figures = validation_figures(logits[known], [s for s, k in zip(samples, known, strict=True) if k], target)
    assert figures == {"score": figures["macro_f1"], "macro_f1": figures["macro_f1"]}
    assert decided.f1 == figures["macro_f1"]  # a member's most probable label, whatever its temperature


def _config(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "own.toml"
    file.write_text(text)
    return load_config(file)


def test_labels_without_the_guard_are_rejected_when_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"own\.toml: guard is 'covid-19', which is none of .*guard = \"\""):
        _config(tmp_path, 'labels = ["normal", "tuberculosis"]')


def test_a_configuration_names_its_guard_and_subgroups(tmp_path: Path) -> None:
    config = _config(
        tmp_path,
        'labels = ["normal", "tuberculosis"]\nguard = "tuberculosis"\n[guard_groups.children]\nadult = false\n',
    )
    assert config.target.guard == config.guarded
    assert config.guarded is not None
    assert config.guarded.groups == {"children": Subgroup(adult=False)}
    assert set(config.guarded.watch) == {"children"}, "not the subgroup of the guarded label itself"
    assert _config(tmp_path, 'labels = ["normal", "tuberculosis"]\nguard = ""').guarded is None


def test_labels_of_own_data_are_checked_with_its_images(tmp_path: Path) -> None:
    text = 'labels = ["normal", "nodule"]\nguard = "nodule"\ncollections = ["own"]\n[watch.flu]\nlabel = "flu"\n'
    assert _config(tmp_path, text).target.named >= {"flu", "tuberculosis"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[guard_groups.old]\nyears = 80\n", r"guard_groups\.old: unknown keys \['years'\]"),
        ("[guard_groups.old]\nage = 80\n", r"guard_groups\.old: age of a group is two numbers of years, .*got 80"),
        ("[watch.old]\nage = [80, 60]\n", r"watch\.old: age of a group is two numbers"),
        ('[watch.ap]\nview = "ap"\n', r"watch\.ap: view of a group is AP or PA, got 'ap'"),
        ('[watch.women]\nsex = "female"\n', r"watch\.women: sex of a group is F or M, got 'female'"),
        ("[watch.ap]\nfloor = 1.0\n", r"watch\.ap: floor of a group is a share above 0 and below 1, got 1\.0"),
        ("[auc_groups.ap]\nfloor = 0.9\n", r"auc_groups\.ap: a floor is of guard_groups and of watch"),
        ('[watch.ap]\nof = "covid-19"\n', r"watch\.ap: of is the finding of a floor, of multi-label data only"),
        ('guard = ""\n[watch.ap]\nfloor = 0.9\n', r"watch\.ap: a floor is of the guarded label: name one"),
        (
            'guard = ""\nmulti_label = true\nlabels = ["a", "b"]\n[watch.ap]\nfloor = 0.9\n',
            r'watch\.ap: a floor of findings needs the finding that it is of: of = "a"',
        ),
        (
            'guard = ""\nmulti_label = true\nlabels = ["a", "b"]\n[watch.ap]\nof = "c"\n',
            r"watch\.ap: of is the finding of a floor, one of a, b; got 'c'",
        ),
        ('[watch.flu]\nlabel = "flu"\n', r"watch\.flu: no collection has the labels \['flu'\]"),
        ('[watch.tb]\nlabel = "tuberclosis"\n', r"\['tuberclosis'\] \(did you mean tuberculosis\?\)"),
        ('[renamed]\nflu = "viral"\n', r"no collection has the labels \['flu'\]"),
    ],
)
def test_a_wrong_subgroup_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        _config(tmp_path, text)
