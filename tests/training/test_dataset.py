"""The settled data: the table of a run is read again, belongs to its data, and strata are served in turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from tests.training.made_collections import write_collections
from training.bundle import spread_over_strata
from training.dataset import data_folder, prepare


def test_a_table_is_read_again_and_belongs_to_its_data(tmp_path: Path) -> None:
    data = write_collections(tmp_path / "data", patients=2, size_px=48)
    first = prepare(data, tmp_path / "run", seed=1, threads=1)
    assert prepare(data, tmp_path / "run", seed=1, threads=1) == first
    assert (tmp_path / "run" / "leakage.json").is_file()
    next((data / "twitter-covid").iterdir()).unlink()
    with pytest.raises(InputError, match="other images"):
        prepare(data, tmp_path / "run", seed=1, threads=1)


def test_strata_are_served_in_turn(tmp_path: Path) -> None:
    samples = prepare(write_collections(tmp_path / "data", patients=2, size_px=48), tmp_path / "run", seed=1, threads=1)
    chosen = spread_over_strata(samples, 8, seed=0)
    assert len({(samples[i].record.label, samples[i].record.source) for i in chosen}) == 8
    assert sorted(spread_over_strata(samples, 1000, seed=0)) == list(range(len(samples)))


def test_the_data_folder_is_given_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EDGE_DATA", "/somewhere")
    assert data_folder(None) == Path("/somewhere")
    assert data_folder(Path("here")) == Path("here")
    monkeypatch.delenv("CXR_EDGE_DATA")
    with pytest.raises(InputError, match="--data DIR"):
        data_folder(None)
