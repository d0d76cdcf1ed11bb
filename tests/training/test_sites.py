"""The command of the leave-sites-out loop, from drawn collections to its page; and what its configuration refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cxr_edge.bundle import ENGINES_DIR, Bundle, write_bundle
from cxr_edge.errors import InputError
from tests.builders.image_collections import write_adults, write_collections
from training import sites
from training.data.dataset import Sample
from training.data.records import Record
from training.recipes import run as run_module
from training.recipes.sites import SitesRun, load_sites

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = """
name = "drawn"
threads = 1
collections = ["kcx", "ccx", "twitter", "tuberculosis", "adults"]
without = ["siim/pneumonia"]
labels = ["normal", "bacterial", "viral", "covid-19", "other"]
segmenter_of = "starter"
canvas_px = 32
epoch_images = 16
resamples = 10
least_site_images = 2

[renamed]
tuberculosis = "other"

[partial]
pneumonia = ["bacterial", "viral", "other"]

[guard_groups]
adult_normals = { label = "normal", adult = true }
adult_abnormals = { adult = true, without = ["normal"] }

[folds]
one = ["nih", "ccx", "ccx-june"]
two = ["shenzhen", "montgomery", "tbx11k", "twitter", "armiro"]

[members.small]
architecture = "narrow-vgg"

[train]
epochs = 1
batch = 8

[variants.pairs]
about = "as the starter"
member = "small"

[variants.levels]
about = "nested"
member = "small"
settings = { balance_levels = { label = 0.0, source = 0.5 }, label_smoothing = 0.1 }

[variants.both]
about = "mean of both"
average = ["pairs", "levels"]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the collections' layouts."""
    data = write_collections(tmp_path_factory.mktemp("sites") / "data", patients=8, size_px=64)
    write_adults(data / "adults", patients=8)
    return data


@pytest.fixture(autouse=True)
def _small_view_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of views by a small network with random weights: without any package of weights."""
    monkeypatch.setattr(run_module, "VIEW_NETWORK", "narrow-vgg")
    monkeypatch.setattr(run_module, "VIEW_WEIGHTS", None)


def _run(data: Path, folder: Path, *more: str, config: str = CONFIG) -> int:
    folder.mkdir(exist_ok=True)
    (folder / "sites.toml").write_text(config)
    options = {"--data": data, "--config": folder / "sites.toml", "--run": folder / "run", "--out": folder / "page"}
    return sites.main([str(v) for pair in options.items() for v in pair] + list(more))


def _old_bundle(root: Path) -> Path:
    """A copy of the starter, as if trained on some of the sources only."""
    shutil.copytree(Bundle.open("starter").root, root, ignore=shutil.ignore_patterns(ENGINES_DIR))
    keys = ("shenzhen/normal", "montgomery/normal", "ccx/covid-19", "twitter/covid-19")
    provenance = {"images": {"train": dict.fromkeys(keys, 1)}}
    write_bundle(root, replace(Bundle.open(root).manifest, name="old", version="1.0.0", provenance=provenance))
    return root


def test_variants_are_compared_on_sources_that_they_never_saw(data: Path, tmp_path: Path) -> None:
    config = f'before = "{_old_bundle(tmp_path / "old")}"\n{CONFIG}'
    assert _run(data, tmp_path, "--fold", "two") == 0
    assert not (tmp_path / "page.json").exists()
    assert {p.parent.name for p in (tmp_path / "run").rglob("predictions.npz")} == {"two"}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("predictions.npz")}
    assert _run(data, tmp_path, config=config) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before, "what is finished is not trained again"
    found = json.loads((tmp_path / "page.json").read_text())
    assert list(found["variants"]) == ["pairs", "levels", "both"]
    for variant in found["variants"].values():
        rows = variant["figures"]["rows"]
        assert {r["source"] for r in rows} == {
            "nih", "ccx", "ccx-june", "shenzhen", "montgomery", "tbx11k", "twitter", "armiro",
        }  # fmt: skip
        assert {r["kind"] for r in rows} == {"covid-19", "adult_normals", "adult_abnormals"}
        for row in rows:
            assert row["called"]["n"] == sum(f["n"] for f in row["by_view"].values())
    assert "difference" not in found["variants"]["pairs"]
    assert found["variants"]["levels"]["difference"]["low"] <= found["variants"]["levels"]["difference"]["high"]
    unseen = {r["source"] for r in found["before"]["rows"]}
    assert unseen == {"nih", "ccx-june", "tbx11k", "armiro"}, "the bundle was trained on the others"
    page = (tmp_path / "page.md").read_text()
    assert "| pairs |" in page
    assert "old 1.0.0, at" in page


def test_a_changed_setting_is_not_mixed_with_finished_networks(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("--variant", "levels", "--fold", "one")
    assert _run(data, tmp_path, *only) == 0
    assert _run(data, tmp_path, *only, config=CONFIG.replace("label_smoothing = 0.1", "label_smoothing = 0.2")) == 2
    assert "label_smoothing 0.1" in capsys.readouterr().err.replace("= ", " ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[folds]\none = ", "[folds]\nx = "), None),
        (('member = "small"', 'member = "large"'), "no member is called 'large': known are small"),
        (("label_smoothing = 0.1", "canvas_px = 64"), "canvas_px is of the whole run"),
        (("label_smoothing = 0.1", "smoothing = 0.1"), "unknown keys ['smoothing']"),
        (
            ("balance_levels = { label = 0.0, source", "balance_levels = { label = 0.0, hospital"),
            "balance_levels are of",
        ),
        (('labels = ["normal"', 'guard = ""\nlabels = ["normal"'), "name it (guard)"),
        (
            ('average = ["pairs"', 'average = ["both"'),
            "average is of variants that are trained, pairs, levels; got both",
        ),
        (('about = "mean of both"', 'about = "mean"\nmember = "small"'), "an average has no member"),
        (("[train]\nepochs = 1", "[train]\nepochs = 0"), "epochs of a plan is a whole number from 1"),
    ],
)
def test_configurations(change: tuple[str, str], message: str | None, tmp_path: Path) -> None:
    (tmp_path / "sites.toml").write_text(CONFIG.replace(*change))
    if message is None:
        assert "x" in load_sites(tmp_path / "sites.toml").folds
        return
    with pytest.raises(InputError) as error:
        load_sites(tmp_path / "sites.toml")
    assert message in str(error.value)


def test_unknown_names_and_sources_are_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(data, tmp_path, "--fold", "three") == 2
    assert "no fold is called three: known are one, two" in capsys.readouterr().err
    assert _run(data, tmp_path, "--variant", "none") == 2
    assert "no variant is called none: known are pairs, levels, both" in capsys.readouterr().err
    assert _run(data, tmp_path, config=CONFIG.replace('one = ["nih"', 'one = ["mars"')) == 2
    assert "no images of ['mars']" in capsys.readouterr().err


def test_a_copy_of_a_left_out_picture_trains_nothing(tmp_path: Path) -> None:
    text = CONFIG.replace(', "ccx", "ccx-june"]', "]").replace(
        '"shenzhen", "montgomery", "tbx11k", "twitter", "armiro"', '"armiro"'
    )
    (tmp_path / "sites.toml").write_text(text)
    run = SitesRun(load_sites(tmp_path / "sites.toml"), tmp_path, tmp_path / "run")
    placed = [("nih", "a", "train"), ("siim", "a", "train"), ("siim", "b", "validation"), ("kcx", "c", "train")]
    placed += [("armiro", "b", "train"), ("siim", "d", "validation")]
    run.__dict__["samples"] = [
        Sample(
            record=Record(
                path=tmp_path, key=f"{i}", patient=group, label="normal", source=source, view="", finding="", adult=True
            ),
            group=group,
            side=side,  # type: ignore[arg-type]
        )
        for i, (source, group, side) in enumerate(placed)
    ]
    assert [s.side for s in run.apart("one")] == ["train", "test", "validation", "train", "train", "validation"]
    assert [s.side for s in run.apart("two")] == ["train", "train", "test", "train", "train", "validation"]
    assert run.evaluated("pairs", "one").tolist() == [0, 2, 5]
    assert run.evaluated("pairs", "two").tolist() == [4, 5]
