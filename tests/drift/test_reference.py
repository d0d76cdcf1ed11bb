"""The reference file: written, read, refused where it is not valid, and attached to a bundle."""

import json

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.drift import DriftMonitor, Reference, attach_reference
from cxr_edge.drift.reference import MOST_EXAMS
from cxr_edge.drift.statistics import statistic_names
from cxr_edge.errors import BundleError, InputError
from tests.builders.toy_bundle import LABELS, build_toy_bundle
from tests.drift.conftest import NAMES, exams


def test_it_is_read_as_it_was_written(reference, tmp_path):
    reference.write(tmp_path / "reference.json")
    assert Reference.read(tmp_path / "reference.json") == reference
    text = (tmp_path / "reference.json").read_text()
    assert json.loads(text)["schema"] == "cxr-edge-reference/1"
    assert len(text.splitlines()) == len(NAMES) + 7


def test_values_are_sorted_each_by_itself(reference):
    rows = exams(400, 99)
    for i, name in enumerate(NAMES):
        assert reference.statistics[name] == tuple(sorted(row[i] for row in rows))
    assert reference.median("image.a") == sorted(row[0] for row in rows)[199]


def test_at_most_a_thousand_exams_are_kept():
    many = [dict(zip(NAMES, row, strict=True)) for row in exams(MOST_EXAMS + 200, 1)]
    kept = Reference.of_exams(many, of="many")
    assert kept.exams == MOST_EXAMS == len(kept.statistics["image.a"])
    assert kept == Reference.of_exams(many, of="many")


def test_too_few_or_different_exams_are_refused():
    rows = [dict(zip(NAMES, row, strict=True)) for row in exams(60, 1)]
    with pytest.raises(InputError, match="needs exams of 50 patients or more, got 49"):
        Reference.of_exams(rows[:49], of="few")
    with pytest.raises(InputError, match="different statistics: screen all of them with the same bundle"):
        Reference.of_exams([*rows, {"image.a": 1.0}], of="two bundles")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", "cxr-edge-reference/9", "schema must be"),
        ("exams", 49, "exams must be a whole number from 50 to 1000, got 49"),
        ("exams", 401, "statistics.image.a must be 401 numbers, one of each exam"),
        ("of", "", "of must be a printable text"),
        ("statistics", {}, "statistics must be an object with one statistic or more"),
        ("statistics", {"image.a": 3}, "statistics.image.a must be a list"),
        ("statistics", {"image.a": [2.0] * 399 + [1.0]}, r"statistics.image.a\[399\] must be at least 2.0"),
        ("statistics", {"image.a": [1.0] * 399 + ["2"]}, r"statistics.image.a\[399\] must be a finite number"),
        ("statistics", {"colour.a": [1.0] * 400}, "statistics.colour.a must be named output.NAME"),
        ("more", 1, "more is not a key of this format"),
    ],
)
def test_a_file_that_is_not_valid_is_refused(reference, tmp_path, key, value, message):
    file = tmp_path / "reference.json"
    file.write_text(json.dumps({**reference.as_json(), key: value}))
    with pytest.raises(BundleError, match=message) as error:
        Reference.read(file)
    assert str(file) in str(error.value)
    assert "write it again" in str(error.value)


@pytest.mark.parametrize("data", [b"", b"{", b'{"exams": NaN}', b"\xff"])
def test_a_file_that_is_no_json_is_refused(tmp_path, data):
    (tmp_path / "reference.json").write_bytes(data)
    with pytest.raises(BundleError, match="the whole file"):
        Reference.read(tmp_path / "reference.json")


def toy_reference(names):
    return Reference.of_exams([{name: float(i % 5) for name in names} for i in range(60)], of="drawn exams")


def test_a_bundle_carries_it_and_lacks_it(tmp_path):
    bundle = build_toy_bundle(tmp_path, known_answers=False)
    assert Reference.of_bundle(bundle) is None
    assert DriftMonitor.of_bundle(bundle) is None
    reference = toy_reference(statistic_names(LABELS, ()))
    changed = attach_reference(bundle, reference)
    assert changed.digest != bundle.digest
    assert Bundle.open(tmp_path).manifest.as_json()["schema"] == "cxr-edge-bundle/2"
    assert Reference.of_bundle(changed) == reference
    assert DriftMonitor.of_bundle(changed).names == tuple(reference.statistics)
    assert changed.unlisted_files() == ()


def test_a_reference_of_other_networks_is_refused(tmp_path):
    bundle = attach_reference(build_toy_bundle(tmp_path, known_answers=False), toy_reference(["check.ap"]))
    with pytest.raises(BundleError, match=r"has the statistic check\.ap, which bundle 'toy' does not give"):
        DriftMonitor.of_bundle(bundle)


def test_an_altered_reference_is_noticed_when_the_bundle_is_opened(tmp_path):
    attach_reference(build_toy_bundle(tmp_path, known_answers=False), toy_reference(["box.x"]))
    (tmp_path / "reference.json").write_text("{}")
    with pytest.raises(BundleError, match=r"reference.json in .* was altered"):
        Bundle.open(tmp_path)


def test_the_packaged_starter_has_one_of_all_its_statistics():
    """If this fails after a change of the starter: python -m training.drift_reference."""
    bundle = Bundle.open("starter")
    manifest, reference = bundle.manifest, Reference.of_bundle(bundle)
    scores = () if manifest.checker is None else manifest.checker.scores
    assert tuple(reference.statistics) == statistic_names(manifest.labels, scores)
    assert reference.exams >= 500
    assert bundle.file(manifest.reference).stat().st_size <= 200_000
