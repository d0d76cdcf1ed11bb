"""The papers' own configurations: training details as text and code have them, and files that extend another."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from training.loop.plan import Plan
from training.recipes.config import load_config
from training.recipes.flannel.config import load_flannel
from training.recipes.r20.config import load_r20
from training.toml_tables import read_toml

CONFIGS = Path(__file__).parents[3] / "training" / "configs"


def _write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return folder / "top.toml"


def test_a_file_extends_another_table_by_table(tmp_path: Path) -> None:
    top = _write(
        tmp_path,
        base='name = "base"\nseed = 7\nlabels = ["a", "b"]\n[members.x]\nepochs = 3\nbatch = 4\n[members.y]\nepochs = 1',
        top='extends = "base.toml"\nname = "top"\nlabels = ["c"]\n[members.x]\nepochs = 9\n[members.z]\nepochs = 2',
    )
    assert read_toml(top) == {
        "name": "top",
        "seed": 7,
        "labels": ["c"],
        "members": {"x": {"epochs": 9, "batch": 4}, "y": {"epochs": 1}, "z": {"epochs": 2}},
    }


@pytest.mark.parametrize("load", [load_config, load_r20, load_flannel])
@pytest.mark.parametrize(
    ("base", "top", "message"),
    [
        ("", 'extends = "nowhere.toml"', r"nowhere\.toml cannot be read"),
        ("", "extends = 3", "extends is the name of one configuration .* got 3: name the file"),
        ('extends = "top.toml"', 'extends = "base.toml"', r"extends no other; got 'base\.toml'"),
        ("epochz = 3", 'extends = "base.toml"', r"top\.toml.*epochz"),
    ],
)
def test_a_file_that_cannot_be_extended_is_named(
    load: object, base: str, top: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        load(_write(tmp_path, base=base, top=top))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["flannel-full", "flannel-full-code"])
def test_flannels_learners_are_trained_as_in_its_code(name: str) -> None:
    """optim.Adam(model.parameters(), lr=0.001, weight_decay=1e-4), batches of 10, gamma 0.1 at 150 and 225, 200 epochs,
    cross entropy of all images alike, nothing clipped; crops of 224 from 256 (text) or 336 (code)."""
    config = load_flannel(CONFIGS / f"{name}.toml")
    assert config.learn == Plan(
        epochs=200, batch=10, optimizer="adam", learning_rate=1e-3, weight_decay=1e-4, decayed="all", clip_norm=0.0,
        schedule="step", step_epochs=(150, 225), step_factor=0.1, warmup_epochs=0.0, ema=0.0, threads=8,
    )  # fmt: skip
    assert (config.balance, config.label_smoothing, config.by_loss) == ("none", 0.0, False)
    assert config.preset == ("code" if name.endswith("code") else "paper")
    assert config.member_spec.crop_px == 224
    assert config.canvas_px == (336 if config.preset == "code" else 256)
    fit = config.fit
    assert (fit.learning_rate, fit.weight_decay, fit.batch, fit.decay) == (1e-5, 1e-4, 20, False)
    stage_2 = {"paper": (200, 3.0, "balanced", "mean"), "code": (40, 10.0, "count", "sum")}
    assert (fit.epochs, fit.gamma, fit.alpha, fit.reduction) == stage_2[config.preset]


@pytest.mark.parametrize("name", sorted(p.stem for p in CONFIGS.glob("r20-full*.toml")))
def test_r20s_plateaus_end_where_its_code_ends_them(name: str) -> None:
    """ReduceLROnPlateau(factor=0.5, patience=5, min_lr=0.00001), early stopping after 10; while pruning 3 and 5."""
    config = load_r20(CONFIGS / f"{name}.toml")
    assert config.name == name
    stages = {"modality": config.modality, "binary": config.binary, "multiclass": config.multiclass}
    for stage, plan in {**stages, "retrain": config.prune.retrain}.items():
        assert plan is not None
        assert (plan.optimizer, plan.learning_rate, plan.momentum, plan.batch) == ("sgd", 1e-3, 0.95, 16), stage
        assert (plan.schedule, plan.plateau_factor, plan.least_rate) == ("plateau", 0.5, 1e-5), stage
        assert (plan.plateau_epochs, plan.patience) == ((3, 5) if stage == "retrain" else (5, 10)), stage
        assert (plan.epochs, plan.clip_norm, plan.warmup_epochs, plan.ema) == (32, 0.0, 0.0, 0.0), stage


def test_r20s_counts_are_of_the_networks_that_have_them() -> None:
    named, counted = (load_r20(CONFIGS / f"r20-full{more}.toml") for more in ("", "-counts"))
    assert list(named.members) == list(counted.members)
    differ = {k: m.architecture for k, m in counted.members.items() if m != named.members[k]}
    assert differ == {"densenet201": "timm:densenet121", "mobilenet-v2": "timm:mobilenetv1_100"}
    assert all(counted.members[k].imagenet == "hub" for k in differ)
