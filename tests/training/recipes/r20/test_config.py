"""R20's configurations: shipped files load, presets set their values, and errors name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from training.data.splits import R20_SHARES, SHARES
from training.models import R20_NAMES
from training.recipes.r20.config import load_r20

CONFIGS = Path(__file__).parents[4] / "training" / "configs"
ONE = '[members.a]\narchitecture = "custom"\n'


def _load(tmp_path: Path, text: str) -> object:
    file = tmp_path / "c.toml"
    file.write_text(text)
    return load_r20(file)


@pytest.mark.parametrize("name", ["small", "cpu", "full"])
def test_shipped_configurations_load(name: str) -> None:
    config = load_r20(CONFIGS / f"r20-{name}.toml")
    assert config.name == f"r20-{name}"
    for member in config.members:
        assert config.network(member, 3).labels == 3


def test_full_is_the_papers() -> None:
    full = load_r20(CONFIGS / "r20-full.toml")
    assert set(full.members) == set(R20_NAMES)
    spec = full.member_spec
    assert (spec.canvas_px, spec.median, spec.channels, spec.standardize) == (256, True, 3, "image")
    assert full.side_shares == R20_SHARES
    for plan in (full.modality, full.multiclass, full.prune.retrain):
        assert (plan.optimizer, plan.learning_rate, plan.momentum, plan.weight_decay, plan.batch) == (
            "sgd", 1e-3, 0.95, 1e-6, 16,
        )  # fmt: skip
    assert (full.prune.step, full.prune.until, full.prune.scope) == (0.02, 0.5, "global")
    assert (full.prune.retrain.epochs, full.prune.retrain.patience, full.prune.retrain.plateau_epochs) == (32, 5, 3)
    assert full.search is not None
    assert full.search.learning_rate == (1e-9, 1e-2)


def test_presets_set_preprocessing_and_training(tmp_path: Path) -> None:
    sane, paper, code = (_load(tmp_path, f'name = "x"\npreset = "{p}"\n{ONE}') for p in ("sane", "paper", "code"))
    assert (sane.unit, paper.unit, code.unit) == ("group", "group", "image")
    assert (sane.balance, paper.balance, code.balance) == ("draw", "weigh", "weigh")
    assert sane.augmentation is not None
    assert paper.augmentation is None
    assert (sane.by_loss, paper.by_loss) == (False, True)
    assert (paper.member_spec.median, code.member_spec.median) == (True, False)
    assert code.member_spec.standardize == "none"


def test_the_cpu_run_is_split_as_the_starter() -> None:
    assert load_r20(CONFIGS / "r20-cpu.toml").side_shares == SHARES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"', "at least one member"),
        (f'name = "x"\npreset = "best"\n{ONE}', "preset is sane, paper or code"),
        (f'name = "x"\n{ONE}[prune]\nstep = 0.6', "0 < step <= until"),
        (f'name = "x"\n{ONE}[prune]\nranking = "size"', "ranking apoz, latency"),
        (f'name = "x"\n{ONE}[modality]\nepochz = 3', "unknown keys.*epochz"),
        ('name = "x"\n[members.a]\narchitecture = "custom"\nwidth = 3', "members.a: unknown keys.*width"),
        ('name = "x"\n[members.a]\narchitecture = "custom"\nplan = { rate = 1 }', "members.a.plan: unknown keys"),
        ('name = "x"\n[members.a]\narchitecture = "timm:vgg17"', "no architecture is called 'timm:vgg17'"),
        (
            'name = "x"\n[members.a]\narchitecture = "covid-net"\nhead_maps = 0',
            "members.a: covid-net .* give head_maps",
        ),
        (f'name = "x"\n{ONE}[multiclass]\noptimizer = "lion"', "adamw, adam or sgd"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _load(tmp_path, text)


def test_the_heartbeat_of_a_search_of_version_0_1_is_ignored(tmp_path: Path) -> None:
    text = 'name = "a"\n[members.m]\narchitecture = "plain"\n[search]\ntrials = 3\nstale_s = 60.0\n'
    (tmp_path / "a.toml").write_text(text)
    search = load_r20(tmp_path / "a.toml").search
    assert search is not None
    assert search.trials == 3
