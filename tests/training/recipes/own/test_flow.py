"""The whole run of `cxr-edge train` on drawn images of two sites: what it prints and writes, and that it goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.cli import main as cxr_edge
from cxr_edge.errors import InputError
from tests.builders.cheap import make_cheap
from tests.builders.two_sites import LAYOUT, TINY, write_two_sites
from training.evaluation.results import Evaluation
from training.json_records import read_json
from training.recipes.own import flow, left_out
from training.recipes.own.pages import RunFacts, card_words, page
from training.recipes.own.presets import PRESETS
from training.recipes.own.refusals import OwnRefusals
from training.recipes.own.run import CONFIG
from training.recipes.own.understand import load_understood

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    """A preset that trains in seconds, in this process, and bundles that are made quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", TINY)
        make_cheap(patch.setattr)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two sites; one cannot be read, and one picture has two labels."""
    root = write_two_sites(tmp_path_factory.mktemp("own") / "xrays", patients=21)
    (root / "Harbour/normal/P0n3/x.png").write_bytes(b"\x89PNG cut")
    twin = root / "Mill Lane/opacity/P1o5/x.png"
    shutil.copy(root / "Mill Lane/normal/P1n5/x.png", twin)
    return root


def _arguments(source: Path, out: Path) -> list[str]:
    return ["train", str(source), "--out", str(out), "--layout", LAYOUT, "--threads", "1"]


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("own") / "first run"
    assert cxr_edge(_arguments(source, out)) == 0
    return out


def _stamps(run: Path) -> dict[str, int]:
    files = [*run.rglob("predictions.npz"), run / "canvases.npz", run / CONFIG, *run.glob("results.json")]
    return {p.relative_to(run).as_posix(): p.stat().st_mtime_ns for p in files}


def test_every_site_trains_nothing_in_turn_and_that_comes_first(run: Path) -> None:
    found = json.loads((run / "sites.json").read_text())
    assert set(found["candidates"]) == {"plain", "balanced"}
    for candidate in found["candidates"].values():
        rows = {r["site"]: r for r in candidate["rows"]}
        assert set(rows) == {"Harbour", "Mill Lane"}
        assert {r["label"] for r in rows.values()} == {"opacity"}
        assert (rows["Harbour"]["images"], rows["Harbour"]["others"]) == (21, 20), (
            "all images of the site, but the unreadable"
        )
        assert candidate["worst"] == pytest.approx(min(r["auroc"]["value"] for r in rows.values()), abs=1e-6)
    best = max(found["candidates"].values(), key=lambda c: (c["worst"], c["mean"]))
    assert found["candidates"][found["chosen"]]["worst"] == best["worst"]
    text = (run / "index.md").read_text()
    assert (
        text.index("## Sites that trained nothing") < text.index("## Test patients") < text.index("## Where it looks")
    )
    assert "| Mill Lane | opacity |" in text


def test_no_image_of_a_left_out_site_trains(run: Path) -> None:
    rows = [line.split(",") for line in (run / "table.csv").read_text().splitlines()[1:]]
    assert {row[3] for row in rows} == {"Harbour", "Mill Lane"}
    settings = json.loads(next(run.glob("folds/plain/1-*/training.json")).read_text())
    assert settings["epoch_images"] == 32


def test_the_bundle_names_its_data_and_screens(run: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.open(run / "bundle")
    assert bundle.manifest.name == "first-run"
    assert bundle.manifest.labels == ("normal", "opacity")
    assert [m.name for m in bundle.manifest.members] == ["plain", "inverted"]
    assert bundle.manifest.combination.strategy == "average", "12 validation images choose nothing"
    assert bundle.manifest.decision.thresholds == {}
    assert bundle.manifest.provenance["made_by"] == "cxr-edge train"
    assert bundle.manifest.provenance["images_left_out"] == {"unreadable": 1, "the same picture under two labels": 2}
    card = (run / "bundle" / "MODEL_CARD.md").read_text()
    assert card.index("## Sites that trained nothing") < card.index("## Results on held-out patients")
    for word in ("collection", "child", "covid", "paediatric"):
        assert word not in card.lower(), word
        assert word not in (run / "index.md").read_text().lower(), word
    engines = str(run / "engines")
    assert cxr_edge(["build-engine", str(bundle.root), "--engines", engines, "--precision", "fp32"]) == 0
    image = str(source / "Harbour/opacity/P0o1/x.png")
    capsys.readouterr()
    assert cxr_edge(["screen", image, "--bundle", str(bundle.root), "--engines", engines, "--json"]) == 0
    assert '"decision"' in capsys.readouterr().out


def test_left_out_images_are_listed_with_reasons(run: Path) -> None:
    rows = (run / "left-out.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [
        ["Harbour/normal/P0n3/x.png", "unreadable"],
        ["Mill Lane/normal/P1n5/x.png", "the same picture under two labels"],
        ["Mill Lane/opacity/P1o5/x.png", "the same picture under two labels"],
    ]
    assert "3 images" not in (run / "own" / "images.csv").read_text()
    assert "P0n3" not in (run / "own" / "images.csv").read_text()


def test_a_finished_run_repeats_nothing(run: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _stamps(run)
    assert cxr_edge(_arguments(source, run)) == 0
    out, err = capsys.readouterr()
    assert _stamps(run) == before
    assert "going on with the run that was started here" in err
    assert out.startswith(f"{source}: what was understood")
    assert out.index("sites that trained nothing") < out.index("test patients of the sites that trained it")
    assert f"cxr-edge build-engine '{run / 'bundle'}'\n" in out


def test_other_settings_are_refused_with_what_differs(
    run: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cxr_edge([*_arguments(source, run), "--guard", "opacity", "--time", "2h"]) == 2
    error = capsys.readouterr().err
    assert "minutes none, not 120.0; guard none, not opacity" in error
    assert "give another --out" in error


def test_config_toml_repeats_the_run_and_an_interrupted_one_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    repeat = ["train", "--config", str(run / CONFIG), "--threads", "1", "--out", str(again)]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(flow, "assemble_members", interrupt)
        assert cxr_edge(repeat) == 130
    command = f"cxr-edge train --config {again / CONFIG} --out {again}"
    assert f"stopped; to go on: {command}\n" in capsys.readouterr().err
    assert (again / "sites.json").read_text() == (run / "sites.json").read_text(), "the same split and networks"
    assert (again / CONFIG).read_text() == (run / CONFIG).read_text()
    assert (again / "salt.bin").stat().st_mode & 0o777 == 0o600
    kept = _stamps(again)
    assert cxr_edge([*command.split()[1:], "--threads", "1"]) == 0
    assert {k: v for k, v in _stamps(again).items() if k in kept} == kept, "what was finished is kept"
    assert Bundle.open(again / "bundle").manifest.combination == Bundle.open(run / "bundle").manifest.combination
    assert cxr_edge([*repeat, "x", "--seed", "2", "--layout", "label/-"]) == 2
    assert "leave out SOURCE, --seed, the options of reading, or leave out --config" in capsys.readouterr().err


def test_pages_of_one_site_say_so(run: Path) -> None:
    results = read_json(Evaluation, run / "results.json")
    facts = RunFacts(
        understood=load_understood(run),
        sites=None,
        not_left_out="all images are of one site",
        epochs="plain (1 epochs)",
    )
    text = page(results, facts, read_json(OwnRefusals, run / "refusals.json"))
    assert "**No figure of another site exists.** All images are of one site." in text
    words = card_words(facts)
    assert words.first[1].startswith("**No figure of another site exists.**")
    assert words.how_much == "these data cannot show by how much: no site could be left out"
    unnamed = replace(facts.understood.data.records[0], patient="")
    data = replace(facts.understood.data, records=(unnamed, *facts.understood.data.records[1:]))
    nameless = card_words(replace(facts, understood=replace(facts.understood, data=data)))
    assert any("1 of 81 images have no named patient" in limit for limit in nameless.limits)


def test_two_commands_in_one_folder(run: Path) -> None:
    with flow._alone(run), pytest.raises(InputError, match="is being trained by another process"), flow._alone(run):
        pass


def test_figures_of_a_site_without_one_of_the_labels(run: Path) -> None:
    found = read_json(left_out.LeftOutSites, run / "sites.json")
    lines = left_out.as_terminal_lines(found)
    assert lines[-1] == f"  trained on all sites: {found.chosen}"
    assert sum("Harbour" in line for line in lines) == 1


def test_one_site_and_a_guarded_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_two_sites(tmp_path / "xrays", sites=("Harbour",))
    out = tmp_path / "run"
    assert cxr_edge([*_arguments(source, out), "--guard", "opacity"]) == 0
    printed = capsys.readouterr().out
    assert "left-out sites" not in printed
    assert "no site could be left out" in printed
    assert not (out / "sites.json").exists()
    manifest = Bundle.open(out / "bundle").manifest
    assert set(manifest.decision.thresholds) == {"opacity"}
    assert manifest.provenance["left_out_sites"] is None
    text = (out / "index.md").read_text()
    assert "**No figure of another site exists.** All images are of one site, or none is stated" in text
    assert "Specificity of opacity by group:" in text
    assert "As the data state view, age and sex." in text
    card = (out / "bundle" / "MODEL_CARD.md").read_text()
    assert "these data cannot show by how much: no site could be left out" in card
    assert "collection" not in card
