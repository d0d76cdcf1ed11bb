"""Error budgets of training: patients of their own, figures by group, and the command for a finished bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.calibration import Promise
from cxr_edge.errors import InputError
from cxr_edge.specs.combination import Decision
from tests.builders.site_cases import STRIPES, write_cases
from tests.calibration.populations import draw
from training.budget import add_budget
from training.bundles.budget import LEAST_APART, apart, bundle_budget
from training.bundles.card_sections import with_section
from training.data.dataset import Sample
from training.data.records import Record
from training.data.splits import Side
from training.evaluation.budget import BudgetFigures, budget_figures, budget_section, group_of
from training.json_records import as_json, as_stored, from_json
from training.recipes.config import Config, load_config, parse_config

SIDES: tuple[Side, ...] = ("validation", "test")
PLAIN = Decision(thresholds={}, uncertain_below=0.0)


def _record(path: Path, label: str, **values: object) -> Record:
    facts = {"patient": path.name, "source": "drawn", "view": "PA", "finding": label, "adult": True, **values}
    return Record(path=path, key=path.as_posix(), label=label, **facts)  # type: ignore[arg-type]


def _samples(folder: Path) -> list[Sample]:
    """Return 50 validation and 50 test patients of each of three labels, each with a file of its own."""
    write_cases(folder, dict.fromkeys(STRIPES, 100))
    return [
        Sample(record=_record(file, label), group=f"{label}{file.name}", side=SIDES[int(file.stem) % 2])
        for label in STRIPES
        for file in sorted((folder / label).iterdir())
    ]


def _config(**values: object) -> Config:
    table = {
        "name": "drawn",
        "labels": ["normal", "bacterial", "viral", "covid-19"],
        "members": {"a": {"architecture": "narrow-vgg"}},
    }
    return parse_config({**table, **values}, "drawn")


def test_a_finished_bundle_gets_a_budget_and_nothing_else(toy_bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(toy_bundle, root)
    old = Bundle.open(root).manifest
    samples = _samples(tmp_path / "cases")
    section = add_budget(Bundle.open(root), samples, _config(budget={"max_wrong": 0.1}))
    new = Bundle.open(root).manifest
    assert new.budget is not None
    assert (new.budget.max_wrong, new.budget.confidence) == (0.1, 0.9)
    assert {k: v.cases for k, v in new.budget.labels.items()} == {
        "normal": 50,
        "bacterial": 50,
        "viral": 50,
        "covid-19": 0,
    }
    assert new.budget.fitted_on.startswith("150 validation patients, one image of each, which fitted combination")
    assert (new.version, new.members, new.decision, new.known_answers) == (
        *(old.version, old.members, old.decision, old.known_answers),
    )
    card = (root / new.model_card.path).read_text()
    assert section in card
    assert "| source: drawn | 150 |" in card
    assert "It does not hold at another hospital" in card
    add_budget(Bundle.open(root), samples, _config())
    assert (root / new.model_card.path).read_text().count("## Answers and abstentions") == 1


def test_other_labels_and_runs_are_refused(toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    with pytest.raises(InputError, match="the configuration has the labels normal, other"):
        add_budget(
            bundle,
            [],
            _config(labels=["normal", "other"], guard="", partial={}, watch={}, auc_groups={}, guard_groups={}),
        )
    with pytest.raises(InputError, match="no images on the validation side"):
        add_budget(bundle, [], _config())


def test_the_section_stands_before_the_limits() -> None:
    first = with_section(
        "# Card\n\n## Data\n\n## Limits\n\n- a\n", "## Answers and abstentions\n\none", before="## Limits"
    )
    assert first == "# Card\n\n## Data\n\n## Answers and abstentions\n\none\n\n## Limits\n\n- a\n"
    assert with_section(first, "## Answers and abstentions\n\ntwo", before="## Limits") == first.replace("one", "two")
    assert (
        with_section("# Card\n", "## Answers and abstentions", before="## Limits")
        == "# Card\n\n## Answers and abstentions\n"
    )


def test_many_patients_fit_nothing_but_the_budget() -> None:
    few = [f"p{i}" for i in range(LEAST_APART - 1)]
    assert not apart(few, seed=1).any()
    twice = [*few, "p-last"] * 2
    held = apart(twice, seed=1)
    assert held.sum() == LEAST_APART
    assert np.array_equal(held[:LEAST_APART], held[LEAST_APART:]), "both images of a patient are on one side"
    cases = draw(100, np.random.default_rng(1))
    found = bundle_budget(cases, PLAIN, Promise(max_wrong=0.9), own_patients=True, seed=1)
    assert found is not None
    assert found.fitted_on == "100 validation patients, one image of each, which fitted nothing else"


def test_a_budget_that_nothing_shows_is_none(toy_bundle: Path, tmp_path: Path) -> None:
    assert bundle_budget(draw(30, np.random.default_rng(1)), PLAIN, Promise(), own_patients=False, seed=1) is None
    root = tmp_path / "bundle"
    shutil.copytree(toy_bundle, root)
    before = Bundle.open(root).digest
    with pytest.raises(
        InputError, match=r"too few, or too often wrong, to show for any label that at most 1% .*larger max_wrong"
    ):
        add_budget(Bundle.open(root), _samples(tmp_path / "cases"), _config(budget={"max_wrong": 0.01}))
    assert Bundle.open(root).digest == before


def test_figures_by_group_add_up() -> None:
    cases = draw(900, np.random.default_rng(1), strength=4)
    budget = bundle_budget(cases.only(np.arange(400)), PLAIN, Promise(), own_patients=False, seed=1)
    assert budget is not None
    rest = cases.only(np.arange(400, 900))
    ages = (5.0, 30.0, None)
    records = [
        _record(
            Path(f"{i}.png"), "normal", source="ab"[i % 2], age_years=ages[i % 3], adult=ages[i % 3] != 5.0, sex="F"
        )
        for i in range(500)
    ]
    found = budget_figures(rest, records, PLAIN, budget, seed=1)
    for groups in found.groups.values():
        assert sum(g.cases for g in groups.values()) == 500
        assert sum(g.answered.hits or 0 for g in groups.values()) == found.together.answered.hits
    assert set(found.groups["age"]) == {"child", "18 to 39", "not stated"}
    assert found.together.answered.value > 0.5
    assert found.together.wrong.value < 0.06
    assert group_of("view", records[0]) == "PA"
    stored = as_stored(found)
    assert from_json(BudgetFigures, as_json(stored), "") == stored
    page = "\n".join(budget_section(stored))
    assert "confidence 90% for each label, so 70% or more for the 3 that are answered together" in page
    assert budget_section(None) == []


def test_configurations(tmp_path: Path) -> None:
    configs = Path(__file__).parents[2] / "training" / "configs"
    assert load_config(configs / "starter.toml").budget is not None
    assert _config().budget is None
    assert _config(budget={}).budget == Promise()
    with pytest.raises(InputError, match="max_wrong is a share above 0 and below 1"):
        _config(budget={"max_wrong": 5})
    with pytest.raises(InputError, match="labels that exclude each other"):
        _config(budget={}, multi_label=True, guard="", labels=["effusion"], partial={})
