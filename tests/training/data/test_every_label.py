"""Every label of every collection in every shipped configuration: no label is lost, and a task that lacks one raises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from cxr_edge.errors import InputError
from tests.builders.image_collections import (
    METADATA_HEAD,
    write_adults,
    write_collections,
    write_nih,
    write_rsna,
    write_siim,
)
from training import reproduce
from training.data.canvases import Canvases
from training.data.collections import COLLECTIONS, DEFAULT_COLLECTIONS, collect, read_collections
from training.data.dataset import Sample
from training.data.findings import FINDINGS, LABELS
from training.data.leakage import SplitSettings
from training.data.readers.rsna import read_rsna
from training.data.readers.siim import read_siim
from training.data.records import Record
from training.data.splits import SHARES, split
from training.data.targets import Target, check_labels
from training.recipes.config import load_config
from training.recipes.flannel.config import load_flannel
from training.recipes.flannel.run import FlannelRun
from training.recipes.r20.config import load_r20
from training.recipes.r20.run import R20Run
from training.recipes.r20.tasks import modality
from training.recipes.run import Run
from training.recipes.sites import SitesRun, load_sites

CONFIGS = Path(__file__).parents[3] / "training" / "configs"
PATIENTS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All collections; CCX with patients of every finding that its tables name, old and new."""
    data = write_collections(tmp_path_factory.mktemp("data"), patients=PATIENTS, size_px=32)
    write_rsna(data / "rsna", patients=PATIENTS)
    write_adults(data / "adults", patients=2)
    write_nih(data / "nih-chestxray14", patients=2)
    write_siim(data / "siim-covid19", patients=2)
    ccx, rows = data / "covid-chestxray-dataset", [METADATA_HEAD]
    for i, finding in enumerate([*FINDINGS, *(f"Pneumonia/Kind/{name}" for name in FINDINGS), "COVID-19, ARDS"]):
        for j in range(PATIENTS):
            (ccx / "images" / f"{i}-{j}.png").touch()
            rows.append(f'{100 * i + j},"{finding}",{("PA", "AP", "AP Supine")[j % 3]},X-ray,images,{i}-{j}.png')
    (ccx / "metadata.csv").write_text("\n".join(rows) + "\n")
    return data


def _samples(records: Sequence[Record], run: Run | None = None) -> list[Sample]:
    """Split by patient, as in a run; no pixels are read, so duplicates are not searched."""
    shares = SHARES if run is None else run.config.side_shares
    sides = split(records, [r.patient for r in records], seed=1, shares=shares)
    return [Sample(record=r, group=r.patient, side=s) for r, s in zip(records, sides, strict=True)]


def _run(name: str, data: Path, out: Path) -> Run:
    flannel = name.startswith("flannel")
    config = (load_flannel if flannel else load_r20)(CONFIGS / f"{name}.toml")
    run = (FlannelRun if flannel else R20Run)(config, data, out)  # type: ignore[arg-type]
    records = read_collections(data, collections=config.read_collections or DEFAULT_COLLECTIONS).records
    run.__dict__["samples"] = _samples(records, run)
    return run


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_image_of_a_collection_is_normal_or_abnormal(data: Path, name: str) -> None:
    """The modality stage uses every image of every collection."""
    target, records = modality(), read_collections(data, collections=(name,)).records
    for r in records:
        assert target.label_index(r.label) == (r.label != "normal"), r.label
        assert target.target_mask(r.label).sum() == 1, r.label


def test_the_drawn_collections_have_every_label(data: Path) -> None:
    assert {r.label for r in read_collections(data, collections=tuple(COLLECTIONS)).records} == LABELS
    assert {r.label for r in read_rsna(data / "rsna", not_normal=True).records} == {"normal", "pneumonia", "other"}
    assert {r.label for r in read_siim(data / "siim-covid19", indeterminate=True).records} == {
        "normal",
        "covid-19",
        "pneumonia",
        "other",
    }


@pytest.mark.parametrize("label", sorted(LABELS))
def test_every_label_can_be_renamed_and_partial(label: str) -> None:
    target = Target(labels=("a", "b"), renamed={label: "a"})
    assert target.label_index(label) == 0
    assert Target(labels=("a", "b"), partial={label: ("a", "b")}).target_mask(label).all()


PAPERS = sorted(p.stem for p in CONFIGS.glob("*.toml") if p.stem.startswith(("r20", "flannel")))
STARTERS = sorted(p.stem for p in CONFIGS.glob("*.toml") if p.stem not in (*PAPERS, "sites"))


@pytest.mark.parametrize("name", PAPERS)
def test_every_stage_of_a_shipped_configuration_has_images_of_every_label(
    name: str, data: Path, tmp_path: Path
) -> None:
    run = _run(name, data, tmp_path)
    run.check_tasks()
    stages = {
        stage: (target, [s.record for s in samples if s.side == "train"]) for stage, target, samples in run.tasks()
    }
    assert ("modality" in stages) == name.startswith(("r20-cpu", "r20-full", "r20-small"))
    for stage, (target, train) in stages.items():
        counts = Counter(target.label_index(r.label) for r in train)
        assert all(counts[k] >= 3 for k in range(len(target.labels))), (stage, counts)


@pytest.mark.parametrize("name", STARTERS)
def test_the_starter_configurations_have_images_of_every_label(name: str, data: Path) -> None:
    config = load_config(CONFIGS / f"{name}.toml")
    records = read_collections(data, collections=config.collections or DEFAULT_COLLECTIONS).records
    train = [s.record for s in _samples(records) if s.side == "train"]
    check_labels(config.target, train, min_images=3)


def test_the_loop_of_unseen_sites_has_images_of_every_label_in_each_fold(data: Path, tmp_path: Path) -> None:
    config = load_sites(CONFIGS / "sites.toml")
    run = SitesRun(config, data, tmp_path)
    assert config.collections is not None
    settings = SplitSettings(seed=1, collections=config.collections, without=config.without)
    run.__dict__["samples"] = _samples(collect(data, settings.selection, collections=config.collections).records)
    stages = list(run.tasks())
    trained = [name for name, v in config.variants.items() if not v.average]
    first = [name for name in trained if config.member_of(name).modality is not None]
    assert len(stages) == len(config.folds) * (len(trained) + len(first))
    for stage, target, samples in stages:
        check_labels(target, [s.record for s in samples if s.side == "train"], min_images=1)
        assert not {s.record.source for s in samples} & set(config.folds[stage.split(" without ")[1]])


def test_the_papers_first_stage_trains_on_opacities(data: Path, tmp_path: Path) -> None:
    """As in R20: RSNA with as many normals as opacities, so that the class weights are equal."""
    run = _run("r20-full", data, tmp_path)
    n = len(run.samples)
    blank, boxes = np.zeros((n, 8, 8), np.uint8), np.tile(np.array([0, 0, 8, 8], np.float32), (n, 1))
    run.__dict__["canvases"] = Canvases(
        lungs=blank, wide=blank, boxes=boxes, rois=boxes.astype(np.int32), failed=np.zeros(n, bool)
    )
    plan = replace(run.config.modality, batch=4)
    task = run.task(nn.Identity(), modality(), plan, run.config.modality_sources)
    assert task._weights.tolist() == [1.0, 1.0]
    assert Counter(run.samples[i].record.label for i in task._train)["pneumonia"] > PATIENTS // 2


def _without(run: Run, label: str) -> Run:
    run.__dict__["samples"] = [s for s in run.samples if s.record.label != label]
    return run


def test_the_error_for_a_missing_label_names_stage_and_sources(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stage modality: .*normal / abnormal has 0 of abnormal.*source: rsna/normal"):
        _without(_run("r20-full", data, tmp_path), "pneumonia").check_tasks()
    with pytest.raises(InputError, match=r"stage multiclass: .*0 of bacterial.*kcx/normal"):
        _without(_run("r20-full", data, tmp_path), "bacterial").check_tasks()
    with pytest.raises(InputError, match=r"stage learn, fold 0: .*0 of viral.*kcx/bacterial"):
        _without(_run("flannel-cpu", data, tmp_path), "viral").check_tasks()


def test_the_minimum_number_of_images_is_a_setting(data: Path, tmp_path: Path) -> None:
    run = _run("r20-cpu", data, tmp_path)
    run.config = replace(run.config, least_images=10_000)
    with pytest.raises(InputError, match=r"\d+ of normal and \d+ of abnormal among .*expected 10000 or more"):
        run.check_tasks()
    with pytest.raises(InputError, match="least_images is 1 or more, got 0"):
        replace(run.config, least_images=0)


def test_a_run_with_a_missing_label_raises_before_its_first_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kermany alone has no COVID-19: the error comes before the segmenter is trained."""
    write_collections(tmp_path / "data", patients=PATIENTS, size_px=96)
    text = (CONFIGS / "r20-small.toml").read_text()
    (tmp_path / "c.toml").write_text(text.replace("threads = 1", 'threads = 1\ncollections = ["kcx"]', 1))
    given = ["--config", tmp_path / "c.toml", "--data", tmp_path / "data", "--out", tmp_path / "run"]
    assert reproduce.main(["r20", *map(str, given)]) == 2
    message = capsys.readouterr().err
    assert "0 of covid-19" in message
    assert "kcx/normal" in message
    assert "stage segment" not in message
