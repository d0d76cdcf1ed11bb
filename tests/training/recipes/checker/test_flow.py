"""The checker from drawn collections to a bundle that refuses: split, two epochs, limits, figures, page, attaching."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import reference
from cxr_edge.errors import InputError
from cxr_edge.screening.screener import Screener
from tests.builders.image_collections import write_collections
from tests.builders.toy_bundle import build_toy_bundle, toy_images
from training import checker as command
from training import starter
from training.data import pictures
from training.data.drawings import draw
from training.evaluation.metrics import Figure
from training.json_records import read_json
from training.loop.plan import Plan
from training.recipes.checker import measure as measuring
from training.recipes.checker.attach import attach_checker, next_version
from training.recipes.checker.items import chest_items
from training.recipes.checker.measure import RefusalResults, RefusalRow
from training.recipes.checker.pages import refusals_as_markdown
from training.recipes.checker.run import CHECKER_SPEC, ONNX, RESULTS, SCORES, CheckerRun, CheckerSettings
from training.recipes.config import load_config
from training.tasks import checks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn collections, with two lateral views and a CT slice among the Montreal images, and pictures of a package."""
    root = write_collections(tmp_path_factory.mktemp("data"), patients=7)
    folder, rng = root / "covid-chestxray-dataset", np.random.default_rng(0)
    rows = []
    for i, (patient, view, modality) in enumerate((("0", "L", "X-ray"), ("77", "L", "X-ray"), ("78", "Axial", "CT"))):
        cv2.imwrite(str(folder / "images" / f"other-{i}.png"), draw("shapes", rng, size_px=128))
        rows.append(f"{patient},COVID-19,{view},{modality},images,other-{i}.png\n")
    with (folder / "metadata.csv").open("a") as table:
        table.writelines(rows)
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckerRun]:
    """A finished run; pictures of packages are drawn, whatever is installed here."""
    shipped, rng = tmp_path_factory.mktemp("package"), np.random.default_rng(1)
    for i in range(6):
        cv2.imwrite(str(shipped / f"{i}.png"), draw("text page", rng, size_px=64))
    (shipped / "broken.png").write_bytes(b"no picture")
    files = sorted(shipped.iterdir())
    packages = {"skimage": files[:3], "sklearn": files[2:]}  # one picture is in both
    settings = CheckerSettings(
        collections=("kcx", "ccx", "twitter", "tuberculosis"),
        without=(),
        plan=Plan(epochs=2, batch=8, threads=1, precision="fp32", keep="last"),
        epoch_images=16,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "package_pictures", lambda name: packages.get(name, []))
        patch.setattr(checks, "_VALIDATED", 24)
        patch.setattr(measuring, "_DRAWINGS", 2)
        run = CheckerRun(data, tmp_path_factory.mktemp("run"), settings)
        run.train()
        run.measure()
        yield run


@pytest.fixture
def results(run: CheckerRun) -> RefusalResults:
    return read_json(RefusalResults, run.out / RESULTS)


def test_no_patient_is_on_two_sides(run: CheckerRun) -> None:
    sides: dict[str, set[str]] = {}
    for item in run.items:
        if item.patient:
            sides.setdefault(item.patient, set()).add(item.side)
    assert len(sides) > 20
    assert all(len(own) == 1 for own in sides.values())
    assert {item.side for item in run.items if item.kind == "picture"} == {"train", "test"}
    assert Counter(item.side for item in run.items if item.kind == "picture") == {"train": 3, "test": 4}


def test_a_lateral_view_has_the_side_of_its_patients_frontal_image(run: CheckerRun, data: Path) -> None:
    frontal = next(item for item in run.items if item.path.name == "covid-0.png")
    lateral = next(item for item in run.items if item.path.name == "other-0.png")
    assert (lateral.kind, lateral.side, lateral.patient) == ("lateral", frontal.side, frontal.patient)
    others = [item.kind for item in chest_items(data, run.samples) if item.kind != "frontal"]
    assert others == ["lateral", "lateral", "slice"]
    assert {item.kind for item in chest_items(data / "absent", run.samples)} == {"frontal"}


def test_who_measures_by_the_split_still_does(run: CheckerRun) -> None:
    by_split = {s.record.path: s.side for s in run.samples}
    frontal = [item for item in run.items if item.kind == "frontal"]
    assert all(item.side == "test" for item in frontal if by_split[item.path] == "test")


def test_the_network_scores_every_output_as_a_probability_and_a_distance(run: CheckerRun) -> None:
    scorer = measuring.Scorer(run.onnx, CHECKER_SPEC, SCORES)
    scores = scorer.scores(draw("shapes", np.random.default_rng(2)))
    assert tuple(scores) == SCORES
    assert all(0 <= value <= 1 for name, value in scores.items() if name != "unfamiliar")
    assert scores["unfamiliar"] > 0


def test_the_codes_together_refuse_what_they_may_of_the_validation_images(results: RefusalResults) -> None:
    assert results.validation.refused.value <= sum(results.allowed.values())
    assert {check.code for check in results.checks} >= set(results.allowed) | {"child", "adult"}


def test_every_row_counts_all_its_cases(results: RefusalResults, run: CheckerRun) -> None:
    rows = {row.name: row for row in results.rows}
    frontal = sum(item.kind == "frontal" and item.side == "test" for item in run.items)
    assert frontal > 0
    for name in ("good, as they are", "inverted", "turned by 180 degrees", "mirrored", "photographed"):
        assert sum(rows[name].codes.values()) == rows[name].refused.n == frontal
    assert rows["pictures of packages"].refused.n == 3  # the broken file is none
    by_source = results.by_source["inverted"]
    assert sum(row.refused.n for row in by_source) == frontal


def test_a_finished_run_is_not_made_again(run: CheckerRun) -> None:
    before = {name: (run.out / name).stat().st_mtime_ns for name in (ONNX, RESULTS)}
    CheckerRun(run.data, run.out, run.settings).train()
    CheckerRun(run.data, run.out, run.settings).measure()
    assert {name: (run.out / name).stat().st_mtime_ns for name in (ONNX, RESULTS)} == before


def test_the_command_writes_the_page_and_attaches(
    run: CheckerRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = build_toy_bundle(tmp_path / "toy")
    card = "# Model card: toy 1.4.0\n\nText.\n\n## Data\n\nMore.\n\n## Results on held-out patients\n\nFigures.\n"
    _set_version(bundle, "1.4.0", card)
    before = {p.name: p.read_bytes() for p in bundle.root.iterdir()}
    page = tmp_path / "refusals"
    assert (
        command.main(["--out", str(run.out), "--page", str(page), "--note", "N. B.", "--attach", str(bundle.root)]) == 0
    )
    assert "toy 1.5.0" in capsys.readouterr().out
    assert page.with_suffix(".png").stat().st_size > 10_000
    assert "| inverted |" in page.with_suffix(".md").read_text()
    assert "\n\nN. B.\n\n" in page.with_suffix(".md").read_text()
    assert read_json(RefusalResults, page.with_suffix(".json")) == replace(
        read_json(RefusalResults, run.out / RESULTS), note="N. B."
    )
    after = Bundle.open(bundle.root)
    same = {name for name, content in before.items() if (bundle.root / name).read_bytes() == content}
    assert set(before) - same == {"manifest.json", "model-card.md"}
    assert after.manifest.known_answers == bundle.manifest.known_answers
    assert check_networks(after)[-1].name == "checker"
    written = after.file(after.manifest.model_card).read_text()
    assert written.startswith("# Model card: toy 1.5.0\n\nText.\n\n## Data\n\nMore.\n\n## Refusals\n\n")
    assert written.endswith("\n\n## Results on held-out patients\n\nFigures.\n")


def _set_version(bundle: Bundle, version: str, card: str) -> None:
    (bundle.root / "model-card.md").write_text(card)
    model_card = file_ref(bundle.root, "model-card.md")
    write_bundle(bundle.root, replace(bundle.manifest, version=version, model_card=model_card))


def test_attaching_twice_replaces_checker_and_section(run: CheckerRun, tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path, known_answers=False)
    first = attach_checker(bundle.root, run.out, version="2")
    again = attach_checker(bundle.root, run.out, version="3")
    assert (first.manifest.version, again.manifest.version) == ("2", "3")
    assert again.file(again.manifest.model_card).read_text().count("## Refusals") == 1


def test_a_bundle_with_the_checker_screens(run: CheckerRun, tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path, known_answers=False)
    bundle = attach_checker(bundle.root, run.out, version="2")
    screening = Screener(bundle, reference(bundle), answer_all=True).screen(decode(toy_images()["known-smooth.png"]))
    assert tuple(screening.checks) == SCORES


def test_the_starters_command_ends_with_the_checker(
    run: CheckerRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = build_toy_bundle(tmp_path / "bundle", known_answers=False)
    monkeypatch.setattr(starter.StarterRun, "check_tasks", lambda _: None)
    monkeypatch.setattr(starter, "STAGES", {"bundle": lambda _: None})
    assert starter.main(["--data", str(run.data), "--out", str(tmp_path), "--checker", str(run.out)]) == 0
    manifest = Bundle.open(bundle.root).manifest
    assert manifest.checker is not None
    assert manifest.version == load_config(Path("training/configs/starter.toml")).version


def test_a_run_that_is_not_finished_cannot_be_attached(tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path / "toy", known_answers=False)
    with pytest.raises(InputError, match=r"refusals.json cannot be read"):
        attach_checker(bundle.root, tmp_path)
    assert Bundle.open(bundle.root).manifest.checker is None


def test_a_member_in_the_file_of_the_checker_is_not_overwritten(run: CheckerRun, tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path, known_answers=False)
    manifest = json.loads((bundle.root / "manifest.json").read_text())
    (bundle.root / "plain.onnx").rename(bundle.root / "checker.onnx")
    manifest["members"][0]["file"]["path"] = "checker.onnx"
    (bundle.root / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"has another network in checker.onnx"):
        attach_checker(bundle.root, run.out, version="2")


@pytest.mark.parametrize(("version", "following"), [("2.0.0", "2.1.0"), ("1.9", "1.10"), ("0.3.7", "0.4.0")])
def test_the_second_number_of_the_version_is_raised(version: str, following: str) -> None:
    assert next_version(version) == following


def test_a_version_without_numbers_must_be_given() -> None:
    with pytest.raises(InputError, match="give --version"):
        next_version("spring")


def test_the_page_names_missed_targets(results: RefusalResults) -> None:
    def page(refused: float) -> str:
        figure = Figure(value=refused, low=0.0, high=1.0, n=100, hits=round(100 * refused))
        rows = [
            RefusalRow(name=name, codes={"inverted": 1}, refused=figure) for name in ("good, as they are", "inverted")
        ]
        return refusals_as_markdown(replace(results, rows=tuple(rows)), "p.png")

    assert "Missed targets: good, as they are." in page(0.96)
    assert "Missed targets: inverted." in page(0.01)
    assert "Missed targets: good, as they are; inverted." in page(0.5)
