"""FLANNEL's configurations: shipped files load, presets set their values, and errors name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import preset
from training.data.augment import Augmentation
from training.data.splits import FLANNEL_SHARES
from training.recipes.flannel.config import FlannelConfig, load_flannel

CONFIGS = Path(__file__).parents[4] / "training" / "configs"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NAME = 'name = "x"\n'
ONE = '[learners.a]\narchitecture = "narrow-vgg"\n'
TWO = f'{ONE}[learners.b]\narchitecture = "narrow-resnet"\n'


def _load(tmp_path: Path, text: str) -> FlannelConfig:
    file = tmp_path / "c.toml"
    file.write_text(text)
    return load_flannel(file)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("flannel-*.toml")), ids=lambda file: file.stem)
def test_shipped_configurations_load(file: Path) -> None:
    config = load_flannel(file)
    assert config.name == file.stem
    assert config.labels == ("covid-19", "viral", "bacterial", "normal"), "in the order of the paper's code"
    for name in config.networks:
        spec = config.network(name)
        assert (spec.labels, spec.head_maps, spec.channels) == (4, 0, config.member_spec.channels)


def test_the_run_on_two_cores_is_sane() -> None:
    config = load_flannel(CONFIGS / "flannel-cpu.toml")
    assert (config.preset, config.unit, config.folds, config.balance) == ("sane", "group", 5, "none")
    assert list(config.learners) == ["densenet", "inception", "resnet", "resnext", "vgg"]
    assert list(config.baselines) == ["covid-net", "ai-covid"]
    assert config.unseen_sources == ("nih", "armiro", "tbx11k")
    assert list(config.networks) == [*config.learners, *config.baselines]
    assert (config.learn.keep, config.learn.weight_decay) == ("last", 0.0), "no epoch chosen on its fold's images"
    assert config.network("covid-net").architecture == "narrow-covid-net"
    assert config.side_shares == FLANNEL_SHARES


def test_member_preprocessing_of_presets(tmp_path: Path) -> None:
    sane, paper, code = (_load(tmp_path, f'{NAME}preset = "{p}"\n{TWO}') for p in ("sane", "paper", "code"))
    assert (sane.sees_lungs, paper.sees_lungs, code.sees_lungs) == (True, False, False)
    spec = sane.member_spec
    assert (spec.region, spec.crop_px, spec.standardize, spec.channels) == ("lungs", spec.canvas_px, "image", 1)
    for config, (mean, std) in ((paper, IMAGENET), (code, HALVES)):
        spec = config.member_spec
        assert (spec.region, spec.standardize, spec.channels) == ("frame", "fixed", 3)
        assert (spec.mean, spec.std) == (mean, std)
        assert config.network("a").channels == 3


@pytest.mark.parametrize(
    ("name", "canvas_px", "crop_px"),
    [("paper", 256, 224), ("paper", 128, 112), ("code", 336, 224), ("code", 168, 112), ("sane", 112, 112)],
)
def test_crops_scale_with_the_canvas(name: str, canvas_px: int, crop_px: int, tmp_path: Path) -> None:
    spec = _load(tmp_path, f'{NAME}preset = "{name}"\ncanvas_px = {canvas_px}\n{TWO}').member_spec
    assert (spec.canvas_px, spec.crop_px) == (canvas_px, crop_px)
    if crop_px == 224:
        assert spec == preset(f"flannel-{name}")


def test_presets_set_split_augmentation_and_balance(tmp_path: Path) -> None:
    sane, paper, code = (_load(tmp_path, f'{NAME}preset = "{p}"\n{TWO}') for p in ("sane", "paper", "code"))
    assert (sane.unit, paper.unit, code.unit) == ("group", "group", "image")
    assert sane.augmentation == Augmentation()
    assert (paper.augmentation.shift, code.augmentation.shift) == pytest.approx((1 / 16, 1 / 6)), "half the margin"
    assert (paper.augmentation.noise, paper.augmentation.zoom, paper.augmentation.flip) == (0.5, 0.1, 0.5)
    assert (code.augmentation.noise, code.augmentation.zoom, code.augmentation.flip) == (0.0, 0.0, 0.5)
    for turned in (paper.augmentation, code.augmentation):
        assert (turned.stretch, turned.rotation_deg, turned.curve, turned.histogram_swap) == (0.0, 0.0, 0.0, 0.0)
    for config in (sane, paper, code):
        assert (config.balance, config.by_loss, config.pa_to_ap) == ("none", False, False)
        assert config.read_collections == ("kcx", "ccx", "tuberculosis", "twitter")


def test_view_selects_projections(tmp_path: Path) -> None:
    views = [_load(tmp_path, f"{NAME}{more}{TWO}").selected_views for more in ("", 'view = "ap"\n')]
    assert views == [("AP", "PA"), ("AP",)]


def test_learners_have_no_head_convolution_unless_configured(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        f"{NAME}{TWO}head_maps = 64\ndropout = 0.25\n[baselines.c]\narchitecture = 'narrow-covid-net'\n",
    )
    heads = {name: (config.network(name).head_maps, config.network(name).dropout) for name in config.networks}
    assert heads == {"a": (0, 0.0), "b": (64, 0.25), "c": (0, 0.0)}
    assert list(config.learners) == ["a", "b"]


def test_tables_override_plans(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        f'{NAME}seed = 7\n{TWO}plan = {{ epochs = 3 }}\n[learn]\nbatch = 20\nkeep = "last"\n'
        '[fit]\ngamma = 10.0\nalpha = "count"\nreduction = "sum"\n[prune]\nstep = 0.1\n[prune.retrain]\nepochs = 2\n',
    )
    assert (config.learn.batch, config.learn.keep, config.learn.seed) == (20, "last", 7)
    assert (config.fit.gamma, config.fit.alpha, config.fit.reduction) == (10.0, "count", "sum")
    assert config.learners["b"].plan == {"epochs": 3}
    assert config.prune is not None
    assert (config.prune.step, config.prune.retrain.epochs, config.prune.retrain.seed) == (0.1, 2, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{NAME}fold = 5\n{TWO}", r"c.toml: unknown keys \['fold'\]; known are .*'folds'"),
        (f"{NAME}{TWO}width = 3", r"learners.b: unknown keys \['width'\]"),
        (f"{NAME}{TWO}plan = {{ rate = 1 }}", r"learners.b.plan: unknown keys \['rate'\]; known are .*'learning_rate'"),
        (f"{NAME}{TWO}[learn]\nepochz = 3", "learn: unknown keys.*epochz"),
        (f"{NAME}{TWO}[fit]\nlr = 1", "fit: unknown keys.*lr.*learning_rate"),
        (f'{NAME}{TWO}[fit]\nalpha = "inverse"', "fit: .*alpha balanced, count or none"),
        (f"{NAME}{TWO}[prune.retrain]\nepochz = 3", "prune.retrain: unknown keys.*epochz"),
        (f'{NAME}{TWO}[learn]\nkeep = "first"', "learn: keep of a plan is best or last, got 'first'"),
        (NAME, "two learners or more"),
        (NAME + ONE, r"two learners or more \(\[learners.NAME\] with an architecture\)"),
        (f"{NAME}{TWO}[baselines.b]\narchitecture = 'narrow-covid-net'", r"\['b'\] are learners and baselines"),
        (f"{NAME}{ONE}{ONE}", "cannot be read"),
        (f'{NAME}{ONE}[learners.b]\narchitecture = "resnet9"', "'resnet9': choose from .*resnet152.*timm:NAME"),
        (
            f'{NAME}{TWO}[baselines.c]\narchitecture = "timm:vgg17"',
            "baselines.c: no architecture is called 'timm:vgg17'",
        ),
        (f"{NAME}{ONE}[learners.b]\nhead_maps = 64", "learners.b: .*architecture"),
        (f'{NAME}view = "lateral"\n{TWO}', "view is one of frontal, any, ap, got 'lateral'"),
        (f'{NAME}preset = "best"\n{TWO}', "preset is sane, paper or code, got 'best'"),
        (f'{NAME}balance = "even"\n{TWO}', r"none \(the paper\), draw or weigh, got 'even'"),
        (f'{NAME}labels = ["normal", "viral"]\n{TWO}', "guard is 'covid-19', which is none of the labels"),
        (f'{NAME}labels = ["covid-19"]\n{TWO}', "give two labels or more, each once, got"),
        (f'{NAME}labels = ["covid-19", "viral", "viral"]\n{TWO}', "each once, got"),
        (f'{NAME}fit_on = "test"\n{TWO}', "fit_on is one of out-of-fold, in-sample, augmented, got 'test'"),
        (f"{NAME}folds = 1\n{TWO}", "folds are 2 or more and copies 1 or more, got 1 and 4"),
        (f"{NAME}learners = 3\n", "learners: expected tables"),
        (f'{NAME}[learners]\na = "narrow-vgg"\n', "expected tables, .learners.NAME. with an architecture"),
        (f'{NAME}{TWO}[learners.c]\narchitecture = "narrow-covid-net"', "no class activation map; make it a baseline"),
        (
            f'{NAME}preset = "paper"\n{TWO}[learners.c]\narchitecture = "plain"',
            "c: plain takes one gray channel, and preset 'paper' has three",
        ),
        (f'{NAME}outside = ["ccx"]\n{TWO}', r"\['ccx'\] are in collections and in outside"),
        (TWO, "name is missing: give every table its name"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml cannot be read"):
        load_flannel(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("text", "positive"),
    [
        ("", "covid-19"),
        ('guard = ""', "covid-19"),
        ('guard = "viral"', "viral"),
        ('labels = ["normal", "viral"]\nguard = "normal"', "normal"),
        ('labels = ["normal", "viral"]\nguard = ""', "viral"),
    ],
)
def test_the_label_that_is_separated_follows_the_guard(tmp_path: Path, text: str, positive: str) -> None:
    (tmp_path / "own.toml").write_text(f"{NAME}{text}\n{TWO}")
    assert load_flannel(tmp_path / "own.toml").positive == positive
