"""The drift study on random exams: counts, streams, changed scanners, and the page."""

import json

import numpy as np
import pytest

from cxr_edge.records import Image
from training.data.scanners import CHANGES, change
from training.evaluation.drift import (
    SIZE_AND_FORMAT,
    DriftStudy,
    Exams,
    changed_stream,
    drawn_promise,
    drawn_shift,
    from_another,
    same_patients,
)
from training.evaluation.drift_pages import drift_as_markdown
from training.json_records import as_stored, read_json, write_json

NAMES = ("image.width", "image.mean", "box.x", "output.top")


def some(count, seed, shift=0.0):
    values = np.random.default_rng(seed).normal(size=(count, len(NAMES))).round(1)
    values[:, 1] += shift
    return Exams(names=NAMES, values=values)


def test_streams_of_the_same_exams_have_no_alarm():
    found = same_patients("here", some(200, 1), streams=3, seed=1)
    assert (found.reference_exams, found.exams, found.streams, found.alarms) == (100, 100, 3, 0)
    assert found.highest < 4
    assert same_patients("here", some(90, 1), streams=3, seed=1) is None


@pytest.mark.parametrize("quiet", [0, 60])
def test_a_changed_stream_is_noticed(quiet):
    found = changed_stream("brighter", some(220, 1), some(80, 2, shift=2.0), quiet=quiet, streams=4, seed=1)
    assert (found.reference_exams, found.quiet, found.changed, found.streams) == (220 - quiet, quiet, 80, 4)
    assert (found.noticed, found.within, found.early, found.moved) == (4, 4, 0, "image.mean")
    assert 3 <= found.median <= found.ninetieth <= 80


def test_a_stream_without_the_statistic_that_changed_is_not_noticed():
    known, other = some(200, 1).without(["image.mean"]), some(60, 2, shift=2.0).without(["image.mean"])
    found = from_another("there", known, other, streams=3, seed=1)
    assert (found.noticed, found.within, found.median, found.moved) == (0, 0, None, "")
    assert known.names == ("image.width", "box.x", "output.top")
    assert from_another("there", some(49, 1), other, streams=3, seed=1) is None


def test_random_exams_keep_the_promise_and_show_shifts():
    often, rarely = drawn_promise((0.3, 1e-4), streams=40, exams=60, seed=1, reference=60, statistics=3)
    assert rarely.alarms == 0 <= often.alarms <= 22
    found = drawn_shift(2.0, quiet=30, streams=3, seed=1, reference=100, statistics=4)
    assert (found.within, found.moved, found.name) == (3, "image.0", "2 standard deviations")


def test_changed_scanners_change_what_they_name():
    draws = np.random.default_rng(1)
    pixels = draws.integers(5000, 60000, (120, 160)).astype(np.uint16)
    image = Image(pixels=pixels, source="a", format="array", stored_bits=16, sha256="ab")
    changed = {name: change(image, name).pixels.astype(float) for name in CHANGES}
    assert all(p.shape == (120, 160) for name, p in changed.items() if "pixels a side" not in name)
    assert changed["three quarters of the pixels a side"].shape == (90, 120)
    assert changed["gamma 0.8"].mean() > pixels.mean() > changed["gamma 1.25"].mean() > changed["gamma 1.6"].mean()
    assert changed["blur, sigma 0.4 % of the side"].std() < pixels.std()
    assert (changed["white borders, 5 % of the side"][:6] == 65535).all()
    assert change(image, "gamma 0.8").pixels.dtype == np.uint16


def test_page_and_file_have_every_row(tmp_path):
    noticed = changed_stream("gamma 9", some(120, 1), some(30, 2, shift=3.0), quiet=0, streams=2, seed=1)
    study = DriftStudy(
        bundle="toy 1",
        manifest_sha256="ab" * 32,
        seed=1,
        statistics=(*NAMES, *SIZE_AND_FORMAT),
        patients={"here": 120, "there": 30},
        promise=drawn_promise((0.5,), streams=4, exams=20, seed=1, reference=50, statistics=2),
        drawn=(noticed,),
        same=(same_patients("here", some(120, 1), streams=2, seed=1),),
        scanners=(noticed,),
        scanners_grays=(noticed,),
        hospitals=(noticed,),
        hospitals_grays=(noticed,),
        mixed=(noticed,),
        engines=(noticed,),
        cost_us=70.5,
        machine="a machine",
    )
    page = drift_as_markdown(study)
    assert page.count("gamma 9") == 7
    assert page.count("`python -m training.drift_study`") == 5
    assert "Noticed within 200 exams: 2 of 2 streams, 100.0%; in all streams of 1 of the 1 pairs." in page
    assert "1.000 [0.158, 1.000] (2/2)" in page
    write_json(tmp_path / "drift.json", as_stored(study))
    assert read_json(DriftStudy, tmp_path / "drift.json") == as_stored(study)
    assert json.loads((tmp_path / "drift.json").read_text())["patients"] == {"here": 120, "there": 30}
